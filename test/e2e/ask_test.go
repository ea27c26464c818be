// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// way is one way to ask for GPUs, and which of the host's it gives.
type way struct {
	name string
	ask  string
	want []int // indices
}

// names are the names that a GPU answers to, the same for docker's flag and
// for the variable.
func names(h *host) []way {
	first, second := h.gpus[0], h.gpus[1]
	return []way{
		{"index-0", "0", []int{0}},
		{"index-1", "1", []int{1}},
		{"two-indices", "0,1", []int{0, 1}},
		{"uuid", second.uuid, []int{1}},
		{"uuid-prefix", second.uuid[:len("GPU-")+8], []int{1}},
		{"bus-id", second.bus, []int{1}},
		{"bus-id-upper-case-long", "0000" + strings.ToUpper(second.bus), []int{1}},
		{"uuid-and-index", first.uuid + ",1", []int{0, 1}},
		{"twice-the-same", "0,0", []int{0}},
		{"twice-by-two-names", "1," + second.uuid, []int{1}},
	}
}

func (h *host) pick(indices []int) (some []gpu) {
	for _, i := range indices {
		some = append(some, h.gpus[i])
	}
	return some
}

// testGPUsFlag is docker run --gpus in all its forms: the hook.
func testGPUsFlag(t *testing.T, b *box, h *host) {
	ways := []way{{"all", "all", []int{0, 1}}, {"count-1", "1", []int{0}}, {"count-2", "2", []int{0, 1}}}
	for _, w := range names(h) {
		ways = append(ways, way{"device-" + w.name, `"device=` + w.ask + `"`, w.want})
	}
	ways = append(ways, way{"capabilities", `all,"capabilities=utility,compute"`, []int{0, 1}},
		way{"driver-nvidia", "driver=nvidia,count=1", []int{0}})
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			b.run("--gpus", w.ask, "localhost/debian", "nvidia-smi", "-L").lists(t, h.pick(w.want)...)
		})
	}
	t.Run("unknown-device", func(t *testing.T) {
		t.Parallel()
		b.run("--gpus", "device=7", "localhost/debian", "true").fails(t, `"7"`, h.gpus[0].uuid, h.gpus[1].uuid)
	})
	t.Run("more-than-there-are", func(t *testing.T) {
		t.Parallel()
		b.run("--gpus", "3", "localhost/debian", "true").fails(t, `"2"`, h.gpus[0].uuid)
	})
	t.Run("image-variable-does-not-count", func(t *testing.T) {
		t.Parallel() // docker appends its own value, and the last one counts
		b.run("--gpus", "device=1", "localhost/cuda-base", "nvidia-smi", "-L").lists(t, h.gpus[1])
	})
}

// testRuntime is --runtime nvidia with NVIDIA_VISIBLE_DEVICES: the shim.
func testRuntime(t *testing.T, b *box, h *host) {
	run := func(value string, args ...string) result {
		return b.run(append([]string{"--runtime", "nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=" + value}, args...)...)
	}
	for _, w := range append(names(h), way{"all", "all", []int{0, 1}}, way{"blanks", "0, 1", []int{0, 1}},
		way{"all-with-others", "all,0", []int{0, 1}}, way{"cdi-name", "nvidia.com/gpu=1", []int{1}}) {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			run(w.ask, "localhost/debian", "nvidia-smi", "-L").lists(t, h.pick(w.want)...)
		})
	}
	look := []string{"localhost/debian", "sh", "-c", "ls /dev /usr/lib/x86_64-linux-gnu /usr/bin"}
	for _, value := range []string{"", "void", "0,void"} {
		t.Run("nothing-for-"+strings.ReplaceAll(value+"-value", ",", "-"), func(t *testing.T) {
			t.Parallel()
			r := run(value, look...)
			r.ok(t)
			if strings.Contains(r.out, "nvidia") || strings.Contains(r.out, "libcuda") {
				t.Errorf("the container was touched:\n%s", r.out)
			}
		})
	}
	t.Run("nothing-without-the-variable", func(t *testing.T) {
		t.Parallel()
		r := b.run(append([]string{"--runtime", "nvidia"}, look...)...)
		r.ok(t)
		if strings.Contains(r.out, "nvidia") {
			t.Errorf("the container was touched:\n%s", r.out)
		}
	})
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		r := run("none", look...)
		r.ok(t, "nvidiactl", "libcuda.so.1", "nvidia-smi")
		if strings.Contains(r.out, "nvidia0") || strings.Contains(r.out, "nvidia1") {
			t.Errorf("a GPU's node was given:\n%s", r.out)
		}
	})
	t.Run("unknown-device", func(t *testing.T) {
		t.Parallel()
		run("7", "localhost/debian", "true").fails(t, `"7"`, h.gpus[0].uuid, h.gpus[1].uuid)
	})
	t.Run("the-image-asks", func(t *testing.T) {
		t.Parallel()
		b.run("--runtime", "nvidia", "localhost/cuda-base", "nvidia-smi", "-L").lists(t, h.gpus...)
	})
}

// testDefaultRuntime makes davit dockerd's default, in which case the variable
// alone asks, and builds have a GPU too.
func testDefaultRuntime(t *testing.T, b *box, h *host) {
	set := func(json string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(b.root, "etc/docker/daemon.json"), []byte(json), 0o644); err != nil {
			t.Fatal(err)
		}
		b.mustIn(t, "sh", "-c", "kill -HUP $(cat /run/docker.pid)")
	}
	set(strings.TrimSuffix(daemonJSON, "}") + `, "default-runtime": "nvidia"}`)
	t.Cleanup(func() { set(daemonJSON) })
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if strings.TrimSpace(b.mustIn(t, "docker", "info", "-f", "{{.DefaultRuntime}}")) == "nvidia" {
			break
		}
		if time.Now().After(end) {
			t.Fatal("dockerd did not take the new default runtime")
		}
	}
	t.Run("variable", func(t *testing.T) {
		b.run("-e", "NVIDIA_VISIBLE_DEVICES=1", "localhost/debian", "nvidia-smi", "-L").lists(t, h.gpus[1])
	})
	t.Run("no-request", func(t *testing.T) {
		b.run("localhost/debian", "nvidia-smi", "-L").fails(t, "nvidia-smi")
	})
	t.Run("with-the-flag-too", func(t *testing.T) {
		b.run("--gpus", "device=0", "localhost/debian", "nvidia-smi", "-L").lists(t, h.gpus[0])
	})
	t.Run("build-step", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(b.root, "root/gpu-test/Dockerfile"),
			[]byte("FROM localhost/cuda-base\nRUN nvidia-smi -L\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		b.in("env", "DOCKER_BUILDKIT=0", "docker", "build", "--no-cache", "/root/gpu-test").ok(t, h.gpus[0].uuid, h.gpus[1].uuid)
	})
}

// testCapabilities checks which libraries come, by both ways.
func testCapabilities(t *testing.T, b *box) {
	libraries := []string{"libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-encode.so.1", "libnvidia-eglcore.so"}
	for _, c := range []struct {
		value string
		want  []bool // of libraries, in order
	}{
		{"compute", []bool{true, false, false, false}},
		{"utility", []bool{false, true, false, false}},
		{"compute,utility", []bool{true, true, false, false}},
		{"video", []bool{true, false, true, false}},
		{"graphics,utility", []bool{false, true, false, true}},
		{"all", []bool{true, true, true, true}},
		{"", []bool{true, true, false, false}},
	} {
		for _, mode := range []struct {
			name string
			args []string
		}{
			{"hook", []string{"--gpus", "all"}},
			{"shim", []string{"--runtime", "nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all"}},
		} {
			name := strings.ReplaceAll(c.value, ",", "-")
			if name == "" {
				name = "default"
			}
			t.Run(mode.name+"-"+name, func(t *testing.T) {
				t.Parallel()
				args := mode.args
				if c.value != "" {
					args = append(args, "-e", "NVIDIA_DRIVER_CAPABILITIES="+c.value)
				}
				r := b.run(append(args, "localhost/debian", "ls", "/usr/lib/x86_64-linux-gnu")...)
				r.ok(t)
				for i, l := range libraries {
					if has := strings.Contains(r.out, l); has != c.want[i] {
						t.Errorf("%s is there: %v, want %v:\n%s", l, has, c.want[i], r.out)
					}
				}
			})
		}
	}
	t.Run("flag", func(t *testing.T) {
		t.Parallel()
		r := b.run("--gpus", `all,"capabilities=utility"`, "localhost/debian", "ls", "/usr/lib/x86_64-linux-gnu")
		r.ok(t, "libnvidia-ml.so.1")
		if strings.Contains(r.out, "libcuda.so") {
			t.Error("libcuda came with capabilities=utility")
		}
	})
	t.Run("unknown-name", func(t *testing.T) {
		t.Parallel()
		b.run("--gpus", "all", "-e", "NVIDIA_DRIVER_CAPABILITIES=compute,utilty", "localhost/debian", "true").fails(t, "utilty", "utility")
	})
}

// testRequirements checks that NVIDIA_REQUIRE_* is evaluated, and that the
// person at the docker client reads why a start was refused.
func testRequirements(t *testing.T, b *box, h *host) {
	hook, shim := []string{"--gpus", "all"}, []string{"--runtime", "nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all"}
	for name, mode := range map[string][]string{"hook": hook, "shim": shim} {
		run := func(env string, more ...string) result {
			return b.run(append(append(append([]string{}, mode...), more...), "-e", env, "localhost/debian", "nvidia-smi", "-L")...)
		}
		t.Run(name+"-met", func(t *testing.T) {
			t.Parallel()
			run("NVIDIA_REQUIRE_CUDA=cuda>=12.4").lists(t, h.gpus...)
		})
		t.Run(name+"-one-of-two-terms", func(t *testing.T) {
			t.Parallel()
			run("NVIDIA_REQUIRE_CUDA=cuda>=99.1 driver>=535").lists(t, h.gpus...)
		})
		t.Run(name+"-cuda-too-new", func(t *testing.T) {
			t.Parallel()
			run("NVIDIA_REQUIRE_CUDA=cuda>=99.1").fails(t, "cuda>=99.1", "12.4", "NVIDIA_DISABLE_REQUIRE")
		})
		t.Run(name+"-driver-too-old", func(t *testing.T) {
			t.Parallel()
			run("NVIDIA_REQUIRE_DRIVER=driver>=600").fails(t, "driver>=600", h.driver)
		})
		t.Run(name+"-disabled", func(t *testing.T) {
			t.Parallel()
			run("NVIDIA_REQUIRE_CUDA=cuda>=99.1", "-e", "NVIDIA_DISABLE_REQUIRE=1").lists(t, h.gpus...)
		})
	}
}

// testIsolation opens nodes really: the device cgroup must refuse what was not given.
func testIsolation(t *testing.T, b *box, h *host) {
	own, other := h.gpus[0], h.gpus[1]
	if own.rdev == other.rdev {
		t.Skip("this machine has too few devices to stand behind two GPUs")
	}
	script := strings.Join([]string{
		"mknod /tmp/own c " + major(own.rdev) + " " + minor(own.rdev),
		"mknod /tmp/other c " + major(other.rdev) + " " + minor(other.rdev),
		"for n in own other; do dd if=/tmp/$n count=0 iflag=nonblock,noctty 2>/dev/null && echo $n opens || echo $n is refused: $(dd if=/tmp/$n count=0 2>&1); done",
		"ls /dev | grep -x 'nvidia[0-9]*' | tr '\\n' ' '",
		"echo proc: $(ls /proc/driver/nvidia/gpus 2>/dev/null)",
	}, "; ")
	for _, mode := range []struct {
		name string
		args []string
	}{
		{"hook", []string{"--gpus", "device=0"}},
		{"shim", []string{"--runtime", "nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=0"}},
	} {
		t.Run(mode.name+"-other-gpu-cannot-be-opened", func(t *testing.T) {
			t.Parallel()
			r := b.run(append(mode.args, "localhost/debian", "sh", "-c", script)...)
			r.ok(t, "own opens", "other is refused", "Operation not permitted", "nvidia"+strconv.Itoa(own.minor))
			if strings.Contains(r.out, "nvidia"+strconv.Itoa(other.minor)+" ") || strings.Contains(r.out, other.bus) {
				t.Errorf("the container sees the other GPU:\n%s", r.out)
			}
		})
	}
	t.Run("no-gpu-cannot-open-any", func(t *testing.T) {
		t.Parallel()
		b.run("localhost/debian", "sh", "-c", script).ok(t, "own is refused", "other is refused")
	})
	t.Run("node-cannot-be-written-over", func(t *testing.T) {
		t.Parallel()
		b.run("--gpus", "device=0", "localhost/debian", "sh", "-c", "echo x > /usr/lib/x86_64-linux-gnu/libcuda.so.1 || echo refused").ok(t, "Read-only file system", "refused")
	})
	t.Run("library-cannot-be-changed-under-the-host", func(t *testing.T) {
		before := h.library(t, "libcuda.so.")
		r := b.run("--gpus", "all", "--privileged", "localhost/debian", "sh", "-c", "echo x >> /usr/lib/x86_64-linux-gnu/libcuda.so.1")
		if h.library(t, "libcuda.so.") != before {
			t.Errorf("the host's library was changed:\n%s", r.out)
		}
	})
	t.Run("simulated-numbers-are-tested", func(t *testing.T) {
		if name := major(own.rdev) + ":" + minor(own.rdev); name == "1:3" {
			t.Error("the GPUs' nodes are /dev/null, so isolation was not tested")
		}
	})
	if _, err := os.Stat(filepath.Join(h.dir, "dev", "nvidiactl")); err != nil {
		t.Error(err)
	}
}
