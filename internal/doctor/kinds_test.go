// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"davit/internal/finding"
	"davit/internal/rootfs"
	"davit/internal/simulate"
)

// broken is a healthy host with one thing wrong.
type broken struct {
	t   *testing.T
	dir string
}

func (b broken) put(p, text string) { b.t.Helper(); place(b.t, b.dir, p, text) }

func (b broken) remove(paths ...string) {
	b.t.Helper()
	for _, p := range paths {
		if err := os.RemoveAll(filepath.Join(b.dir, p)); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b broken) replace(p, old, new string) {
	b.t.Helper()
	file := filepath.Join(b.dir, p)
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), old) {
		b.t.Fatalf("%s has no %q: %v", p, old, err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), old, new)), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b broken) link(target, p string) {
	b.t.Helper()
	b.remove(p)
	file := filepath.Join(b.dir, p)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Symlink(target, file); err != nil {
		b.t.Fatal(err)
	}
}

func (b broken) program(p string) {
	b.t.Helper()
	b.put(p, "#!/bin/sh\n")
	if err := os.Chmod(filepath.Join(b.dir, p), 0o755); err != nil {
		b.t.Fatal(err)
	}
}

// unload takes the driver's kernel side away.
func (b broken) unload() {
	b.remove("/proc/driver", "/sys/module/nvidia", "/.davit-nodes")
	b.put("/proc/modules", "ext4 1 0 - Live 0x0\n")
	b.put("/proc/devices", "Character devices:\n  1 mem\n\nBlock devices:\n  8 sd\n")
	for _, n := range b.gpus() {
		b.remove("/sys/bus/pci/devices/" + n + "/driver")
	}
}

func (b broken) gpus() (list []string) {
	dirs, _ := filepath.Glob(filepath.Join(b.dir, "sys/bus/pci/devices/*"))
	for _, d := range dirs {
		if v, _ := os.ReadFile(d + "/vendor"); strings.TrimSpace(string(v)) == "0x10de" {
			list = append(list, filepath.Base(d))
		}
	}
	return list
}

func (b broken) noLibraries() {
	files, _ := filepath.Glob(filepath.Join(b.dir, "usr/lib/x86_64-linux-gnu/lib*"))
	for _, f := range files {
		os.RemoveAll(f)
	}
}

func (b broken) setDevice(id string) {
	for _, n := range b.gpus() {
		real, _ := filepath.EvalSymlinks(filepath.Join(b.dir, "sys/bus/pci/devices", n))
		os.Chmod(real+"/device", 0o644)
		if err := os.WriteFile(real+"/device", []byte(id+"\n"), 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
}

const containerdV2 = `version = 2
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia.options]
    BinaryName = "/usr/bin/nvidia-container-runtime"
`

const spec = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: all\n  containerEdits:\n    deviceNodes: [{path: /dev/nvidia0}, {path: /dev/nvidiactl}, {path: /dev/nvidia-uvm}]\n"

var bothGPUs = strings.ReplaceAll(spec, "{path: /dev/nvidiactl}", "{path: /dev/nvidia1}, {path: /dev/nvidiactl}")

// kinds are ways to break a host, what must be found and what must be said.
var kinds = []struct {
	name  string
	ruin  func(b broken)
	want  []string // findings of severity warning or error, in order
	said  []string
	never []string
}{
	{"nothing", func(broken) {}, nil, nil, nil},
	{"driver missing, ubuntu", func(b broken) { b.unload(); b.noLibraries() }, []string{"driver-not-installed"}, []string{"nvidia-driver-580-open", "apt-get"}, []string{"Dockerfile"}},
	{"driver missing, pascal", func(b broken) { b.unload(); b.noLibraries(); b.setDevice("0x1b06") }, []string{"driver-not-installed"}, []string{"nvidia-driver-580", "last branch"}, []string{"-open"}},
	{"driver missing, kepler", func(b broken) { b.unload(); b.noLibraries(); b.setDevice("0x102d") }, []string{"driver-not-installed"}, []string{"nvidia-driver-470"}, []string{"-open", "580"}},
	{"driver missing, blackwell on rhel", func(b broken) {
		b.unload()
		b.noLibraries()
		b.setDevice("0x2b85")
		b.put("/etc/os-release", "ID=\"rhel\"\nVERSION_ID=\"9.4\"\n")
	}, []string{"driver-not-installed"}, []string{"nvidia-open", "dnf", "the only one"}, []string{"apt-get"}},
	{"module for another kernel", func(b broken) {
		b.unload()
		b.put("/lib/modules/6.1.0-1-generic/updates/dkms/nvidia.ko", "")
	}, []string{"driver-module-not-built"}, []string{"6.1.0-1-generic", "headers"}, []string{"install the driver"}},
	{"module there, not loaded", func(b broken) {
		b.unload()
		b.put("/lib/modules/6.8.0-45-generic/updates/dkms/nvidia.ko.zst", "")
	}, []string{"driver-not-loaded"}, []string{"modprobe nvidia"}, nil},
	{"module blacklisted", func(b broken) {
		b.unload()
		b.put("/lib/modules/6.8.0-45-generic/updates/dkms/nvidia.ko", "")
		b.put("/etc/modprobe.d/no.conf", "blacklist nvidia\n")
	}, []string{"module-blacklisted"}, []string{"/etc/modprobe.d/no.conf"}, nil},
	{"secure boot", func(b broken) {
		b.unload()
		b.put("/lib/modules/6.8.0-45-generic/kernel/nvidia-580/nvidia.ko", "")
		b.put("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", "\x06\x00\x00\x00\x01")
	}, []string{"secure-boot-rejects-module"}, []string{"MOK", "mokutil"}, []string{"nouveau"}},
	{"libraries without module", func(b broken) { b.unload() }, []string{"kernel-module-missing"}, nil, nil},
	{"vfio", func(b broken) {
		b.unload()
		for _, n := range b.gpus() {
			b.link("../../../bus/pci/drivers/vfio-pci", "/sys/bus/pci/devices/"+n+"/driver")
		}
	}, []string{"gpu-bound-to-vfio"}, []string{"vfio-pci"}, nil},
	{"open-only card, proprietary module", func(b broken) {
		b.setDevice("0x2b85")
		b.put("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Wed Jul 24 23:53:00 UTC 2024\n")
	}, []string{"gpu-needs-open-module"}, []string{"open"}, nil},
	{"old card, new driver", func(b broken) { b.setDevice("0x102d") }, []string{"driver-too-new-for-gpu"}, []string{"470"}, nil},
	{"no nodes", func(b broken) { b.remove("/.davit-nodes") }, []string{"device-nodes-missing", "uvm-node-missing"}, []string{"nvidia-modprobe"}, nil},
	{"uvm node of another number", func(b broken) { b.replace("/.davit-nodes", "c 510 ", "c 507 ") }, []string{"device-node-wrong-number"}, []string{"507", "510"}, []string{"reboot"}},
	{"uvm missing, spec complete", func(b broken) {
		b.put("/etc/cdi/nvidia.yaml", bothGPUs)
		b.replace("/.davit-nodes", "/dev/nvidia-uvm c", "/dev/gone c")
		b.replace("/proc/devices", "510 nvidia-uvm\n", "")
		b.replace("/proc/modules", "nvidia_uvm", "other")
	}, []string{"uvm-not-loaded"}, nil, nil},
	{"upgraded, old files kept", func(b broken) {
		b.put("/usr/lib/x86_64-linux-gnu/libcuda.so.590.48.01", "")
		b.link("libcuda.so.590.48.01", "/usr/lib/x86_64-linux-gnu/libcuda.so.1")
	}, []string{"driver-library-mismatch"}, []string{"590.48.01"}, nil},
	{"key twice", func(b broken) {
		b.put("/etc/docker/daemon.json", "{\n \"runtimes\": {\"nvidia\": {\"path\": \"nvidia-container-runtime\"}},\n \"debug\": true,\n \"runtimes\": {}\n}")
		b.program("/usr/bin/nvidia-container-runtime-hook")
	}, []string{"daemon-json-duplicate-key"}, []string{"lines 2 and 4"}, nil},
	{"containerd file too new", func(b broken) {
		b.put("/etc/containerd/config.toml", strings.ReplaceAll(strings.Replace(containerdV2, "version = 2", "version = 3", 1), "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"))
		b.program("/usr/bin/nvidia-container-runtime")
		b.put("/.davit-commands.json", `[{"argv": ["containerd", "--version"], "stdout": "containerd containerd.io 1.7.22 7f7fdf5fed64\n"}]`)
	}, []string{"containerd-config-too-new"}, []string{"1.7.22"}, nil},
	{"MIG without compute instance", func(b broken) {
		b.put("/proc/driver/nvidia/capabilities/gpu0/mig/gi1/access", "DeviceFileMinor: 12\nDeviceFileMode: 292\n")
	}, []string{"mig-enabled-without-instance"}, []string{"-cci"}, nil},
	{"MIG device without nodes", func(b broken) {
		b.put("/proc/driver/nvidia/capabilities/gpu0/mig/gi1/access", "DeviceFileMinor: 12\nDeviceFileMode: 292\n")
		b.put("/proc/driver/nvidia/capabilities/gpu0/mig/gi1/ci0/access", "DeviceFileMinor: 13\nDeviceFileMode: 292\n")
	}, []string{"mig-nodes-missing"}, []string{"nvidia-modprobe"}, nil},
	{"no user space", func(b broken) { b.noLibraries() }, []string{"driver-libraries-not-found"}, nil, nil},
	{"half a user space", func(b broken) {
		files, _ := filepath.Glob(filepath.Join(b.dir, "usr/lib/x86_64-linux-gnu/libnvidia-ml*"))
		for _, f := range files {
			os.Remove(f)
		}
	}, []string{"driver-libraries-incomplete"}, []string{"libnvidia-ml"}, nil},
	{"docker without runtime", func(b broken) { b.program("/usr/bin/dockerd") }, []string{"engine-has-no-gpu-driver"}, []string{"davit setup docker"}, nil},
	{"docker from snap", func(b broken) {
		b.put("/var/snap/docker/current/config/daemon.json", `{"runtimes": {"nvidia": {"path": "/usr/bin/nvidia-container-runtime"}}}`)
		b.program("/usr/bin/nvidia-container-runtime")
	}, []string{"docker-from-snap"}, nil, nil},
	{"default runtime undefined", func(b broken) { b.put("/etc/docker/daemon.json", "{\n  \"default-runtime\": \"nvidia\"\n}\n") }, []string{"default-runtime-undefined"}, []string{"daemon.json"}, nil},
	{"runtime's program gone", func(b broken) {
		b.put("/etc/docker/daemon.json", `{"runtimes": {"nvidia": {"path": "/usr/bin/nvidia-container-runtime"}}}`)
	}, []string{"runtime-binary-missing"}, []string{"/usr/bin/nvidia-container-runtime"}, nil},
	{"runtime not executable", func(b broken) {
		b.put("/etc/docker/daemon.json", `{"runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}`)
		b.put("/usr/bin/nvidia-container-runtime", "x")
	}, []string{"runtime-binary-not-executable"}, []string{"chmod 755"}, nil},
	{"comma missing in daemon.json", func(b broken) { b.put("/etc/docker/daemon.json", "{\n  \"debug\": true\n  \"iptables\": false\n}\n") }, []string{"daemon-json-invalid"}, []string{"line 3"}, nil},
	{"docker not restarted", func(b broken) {
		b.put("/etc/docker/daemon.json", `{"runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}`)
		b.program("/usr/bin/nvidia-container-runtime")
		b.put("/.davit-commands.json", `[{"argv": ["docker", "info"], "stdout": " Server Version: 27.1.1\n Runtimes: io.containerd.runc.v2 runc\n Cgroup Driver: cgroupfs\n"}]`)
	}, []string{"engine-not-restarted"}, []string{"restart"}, nil},
	{"docker desktop", func(b broken) {
		b.put("/.davit-commands.json", `[{"argv": ["docker", "info"], "stdout": " Operating System: Docker Desktop\n"}]`)
	}, []string{"docker-desktop-has-no-gpu"}, nil, nil},
	{"rootless docker forgotten", func(b broken) {
		b.put("/etc/docker/daemon.json", `{"runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}, "exec-opts": ["native.cgroupdriver=cgroupfs"]}`)
		b.program("/usr/bin/nvidia-container-runtime")
		b.put("/etc/passwd", "ann:x:1000:1000::/home/ann:/bin/sh\n")
		b.put("/home/ann/.config/docker/daemon.json", "{}")
	}, []string{"rootless-engine-reads-other-config"}, []string{"/home/ann/.config/docker/daemon.json"}, nil},
	{"flag and file", func(b broken) {
		b.put("/etc/docker/daemon.json", `{"runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}`)
		b.program("/usr/bin/nvidia-container-runtime")
		b.put("/etc/systemd/system/docker.service.d/o.conf", "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd --add-runtime=nvidia=/usr/bin/nvidia-container-runtime\n")
	}, []string{"docker-flag-and-file-conflict"}, nil, nil},
	{"containerd in order", func(b broken) {
		b.put("/etc/containerd/config.toml", containerdV2)
		b.program("/usr/bin/nvidia-container-runtime")
	}, nil, nil, nil},
	{"containerd syntax", func(b broken) { b.put("/etc/containerd/config.toml", "version = 2\n[plugins\n") }, []string{"containerd-config-invalid"}, []string{"line 2"}, nil},
	{"containerd program gone", func(b broken) { b.put("/etc/containerd/config.toml", containerdV2) }, []string{"runtime-binary-missing"}, nil, nil},
	{"containerd without BinaryName", func(b broken) {
		b.put("/etc/containerd/config.toml", "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia]\nruntime_type = \"io.containerd.runc.v2\"\n")
	}, []string{"containerd-runtime-entry-incomplete"}, []string{"BinaryName"}, nil},
	{"containerd without version", func(b broken) {
		b.put("/etc/containerd/config.toml", strings.TrimPrefix(containerdV2, "version = 2\n"))
		b.program("/usr/bin/nvidia-container-runtime")
	}, []string{"containerd-table-ignored"}, []string{"version"}, nil},
	{"cri disabled on a node", func(b broken) {
		b.put("/etc/containerd/config.toml", "disabled_plugins = [\"cri\"]\n"+containerdV2)
		b.program("/usr/bin/nvidia-container-runtime")
		b.program("/usr/bin/kubelet")
	}, []string{"containerd-cri-disabled"}, nil, nil},
	{"cri disabled for docker", func(b broken) { b.put("/etc/containerd/config.toml", "disabled_plugins = [\"cri\"]\n") }, nil, nil, nil},
	{"kubelet on systemd", func(b broken) {
		b.put("/etc/containerd/config.toml", containerdV2)
		b.program("/usr/bin/nvidia-container-runtime")
		b.put("/var/lib/kubelet/config.yaml", "kind: KubeletConfiguration\ncgroupDriver: systemd\n")
	}, []string{"cgroup-driver-differs-between-runtimes"}, []string{"kubelet"}, nil},
	{"k3s with a template", func(b broken) {
		b.put("/var/lib/rancher/k3s/agent/etc/containerd/config.toml", strings.ReplaceAll(containerdV2, "/usr/bin/", "/opt/x/"))
		b.put("/var/lib/rancher/k3s/agent/etc/containerd/config.toml.tmpl", "{{ template \"base\" . }}\n[nvidia]\n")
		b.program("/opt/x/nvidia-container-runtime")
		b.program("/usr/local/bin/k3s")
	}, nil, nil, nil},
	{"rke2 edited", func(b broken) {
		b.put("/var/lib/rancher/rke2/agent/etc/containerd/config.toml", strings.ReplaceAll(containerdV2, "/usr/bin/", "/opt/x/"))
		b.program("/opt/x/nvidia-container-runtime")
	}, []string{"rke2-config-will-be-overwritten"}, []string{"config.toml.tmpl"}, nil},
	{"k3s reads no /etc/containerd", func(b broken) {
		b.put("/var/lib/rancher/k3s/agent/etc/containerd/config.toml", "version = 2\n")
		b.put("/etc/containerd/config.toml", containerdV2)
		b.program("/usr/local/bin/k3s")
	}, []string{"k3s-ignores-etc-containerd"}, nil, nil},
	{"old podman", func(b broken) {
		b.put("/etc/cdi/nvidia.yaml", strings.ReplaceAll(spec, "{path: /dev/nvidiactl}", "{path: /dev/nvidia1}, {path: /dev/nvidiactl}"))
		b.put("/.davit-commands.json", `[{"argv": ["podman", "--version"], "stdout": "podman version 3.4.4\n"}]`)
	}, []string{"engine-too-old-for-cdi"}, []string{"4.1"}, nil},
	{"spec too new for podman", func(b broken) {
		b.put("/etc/cdi/nvidia.yaml", strings.ReplaceAll(strings.ReplaceAll(spec, "0.5.0", "0.7.0"), "{path: /dev/nvidiactl}", "{path: /dev/nvidia1}, {path: /dev/nvidiactl}")+"containerEdits: {additionalGids: [44]}\n")
		b.put("/.davit-commands.json", `[{"argv": ["podman", "--version"], "stdout": "podman version 4.9.3\n"}]`)
	}, []string{"cdi-spec-too-new-for-engine"}, []string{"4.9.3", "0.7.0"}, []string{"driver"}},
	{"two specs", func(b broken) {
		both := strings.ReplaceAll(spec, "{path: /dev/nvidiactl}", "{path: /dev/nvidia1}, {path: /dev/nvidiactl}")
		b.put("/etc/cdi/nvidia.yaml", both)
		b.put("/etc/cdi/other.yaml", both)
	}, []string{"cdi-device-duplicate"}, []string{"other.yaml"}, nil},
	{"hook's program gone", func(b broken) {
		b.put("/usr/share/containers/oci/hooks.d/oci-nvidia-hook.json", `{"version":"1.0.0","hook":{"path":"/usr/bin/nvidia-container-toolkit"},"when":{"always":true},"stages":["prestart"]}`)
	}, []string{"hook-binary-missing"}, nil, nil},
	{"no-cgroups with a rootful docker", func(b broken) {
		b.put("/etc/docker/daemon.json", `{"runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}, "exec-opts": ["native.cgroupdriver=cgroupfs"]}`)
		b.program("/usr/bin/nvidia-container-runtime")
		b.put("/etc/nvidia-container-runtime/config.toml", "[nvidia-container-cli]\nno-cgroups = true\n")
	}, []string{"no-cgroups-with-system-engine"}, nil, nil},
	{"driver root wrong", func(b broken) {
		b.put("/etc/nvidia-container-runtime/config.toml", "[nvidia-container-cli]\nroot = \"/run/nvidia/driver\"\n")
	}, []string{"driver-root-missing"}, []string{"/run/nvidia/driver"}, nil},
	{"selinux", func(b broken) {
		b.put("/sys/fs/selinux/enforce", "1")
		b.put("/sys/fs/selinux/booleans/container_use_devices", "0 0")
		b.program("/usr/bin/podman")
	}, []string{"selinux-denies-device"}, []string{"setsebool"}, nil},
	{"fabric manager missing", func(b broken) {
		b.put("/sys/bus/pci/devices/0000:c5:00.0/vendor", "0x10de\n")
		b.put("/sys/bus/pci/devices/0000:c5:00.0/device", "0x22a3\n")
		b.put("/sys/bus/pci/devices/0000:c5:00.0/class", "0x068000\n")
	}, []string{"fabric-manager-not-running"}, []string{"802"}, nil},
	{"apt list is a page", func(b broken) {
		b.put("/etc/apt/sources.list.d/nvidia-docker.list", "# Unsupported distribution!\n# Check https://nvidia.github.io/nvidia-docker\n")
	}, []string{"repository-list-holds-error-page"}, nil, nil},
	{"crio's default undefined", func(b broken) {
		b.put("/etc/crio/crio.conf.d/99-nvidia.conf", "[crio.runtime]\ndefault_runtime = \"nvidia\"\n")
	}, []string{"default-runtime-undefined"}, nil, nil},
	{"docker desktop by its context", func(b broken) {
		b.program("/usr/bin/docker")
		b.put("/.davit-commands.json", `[{"argv": ["docker", "context", "ls"], "stdout": "NAME TYPE\ndefault moby\ndesktop-linux * moby\n"}]`)
	}, []string{"docker-desktop-has-no-gpu"}, nil, nil},
	{"docker info as json", func(b broken) {
		b.put("/etc/docker/daemon.json", `{"runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}`)
		b.program("/usr/bin/nvidia-container-runtime")
		b.put("/.davit-commands.json", `[{"argv": ["docker", "info", "--format", "json"], "stdout": "{\"ServerVersion\":\"24.0.7\",\"CgroupDriver\":\"systemd\",\"Runtimes\":{\"nvidia\":{},\"runc\":{}}}"}]`)
	}, []string{"gpu-will-be-lost-on-reload"}, nil, nil},
	{"docker 26 with a spec and no switch", func(b broken) {
		b.put("/etc/cdi/nvidia.yaml", bothGPUs)
		b.put("/etc/docker/daemon.json", "{}")
		b.put("/.davit-commands.json", `[{"argv": ["docker", "--version"], "stdout": "Docker version 26.1.4, build 5650f9b\n"}]`)
	}, []string{"engine-cdi-disabled"}, []string{"features"}, nil},
	{"runc elsewhere", func(b broken) {
		b.put("/etc/docker/daemon.json", `{"runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}, "exec-opts": ["native.cgroupdriver=cgroupfs"]}`)
		b.program("/usr/bin/nvidia-container-runtime")
		b.program("/var/lib/k0s/bin/runc")
		b.put("/etc/nvidia-container-runtime/config.toml", "[nvidia-container-runtime]\nruntimes = [\"runc\"]\n")
	}, []string{"low-level-runtime-not-found"}, []string{"/var/lib/k0s/bin/runc"}, nil},
	{"cri-o with crun alone", func(b broken) {
		b.put("/etc/crio/crio.conf", "[crio.runtime.runtimes.crun]\nruntime_path = \"/usr/libexec/crio/crun\"\n")
		b.program("/usr/libexec/crio/crun")
		b.put("/etc/nvidia-container-runtime/config.toml", "[nvidia-container-runtime]\nruntimes = [\"docker-runc\", \"runc\"]\n")
	}, []string{"low-level-runtime-not-found"}, []string{"/usr/libexec/crio/crun"}, nil},
	{"noexec", func(b broken) {
		b.put("/etc/docker/daemon.json", `{"runtimes": {"nvidia": {"path": "/opt/gpu/nvidia-container-runtime"}}, "exec-opts": ["native.cgroupdriver=cgroupfs"]}`)
		b.program("/opt/gpu/nvidia-container-runtime")
		b.put("/proc/mounts", "/dev/sda1 / ext4 rw 0 0\n/dev/sdb1 /opt ext4 rw,nosuid,noexec 0 0\n")
	}, []string{"runtime-binary-not-executable"}, []string{"noexec"}, nil},
	{"containerd reads another file", func(b broken) {
		b.put("/etc/containerd/config.toml", containerdV2)
		b.put("/opt/c/config.toml", "version = 2\n")
		b.put("/etc/systemd/system/containerd.service", "[Service]\nExecStart=/usr/bin/containerd --config /opt/c/config.toml\n")
		b.program("/usr/bin/containerd")
		b.program("/usr/bin/nvidia-container-runtime")
	}, []string{"containerd-reads-another-file"}, []string{"/opt/c/config.toml"}, nil},
	{"spec in /run/cdi alone", func(b broken) {
		b.remove("/var/run")
		b.put("/run/cdi/nvidia.yaml", bothGPUs)
	}, []string{"cdi-spec-in-other-folder"}, []string{"/run/cdi/nvidia.yaml"}, nil},
	{"spec of the owner alone", func(b broken) {
		b.put("/etc/cdi/nvidia.yaml", bothGPUs)
		os.Chmod(filepath.Join(b.dir, "/etc/cdi/nvidia.yaml"), 0o600)
	}, []string{"cdi-spec-not-readable"}, []string{"chmod 644"}, nil},
	{"jetson", func(b broken) {
		b.unload()
		b.noLibraries()
		b.remove("/sys/bus/pci")
		b.put("/etc/nv_tegra_release", "# R36\n")
		b.put("/etc/nvidia-container-runtime/host-files-for-container.d/l4t.csv", "lib, /usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1\n")
	}, []string{"jetson-host-files-not-mounted"}, nil, nil},
	{"wsl", func(b broken) {
		b.unload()
		b.put("/dev/dxg", "")
		b.put("/usr/lib/wsl/lib/libcuda.so.1", "")
		b.noLibraries()
	}, nil, nil, nil},
	{"wsl with a linux driver", func(b broken) {
		b.unload()
		b.put("/dev/dxg", "")
		b.put("/usr/lib/wsl/lib/libcuda.so.1", "")
	}, []string{"wsl-linux-driver-installed"}, nil, nil},
}

func TestKinds(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			b := broken{t, filepath.Join(t.TempDir(), "host")}
			if _, err := simulate.Make(b.dir, simulate.Options{GPUs: 2, Model: "T4", SideTable: true, CacheEntries: 20}); err != nil {
				t.Fatal(err)
			}
			k.ruin(b)
			root, err := rootfs.Open(b.dir)
			if err != nil {
				t.Fatal(err)
			}
			was, now, _ := again(t, root)
			var ids []string
			said := ""
			for _, f := range was.Findings() {
				if _, err := os.Stat("../../" + f.Docs); err != nil {
					t.Errorf("%s has no page: %v", f.ID, err)
				}
				if f.Severity == finding.Error || f.Severity == finding.Warning {
					ids = append(ids, f.ID)
				}
				said += f.Summary + f.Why + f.Remediation.Text + strings.Join(f.Remediation.Commands, "\n")
			}
			if !slices.Equal(ids, k.want) {
				t.Errorf("found %v, want %v\n%s", ids, k.want, said)
			}
			for _, w := range k.said {
				if !strings.Contains(said, w) {
					t.Errorf("%q is not said: %s", w, said)
				}
			}
			for _, w := range k.never {
				if strings.Contains(said, w) {
					t.Errorf("%q is said: %s", w, said)
				}
			}
			if a, b := outline(was), outline(now); !slices.Equal(a, b) {
				t.Errorf("findings of the report %v, of the host %v", b, a)
			}
		})
	}
}
