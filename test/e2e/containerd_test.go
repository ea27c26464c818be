// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strconv"
	"strings"
	"testing"
)

// TestContainerd sets containerd up with davit setup, and asks through ctr and
// through CRI as kubelet does. The names of its subtests are cells of the table
// in docs/engines.md.
func TestContainerd(t *testing.T) {
	l := openLab(t)
	for _, profile := range []string{"containerd16", "containerd17", "containerd21"} {
		for _, cgroup := range []string{"v1", "v2"} {
			t.Run(profile+"-cgroup-"+cgroup, func(t *testing.T) {
				b := l.up(t, profile, cgroup)
				if controllers := b.in("cat", "/sys/fs/cgroup/cgroup.controllers"); cgroup == "v2" && !strings.Contains(controllers.out, "cpu") {
					t.Skip("containerd always sets CPU shares, for which this machine's cgroup2 has no controller")
				}
				for _, image := range []string{"debian", "fedora", "pause"} {
					b.mustIn(t, "ctr", "-n", "k8s.io", "image", "import", "--no-unpack", l.cache+"/share/images/"+image+".tar")
				}
				h := hosts()[0]
				b.simulate(t, h)
				if text := containerdFiles[profile]; text != "" {
					b.put(t, "/etc/containerd/config.toml", text)
				}
				before := b.mustIn(t, "cat", "/etc/containerd/config.toml")
				t.Run("setup", func(t *testing.T) { containerdSetup(t, b) })
				b.generate(t)
				t.Run("ctr", func(t *testing.T) { containerdCtr(t, b, h) })
				t.Run("cri", func(t *testing.T) { containerdCRI(t, b, h) })
				t.Run("undo", func(t *testing.T) {
					b.in("davit", "setup", "containerd", "--undo").ok(t)
					if now := b.mustIn(t, "cat", "/etc/containerd/config.toml"); now != before {
						t.Errorf("config.toml is after undo\n%s\nand was\n%s", now, before)
					}
					b.links(t)
				})
			})
		}
	}
}

// containerdFiles are configurations of other versions than the box's, which is 2.
var containerdFiles = map[string]string{
	"containerd16": `# version 1 is a file that names none
[plugins.cri]
  sandbox_image = "localhost/pause:latest" # no registry
  restrict_oom_score_adj = true
  disable_tcp_service = true
`,
	"containerd21": `version = 3

[plugins]
  [plugins.'io.containerd.grpc.v1.cri']
    disable_tcp_service = true
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = 'localhost/pause:latest' # no registry
  [plugins.'io.containerd.cri.v1.runtime']
    restrict_oom_score_adj = true
`}

// containerdSetup changes the configuration and starts containerd anew with it.
func containerdSetup(t *testing.T, b *box) {
	b.in("davit", "setup", "containerd").ok(t, "runtimes.nvidia", "Restart containerd")
	b.in("davit", "setup", "containerd").ok(t, "nothing to change")
	b.lab.must(t, nil, "engines/engine.sh", "stop", b.profile, "containerd")
	b.lab.must(t, []string{"CONTAINERD_KEEP=1"}, "engines/engine.sh", "start", b.profile, "containerd")
	b.in("containerd", "config", "dump").ok(t, "containerd.runtimes.runc]", "containerd.runtimes.nvidia]", "/usr/bin/nvidia-container-runtime")
	if b.profile != "containerd16" {
		b.in("containerd", "config", "dump").ok(t, "enable_cdi = true")
	}
	// A file that names no version, as docker's packages bring it, means another
	// thing to each containerd.
	b.mustIn(t, "sh", "-c", `rm -rf /tmp/host && mkdir -p /tmp/host/usr/bin /tmp/host/etc/containerd && cd /tmp/host && touch usr/bin/davit-runtime &&
echo '#root = "/x"' >etc/containerd/config.toml && davit setup containerd --root .`)
	b.in("containerd", "--config", "/tmp/host/etc/containerd/config.toml", "config", "dump").ok(t,
		"containerd.runtimes.runc]", "containerd.runtimes.nvidia]", "/usr/bin/nvidia-container-runtime")
}

func containerdCtr(t *testing.T, b *box, h *host) {
	n := 0
	run := func(args ...string) result {
		n++
		at := 0 // the image's place: the container's name comes after it
		for at < len(args) && !strings.HasPrefix(args[at], "localhost/") {
			at++
		}
		line := append([]string{"ctr", "-n", "k8s.io", "run", "--rm"}, args[:at+1]...)
		return b.in(append(append(line, "ctr-"+strconv.Itoa(n)), args[at+1:]...)...)
	}
	t.Run("runtime", func(t *testing.T) {
		shim := "--runc-binary=/usr/bin/nvidia-container-runtime"
		run(shim, "--env", "NVIDIA_VISIBLE_DEVICES=all", "localhost/debian:latest", "nvidia-smi", "-L").lists(t, h.gpus...)
		run(shim, "--env", "NVIDIA_VISIBLE_DEVICES=1", "--read-only", "localhost/fedora:latest", "nvidia-smi", "-L").lists(t, h.gpus[1])
		run(shim, "localhost/debian:latest", "sh", "-c", "ls /dev; nvidia-smi").fails(t, "not found")
	})
	t.Run("device", func(t *testing.T) {
		if b.profile != "containerd21" {
			t.Skip("ctr knows CDI names since containerd 2.0")
		}
		run("--device", "nvidia.com/gpu=all", "localhost/debian:latest", "nvidia-smi", "-L").lists(t, h.gpus...)
		run("--device", "nvidia.com/gpu=1", "localhost/fedora:latest", "nvidia-smi", "-L").lists(t, h.gpus[1])
	})
	t.Run("gpus", func(t *testing.T) { // by nvidia-container-cli configure, which containerd calls
		run("--gpus", "1", "localhost/debian:latest", "nvidia-smi", "-L").lists(t, h.gpus[1])
		run("--gpus", "0", "localhost/fedora:latest", "nvidia-smi", "-L").lists(t, h.gpus[0])
	})
}

func containerdCRI(t *testing.T, b *box, h *host) {
	smi := pod{image: "localhost/debian:latest", command: []string{"nvidia-smi", "-L"}}
	cdi := func(t *testing.T) {
		if b.profile == "containerd16" {
			t.Skip("containerd 1.6 has no CDI")
		}
	}
	t.Run("field", func(t *testing.T) {
		cdi(t)
		p := smi
		p.devices = []string{"nvidia.com/gpu=all"}
		b.cri(p).lists(t, h.gpus...)
		p.handler, p.devices = "nvidia", []string{"nvidia.com/gpu=1"}
		b.cri(p).lists(t, h.gpus[1])
	})
	t.Run("annotation", func(t *testing.T) {
		cdi(t)
		p := smi
		p.annotations = map[string]string{"cdi.k8s.io/test": "nvidia.com/gpu=0"}
		b.cri(p).lists(t, h.gpus[0])
	})
	t.Run("handler", func(t *testing.T) {
		p := smi
		p.handler, p.env = "nvidia", map[string]string{"NVIDIA_VISIBLE_DEVICES": "all"}
		// A pod's environment alone gives nothing, unless a person allows it.
		r := b.cri(p)
		if r.code == 0 || strings.Contains(r.out, "GPU-") {
			t.Errorf("an unprivileged pod got GPUs by its environment:\n%s", r.out)
		}
		b.put(t, "/etc/nvidia-container-runtime/config.toml", "accept-visible-devices-env = \"always\"\nhost-root = \"/sim/"+h.name+"\"\n")
		defer b.use(t, h)
		b.cri(p).lists(t, h.gpus...)
	})
	t.Run("other-pods", func(t *testing.T) {
		p := smi
		p.command = []string{"sh", "-c", "ls /dev; echo end"}
		for _, p.handler = range []string{"", "nvidia"} {
			r := b.cri(p)
			r.ok(t, "end")
			if strings.Contains(r.out, "nvidia") {
				t.Errorf("a pod that asked for nothing has:\n%s", r.out)
			}
		}
	})
}
