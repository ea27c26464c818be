// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// cdiFile is the one that every engine reads.
const cdiFile = "/etc/cdi/nvidia.yaml"

// TestCDI gives GPUs by CDI names, without any runtime or hook of davit's in
// the engine's configuration.
func TestCDI(t *testing.T) {
	l := openLab(t)
	for _, c := range []struct {
		profile, cgroup string
		test            func(t *testing.T, l *lab, profile, cgroup string)
	}{
		{"docker26", "v1", cdiDocker},
		{"docker26", "v2", cdiDocker},
		{"docker28", "v1", cdiDocker},
		{"docker28", "v2", cdiDocker},
		{"podman54", "v1", cdiPodman},
		{"podman54", "v2", cdiPodman},
	} {
		t.Run(c.profile+"-cgroup-"+c.cgroup, func(t *testing.T) { c.test(t, l, c.profile, c.cgroup) })
	}
}

func cdiDocker(t *testing.T, l *lab, profile, cgroup string) {
	b := l.start(t, profile, cgroup)
	if profile == "docker26" {
		b.restartDocker(t, `{"features": {"cdi": true}}`)
	} else {
		b.restartDocker(t, `{}`)
	}
	h := hosts()[0]
	b.simulate(t, h)
	b.generate(t)
	run := func(args ...string) result { return b.run(args...) }
	t.Run("names", func(t *testing.T) { cdiNames(t, h, run) })
	t.Run("images", func(t *testing.T) { cdiImages(t, h, run) })
	t.Run("again", func(t *testing.T) {
		b.in("docker", "rm", "-f", "cdi-again")
		b.in("docker", "run", "--network", "none", "--name", "cdi-again", "--device", "nvidia.com/gpu=1", "localhost/fedora", "nvidia-smi", "-L").lists(t, h.gpus[1])
		b.in("docker", "start", "-a", "cdi-again").lists(t, h.gpus[1])
		b.in("docker", "rm", "-f", "cdi-again")
	})
	t.Run("old-spec", func(t *testing.T) { cdiOldSpec(t, b, h, run) })
	if profile == "docker28" && cgroup == "v1" {
		// ctr always sets CPU shares, for which a cgroup2 view of this kind has no controller.
		t.Run("ctr", func(t *testing.T) { cdiCtr(t, b, h) })
	}
	t.Run("changes", func(t *testing.T) { cdiChanges(t, b, h, run) })
}

// restartDocker starts dockerd with another configuration.
func (b *box) restartDocker(t *testing.T, json string) {
	t.Helper()
	b.lab.must(t, nil, "engines/engine.sh", "stop", b.profile, "docker")
	b.lab.must(t, []string{"DAEMON_JSON=" + json}, "engines/engine.sh", "start", b.profile, "docker")
}

// generate writes the spec of the host that davit's configuration names.
func (b *box) generate(t *testing.T, args ...string) {
	t.Helper()
	b.in(append([]string{"davit", "cdi", "generate", "--output", cdiFile}, args...)...).ok(t, cdiFile)
}

// cdiPodman runs podman with both low-level runtimes. It has no daemon, and
// reads specs at each start.
func cdiPodman(t *testing.T, l *lab, profile, cgroup string) {
	b := &box{lab: l, profile: profile, cgroup: cgroup, root: filepath.Join(l.cache, profile, "rootfs")}
	l.must(t, nil, "engines/down.sh", profile)
	t.Cleanup(func() { l.must(t, nil, "engines/down.sh", profile) })
	l.must(t, []string{"BOX_CGROUP=" + cgroup, "BOX_PREPARE=" + filepath.Join(l.here, "prepare.sh"), "DAVIT_BIN=" + l.bin}, "engines/up.sh", profile)
	for _, image := range []string{"debian", "fedora", "distroless", "oldglibc", "newglibc", "alpine"} {
		b.mustIn(t, "podman", "load", "-q", "-i", filepath.Join(l.cache, "share/images", image+".tar"))
	}
	h := hosts()[0]
	b.simulate(t, h)
	b.generate(t)
	for _, runtime := range []string{"crun", "runc"} {
		run := func(args ...string) result {
			return b.in(append([]string{"podman", "--runtime", runtime, "run", "--rm", "--network", "none"}, args...)...)
		}
		t.Run(runtime, func(t *testing.T) {
			t.Run("names", func(t *testing.T) { cdiNames(t, h, run) })
			t.Run("images", func(t *testing.T) { cdiImages(t, h, run) })
			t.Run("gpus-flag", func(t *testing.T) {
				run("--gpus", "all", "localhost/debian", "nvidia-smi", "-L").lists(t, h.gpus...)
				run("--gpus", "1", "localhost/debian", "nvidia-smi", "-L").lists(t, h.gpus[1])
			})
			t.Run("old-spec", func(t *testing.T) { cdiOldSpec(t, b, h, run) })
			t.Run("changes", func(t *testing.T) { cdiChanges(t, b, h, run) })
		})
	}
}

// cdiNames asks by each kind of name.
func cdiNames(t *testing.T, h *host, run func(...string) result) {
	for name, want := range map[string][]gpu{"all": h.gpus, "0": h.gpus[:1], "gpu1": h.gpus[1:], h.gpus[1].uuid: h.gpus[1:]} {
		t.Run(name, func(t *testing.T) {
			run("--device", "nvidia.com/gpu="+name, "localhost/debian", "nvidia-smi", "-L").lists(t, want...)
		})
	}
	t.Run("two", func(t *testing.T) {
		run("--device", "nvidia.com/gpu=1", "--device", "nvidia.com/gpu=0", "localhost/debian", "nvidia-smi", "-L").lists(t, h.gpus...)
	})
	t.Run("none", func(t *testing.T) {
		run("--device", "nvidia.com/gpu=none", "localhost/debian", "nvidia-smi", "-L").fails(t, "No devices were found")
	})
	t.Run("unknown", func(t *testing.T) {
		run("--device", "nvidia.com/gpu=9", "localhost/debian", "true").fails(t, "nvidia.com/gpu=9")
	})
	t.Run("other-gpu-is-not-there", func(t *testing.T) {
		r := run("--device", "nvidia.com/gpu=1", "localhost/debian", "sh", "-c", "ls /dev; echo $NVIDIA_VISIBLE_DEVICES; ls /proc/driver/nvidia/gpus 2>/dev/null; true")
		r.ok(t, filepath.Base(h.node(1)), "nvidiactl", "nvidia-uvm", "void")
		if strings.Contains(r.out, filepath.Base(h.node(0))+"\n") {
			t.Errorf("the other GPU's node is there:\n%s", r.out)
		}
	})
}

// node is the path of a GPU's node in a container.
func (h *host) node(i int) string { return "/dev/nvidia" + strconv.Itoa(h.gpus[i].minor) }

// cdiImages runs in images of several families, as other users and read-only.
func cdiImages(t *testing.T, h *host, run func(...string) result) {
	for _, image := range []string{"debian", "fedora", "oldglibc", "newglibc", "distroless"} {
		t.Run(image, func(t *testing.T) {
			run("--device", "nvidia.com/gpu=all", "--entrypoint", "nvidia-smi", "localhost/"+image, "-L").lists(t, h.gpus...)
		})
		t.Run(image+"-read-only", func(t *testing.T) {
			run("--read-only", "--device", "nvidia.com/gpu=all", "--entrypoint", "nvidia-smi", "localhost/"+image, "-L").lists(t, h.gpus...)
		})
	}
	t.Run("user-that-is-not-root", func(t *testing.T) {
		run("--user", "65534:65534", "--device", "nvidia.com/gpu=all", "localhost/fedora", "nvidia-smi", "-L").lists(t, h.gpus...)
	})
	t.Run("alpine-starts", func(t *testing.T) {
		run("--device", "nvidia.com/gpu=all", "localhost/alpine", "ls", "/dev").ok(t, "nvidiactl")
	})
	t.Run("hostile-environment", func(t *testing.T) {
		run("-e", "LD_PRELOAD=/nowhere.so", "-e", "NVIDIA_CTK_CONFIG_FILE_PATH=/dev/zero", "--device", "nvidia.com/gpu=all", "localhost/debian",
			"env", "-u", "LD_PRELOAD", "nvidia-smi", "-L").lists(t, h.gpus...)
	})
}

// cdiOldSpec runs with a spec in the form of NVIDIA's toolkit, whose hooks
// davit answers for.
func cdiOldSpec(t *testing.T, b *box, h *host, run func(...string) result) {
	lib := "/usr/lib/x86_64-linux-gnu"
	mounts := ""
	for _, l := range []string{"libcuda", "libnvidia-ml"} {
		file := lib + "/" + l + ".so." + h.driver
		mounts += "  - {hostPath: /sim/" + h.name + file + ", containerPath: " + file + ", options: [ro, nosuid, nodev, rbind]}\n"
	}
	spec := `cdiVersion: 0.5.0
kind: nvidia.com/old
devices:
- name: "0"
  containerEdits:
    deviceNodes: [{path: ` + h.node(0) + `, hostPath: /sim/` + h.name + h.node(0) + `}]
containerEdits:
  deviceNodes:
  - {path: /dev/nvidiactl, hostPath: /sim/` + h.name + `/dev/nvidiactl}
  mounts:
  - {hostPath: /sim/` + h.name + `/usr/bin/nvidia-smi, containerPath: /usr/bin/nvidia-smi, options: [ro, bind]}
` + mounts + `  hooks:
  - {hookName: createContainer, path: /usr/bin/nvidia-ctk, args: [nvidia-ctk, hook, create-symlinks, --link, "libcuda.so.1::` + lib + `/libcuda.so"], env: [NVIDIA_CTK_DEBUG=false]}
  - {hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, update-ldcache, --folder, ` + lib + `], env: [NVIDIA_CTK_DEBUG=false]}
  - {hookName: createContainer, path: /usr/bin/nvidia-ctk, args: [nvidia-ctk, hook, disable-device-node-modification]}
`
	b.put(t, "/etc/cdi/old.yaml", spec)
	for _, image := range []string{"debian", "fedora", "distroless"} {
		t.Run(image, func(t *testing.T) {
			run("--device", "nvidia.com/old=0", "--entrypoint", "nvidia-smi", "localhost/"+image, "-L").lists(t, h.gpus[0])
		})
	}
	b.mustIn(t, "rm", "/etc/cdi/old.yaml")
}

// put writes a file of the box as programs do that engines watch: a temporary
// file, and a rename.
func (b *box) put(t *testing.T, file, text string) {
	t.Helper()
	p := filepath.Join(b.root, file)
	if err := os.WriteFile(p+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	b.mustIn(t, "mv", file+".new", file)
}

var stampedDriver = regexp.MustCompile(`--driver=[0-9.]+`)

// cdiChanges starts with a stale spec, and writes it again under a running
// engine.
func cdiChanges(t *testing.T, b *box, h *host, run func(...string) result) {
	ask := []string{"--device", "nvidia.com/gpu=all", "localhost/debian", "nvidia-smi", "-L"}
	good := b.mustIn(t, "cat", cdiFile)
	t.Run("stale", func(t *testing.T) {
		b.put(t, cdiFile, stampedDriver.ReplaceAllString(good, "--driver=1.2.3"))
		run(ask...).fails(t, "davit: the CDI spec is stale: it was written for driver 1.2.3, and this host has "+h.driver+" now")
	})
	t.Run("written-again", func(t *testing.T) {
		b.generate(t)
		run(ask...).lists(t, h.gpus...)
	})
	t.Run("validate", func(t *testing.T) {
		b.in("davit", "cdi", "validate", "--root", "/sim/"+h.name, cdiFile).ok(t, "✓ "+cdiFile)
		b.in("davit", "cdi", "list").ok(t, "nvidia.com/gpu=all")
	})
	t.Run("driver-upgraded", func(t *testing.T) {
		next := *h
		next.driver = "560.35.03"
		b.simulate(t, &next)
		defer func() {
			b.simulate(t, h)
			b.generate(t)
		}()
		b.in("davit", "cdi", "validate", "--root", "/sim/"+h.name, cdiFile).fails(t, "stale", h.driver, next.driver)
		b.generate(t)
		run(ask...).lists(t, next.gpus...)
	})
}

// cdiCtr asks containerd's own client.
func cdiCtr(t *testing.T, b *box, h *host) {
	if r := b.in("ctr", "version"); !strings.Contains(r.out, "2.") {
		t.Skipf("containerd is too old:\n%s", r.out)
	}
	b.mustIn(t, "ctr", "image", "import", filepath.Join(b.lab.cache, "share/images/fedora.tar"))
	b.in("ctr", "run", "--rm", "--device", "nvidia.com/gpu=all", "localhost/fedora:latest", "cdi-all", "nvidia-smi", "-L").lists(t, h.gpus...)
	b.in("ctr", "run", "--rm", "--device", "nvidia.com/gpu=1", "localhost/fedora:latest", "cdi-one", "nvidia-smi", "-L").lists(t, h.gpus[1])
}
