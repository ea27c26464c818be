// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"path"

	"davit/internal/rootfs"
)

// Written gives the files that davit may have written for an engine, for
// PlanUndo; what they hold is not judged.
func Written(root rootfs.Root, name string) ([]File, error) {
	switch name {
	case "docker":
		found, err := FindDocker(root)
		if err != nil {
			return nil, err
		}
		return []File{{Engine: name, Path: found[0].File}}, nil
	case "containerd":
		return containerdWritten(root)
	case "k3s", "rke2":
		dir := "/var/lib/rancher/" + name + "/agent/etc/containerd"
		return []File{
			{Engine: name, Path: path.Join(dir, "config-v3.toml.tmpl"), again: rancherAgain(criV3)},
			{Engine: name, Path: path.Join(dir, "config.toml.tmpl"), again: rancherAgain(criV2)},
		}, nil
	case "k0s":
		return []File{{Engine: name, Path: k0sFile, Own: true}}, nil
	case "crio":
		return []File{{Engine: name, Path: path.Join(crioFolder, crioOwn), Own: true}}, nil
	case "podman":
		return []File{{Engine: name, Path: CDIFile, Generated: true}, {Engine: name, Path: hookFile, Generated: true}}, nil
	}
	return nil, nil
}

// containerdWritten gives the main file and those that it imports.
func containerdWritten(root rootfs.Root) ([]File, error) {
	text, err := readIf(root, containerdFile)
	if err != nil {
		return nil, err
	}
	version := int64(1)
	files := []string{containerdFile}
	if d, err := parseTOML(containerdFile, text); err == nil {
		version = versionOf(d, version)
		more, err := imports(root, d)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	var list []File
	for _, file := range files {
		list = append(list, File{Engine: "containerd", Path: file, again: func(before, now []byte) ([]byte, error) {
			return containerdAgain(root.Host(file), version, before, now)
		}})
	}
	return list, nil
}
