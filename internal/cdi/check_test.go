// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	upstream "tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/specs-go"

	"davit/internal/finding"
	"davit/internal/nvidia"
	"davit/internal/rootfs"
	"davit/internal/simulate"
)

// TestCaseFiles judges files by themselves.
func TestCaseFiles(t *testing.T) {
	for _, c := range []struct {
		file, id string
		lines    []int
		mention  []string
		not      []string
	}{
		{"059-spec-version-too-low.yaml", "cdi-version-lower-than-fields", []int{1, 10}, []string{"additionalGids", "0.7.0", "0.5.0", "podman 4"}, []string{"hostPath"}},
		{"079-digit-first-names.yaml", "cdi-version-lower-than-names", []int{1, 4, 7}, []string{"0.5.0", "0.4.0", "name", "gpu0"}, []string{"additionalGids", "hostPath"}},
		{"080-valid-minimal-spec.json", "", nil, nil, nil},
	} {
		text, err := os.ReadFile("testdata/cases/" + c.file)
		must(t, err)
		found := Check(c.file, text).Findings
		if c.id == "" {
			if len(found) != 0 {
				t.Errorf("%s: %+v", c.file, found)
			}
			continue
		}
		if len(found) != 1 || found[0].ID != c.id || found[0].Severity != finding.Error || found[0].Line != c.lines[0] {
			t.Errorf("%s: %+v", c.file, found)
			continue
		}
		all := saying(found[0])
		for _, l := range c.lines {
			if !strings.Contains(all, fmt.Sprintf("line %d", l)) {
				t.Errorf("%s: no line %d in %s", c.file, l, all)
			}
		}
		says(t, c.file, all, c.mention, c.not)
	}
}

func saying(f finding.Finding) string {
	text, _ := json.Marshal(f)
	return string(text)
}

func says(t *testing.T, what, text string, mention, not []string) {
	t.Helper()
	for _, m := range mention {
		if !strings.Contains(text, m) {
			t.Errorf("%s: no %q in %s", what, m, text)
		}
	}
	for _, n := range not {
		if strings.Contains(text, n) {
			t.Errorf("%s: %q in %s", what, n, text)
		}
	}
}

// TestCaseHosts judges the specs of recorded hosts.
func TestCaseHosts(t *testing.T) {
	for _, c := range []struct {
		file, id     string
		mention, not []string
	}{
		{"036-uvm-major-drift", "cdi-spec-wrong-device-number", []string{"510", "509", "uvm", "999", "without major and minor"}, []string{"stale libraries", "version mismatch", "reboot", "195"}},
		{"041-cdi-stale-after-upgrade", "cdi-spec-stale", []string{"/etc/cdi/nvidia.yaml", "550.107.02", "550.120", "renderD129", "libnvidia-ml.so.550.107.02", "davit cdi generate", "davit watch"}, []string{"reboot", "version mismatch"}},
		{"043-old-podman-hook-and-cdi", "", nil, nil},
		{"040-two-driver-versions", "", nil, nil},
	} {
		t.Run(c.file, func(t *testing.T) {
			text, err := os.ReadFile("testdata/cases/" + c.file + ".host.yaml")
			must(t, err)
			dir := filepath.Join(t.TempDir(), "host")
			must(t, simulate.Unpack(text, dir))
			root, err := rootfs.Open(dir)
			must(t, err)
			files, err := ReadFolders(root, Folders)
			must(t, err)
			id, err := nvidia.ReadIdentity(root)
			must(t, err)
			var found []finding.Finding
			for _, f := range files {
				found = append(append(found, f.Findings...), f.Against(root, id)...)
			}
			if c.id == "" {
				if len(found) != 0 {
					t.Errorf("%+v", found)
				}
			} else if len(found) != 1 || found[0].ID != c.id {
				t.Errorf("%+v", found)
			} else {
				says(t, c.file, saying(found[0]), c.mention, c.not)
			}
			// What davit writes instead has one driver and fits.
			facts, err := nvidia.Read(root, nvidia.Options{Arch: "amd64"})
			must(t, err)
			spec, err := Render(facts, Options{HostRoot: root.Dir(), Layout: HostLayout(root, "amd64"), HookPath: "/bin/sh"})
			must(t, err)
			own, err := Marshal(spec, "yaml")
			must(t, err)
			f := Check("own", own)
			if all := append(f.Findings, f.Against(root, id)...); len(all) != 0 || strings.Contains(string(own), "550.54.14") {
				t.Errorf("own spec: %+v\n%s", all, own)
			}
			// And is stale as soon as the driver is another.
			id.Driver = "999.1"
			if all := f.Against(root, id); len(all) != 1 || all[0].ID != "cdi-spec-stale" {
				t.Errorf("stale: %+v", all)
			}
		})
	}
}

// wrap puts edits and a device into a spec of a version.
func wrap(version, edits string) string {
	return fmt.Sprintf(`{"cdiVersion":%q,"kind":"nvidia.com/gpu","devices":[{"name":"gpu0","containerEdits":{"env":["A=b"]}}],"containerEdits":%s}`, version, edits)
}

func TestCheck(t *testing.T) {
	for _, c := range []struct{ name, text, want, says string }{
		{"empty", "", "error cdi-spec-invalid", "holds no object"},
		{"list", "[]", "error cdi-spec-invalid", "holds no object"},
		{"broken", "a: [", "error cdi-spec-invalid", "does not parse"},
		{"tabs in JSON", "{\n\t\"cdiVersion\":\t\"0.5.0\",\n\t\"kind\": \"nvidia.com/gpu\", \"devices\": [{\"name\": \"0\", \"containerEdits\": {\"env\": [\"A=b\"]}}]}", "", ""},
		{"v before the version", wrap("v0.5.0", `{}`), "", ""},
		{"no version", `{"kind":"a.b/c","devices":[{"name":"x","containerEdits":{"env":["A=b"]}}]}`, "error cdi-version-unknown", `""`},
		{"future version", wrap("9.0.0", `{}`), "error cdi-version-unknown", "9.0.0"},
		{"needlessly new", wrap("1.0.0", `{}`), "info cdi-version-too-new", "its content needs 0.5.0 only"},
		{"new enough", wrap("0.6.0", `{}`), "info cdi-version-too-new", "podman 4"},
		{"needed", wrap("0.7.0", `{"additionalGids":[44]}`), "info cdi-version-too-new", "docker 25"},
		{"hostPath", wrap("0.4.0", `{"deviceNodes":[{"path":"/a","hostPath":"/b"}]}`), "error cdi-version-lower-than-fields", "hostPath (since 0.5.0)"},
		{"mount type", wrap("0.3.0", `{"mounts":[{"hostPath":"/a","containerPath":"/a","type":"bind"}]}`), "error cdi-version-lower-than-fields", "type (since 0.4.0)"},
		{"node type is old", wrap("0.3.0", `{"deviceNodes":[{"path":"/a","type":"c"}]}`), "", ""},
		{"empty lists need nothing", wrap("0.5.0", `{"additionalGids":[],"netDevices":null}`), "", ""},
		{"unknown field", wrap("0.5.0", `{"deviceNodes":[{"path":"/a","colour":"red"}]}`), "error cdi-field-unknown", "containerEdits.deviceNodes[0].colour"},
		{"wrong type", wrap("0.5.0", `{"deviceNodes":[{"path":"/a","major":"x"}]}`), "error cdi-spec-invalid", "wrong form"},
		{"null items", wrap("0.5.0", `{"deviceNodes":[null],"mounts":[null],"hooks":[null]}`), "", ""},
		{"no kind", `{"cdiVersion":"0.5.0","devices":[{"name":"x","containerEdits":{"env":["A=b"]}}]}`, "error cdi-spec-invalid", "no kind"},
		{"kind", `{"cdiVersion":"0.5.0","kind":"gpu","devices":[{"name":"x","containerEdits":{"env":["A=b"]}}]}`, "error cdi-spec-invalid", "VENDOR/CLASS"},
		{"class with a dot", `{"cdiVersion":"0.5.0","kind":"a.b/c.d","devices":[{"name":"x","containerEdits":{"env":["A=b"]}}]}`, "error cdi-version-lower-than-names", "since 0.6.0"},
		{"no devices", `{"cdiVersion":"0.5.0","kind":"a.b/c"}`, "error cdi-spec-invalid", "no devices"},
		{"empty device", `{"cdiVersion":"0.5.0","kind":"a.b/c","devices":[{"name":"x","containerEdits":{}}]}`, "error cdi-spec-invalid", "changes nothing"},
		{"bad name", `{"cdiVersion":"0.5.0","kind":"a.b/c","devices":[{"name":"x y","containerEdits":{"env":["A=b"]}}]}`, "error cdi-spec-invalid", "x y"},
		{"twice", `{"cdiVersion":"0.5.0","kind":"a.b/c","devices":[{"name":"x","containerEdits":{"env":["A=b"]}},{"name":"x","containerEdits":{"env":["A=b"]}}]}`, "error cdi-device-duplicate", `"x" is there twice`},
		{"env", wrap("0.5.0", `{"env":["=b"]}`), "error cdi-spec-invalid", "NAME=VALUE"},
		{"hook stage", wrap("0.5.0", `{"hooks":[{"hookName":"later","path":"/x"}]}`), "error cdi-spec-invalid", "later"},
		{"hook path", wrap("0.5.0", `{"hooks":[{"hookName":"prestart"}]}`), "error cdi-spec-invalid", "no path"},
		{"node type", wrap("0.5.0", `{"deviceNodes":[{"path":"/a","type":"x"}]}`), "error cdi-spec-invalid", "type"},
		{"node path", wrap("0.5.0", `{"deviceNodes":[{"type":"c"}]}`), "error cdi-spec-invalid", "no path"},
		{"permissions", wrap("0.5.0", `{"deviceNodes":[{"path":"/a","permissions":"x"}]}`), "error cdi-spec-invalid", "permissions"},
		{"mount", wrap("0.5.0", `{"mounts":[{"hostPath":"/a"}]}`), "error cdi-spec-invalid", "containerPath"},
		{"two drivers", wrap("0.5.0", `{"mounts":[{"hostPath":"/l/libcuda.so.550.120","containerPath":"/a"},{"hostPath":"/l/libnvidia-ml.so.535.54.03","containerPath":"/b"},{"hostPath":"/l/libnvidia-egl-gbm.so.1.1.2","containerPath":"/c"}]}`),
			"error cdi-two-drivers", "550.120 and 535.54.03"},
		{"anchors", "x-n: &n {path: /a}\n", "error cdi-field-unknown error cdi-spec-invalid error cdi-spec-invalid error cdi-version-unknown", ""},
		{"merged", "cdiVersion: 0.5.0\nkind: a.b/c\ndevices:\n- name: x\n  containerEdits: &e {env: [A=b]}\n- name: y\n  containerEdits: {<<: *e}\n", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := Check("file", []byte(c.text))
			if got := strings.Join(ids(f.Findings), " "); got != c.want {
				t.Errorf("%s, want %s\n%+v", got, c.want, f.Findings)
			}
			all := ""
			for _, x := range f.Findings {
				all += x.Summary + "\n"
			}
			if !strings.Contains(all, c.says) {
				t.Errorf("no %q in %s", c.says, all)
			}
		})
	}
}

func TestTogether(t *testing.T) {
	text := []byte(wrap("0.5.0", `{}`))
	for _, c := range []struct {
		a, b, want string
	}{
		{"/etc/cdi/a.yaml", "/etc/cdi/b.yaml", "error cdi-device-duplicate"},
		{"/etc/cdi/a.yaml", "/var/run/cdi/a.yaml", "info cdi-device-shadowed"},
	} {
		if got := strings.Join(ids(Together([]*File{Check(c.a, text), Check(c.b, text)})), " "); got != c.want {
			t.Errorf("%s %s: %s", c.a, c.b, got)
		}
	}
}

func TestAgainstHost(t *testing.T) {
	facts, root := factsOf(t, simulate.Options{GPUs: 2, Model: "T4", Driver: "550.120", SideTable: true})
	spec, err := Render(facts, Options{HostRoot: root.Dir(), Layout: HostLayout(root, "amd64")})
	must(t, err)
	// One GPU is left out: a spec of somebody who wrote it before the second came.
	spec.ContainerEdits.Hooks = nil
	spec.Devices = slices.DeleteFunc(spec.Devices, func(d specs.Device) bool { return d.Name != "0" })
	text, err := Marshal(spec, "yaml")
	must(t, err)
	found := Check("f", text).Against(root, facts.Identity())
	if got := strings.Join(ids(found), " "); got != "warning cdi-gpu-missing" || !strings.Contains(found[0].Summary, "/dev/nvidia1") {
		t.Errorf("%+v", found)
	}
	text = []byte(strings.Replace(wrap("0.5.0", `{"hooks":[{"hookName":"createContainer","path":"/usr/bin/nowhere-hook"}]}`), "nvidia.com", "x.y", 1))
	if got := strings.Join(ids(Check("f", text).Against(root, facts.Identity())), " "); got != "error cdi-hook-missing" {
		t.Errorf("%s", got)
	}
}

// FuzzCheck reads hostile specs, and compares the verdict with that of the CDI
// project's own library.
func FuzzCheck(f *testing.F) {
	files, _ := filepath.Glob("testdata/cases/*")
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && !strings.Contains(file, ".host.") {
			f.Add(text)
		}
	}
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("cdiVersion: 0.5.0\nkind: a.b/c\ndevices: [{name: x, containerEdits: {deviceNodes: [{path: /a, fileMode: 0666}]}}]"))
	file := filepath.Join(f.TempDir(), "x.yaml")
	f.Fuzz(func(t *testing.T, text []byte) {
		c := Check("x", text)
		_ = Transform(c.Spec, "/a", "/b", true)
		if len(text) > 4096 || isJSON(text) && strings.Contains(string(text), "\t") {
			return
		}
		must(t, os.WriteFile(file, text, 0o600))
		err, panicked := readUpstream(file)
		if panicked {
			return
		}
		errs := slices.DeleteFunc(slices.Clone(c.Findings), func(x finding.Finding) bool {
			return x.Severity != finding.Error || x.ID == "cdi-two-drivers"
		})
		if err == nil && len(errs) > 0 {
			t.Errorf("the library takes it, and Check says %+v", errs)
		}
		// What Check does not look into.
		for _, no := range []string{"annotations", "intelRdt", "netDevices"} {
			if strings.Contains(string(text), no) {
				return
			}
		}
		if err != nil && len(errs) == 0 {
			t.Errorf("the library refuses it, and Check says nothing: %v", err)
		}
	})
}

// readUpstream guards against the library's panic at null items.
func readUpstream(file string) (err error, panicked bool) {
	defer func() { panicked = recover() != nil }()
	_, err = upstream.ReadSpec(file, 0)
	return err, false
}
