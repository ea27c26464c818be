// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	"davit/internal/rootfs"
)

// containerdFile is containerd's own configuration.
const containerdFile = "/etc/containerd/config.toml"

// The CRI plugin's names: of configuration version 1, of 2, and from 3 on.
const (
	criV1 = "cri"
	criV2 = "io.containerd.grpc.v1.cri"
	criV3 = "io.containerd.cri.v1.runtime"
)

const runcV2 = "io.containerd.runc.v2"

// RuntimeOptions say what an engine's runtime nvidia shall be.
type RuntimeOptions struct {
	// Runtime is the absolute path of the runtime; "" is DefaultDockerRuntime.
	Runtime string
	// Default makes nvidia the default runtime.
	Default bool
}

func (o *RuntimeOptions) complete() error {
	if o.Runtime == "" {
		o.Runtime = DefaultDockerRuntime
	}
	if !path.IsAbs(o.Runtime) {
		return fmt.Errorf("runtime %q is not an absolute path", o.Runtime)
	}
	return nil
}

// FindContainerd says whether containerd is there for its own sake: a
// containerd that docker brought, with its CRI plugin off or never configured,
// is not.
func FindContainerd(root rootfs.Root) bool {
	text, err := readIf(root, containerdFile)
	if err != nil || text == nil {
		return err == nil && program(root, "containerd") && !program(root, "dockerd")
	}
	d, err := parseTOML(containerdFile, text)
	return err != nil || len(criOff(d)) == 0
}

// criOff gives the name by which a file switches the CRI plugin off.
func criOff(d *tomlDoc) string {
	v, _ := d.get("disabled_plugins")
	list, _ := v.([]any)
	for _, e := range list {
		if s, _ := e.(string); s == criV1 || s == criV2 || s == criV3 {
			return s
		}
	}
	return ""
}

// PlanContainerd plans the runtime nvidia in containerd's configuration,
// version 1, 2, 3 or later. It writes into the file that has the CRI plugin's
// section: an imported one if there is one, since containerd before 2.1 takes
// an imported section in place of the main file's and not beside it; so no
// drop-in is made either. No foreign setting is copied or changed. A text that
// is not TOML is a *ConfigError, never repaired.
func PlanContainerd(root rootfs.Root, o RuntimeOptions) (File, error) {
	f := File{Engine: "containerd", Path: containerdFile}
	if err := o.complete(); err != nil {
		return f, err
	}
	main, err := readIf(root, containerdFile)
	if err != nil {
		return f, err
	}
	f.Was = main
	d, err := parseTOML(root.Host(f.Path), orVersion2(main))
	if err != nil {
		return f, err
	}
	version := versionOf(d, 1)
	if off := criOff(d); off != "" {
		f.Notes = append(f.Notes, fmt.Sprintf("%s switches the CRI plugin off (disabled_plugins has %q): Kubernetes cannot use this containerd, and ctr and nerdctl do not read its runtimes", f.Path, off))
	}
	imported, err := imports(root, d)
	if err != nil {
		return f, err
	}
	for _, file := range slices.Backward(imported) {
		text, err := root.ReadFile(file)
		if err != nil {
			return f, err
		}
		sub, err := parseTOML(root.Host(file), text)
		if err != nil {
			return f, err
		}
		if v := versionOf(sub, version); sub.has("plugins", criName(v)) {
			f.Path, f.Was, d, version = file, text, sub, v
			break
		}
	}
	f.mark = o.Runtime
	notes, err := d.containerdRuntime(version, o)
	if err != nil {
		return f, err
	}
	f.Notes = append(f.Notes, notes...)
	f.Changes, f.Now = d.changes, d.text
	if len(d.changes) == 0 {
		f.Now = f.Was
	}
	return f, nil
}

// orVersion2 is a configuration, or the start of one: every containerd since
// 1.3 reads version 2.
func orVersion2(text []byte) []byte {
	if len(bytes.TrimSpace(text)) == 0 {
		return []byte("version = 2\n")
	}
	return text
}

// versionOf is the version that a file names, or the other.
func versionOf(d *tomlDoc, other int64) int64 {
	if v, ok := d.get("version"); ok {
		if n, ok := v.(int64); ok {
			return n
		}
	}
	return other
}

func criName(version int64) string {
	switch {
	case version < 2:
		return criV1
	case version == 2:
		return criV2
	}
	return criV3
}

// containerdRuntime puts the runtime nvidia into a file. Of one that names no
// version, containerd 1 reads the plugin "cri" and containerd 2 the plugin of
// version 3, each without a look at the other, so it gets both.
func (d *tomlDoc) containerdRuntime(version int64, o RuntimeOptions) (notes []string, err error) {
	notes, err = d.criRuntime(version, o)
	if version < 2 && err == nil {
		_, err = d.criRuntime(3, o)
	}
	if old := []string{"plugins", criV2, "containerd", "runtimes", "nvidia"}; version != 2 && d.has(old...) {
		notes = append(notes, fmt.Sprintf("%s:%d: a runtime nvidia stands below %s, which a version %d file is not read for; it can be removed", d.file, d.line(old...), criV2, version))
	}
	return notes, err
}

// criRuntime puts it into the section that a version has.
func (d *tomlDoc) criRuntime(version int64, o RuntimeOptions) (notes []string, err error) {
	cri := []string{"plugins", criName(version)}
	at := func(rest ...string) []string { return append(slices.Clone(cri), rest...) }
	runtimes := func(rest ...string) []string { return append(at("containerd", "runtimes"), rest...) }
	set := func(value any, key ...string) {
		if err == nil {
			err = d.set(value, key...)
		}
	}
	// containerd before 2.0 drops its built-in runtime runc once a file names
	// any runtime, and from 1.7 to 2.0 has CDI off unless told otherwise.
	if version < 3 {
		if on, ok := d.get(at("enable_cdi")...); !ok {
			set(true, at("enable_cdi")...)
		} else if on == false {
			notes = append(notes, fmt.Sprintf("%s:%d: enable_cdi is false and stays so: containers cannot ask by CDI names", d.file, d.line(at("enable_cdi")...)))
		}
		v, _ := d.get(runtimes()...)
		table, _ := v.(map[string]any)
		others := len(table)
		if _, ok := table["nvidia"]; ok {
			others--
		}
		if first := d.str(at("containerd", "default_runtime_name")...); others == 0 && (first == "" || first == "runc") {
			set(runcV2, runtimes("runc", "runtime_type")...)
		}
	}
	set(runcV2, runtimes("nvidia", "runtime_type")...)
	if cgroup, ok := d.get(runtimes(d.reference(at), "options", "SystemdCgroup")...); ok {
		mine, has := d.get(runtimes("nvidia", "options", "SystemdCgroup")...)
		if has && mine != cgroup || !has && cgroup == true {
			set(cgroup, runtimes("nvidia", "options", "SystemdCgroup")...)
		}
	}
	set(o.Runtime, runtimes("nvidia", "options", "BinaryName")...)
	if o.Default {
		set("nvidia", at("containerd", "default_runtime_name")...)
	}
	return notes, err
}

// reference is the runtime that nvidia stands in for.
func (d *tomlDoc) reference(at func(...string) []string) string {
	name := d.str(at("containerd", "default_runtime_name")...)
	if name == "" || name == "nvidia" {
		return "runc"
	}
	return name
}

// containerdAgain plans for the text from before what the text now shows.
func containerdAgain(file string, version int64, before, now []byte) ([]byte, error) {
	d, err := parseTOML(file, now)
	if err != nil {
		return nil, err
	}
	base := []string{"plugins", criName(versionOf(d, version)), "containerd"}
	o := RuntimeOptions{
		Runtime: d.str(append(slices.Clone(base), "runtimes", "nvidia", "options", "BinaryName")...),
		Default: d.str(append(slices.Clone(base), "default_runtime_name")...) == "nvidia",
	}
	if err := o.complete(); err != nil {
		return nil, err
	}
	old, err := parseTOML(file, orVersion2(before))
	if err != nil {
		return nil, err
	}
	if _, err := old.containerdRuntime(versionOf(old, version), o); err != nil {
		return nil, err
	}
	return old.text, nil
}

// imports gives the files that a configuration imports, in containerd's order.
func imports(root rootfs.Root, d *tomlDoc) (files []string, err error) {
	v, _ := d.get("imports")
	list, _ := v.([]any)
	for _, e := range list {
		pattern, _ := e.(string)
		if pattern == "" {
			continue
		}
		if !path.IsAbs(pattern) {
			pattern = path.Join(path.Dir(containerdFile), pattern)
		}
		if !strings.ContainsAny(pattern, "*?[") {
			if root.Exists(pattern) {
				files = append(files, pattern)
			}
			continue
		}
		dir := path.Dir(pattern)
		entries, err := root.ReadDir(dir)
		if err != nil {
			continue // a folder that is not there holds nothing
		}
		slices.SortFunc(entries, func(a, b rootfs.Entry) int { return strings.Compare(a.Name, b.Name) })
		for _, entry := range entries {
			if ok, _ := path.Match(path.Base(pattern), entry.Name); ok {
				files = append(files, path.Join(dir, entry.Name))
			}
		}
	}
	return files, nil
}
