// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"davit/internal/cdi"
	"davit/internal/engine"
)

// configs records the engines' files, redacted.
func (r *recorder) configs(e *exam) {
	docker, err := engine.FindDocker(r.root)
	if err == nil {
		users := ""
		for _, d := range docker {
			if d.Exists {
				r.file(d.File)
			}
			if d.Kind == engine.DockerRootless {
				users += r.text(d.User) + ":x:1000:1000::" + r.text(strings.TrimSuffix(d.File, "/.config/docker/daemon.json")) + ":/bin/sh\n"
			}
		}
		if users != "" {
			r.raw("/etc/passwd", users)
		}
	}
	dirs := append([]string{"/etc/containerd", "/etc/crio", "/etc/crio/crio.conf.d", "/usr/lib/crio/crio.conf.d"}, cdi.Folders...)
	dirs = append(append(append(dirs, "/run/cdi", "/etc/nvidia-container-runtime/host-files-for-container.d"), hookDirs...), "/etc/systemd/system/docker.service.d", "/usr/lib/systemd/system/docker.service.d")
	for _, d := range distributions {
		dirs = append(dirs, d.dir)
	}
	for _, d := range e.names("/etc/containerd") {
		if strings.HasSuffix(d, ".d") {
			dirs = append(dirs, "/etc/containerd/"+d)
		}
	}
	for _, d := range dirs {
		if !r.root.Exists(d) {
			continue
		}
		r.exists(d)
		for _, n := range e.names(d) {
			if slices.Contains([]string{".toml", ".json", ".yaml", ".conf", ".tmpl", ".csv"}, path.Ext(n)) {
				r.file(d + "/" + n)
			}
		}
	}
	for _, p := range []string{"/etc/systemd/system/containerd.service", "/usr/lib/systemd/system/containerd.service", e.mainFile(), toolkitFile, "/etc/containers/containers.conf", "/usr/share/containers/containers.conf"} {
		r.file(p)
	}
	if t := e.text("/var/lib/kubelet/config.yaml"); t != "" {
		r.raw("/var/lib/kubelet/config.yaml", r.text(lines(t+"\n", about("cgroupDriver:", "containerRuntimeEndpoint:"))))
	}
	for _, dir := range []string{"/etc/modprobe.d", "/usr/lib/modprobe.d", "/run/modprobe.d"} {
		for _, n := range e.names(dir) {
			if t := lines(e.text(dir+"/"+n)+"\n", about("nvidia", "nouveau")); t != "" {
				r.raw(dir+"/"+n, r.text(t))
			}
		}
	}
	for _, n := range e.names("/etc/apt/sources.list.d") {
		if strings.Contains(n, "nvidia") || strings.Contains(n, "cuda") {
			r.file("/etc/apt/sources.list.d/" + n)
		}
	}
}

// knownPrograms are looked for in the usual folders.
var knownPrograms = strings.Fields(`docker dockerd podman containerd crio kubelet k3s rke2 runc crun ldconfig ldconfig.real nv-fabricmanager nvidia-uninstall nvidia-smi
nvidia-persistenced nvidia-modprobe nvidia-container-runtime nvidia-container-runtime-hook nvidia-container-toolkit nvidia-container-runtime.cdi nvidia-container-runtime.legacy nvidia-ctk nvidia-cdi-hook davit davit-runtime`)

func (r *recorder) programs() {
	for _, dir := range binDirs {
		r.exists(dir)
		for _, n := range knownPrograms {
			if p := dir + "/" + n; r.root.Exists(p) {
				if n == "docker" && (&exam{root: r.root}).dockerIsPodman() {
					r.raw(p, "podman\n")
				}
				r.exists(p)
			}
		}
	}
	for _, p := range []string{"/run/docker.sock", "/var/run/docker.sock", "/run/nvidia-persistenced/socket", "/var/snap/docker/current", "/snap/bin/docker", "/run/systemd/system",
		"/usr/lib/systemd/systemd", "/etc/nv_tegra_release", "/lib64", "/lib", "/usr/lib64", "/var/run/cdi", "/opt/rke2/bin/rke2", "/etc/kubernetes/kubelet.conf", "/run/nvidia/driver", "/var/snap/docker", "/run/snap.docker", "/var/lib/kubelet", "/etc/systemd/system/kubelet.service", "/run/cdi", "/var/run/cdi",
		"/var/lib/k0s/bin/runc", "/usr/libexec/crio/runc", "/usr/libexec/crio/crun", "/usr/lib/cri-o-runc/sbin/runc"} {
		if r.root.Exists(p) {
			r.exists(p)
		}
	}
}

var (
	namedPath    = regexp.MustCompile(`/[A-Za-z0-9_./+-]{2,200}`)
	namedProgram = regexp.MustCompile(`"[A-Za-z0-9_.-]{3,64}"`)
)

// references records that paths which the configurations name exist.
func (r *recorder) references() {
	for _, text := range r.refs {
		for _, p := range namedPath.FindAllString(text, 2000) {
			if p = path.Clean(strings.TrimRight(p, ".")); !strings.HasPrefix(p, "/proc/") && r.root.Exists(p) {
				if strings.Contains(path.Base(p), ".so") {
					r.library(p)
				} else {
					r.exists(p)
				}
			}
		}
		for _, n := range namedProgram.FindAllString(text, 2000) {
			for _, dir := range binDirs {
				if p := dir + "/" + strings.Trim(n, `"`); r.root.Exists(p) {
					r.exists(p)
				}
			}
		}
	}
}
