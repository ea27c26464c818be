// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestPodman sets podman up with davit setup, and asks in every way that podman
// has, with both low-level runtimes. The names of its subtests are cells of the
// table in docs/engines.md.
func TestPodman(t *testing.T) {
	l := openLab(t)
	for _, profile := range []string{"podman43", "podman54", "podman58"} {
		for _, cgroup := range []string{"v1", "v2"} {
			t.Run(profile+"-cgroup-"+cgroup, func(t *testing.T) {
				b := l.up(t, profile, cgroup, "debian", "fedora")
				h := hosts()[0]
				b.simulate(t, h)
				for _, runtime := range []string{"crun", "runc"} {
					t.Run(runtime, func(t *testing.T) { podmanWays(t, b, h, runtime) })
				}
				t.Run("setup", func(t *testing.T) { podmanUndo(t, b) })
			})
		}
	}
}

// up starts an engine that is not docker, with these images in its store, and
// takes it down again at the end.
func (l *lab) up(t *testing.T, profile, cgroup string, images ...string) *box {
	t.Helper()
	b := &box{lab: l, profile: profile, cgroup: cgroup, root: filepath.Join(l.cache, profile, "rootfs")}
	l.must(t, nil, "engines/down.sh", profile)
	t.Cleanup(func() {
		if log := filepath.Join(l.cache, profile, "log", "containerd.log"); t.Failed() && strings.HasPrefix(profile, "containerd") {
			t.Logf("end of containerd's log:\n%s", tail(log, 30))
		}
		l.must(t, nil, "engines/down.sh", profile)
	})
	l.must(t, []string{"BOX_CGROUP=" + cgroup, "BOX_PREPARE=" + filepath.Join(l.here, "prepare.sh"), "DAVIT_BIN=" + l.bin}, "engines/up.sh", profile)
	for _, image := range images {
		file := filepath.Join(l.cache, "share/images", image+".tar")
		if strings.HasPrefix(profile, "podman") {
			if b.in("podman", "image", "exists", "localhost/"+image).code != 0 {
				b.mustIn(t, "podman", "load", "-q", "-i", file)
			}
			continue
		}
		b.mustIn(t, "ctr", "-n", "k8s.io", "image", "import", file)
	}
	return b
}

// podmanWays asks in each way.
func podmanWays(t *testing.T, b *box, h *host, runtime string) {
	run := func(args ...string) result {
		return b.in(append([]string{"podman", "--runtime", runtime, "run", "--rm", "--network", "none"}, args...)...)
	}
	if b.profile == "podman43" && b.cgroup == "v2" && runtime == "crun" {
		if r := run("localhost/debian", "true"); strings.Contains(r.out, "RLIM_MEMLOCK") {
			t.Skip("crun 1.8 needs CAP_SYS_RESOURCE on cgroup2 (setrlimit RLIM_MEMLOCK), which this machine does not give, for any container")
		}
	}
	smi := []string{"localhost/debian", "nvidia-smi", "-L"}
	b.in("davit", "setup", "podman").ok(t, cdiFile)
	t.Run("device-all", func(t *testing.T) {
		run(append([]string{"--device", "nvidia.com/gpu=all"}, smi...)...).lists(t, h.gpus...)
		run("--read-only", "--device", "nvidia.com/gpu=all", "localhost/fedora", "nvidia-smi", "-L").lists(t, h.gpus...)
	})
	t.Run("device-one", func(t *testing.T) {
		run(append([]string{"--device", "nvidia.com/gpu=1"}, smi...)...).lists(t, h.gpus[1])
		run("localhost/debian", "ls", "/dev").ok(t) // and none to who does not ask
	})
	t.Run("gpus-flag", func(t *testing.T) {
		if b.profile == "podman43" {
			t.Skip("podman 4.3 accepts --gpus and ignores it")
		}
		run(append([]string{"--gpus", "all"}, smi...)...).lists(t, h.gpus...)
	})
	t.Run("runtime", func(t *testing.T) {
		shim := func(args ...string) result {
			return b.in(append([]string{"podman", "--runtime", "/usr/bin/nvidia-container-runtime", "run", "--rm", "--network", "none"}, args...)...)
		}
		b.lowLevel(t, h, runtime)
		defer b.use(t, h)
		shim(append([]string{"-e", "NVIDIA_VISIBLE_DEVICES=all"}, smi...)...).lists(t, h.gpus...)
		shim(append([]string{"--read-only", "-e", "NVIDIA_VISIBLE_DEVICES=0"}, smi...)...).lists(t, h.gpus[0])
	})
	b.in("davit", "setup", "podman", "--hooks").ok(t, "oci-nvidia-hook.json")
	t.Run("hooks-folder", func(t *testing.T) {
		run(append([]string{"-e", "NVIDIA_VISIBLE_DEVICES=all"}, smi...)...).lists(t, h.gpus...)
		run(append([]string{"-e", "NVIDIA_VISIBLE_DEVICES=1"}, smi...)...).lists(t, h.gpus[1])
	})
	t.Run("hooks-folder-and-device", func(t *testing.T) {
		run(append([]string{"--device", "nvidia.com/gpu=1"}, smi...)...).lists(t, h.gpus[1])
	})
	b.in("davit", "setup", "podman", "--undo").ok(t, "oci-nvidia-hook.json", cdiFile)
	b.links(t)
}

// lowLevel makes davit's runtime stand in for this one.
func (b *box) lowLevel(t *testing.T, h *host, runtime string) {
	t.Helper()
	b.put(t, "/etc/nvidia-container-runtime/config.toml", "host-root = \"/sim/"+h.name+"\"\n[nvidia-container-runtime]\nruntimes = [\""+runtime+"\"]\n")
}

// podmanUndo makes sure that nothing of davit's is left.
func podmanUndo(t *testing.T, b *box) {
	b.in("davit", "setup", "--undo").ok(t)
	r := b.in("sh", "-c", "ls /etc/cdi /usr/share/containers/oci/hooks.d 2>/dev/null; true")
	r.ok(t)
	if strings.Contains(r.out, "nvidia") {
		t.Errorf("left after undo:\n%s", r.out)
	}
	b.links(t)
}

// links puts davit's names back, which undo removes.
func (b *box) links(t *testing.T) {
	t.Helper()
	b.mustIn(t, "sh", "-c", "for n in nvidia-container-runtime nvidia-container-runtime-hook nvidia-container-toolkit nvidia-cdi-hook; do ln -sfn davit-runtime /usr/bin/$n; done")
}
