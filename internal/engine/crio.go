// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"path"
	"slices"
	"strings"

	"davit/internal/rootfs"
)

const (
	crioFile   = "/etc/crio/crio.conf"
	crioFolder = "/etc/crio/crio.conf.d"
	crioOwn    = "99-davit.conf"
)

// FindCRIO says whether CRI-O is there.
func FindCRIO(root rootfs.Root) bool { return program(root, "crio") || anyOf(root, "/etc/crio") }

// PlanCRIO plans a drop-in with the runtime nvidia, which CRI-O merges with the
// rest. Monitor settings are those of the default runtime. CDI is always on;
// only where a file leaves /etc/cdi out of its folders is it added.
func PlanCRIO(root rootfs.Root, o RuntimeOptions) (File, error) {
	// CRI-O reads every file of the folder whatever its name, so nothing else,
	// no backup either, may lie there.
	f := File{Engine: "crio", Path: path.Join(crioFolder, crioOwn), Own: true}
	if err := o.complete(); err != nil {
		return f, err
	}
	files := []string{crioFile}
	if entries, err := root.ReadDir(crioFolder); err == nil {
		for _, e := range entries {
			if name := path.Join(crioFolder, e.Name); name != f.Path {
				files = append(files, name)
			}
		}
		slices.Sort(files[1:])
	}
	handler, dirs := "", []any(nil)
	monitors := map[string]map[string]any{} // of each runtime
	for _, file := range files {
		text, err := readIf(root, file)
		if err != nil {
			return f, err
		}
		d, err := parseTOML(root.Host(file), text)
		if err != nil {
			return f, err
		}
		if s := d.str("crio", "runtime", "default_runtime"); s != "" {
			handler = s
		}
		if v, ok := d.get("crio", "runtime", "cdi_spec_dirs"); ok {
			dirs, _ = v.([]any)
		}
		v, _ := d.get("crio", "runtime", "runtimes")
		table, _ := v.(map[string]any)
		for name, r := range table {
			keys, _ := r.(map[string]any)
			monitors[name] = keys
		}
		if table["nvidia"] != nil && file != crioFile && file > f.Path {
			f.Notes = append(f.Notes, file+" also has a runtime nvidia, and is read after davit's file")
		}
	}
	d, err := parseTOML(f.Path, []byte(ownMark))
	if err != nil {
		return f, err
	}
	set := func(value any, key ...string) {
		if err == nil {
			err = d.set(value, append([]string{"crio", "runtime"}, key...)...)
		}
	}
	if dirs != nil && !slices.Contains(dirs, any("/etc/cdi")) {
		set(append([]any{"/etc/cdi"}, dirs...), "cdi_spec_dirs")
	}
	if o.Default {
		set("nvidia", "default_runtime")
	}
	keys := monitors[handler]
	for _, other := range []string{"crun", "runc"} {
		if keys == nil {
			keys = monitors[other]
		}
	}
	for _, key := range []string{"monitor_cgroup", "monitor_path"} {
		if s, _ := keys[key].(string); strings.TrimSpace(s) != "" {
			set(s, "runtimes", "nvidia", key)
		}
	}
	set("oci", "runtimes", "nvidia", "runtime_type")
	set(o.Runtime, "runtimes", "nvidia", "runtime_path")
	if err != nil {
		return f, err
	}
	return f.own(root, d)
}
