// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"davit/internal/config"
	"davit/internal/rootfs"
)

func TestSetTOML(t *testing.T) {
	for _, tt := range []struct{ name, text, key, literal, want string }{
		{"empty", "", "a", "1", "a = 1\n"},
		{"empty, in a table", "", "t.a", "1", "[t]\na = 1\n"},
		{"value with a comment", "a = 1 # one\nb = 2\n", "a", "true", "a = true # one\nb = 2\n"},
		{"same name in another table", "[t]\na = 1\n[u]\na = 2", "u.a", "3", "[t]\na = 1\n[u]\na = 3"},
		{"no line end", "a = 'x'", "b", "1", "a = 'x'\nb = 1\n"},
		{"behind the head", "# licence\na = [\n 1, # ]\n]\n# about t\n[t]\n", "b", "1", "# licence\na = [\n 1, # ]\n]\nb = 1\n# about t\n[t]\n"},
		{"quotes in strings", `a = "\"#" # x`, "a", `"y"`, `a = "y" # x`},
		{"three quotes", "a = \"\"\"\n\" # no comment\\\"\"\"\"\"\nb = '''q''''\n", "a", "1", "a = 1\nb = '''q''''\n"},
		{"dotted key", "t.a = 1 \n", "t.a", "2", "t.a = 2 \n"},
		{"quoted key", "[\"t\"]\n'a'=1\n", "t.a", "2", "[\"t\"]\n'a'=2\n"},
		{"deep table that is there", "[x]\n  [x.y.z]\n  b=1\n", "x.y.z.a", "2", "[x]\n  [x.y.z]\na = 2\n  b=1\n"},
		{"table above one that is there", "[x.y]\nb=1\n", "x.a", "2", "[x.y]\nb=1\n\n[x]\na = 2\n"},
		{"Windows line ends", "[t]\r\nb = 1\r\n", "t.a", "2", "[t]\r\na = 2\r\nb = 1\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := setTOML([]byte(tt.text), strings.Split(tt.key, "."), tt.literal)
			if err != nil || string(got) != tt.want {
				t.Errorf("got %q, %v\nwant %q", got, err, tt.want)
			}
		})
	}
	for text, want := range map[string]string{
		"t = 1\n":           "not a table",
		"t = {b = 1}\n":     "by hand",
		"t.b = 1\n":         "by hand",
		"[[t]]\nb = 1\n":    "not a table",
		"a = \n":            "line 1",
		"[t]\na = 1\na = 2": "line 3",
	} {
		if got, err := setTOML([]byte(text), []string{"t", "a"}, "2"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
	}
}

func FuzzSetTOML(f *testing.F) {
	f.Add([]byte(defaultConfig), "x")
	f.Add([]byte("a = \"\"\"\n\"\\\"\"\"\"\"\n[t] # [\nt.'a' = [\n1, # ]\n]"), "\"\\\n")
	f.Fuzz(func(t *testing.T, text []byte, value string) {
		for _, key := range [][]string{{"a"}, {"t", "a"}, {"t", "b", "a"}} {
			out, err := setTOML(text, key, quoteTOML(strings.ToValidUTF8(value, "")))
			if err != nil {
				continue
			}
			if again, err := setTOML(out, key, quoteTOML(strings.ToValidUTF8(value, ""))); err != nil || !bytes.Equal(again, out) {
				t.Errorf("%q, then %q, %v", out, again, err)
			}
		}
	})
}

// TestConfigKeys holds the table to what davit's own parser knows.
func TestConfigKeys(t *testing.T) {
	if c, err := config.Parse([]byte(defaultConfig)); err != nil || c.AcceptEnv != config.Default().AcceptEnv || c.DriverRoot != "" {
		t.Errorf("the default file says %+v, %v", c, err)
	}
	for key, kind := range configKeys {
		o := ctkConfig{}
		val := map[byte]string{'b': "true", 's': "auto", 'l': "a:b", 'c': "compute,utility"}[kind]
		text, err := o.setOne([]byte(defaultConfig), key+"="+val)
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		if _, err := config.Parse(text); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestMakeNode(t *testing.T) {
	dir := t.TempDir()
	root, err := rootfs.OpenHandle(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var out bytes.Buffer
	o := ctkSystem{devRoot: dir, out: &out}
	n := charNode{"/dev/nvidiactl", 195, 255}
	if err := o.makeNode(root, n); errors.Is(err, unix.EPERM) {
		t.Skip("nodes cannot be made here")
	} else if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, n.path), &st); err != nil || st.Mode != unix.S_IFCHR|0o666 || st.Rdev != unix.Mkdev(195, 255) {
		t.Errorf("mode %o, number %x, %v", st.Mode, st.Rdev, err)
	}
	if err := o.makeNode(root, n); err != nil || !strings.Contains(out.String(), "is there") {
		t.Errorf("the second time: %v, %s", err, out.String())
	}
	n.minor = 1
	if err := o.makeNode(root, n); err == nil || !strings.Contains(err.Error(), "195:1") {
		t.Errorf("a node of another number: %v", err)
	}
	// A link in the root does not lead out of it.
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	_ = o.makeNode(root, charNode{"/out/nvidia0", 195, 0})
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("made outside: %v, %v", entries, err)
	}
}

func TestParseDevices(t *testing.T) {
	got := parseDevices("Character devices:\n  1 mem\n195 nvidia-frontend\n510 nvidia-uvm\n99999 nvidia-x\n\nBlock devices:\n 7 nvidia-caps\n")
	if len(got) != 2 || got["nvidia"] != 195 || got["nvidia-uvm"] != 510 {
		t.Errorf("got %v", got)
	}
}

// TestCtkRuntimePlan plans for each engine below a root of its own.
func TestCtkRuntimePlan(t *testing.T) {
	const user = "version = 2 # mine\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = 'x'\n"
	for _, tt := range []struct {
		engine, file, was string
		want              []string
	}{
		{"docker", "/etc/docker/daemon.json", `{"x":  1}`, []string{`"x":  1`, `"/opt/nvidia-container-runtime"`, `"default-runtime":  "nvidia"`}},
		{"containerd", "/etc/containerd/config.toml", user, []string{"version = 2 # mine\n", "sandbox_image = 'x'", `"/opt/nvidia-container-runtime"`, `default_runtime_name = "nvidia"`}},
		{"crio", "/etc/crio/crio.conf.d/99-davit.conf", "", []string{`runtime_path = "/opt/nvidia-container-runtime"`, `default_runtime = "nvidia"`}},
	} {
		t.Run(tt.engine, func(t *testing.T) {
			dir := t.TempDir()
			if tt.was != "" {
				if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(tt.file)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, tt.file), []byte(tt.was), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			host, err := rootfs.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			o := ctkRuntime{runtime: tt.engine, config: ctkFiles[tt.engine], path: "/opt/nvidia-container-runtime", setDefault: true}
			f, err := o.plan(host)
			if err != nil {
				t.Fatal(err)
			}
			if f.Path != tt.file || !f.Changed() {
				t.Errorf("the file is %s, changed %v", f.Path, f.Changed())
			}
			for _, w := range tt.want {
				if !strings.Contains(string(f.Now), w) {
					t.Errorf("no %q in\n%s", w, f.Now)
				}
			}
		})
	}
}
