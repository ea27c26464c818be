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

// FindKubernetes finds the Kubernetes distributions that bring a containerd of
// their own: k3s, rke2, k0s.
func FindKubernetes(root rootfs.Root) (found []string) {
	for _, name := range []string{"k3s", "rke2"} {
		if program(root, name) || anyOf(root, "/etc/rancher/"+name, "/var/lib/rancher/"+name+"/agent") {
			found = append(found, name)
		}
	}
	if program(root, "k0s") || anyOf(root, "/etc/k0s", "/var/lib/k0s") {
		found = append(found, "k0s")
	}
	return found
}

// rancherLooks are the folders in which k3s and rke2 look for the runtime
// nvidia and then configure it themselves.
var rancherLooks = []string{"/usr/bin", "/usr/local/nvidia/toolkit"}

// PlanRancher plans the runtime nvidia for k3s or rke2. They write
// containerd's configuration anew at each start, so the change goes into the
// template of it. Where they find the runtime themselves there is nothing to
// write, and a second table of the same name would stop containerd.
func PlanRancher(root rootfs.Root, name string, o RuntimeOptions) (File, error) {
	dir := "/var/lib/rancher/" + name + "/agent/etc/containerd"
	f := File{Engine: name, Path: path.Join(dir, "config-v3.toml.tmpl")}
	if err := o.complete(); err != nil {
		return f, err
	}
	version, cri, notes, err := rancherGenerated(root, path.Join(dir, "config.toml"), name)
	if err != nil {
		return f, err
	}
	if older := path.Join(dir, "config.toml.tmpl"); version == 2 || version == 0 && root.Exists(older) && !root.Exists(f.Path) {
		f.Path, cri = older, criV2
	}
	f.mark, f.Notes = o.Runtime, notes
	if f.Was, err = readIf(root, f.Path); err != nil {
		return f, err
	}
	f.Now = f.Was
	if o.Default {
		f.Notes = append(f.Notes, name+" has its own option for the default runtime: start it with --default-runtime=nvidia")
	}
	base := f.Was == nil || bytes.Contains(f.Was, []byte(`template "base"`))
	switch {
	case templateHasNvidia(f.Was):
		f.Notes = append(f.Notes, f.Path+" has a runtime nvidia, which is left as it is")
	case base && slices.Contains(rancherLooks, path.Dir(o.Runtime)):
		f.Notes = append(f.Notes, fmt.Sprintf("%s finds %s when it starts and adds the runtime nvidia itself, so no file is changed", name, o.Runtime))
	default:
		f.Now = rancherTemplate(f.Was, cri, o)
		f.Changes = []Change{{Key: dotted([]string{"plugins", cri, "containerd", "runtimes", "nvidia", "options", "BinaryName"}), Now: quoted(o.Runtime)}}
	}
	return f, nil
}

// rancherGenerated reads the file that the distribution makes; version is 0 if
// it is not there yet.
func rancherGenerated(root rootfs.Root, file, name string) (version int64, cri string, notes []string, err error) {
	text, err := readIf(root, file)
	if err != nil || text == nil {
		return 0, criV3, nil, err
	}
	d, err := parseTOML(root.Host(file), text)
	if err != nil {
		return 0, "", nil, err
	}
	version = versionOf(d, 2)
	cri = criName(version)
	key := []string{"plugins", cri, "containerd", "runtimes", "nvidia"}
	if bin := d.str(append(slices.Clone(key), "options", "BinaryName")...); bin != "" && !slices.Contains(rancherLooks, path.Dir(bin)) {
		notes = append(notes, fmt.Sprintf("%s:%d: the runtime nvidia in this file is lost when %s starts next, since it generates the file; the template is what counts", d.file, d.line(key...), name))
	}
	return version, cri, notes, nil
}

// rancherTemplate is a template with the runtime nvidia at its end. It is Go's
// template language around TOML, so it is not read as TOML.
func rancherTemplate(before []byte, cri string, o RuntimeOptions) []byte {
	text := appendable(before)
	if len(bytes.TrimSpace(text)) == 0 {
		text = append(text, "{{ template \"base\" . }}\n"...)
	}
	table := dotted([]string{"plugins", cri, "containerd", "runtimes", "nvidia"})
	return fmt.Appendf(text, "\n[%s]\n  runtime_type = %q\n\n[%s.options]\n  BinaryName = %s\n  SystemdCgroup = {{ .SystemdCgroup }}\n", table, runcV2, table, quoted(o.Runtime))
}

// rancherAgain plans for the template from before what it now shows.
func rancherAgain(cri string) func(before, now []byte) ([]byte, error) {
	return func(before, now []byte) ([]byte, error) {
		return rancherTemplate(before, cri, RuntimeOptions{Runtime: binaryName(now)}), nil
	}
}

// templateHasNvidia finds the header of a runtime nvidia.
func templateHasNvidia(text []byte) bool {
	for line := range strings.Lines(string(text)) {
		l := strings.NewReplacer(`"`, "", "'", "", " ", "").Replace(strings.TrimSpace(line))
		if strings.HasPrefix(l, "[") && strings.Contains(l, ".containerd.runtimes.nvidia]") {
			return true
		}
	}
	return false
}

// binaryName reads the value that davit wrote into a template.
func binaryName(text []byte) string {
	name := ""
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "BinaryName = "); ok {
			name = strings.Trim(v, `"'`)
		}
	}
	return name
}

// k0sFile is davit's own.
const k0sFile = "/etc/k0s/containerd.d/davit.toml"

// PlanK0s plans the runtime nvidia for k0s, which merges the files of a folder
// into containerd's configuration.
func PlanK0s(root rootfs.Root, o RuntimeOptions) (File, error) {
	f := File{Engine: "k0s", Path: k0sFile, Own: true}
	if err := o.complete(); err != nil {
		return f, err
	}
	version, systemd := int64(2), false
	for _, file := range []string{"/run/k0s/containerd-cri.toml", "/etc/k0s/containerd.toml"} {
		text, err := readIf(root, file)
		if err != nil || text == nil {
			if err != nil {
				return f, err
			}
			continue
		}
		d, err := parseTOML(root.Host(file), text)
		if err != nil {
			return f, err
		}
		version = versionOf(d, version)
		on, _ := d.get("plugins", criName(version), "containerd", "runtimes", "runc", "options", "SystemdCgroup")
		systemd = systemd || on == true
	}
	d, err := parseTOML(f.Path, fmt.Appendf(nil, "%sversion = %d\n", ownMark, version))
	if err != nil {
		return f, err
	}
	at := func(rest ...string) []string {
		return append([]string{"plugins", criName(version), "containerd"}, rest...)
	}
	set := func(value any, key ...string) {
		if err == nil {
			err = d.set(value, key...)
		}
	}
	if version == 2 {
		set(true, "plugins", criV2, "enable_cdi")
	}
	if o.Default {
		set("nvidia", at("default_runtime_name")...)
	}
	set(runcV2, at("runtimes", "nvidia", "runtime_type")...)
	if systemd {
		set(true, at("runtimes", "nvidia", "options", "SystemdCgroup")...)
	}
	set(o.Runtime, at("runtimes", "nvidia", "options", "BinaryName")...)
	if err != nil {
		return f, err
	}
	return f.own(root, d)
}

// own compares davit's own file with what it shall be.
func (f File) own(root rootfs.Root, d *tomlDoc) (File, error) {
	var err error
	if f.Was, err = readIf(root, f.Path); err != nil {
		return f, err
	}
	f.Now = d.text
	if f.Was != nil && !bytes.HasPrefix(f.Was, []byte(ownMark)) {
		return f, fmt.Errorf("%s is there and not davit's; move it away", f.Path)
	}
	if f.Changed() {
		f.Changes = d.changes
	}
	return f, nil
}
