// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"encoding/json"
	"path"

	"davit/internal/rootfs"
)

// CDIFile is the spec that every engine reads that reads any.
const CDIFile = "/etc/cdi/nvidia.yaml"

// hookFile is under the name that NVIDIA's packages give it, so that the two
// cannot both be there and both run.
const hookFile = "/usr/share/containers/oci/hooks.d/oci-nvidia-hook.json"

// FindPodman says whether podman is there.
func FindPodman(root rootfs.Root) bool { return program(root, "podman") }

// PlanSpec plans a CDI spec with this text; nil is a spec that cannot be made
// now, which is enough for PlanUndo.
func PlanSpec(root rootfs.Root, text []byte) (File, error) {
	f := File{Engine: "podman", Path: CDIFile, Generated: true}
	var err error
	if f.Was, err = readIf(root, f.Path); err != nil {
		return f, err
	}
	f.Now = text
	for _, other := range []string{"/var/run/cdi/nvidia.yaml", "/var/run/cdi/nvidia.json"} {
		if root.Exists(other) {
			f.Notes = append(f.Notes, other+" wins over "+CDIFile+" where both name a device; remove it, and switch off what writes it (nvidia-cdi-refresh.service)")
		}
	}
	if f.Changed() {
		f.Changes = []Change{{Key: "devices nvidia.com/gpu", Now: "of this host"}}
	}
	return f, nil
}

// PlanHooks plans a file of podman's hooks folder, by which containers that
// name GPUs in NVIDIA_VISIBLE_DEVICES get them without any --device. bin is the
// folder of davit's programs.
func PlanHooks(root rootfs.Root, bin string) (File, error) {
	f := File{Engine: "podman", Path: hookFile, Generated: true}
	var err error
	if f.Was, err = readIf(root, f.Path); err != nil {
		return f, err
	}
	hook := path.Join(bin, "nvidia-container-runtime-hook")
	text, err := json.MarshalIndent(map[string]any{
		"version": "1.0.0",
		"hook":    map[string]any{"path": hook, "args": []string{path.Base(hook), "prestart"}},
		"when":    map[string]any{"always": true},
		"stages":  []string{"prestart"},
	}, "", "  ")
	if err != nil {
		return f, err
	}
	f.Now = append(text, '\n')
	if f.Changed() {
		f.Changes = []Change{{Key: "hook", Now: hook}}
	}
	return f, nil
}
