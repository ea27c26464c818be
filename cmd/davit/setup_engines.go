// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"davit/internal/cdi"
	"davit/internal/engine"
	"davit/internal/rootfs"
)

// engineNames are what setup takes. containerd is containerd's own; k3s, rke2
// and k0s bring one each.
var engineNames = []string{"docker", "containerd", "k3s", "rke2", "k0s", "podman", "crio"}

// restartOf says what must be restarted. podman has nothing that runs.
var restartOf = map[string]string{
	"docker":     "Restart docker now: systemctl restart docker",
	"containerd": "Restart containerd now: systemctl restart containerd",
	"k3s":        "Restart k3s now: systemctl restart k3s (k3s-agent on an agent)",
	"rke2":       "Restart rke2 now: systemctl restart rke2-server (rke2-agent on an agent)",
	"k0s":        "Restart k0s now: systemctl restart k0sworker (k0scontroller on a controller)",
	"crio":       "Restart CRI-O now: systemctl restart crio",
}

// tryOf shows that it works.
var tryOf = map[string]string{
	"docker":     "docker run --rm --gpus all debian nvidia-smi",
	"containerd": "ctr run --rm --runc-binary /usr/bin/nvidia-container-runtime --env NVIDIA_VISIBLE_DEVICES=all IMAGE test nvidia-smi; in Kubernetes, a RuntimeClass with handler nvidia",
	"k3s":        "a pod with runtimeClassName: nvidia",
	"rke2":       "a pod with runtimeClassName: nvidia",
	"k0s":        "a pod with a RuntimeClass whose handler is nvidia",
	"podman":     "podman run --rm --device nvidia.com/gpu=all debian nvidia-smi",
	"crio":       "a pod with a RuntimeClass whose handler is nvidia",
}

// errNoDriver says that a spec cannot be made.
var errNoDriver = errors.New("no CDI spec can be made")

// foundEngines gives the engines of a host.
func foundEngines(host rootfs.Root) (found []string) {
	if host.Exists("/etc/docker") || anyProgram(host, "dockerd") || host.Exists("/var/snap/docker/current") {
		found = append(found, "docker")
	}
	if engine.FindContainerd(host) {
		found = append(found, "containerd")
	}
	found = append(found, engine.FindKubernetes(host)...)
	if engine.FindPodman(host) {
		found = append(found, "podman")
	}
	if engine.FindCRIO(host) {
		found = append(found, "crio")
	}
	return found
}

func anyProgram(host rootfs.Root, name string) bool {
	for _, dir := range []string{"/usr/bin", "/usr/sbin", "/usr/local/bin", "/bin"} {
		if host.Exists(path.Join(dir, name)) {
			return true
		}
	}
	return false
}

// engineFiles plans the files of one engine.
func (o setupOptions) engineFiles(host rootfs.Root, name string) ([]engine.File, error) {
	f, err := o.engineFile(host, name)
	if err != nil {
		var exit *exitError
		if !errors.As(err, &exit) && !errors.Is(err, errNoDriver) {
			err = &exitError{exitErrors, err}
		}
		return nil, err
	}
	if name != "podman" || !o.hooks {
		return []engine.File{f}, nil
	}
	h, err := engine.PlanHooks(host, o.binDir)
	if err != nil {
		return nil, &exitError{exitErrors, err}
	}
	return []engine.File{f, h}, nil
}

func (o setupOptions) engineFile(host rootfs.Root, name string) (engine.File, error) {
	ro := engine.RuntimeOptions{Runtime: path.Join(o.binDir, "nvidia-container-runtime"), Default: o.defaultRuntime}
	switch name {
	case "docker":
		return o.dockerFile(host)
	case "containerd":
		return engine.PlanContainerd(host, ro)
	case "k3s", "rke2":
		return engine.PlanRancher(host, name, ro)
	case "k0s":
		return engine.PlanK0s(host, ro)
	case "crio":
		return engine.PlanCRIO(host, ro)
	}
	g := generateFlags{root: o.root, format: "yaml", capabilities: o.capabilities}
	g.options.Vendor, g.options.Class, g.options.Names = cdi.DefaultVendor, cdi.DefaultClass, cdi.Strategies[:3]
	g.options.HookPath = path.Join(o.binDir, "davit-runtime")
	if g.capabilities == "" {
		g.capabilities = strings.Join(cdi.DefaultCapabilities(), ",")
	}
	text, err := g.generate()
	if err != nil {
		return engine.File{}, fmt.Errorf("%w: %w", errNoDriver, err)
	}
	return engine.PlanSpec(host, text)
}

// dockerFile plans daemon.json.
func (o setupOptions) dockerFile(host rootfs.Root) (engine.File, error) {
	found, err := engine.FindDocker(host)
	if err != nil {
		return engine.File{}, &exitError{exitNoAnswer, err}
	}
	f := engine.File{Engine: "docker", Path: found[0].File, Was: found[0].Data}
	if f.Was == nil && found[0].Exists {
		f.Was = []byte{}
	}
	f.Now, f.Changes, err = engine.PlanDocker(found[0].Data, engine.DockerOptions{
		File:    host.Host(f.Path),
		Runtime: path.Join(o.binDir, "nvidia-container-runtime"),
		Default: o.defaultRuntime,
		CDI:     o.cdi,
	})
	return f, err
}

// undosOf plans to take back what was done to one engine.
func undosOf(host rootfs.Root, name string) (list []undoFile, err error) {
	files, err := engine.Written(host, name)
	if err != nil {
		return nil, &exitError{exitErrors, err}
	}
	for _, f := range files {
		u, err := f.PlanUndo(host)
		if errors.Is(err, engine.ErrNothingToUndo) {
			continue
		}
		if err != nil {
			return nil, &exitError{exitErrors, err}
		}
		list = append(list, undoFile{f, u})
	}
	return list, nil
}
