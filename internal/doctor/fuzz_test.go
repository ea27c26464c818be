// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"davit/internal/rootfs"
)

// FuzzFiles examines hosts whose configuration is anybody's bytes: no panic,
// lines within the file, and redaction keeps every line where it was.
func FuzzFiles(f *testing.F) {
	places := []string{"/etc/docker/daemon.json", containerdFile, toolkitFile, "/etc/crio/crio.conf", "/etc/cdi/nvidia.yaml", hookDirs[0] + "/h.json",
		"/proc/devices", "/proc/driver/nvidia/params", "/var/lib/rancher/k3s/agent/etc/containerd/config.toml", "/etc/containers/containers.conf", "/.davit-commands.json"}
	for i, s := range []string{"{\n  \"runtimes\": {\"nvidia\": {\"path\": 7}},\n},", containerdV2, "[nvidia-container-cli]\nldconfig = \"/x\"\n", "[crio.runtime]\ndefault_runtime=\"x\"", spec,
		`{"hook":{"path":"nvidia"},"when":{"always":true}}`, "195 nvidia\n510 nvidia-uvm", "DeviceFileMode: 432", "version = 3\nplugins = 1", "[engine.runtimes]\nnvidia=[\"/x\"]", `[{"argv":["docker","info"],"stdout":"{"}]`} {
		f.Add(uint8(i), []byte(s))
	}
	f.Fuzz(func(t *testing.T, which uint8, text []byte) {
		dir := t.TempDir()
		file := filepath.Join(dir, places[int(which)%len(places)])
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		root, err := rootfs.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		res, err := Examine(root, Options{})
		if err != nil {
			return
		}
		for _, x := range res.Findings() {
			if x.Line < 0 || x.Line > strings.Count(string(text), "\n")+1 {
				t.Errorf("%s is at line %d of %d", x.ID, x.Line, strings.Count(string(text), "\n")+1)
			}
			if x.ID == "" || x.Summary == "" || x.Severity == "" {
				t.Errorf("an empty finding: %+v", x)
			}
		}
		if _, err := TakeRecord(root, Options{}); err != nil {
			t.Error(err)
		}
		if out := newRedactor().text(string(text)); strings.Count(out, "\n") != strings.Count(string(text), "\n") {
			t.Errorf("redaction moved lines: %q -> %q", text, out)
		}
	})
}

// FuzzTOML reads anybody's bytes: no panic, and lines that exist.
func FuzzTOML(f *testing.F) {
	f.Add([]byte(containerdV2))
	f.Add([]byte("a.b = 1\n[[x]]\ny = {z = 2}\n[x.q]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		last := strings.Count(string(text), "\n") + 1
		file, err := parseTOML("f", text)
		if err != nil {
			at, ok := err.(*tomlError)
			if !ok || at.line < 1 || at.line > last {
				t.Errorf("%v in %d lines", err, last)
			}
			return
		}
		for key, line := range file.lines {
			if line < 1 || line > last {
				t.Errorf("%q at line %d of %d", key, line, last)
			}
		}
		for _, h := range file.handlers() {
			h.nvidia()
			h.systemd()
		}
	})
}

// FuzzRecording takes reports from anybody.
func FuzzRecording(f *testing.F) {
	f.Add([]byte(reportBegin + `{"recording": {"root": []}}` + reportEnd))
	f.Add([]byte("root: []"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if out, err := Recording(text); err == nil && len(out) == 0 {
			t.Error("nothing, and no error")
		}
	})
}
