// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestRootless runs podman as an ordinary user, whose containers have a user
// namespace and no device cgroup. The names of its subtests are cells of the
// table in docs/engines.md.
func TestRootless(t *testing.T) {
	l := openLab(t)
	for _, profile := range []string{"podman54", "podman58"} {
		for _, cgroup := range []string{"v1", "v2"} {
			t.Run(profile+"-cgroup-"+cgroup, func(t *testing.T) {
				b := l.up(t, profile, cgroup)
				h := hosts()[0]
				b.simulate(t, h)
				b.mustIn(t, "sh", "-c", `grep -q ^user: /etc/passwd || echo user:x:1000:1000::/home/user:/bin/sh >>/etc/passwd
grep -q ^user: /etc/subuid || echo user:100000:65536 | tee -a /etc/subuid >>/etc/subgid
mkdir -p /home/user/.config/containers /run/user/1000
printf '[storage]\ndriver = "overlay"\nrunroot = "/run/user/1000/containers"\ngraphroot = "/home/user/storage"\n' >/home/user/.config/containers/storage.conf
chown 1000:1000 /home/user /home/user/.config /home/user/.config/containers /run/user/1000`)
				images := filepath.Join(l.cache, "share/images")
				for _, image := range []string{"debian", "fedora"} {
					if b.user("podman", "image", "exists", "localhost/"+image).code != 0 {
						b.user("podman", "load", "-q", "-i", filepath.Join(images, image+".tar")).ok(t)
					}
				}
				// A rootless runtime binds a node from the path that it has in the
				// container, so the nodes must be where real hosts have them.
				b.mustIn(t, "sh", "-c", "cp -a /sim/"+h.name+"/dev/nvidia* /dev/")
				b.in("davit", "setup", "podman").ok(t, cdiFile)
				for _, runtime := range []string{"crun", "runc"} {
					t.Run(runtime, func(t *testing.T) { rootlessWays(t, b, h, runtime) })
				}
				b.in("davit", "setup", "podman", "--undo").ok(t)
				b.links(t)
			})
		}
	}
}

// user runs a command as the user 1000.
func (b *box) user(args ...string) result {
	return b.in("su", "-s", "/bin/sh", "user", "-c", "export XDG_RUNTIME_DIR=/run/user/1000; cd; exec '"+strings.Join(args, "' '")+"'")
}

func rootlessWays(t *testing.T, b *box, h *host, runtime string) {
	run := func(args ...string) result {
		return b.user(append([]string{"podman", "--runtime", runtime, "run", "--rm", "--network", "none"}, args...)...)
	}
	if r := run("localhost/debian", "true"); r.code != 0 {
		t.Skipf("a plain container does not start here: %s", strings.TrimSpace(r.out[strings.LastIndexByte(strings.TrimSpace(r.out), '\n')+1:]))
	}
	t.Run("device-all", func(t *testing.T) {
		run("--device", "nvidia.com/gpu=all", "localhost/debian", "nvidia-smi", "-L").lists(t, h.gpus...)
		run("--device", "nvidia.com/gpu=all", "localhost/fedora", "nvidia-smi", "-L").lists(t, h.gpus...)
	})
	t.Run("read-only", func(t *testing.T) {
		r := run("--read-only", "--device", "nvidia.com/gpu=all", "localhost/fedora", "nvidia-smi", "-L")
		if r.code != 0 && strings.Contains(r.out, "davit: write /etc/ld.so.cache: write /run/davit/") {
			t.Skip("not done: a rootless hook cannot keep the loader cache of a read-only root in /run/davit")
		}
		r.lists(t, h.gpus...)
	})
	t.Run("device-one", func(t *testing.T) {
		run("--device", "nvidia.com/gpu=1", "localhost/debian", "nvidia-smi", "-L").lists(t, h.gpus[1])
	})
	t.Run("gpus-flag", func(t *testing.T) {
		run("--gpus", "all", "localhost/debian", "nvidia-smi", "-L").lists(t, h.gpus...)
	})
	t.Run("runtime", func(t *testing.T) {
		b.lowLevel(t, h, runtime)
		defer b.use(t, h)
		b.user("podman", "--runtime", "/usr/bin/nvidia-container-runtime", "run", "--rm", "--network", "none",
			"-e", "NVIDIA_VISIBLE_DEVICES=all", "localhost/debian", "nvidia-smi", "-L").lists(t, h.gpus...)
	})
}
