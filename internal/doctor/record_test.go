// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"davit/internal/finding"
	"davit/internal/rootfs"
	"davit/internal/simulate"
)

// again records a host, unpacks the record elsewhere and examines that.
func again(t *testing.T, root rootfs.Root) (was, now *Result, text string) {
	t.Helper()
	was, err := Examine(root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := TakeRecord(root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	page, err := Page(rec, was, "test")
	if err != nil {
		t.Fatal(err)
	}
	recording, err := Recording(page)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "again")
	if err := simulate.Unpack(recording, dir); err != nil {
		t.Fatalf("%v\n%s", err, recording)
	}
	other, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if now, err = Examine(other, Options{}); err != nil {
		t.Fatal(err)
	}
	return was, now, string(page)
}

// outline is what must be equal: ids, severities and lines.
func outline(r *Result) (list []string) {
	for _, f := range r.Findings() {
		list = append(list, fmt.Sprintf("%s %s %d", f.Severity, f.ID, f.Line))
	}
	return list
}

func TestReportGivesTheSameFindings(t *testing.T) {
	check := func(t *testing.T, root rootfs.Root) {
		was, now, _ := again(t, root)
		if a, b := outline(was), outline(now); !slices.Equal(a, b) {
			t.Errorf("findings of the report %v, of the host %v", b, a)
		}
		for i := range was.Areas {
			if was.Areas[i].State != now.Areas[i].State {
				t.Errorf("area %s: %s from the report, %s (%s) on the host", was.Areas[i].Name, now.Areas[i].State, was.Areas[i].State, was.Areas[i].Line)
			}
		}
	}
	dirs, _ := filepath.Glob("testdata/cases/*")
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			check(t, unpackCase(t, dir, readExpectation(t, filepath.Join(dir, "expect.md")).Inputs))
		})
	}
	for _, layout := range simulate.Layouts() {
		t.Run(layout, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "host")
			if _, err := simulate.Make(dir, simulate.Options{GPUs: 2, Model: "A100", Layout: layout, SideTable: true, DRM: true, CacheEntries: 40}); err != nil {
				t.Fatal(err)
			}
			root, err := rootfs.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			check(t, root)
		})
	}
}

// place writes a file below a folder.
func place(t *testing.T, dir, p, text string) {
	t.Helper()
	file := filepath.Join(dir, p)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestReportHoldsNothingPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "host")
	if _, err := simulate.Make(dir, simulate.Options{GPUs: 1, Model: "T4", SideTable: true}); err != nil {
		t.Fatal(err)
	}
	place(t, dir, "/etc/docker/daemon.json", `{"registry-mirrors": ["https://mirror.corp-internal.example:5000"], "insecure-registries": ["192.168.17.23:5000"],
  "proxies": {"http-proxy": "http://alice:hunter2secret@proxy.acme.example"}, "data-root": "/home/alice/docker", "default-runtime": "ludmilla", "runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}`)
	place(t, dir, "/etc/containerd/config.toml", "version = 2\n# ask Zebulon\n[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"harbor.acme.example\".auth]\npassword = \"s3cr3tpassw0rd\"\nidentitytoken = \"eyJhbGciOiJ\"\n")
	place(t, dir, "/etc/systemd/system/docker.service.d/http.conf", "[Service]\nEnvironment=\"HTTP_PROXY=http://bob:tigerlily@proxy\"\n")
	place(t, dir, "/etc/cdi/nvidia.yaml", "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: GPU-ba16d649-0d6a-3673-86a3-54e9c7a06d13\n  containerEdits:\n    env: [API_TOKEN=quetzalcoatl]\n    deviceNodes: [{path: /dev/nvidia0}]\n")
	place(t, dir, "/etc/passwd", "carol:x:1001:1001:Carol Danvers:/home/carol:/bin/bash\n")
	place(t, dir, "/home/carol/.config/docker/daemon.json", "{}")
	place(t, dir, "/usr/bin/nvidia-container-runtime", "#!/bin/sh\n")
	if err := os.Chmod(filepath.Join(dir, "/usr/bin/nvidia-container-runtime"), 0o755); err != nil {
		t.Fatal(err)
	}
	place(t, dir, "/etc/crio/crio.conf", "[crio.zipporah]\nzipporah = \"a\"\nzipporah = \"b\"\n")
	place(t, dir, "/etc/hostname", "frobnicator-7\n")
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	was, now, page := again(t, root)
	for _, secret := range []string{"corp", "192.168", "17.23", "alice", "hunter2", "acme", "Zebulon", "harbor", "s3cr3t", "eyJhb", "bob", "tigerlily", "ba16d649", "54e9c7a06d13", "quetzal", "carol", "Danvers", "frobnicator", "ludmilla", "zipporah"} {
		if strings.Contains(strings.ToLower(page), strings.ToLower(secret)) {
			i := strings.Index(strings.ToLower(page), strings.ToLower(secret))
			t.Errorf("the report holds %q: …%s…", secret, page[max(0, i-80):min(len(page), i+80)])
		}
	}
	if a, b := outline(was), outline(now); !slices.Equal(a, b) {
		t.Errorf("findings of the report %v, of the host %v", b, a)
	}
	for _, id := range []string{"default-runtime-undefined", "rootless-engine-reads-other-config", "crio-config-invalid"} {
		if !slices.ContainsFunc(was.Findings(), func(f finding.Finding) bool { return f.ID == id }) {
			t.Errorf("no %s among the findings, so that its text was not tried", id)
		}
	}
}

func TestRecordingRefuses(t *testing.T) {
	for _, text := range []string{"", "{}", "[]", "<html>", reportBegin + "{", reportBegin + "{}" + reportEnd, `{"recording": `} {
		if got, err := Recording([]byte(text)); err == nil {
			t.Errorf("%q gave %q", text, got)
		}
	}
	if _, err := Recording([]byte(`{"recording": {"root": []}}`)); err != nil {
		t.Error(err)
	}
	if b, err := json.Marshal(Entry{Path: "/a", Kind: "dir"}); err != nil || strings.Contains(string(b), "major") {
		t.Errorf("%s %v", b, err)
	}
}
