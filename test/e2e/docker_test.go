// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocker runs everything with each engine, on cgroup v1 and on cgroup2
// alone, one engine at a time.
func TestDocker(t *testing.T) {
	l := openLab(t)
	for _, profile := range []string{"docker20", "docker26", "docker28"} {
		for _, cgroup := range []string{"v1", "v2"} {
			t.Run(profile+"-cgroup-"+cgroup, func(t *testing.T) {
				b := l.start(t, profile, cgroup)
				all := hosts()
				for _, h := range all {
					b.simulate(t, h)
				}
				h := all[0]
				t.Run("engine", func(t *testing.T) { testEngine(t, b) })
				t.Run("build", func(t *testing.T) { testBuild(t, b, h) })
				t.Run("images", func(t *testing.T) { testImages(t, b, h) })
				t.Run("gpus-flag", func(t *testing.T) { testGPUsFlag(t, b, h) })
				t.Run("runtime", func(t *testing.T) { testRuntime(t, b, h) })
				t.Run("capabilities", func(t *testing.T) { testCapabilities(t, b) })
				t.Run("requirements", func(t *testing.T) { testRequirements(t, b, h) })
				t.Run("isolation", func(t *testing.T) { testIsolation(t, b, h) })
				t.Run("loader", func(t *testing.T) { testLoader(t, b, h) })
				t.Run("again", func(t *testing.T) { testAgain(t, b, all) })
				t.Run("hosts", func(t *testing.T) { testHosts(t, b, all) })
				t.Run("default-runtime", func(t *testing.T) { testDefaultRuntime(t, b, h) })
				t.Run("leftovers", func(t *testing.T) { testLeftovers(t, b, h) })
			})
		}
	}
}

// testEngine makes sure that the box is what the test is named after.
func testEngine(t *testing.T, b *box) {
	version := map[string]string{"docker20": "20.10.", "docker26": "26.", "docker28": "28."}[b.profile]
	t.Run("version", func(t *testing.T) {
		if got := b.mustIn(t, "docker", "version", "-f", "{{.Server.Version}}"); !strings.HasPrefix(got, version) {
			if b.profile == "docker28" {
				t.Skipf("Debian sid has docker %s now, which the profile runs in the place of 28", strings.TrimSpace(got))
			}
			t.Errorf("dockerd is %s, want %s", got, version)
		}
	})
	t.Run("cgroup", func(t *testing.T) {
		got := strings.TrimSpace(b.mustIn(t, "docker", "info", "-f", "{{.CgroupVersion}}"))
		if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil && b.cgroup == "v1" {
			t.Skip("this machine has cgroup2 alone, so cgroup v1 is not tested")
		}
		if "v"+got != b.cgroup {
			t.Errorf("dockerd uses cgroup v%s, want %s", got, b.cgroup)
		}
	})
}

// testBuild is the first thing that people do: two lines, build, run.
func testBuild(t *testing.T, b *box, h *host) {
	context := filepath.Join(b.root, "root/gpu-test")
	if err := os.MkdirAll(context, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(context, "Dockerfile"), []byte("FROM localhost/cuda-base\nCMD nvidia-smi\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	build := b.in("env", "DOCKER_BUILDKIT=0", "docker", "build", "/root/gpu-test", "-t", "gpu-test")
	t.Run("docker-build", func(t *testing.T) { build.ok(t, "Successfully tagged gpu-test") })
	t.Run("run-gpus-all", func(t *testing.T) {
		r := b.in("docker", "run", "--rm", "--gpus", "all", "gpu-test")
		r.ok(t, "Driver Version: "+h.driver)
		for _, g := range h.gpus {
			r.says(t, strings.ToUpper(g.bus[len("0000:"):]))
		}
		if n := strings.Count(r.out, h.gpus[0].name); n != len(h.gpus) {
			t.Errorf("nvidia-smi shows %d GPUs, want %d:\n%s", n, len(h.gpus), r.out)
		}
	})
	t.Run("run-without-gpus", func(t *testing.T) {
		r := b.in("docker", "run", "--rm", "gpu-test")
		r.fails(t, "nvidia-smi", "not found")
		if r.code != 127 {
			t.Errorf("exit status %d, want 127", r.code)
		}
	})
	t.Run("run-on-a-terminal", func(t *testing.T) {
		line := "engines/box.sh exec " + b.profile + " docker run -it --rm --gpus all localhost/debian sh -c 'test -t 1 && nvidia-smi -L'"
		b.lab.run(timeLimit, nil, "script", "-qec", line, "/dev/null").lists(t, h.gpus...)
	})
}

// testImages runs nvidia-smi in images that have nothing of NVIDIA in them.
func testImages(t *testing.T, b *box, h *host) {
	for _, image := range []string{"debian", "fedora", "oldglibc", "newglibc", "distroless", "python", "cuda-base"} {
		args := []string{"--gpus", "all", "--entrypoint", "nvidia-smi", "localhost/" + image, "-L"}
		t.Run(image, func(t *testing.T) {
			t.Parallel()
			b.run(args...).lists(t, h.gpus...)
		})
		t.Run(image+"-read-only", func(t *testing.T) {
			t.Parallel()
			b.run(append([]string{"--read-only"}, args...)...).lists(t, h.gpus...)
		})
		t.Run(image+"-runtime", func(t *testing.T) {
			t.Parallel()
			b.run(append([]string{"--read-only", "--runtime", "nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all"}, args[2:]...)...).lists(t, h.gpus...)
		})
	}
	for _, image := range []string{"busybox", "alpine"} {
		t.Run(image, func(t *testing.T) {
			t.Parallel()
			r := b.run("--gpus", "all", "localhost/"+image, "sh", "-c", "ls /dev; find / -xdev -name 'libcuda.so.1' 2>/dev/null; nvidia-smi")
			r.fails(t, "nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "libcuda.so.1", "glibc")
		})
	}
	t.Run("user-that-is-not-root", func(t *testing.T) {
		t.Parallel()
		b.run("--gpus", "all", "--user", "65534:65534", "localhost/debian", "nvidia-smi", "-L").lists(t, h.gpus...)
	})
	t.Run("hostile-environment", func(t *testing.T) {
		t.Parallel()
		b.run("--gpus", "all", "-e", "LD_PRELOAD=/nowhere.so", "-e", "LD_LIBRARY_PATH=/tmp", "-e", "PATH=/usr/bin", "localhost/debian",
			"env", "-u", "LD_PRELOAD", "nvidia-smi", "-L").lists(t, h.gpus...)
	})
}
