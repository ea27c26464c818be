// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// testAgain starts the same container several times, also with another driver
// on the host than before.
func testAgain(t *testing.T, b *box, all []*host) {
	first, second := all[0], all[2]
	for _, mode := range []struct {
		name string
		args []string
	}{
		{"hook", []string{"--gpus", "all"}},
		{"shim", []string{"--runtime", "nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all"}},
	} {
		name := "again-" + mode.name
		b.use(t, first)
		t.Run(mode.name+"-first-start", func(t *testing.T) {
			args := append([]string{"docker", "run", "--network", "none", "--name", name}, mode.args...)
			b.in(append(args, "localhost/debian", "nvidia-smi", "-L")...).lists(t, first.gpus...)
		})
		t.Run(mode.name+"-restart", func(t *testing.T) {
			b.in("docker", "start", "-a", name).lists(t, first.gpus...)
		})
		t.Run(mode.name+"-restart-after-driver-upgrade", func(t *testing.T) {
			b.use(t, second)
			b.in("docker", "start", "-a", name).lists(t, second.gpus...)
			if mode.name == "hook" {
				// Mount points of the old version must not pile up in the container.
				changes := b.mustIn(t, "docker", "diff", name)
				if strings.Contains(changes, first.driver) {
					t.Logf("files of the old version's names stayed:\n%s", changes)
				}
			}
		})
		b.use(t, first)
		b.in("docker", "rm", "-f", name)
	}
	t.Run("exec-into-a-running-container", func(t *testing.T) {
		b.in("docker", "rm", "-f", "running")
		b.mustIn(t, "docker", "run", "-d", "--network", "none", "--name", "running", "--gpus", "device=1", "localhost/debian", "sleep", "600")
		b.in("docker", "exec", "running", "nvidia-smi", "-L").lists(t, first.gpus[1])
		b.in("docker", "rm", "-f", "running")
	})
	t.Run("gpu-gone", func(t *testing.T) {
		node := filepath.Join(first.dir, "dev/nvidia"+strconv.Itoa(first.gpus[1].minor))
		if err := os.Rename(node, node+".gone"); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := os.Rename(node+".gone", node); err != nil {
				t.Fatal(err)
			}
		}()
		b.run("--gpus", "device=1", "localhost/debian", "true").fails(t, filepath.Base(node))
		b.run("--gpus", "device=0", "localhost/debian", "nvidia-smi", "-L").lists(t, first.gpus[0])
	})
}

// testHosts builds the training image once and runs it unchanged on every host.
func testHosts(t *testing.T, b *box, all []*host) {
	context := filepath.Join(b.root, "root/train")
	if err := os.RemoveAll(context); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(context, os.DirFS(filepath.Join(b.lab.here, "train"))); err != nil {
		t.Fatal(err)
	}
	build := b.in("env", "DOCKER_BUILDKIT=0", "docker", "build", "/root/train", "-t", "train")
	t.Run("docker-build", func(t *testing.T) { build.ok(t, "Successfully tagged train") })
	for _, h := range all {
		b.use(t, h)
		check := func(t *testing.T, r result) {
			t.Helper()
			r.ok(t, strconv.Itoa(len(h.gpus))+" GPUs\n", "trained y = 2.00 x + 1.00", "loaded /")
			for i, g := range h.gpus {
				r.says(t, "GPU "+strconv.Itoa(i)+": "+g.name+", ")
			}
		}
		t.Run(h.layout+"-train", func(t *testing.T) {
			check(t, b.run("--gpus", "all", "train"))
		})
		t.Run(h.layout+"-train-runtime", func(t *testing.T) {
			check(t, b.run("--runtime", "nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all", "train"))
		})
		for _, image := range []string{"fedora", "cuda-base"} {
			t.Run(h.layout+"-nvidia-smi-in-"+image, func(t *testing.T) {
				r := b.run("--gpus", "all", "localhost/"+image, "nvidia-smi", "--query-gpu=driver_version,uuid", "--format=csv,noheader")
				r.ok(t)
				for _, g := range h.gpus {
					r.says(t, h.driver+", "+g.uuid)
				}
			})
		}
	}
	b.use(t, all[0])
}

// testLeftovers starts many containers, some of which fail, and looks for
// anything in the box that was not there before.
func testLeftovers(t *testing.T, b *box, h *host) {
	round := func(n int) {
		t.Helper()
		for range n {
			b.run("--gpus", "all", "localhost/debian", "nvidia-smi", "-L").lists(t, h.gpus...)
			b.run("--runtime", "nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=0", "localhost/debian", "nvidia-smi", "-L").lists(t, h.gpus[0])
			b.run("--gpus", "device=7", "localhost/debian", "true").fails(t)
			b.run("--runtime", "nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=7", "localhost/debian", "true").fails(t)
		}
	}
	look := func() map[string][]string {
		found := map[string][]string{}
		for what, command := range map[string]string{
			"mounts":    "cut -d' ' -f5 /proc/self/mountinfo | sort",
			"files":     "find /run /tmp /etc /usr /var/tmp /sim -xdev | grep -v -e '/run/docker/' -e '/run/containerd/' | sort",
			"cgroups":   "find /sys/fs/cgroup -name '*docker*' -type d | sort",
			"processes": "ps -o comm | sort | uniq -c | grep -v -e ' ps$' -e ' sh$' -e ' sort$' -e ' uniq$' -e ' grep$' -e ' cut$'",
			"state":     "find /run/docker /run/containerd -type d | wc -l",
		} {
			found[what] = strings.Split(strings.TrimSpace(b.mustIn(t, "sh", "-c", command)), "\n")
		}
		return found
	}
	round(1) // what is cached for the next start may be there
	before := look()
	round(4)
	left := added(before, look())
	for end := time.Now().Add(5 * time.Second); len(left) > 0 && time.Now().Before(end); left = added(before, look()) {
		time.Sleep(200 * time.Millisecond) // an engine goes on tidying for a moment after docker run has returned
	}
	for what := range before {
		t.Run(what, func(t *testing.T) {
			if len(left[what]) > 0 {
				t.Errorf("new after 20 starts:\n%s", strings.Join(left[what], "\n"))
			}
		})
	}
}

// added gives the lines that are in after alone.
func added(before, after map[string][]string) map[string][]string {
	left := map[string][]string{}
	for what := range before {
		for _, line := range after[what] {
			if !slices.Contains(before[what], line) {
				left[what] = append(left[what], line)
			}
		}
	}
	return left
}
