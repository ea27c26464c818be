// SPDX-License-Identifier: Apache-2.0

package simulate_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"davit/internal/nvidia"
	"davit/internal/rootfs"
	"davit/internal/simulate"
)

const hosts = "../../testdata/hosts"

// Each recorded host of the repository unpacks and is read.
func TestRecordedHosts(t *testing.T) {
	files, err := filepath.Glob(hosts + "/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	want := map[string]struct {
		gpus, libs int
		version    string
		arch       string
	}{
		"h100-flat.yaml":          {1, 25, "580.159.04", "9.0"},
		"ubuntu-rtx-a4000x2.yaml": {2, 10, "550.120", "8.6"},
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "host")
			if err := simulate.Unpack(data, dir); err != nil {
				t.Fatal(err)
			}
			w, ok := want[filepath.Base(file)]
			if !ok {
				return // others have their own tests
			}
			root, err := rootfs.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			f, err := nvidia.Read(root, nvidia.Options{Arch: "amd64"})
			if err != nil {
				t.Fatal(err)
			}
			libs := 0
			for _, file := range f.Files {
				if file.Kind == nvidia.Library {
					libs++
				}
			}
			if len(f.GPUs) != w.gpus || libs < w.libs || f.Driver.Version != w.version || f.Driver.LibraryVersion != w.version {
				t.Fatalf("%d GPUs, %d libraries, driver %+v", len(f.GPUs), libs, f.Driver)
			}
			for _, g := range f.GPUs {
				if g.Node == nil || g.Node.Major != 195 || g.Arch != w.arch {
					t.Errorf("GPU %+v", g)
				}
			}
			h, err := simulate.Open(dir)
			if err != nil || h.Kind != "recorded" || h.Arch != "x86_64" || h.Kernel == "" {
				t.Errorf("%+v, %v", h, err)
			}
		})
	}
}

func TestUnpackKinds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "host")
	err := simulate.Unpack([]byte(`
host: {kernel: 5.14.0, arch: aarch64}
root:
# Folders that are links, in an order that does not help.
- {path: /lib/late.txt, kind: file, content: "by the link\n"}
- {path: /lib, kind: symlink, target: usr/lib}
- {path: /abs, kind: symlink, target: /usr}
- {path: /abs/lib/two.txt, kind: file, content: two}
- {path: /dangling, kind: symlink, target: /nowhere/at all}
- {path: /dev/nvidia0, kind: char, major: 195, minor: 0, mode: "0660", uid: 0, gid: 44}
- {path: /dev/sda, kind: block, major: 8, minor: 0}
- {path: /usr/lib/libx.so.2.0, kind: lib, soname: libx.so.2}
- {path: /usr/lib32/libx.so.2.0, kind: lib, soname: libx.so.2, bits: 32}
- {path: /usr/bin/tool, kind: program, mode: "4755"}
- {path: /run/a.sock, kind: socket, mode: "0660", uid: 0, gid: 998}
- {path: /empty, kind: dir, mode: "0700"}
- {path: /etc/ld.so.cache, kind: ldcache, entries: {libx.so.2: /usr/lib/libx.so.2}}
commands:
- {argv: [docker, info], stdout: "hello\n", exit: 3}
`), dir)
	if err != nil {
		t.Fatal(err)
	}
	read := func(p string) string {
		data, err := os.ReadFile(filepath.Join(dir, p))
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
	if read("usr/lib/late.txt") != "by the link\n" || read("usr/lib/two.txt") != "two" || read("lib/late.txt") != "by the link\n" {
		t.Error("files below links")
	}
	if got, want := read(rootfs.NodesFile), "/dev/nvidia0 c 195 0 0660 0 44\n/dev/sda b 8 0 0600 0 0\n"; got != want {
		t.Errorf("nodes %q, want %q", got, want)
	}
	mode := func(p string) fs.FileMode {
		info, err := os.Lstat(filepath.Join(dir, p))
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode()
	}
	if m := mode("usr/bin/tool"); m != 0o755 {
		t.Errorf("program has mode %v: set-id bits must not be set", m)
	}
	if m := mode("run/a.sock"); m != fs.ModeSocket|0o660 {
		t.Errorf("socket has mode %v", m)
	}
	if m := mode("empty"); m != fs.ModeDir|0o700 {
		t.Errorf("folder has mode %v", m)
	}
	if target, _ := os.Readlink(filepath.Join(dir, "dangling")); target != "/nowhere/at all" {
		t.Errorf("link to %q", target)
	}
	var commands []simulate.Command
	if err := json.Unmarshal([]byte(read(simulate.CommandsFile)), &commands); err != nil ||
		len(commands) != 1 || commands[0].Exit != 3 || commands[0].Stdout != "hello\n" {
		t.Errorf("commands %+v, %v", commands, err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	outside := t.TempDir()
	for name, c := range map[string]struct{ in, want string }{
		"empty":          {"", "empty"},
		"no root":        {"host: {kernel: a, arch: x86_64}", "no \"root\""},
		"unknown top":    {"root: []\nhots: {}", "line 2: unknown field \"hots\""},
		"unknown kind":   {"root:\n- {path: /a, kind: fifo}", "line 2: unknown kind \"fifo\""},
		"unknown field":  {"root:\n- {path: /a, kind: dir}\n- {path: /b, kind: file, contents: x}", "line 3: unknown field \"contents\""},
		"field of other": {"root:\n- {path: /a, kind: dir, target: b}", "unknown field \"target\""},
		"twice":          {"root:\n- {path: /a, kind: dir, kind: file}", "line 2"},
		"relative":       {"root:\n- {path: a, kind: dir}", "line 2: path \"a\""},
		"dots":           {"root:\n- {path: /a/../../b, kind: dir}", "line 2: path"},
		"the root":       {"root:\n- {path: /, kind: dir}", "line 2: path"},
		"newline":        {"root:\n- {path: \"/dev/a\\n/dev/b\", kind: char, major: 1, minor: 1}", "line 2: path"},
		"node's space":   {"root:\n- {path: \"/dev/a b\", kind: char, major: 1, minor: 1}", "no spaces"},
		"no minor":       {"root:\n- {path: /dev/a, kind: char, major: 1}", "line 2: a node needs major and minor"},
		"bad mode":       {"root:\n- {path: /a, kind: dir, mode: rwx}", "line 2: mode"},
		"long mode":      {"root:\n- {path: /a, kind: dir, mode: \"77777\"}", "line 2: mode"},
		"no target":      {"root:\n- {path: /a, kind: symlink}", "line 2: no \"target\""},
		"no soname":      {"root:\n- {path: /a, kind: lib}", "no \"soname\""},
		"soname path":    {"root:\n- {path: /a, kind: lib, soname: ../x}", "SONAME"},
		"same path":      {"root:\n- {path: /a, kind: file}\n- {path: /a, kind: dir}", "line 3: /a: is there already"},
		"same by link":   {"root:\n- {path: /l, kind: symlink, target: d}\n- {path: /l/x, kind: file}\n- {path: /d/x, kind: file}", "is there already"},
		"below a file":   {"root:\n- {path: /a, kind: file}\n- {path: /a/b, kind: file}", "/a is no folder"},
		"loop":           {"root:\n- {path: /a, kind: symlink, target: b}\n- {path: /b, kind: symlink, target: a}\n- {path: /a/c, kind: file}", "too many levels"},
		"own file":       {"root:\n- {path: /.davit-nodes, kind: file}", "kept for"},
		"own by link":    {"root:\n- {path: /r, kind: symlink, target: /}\n- {path: /r/.davit-host.json, kind: file}", "kept for"},
		"arch":           {"host: {kernel: a, arch: vax}\nroot: []", "line 1: unknown arch"},
		"alias":          {"root:\n- &x {path: /a, kind: dir}\n- *x", "line 3"},
		"two documents":  {"root: []\n---\nroot: []", "second document"},
		"not yaml":       {"root: [", "line 1"},
		"command":        {"root: []\ncommands:\n- {stdout: x}", "line 3: no \"argv\""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(outside, "host")
			err := simulate.Unpack([]byte(c.in), dir)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if names, _ := os.ReadDir(outside); len(names) != 0 {
				t.Errorf("left behind: %v", names)
			}
		})
	}
}

// Links to the outside lead to places inside.
func TestUnpackStaysInside(t *testing.T) {
	top := t.TempDir()
	out := filepath.Join(top, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(top, "host")
	err := simulate.Unpack([]byte(`
root:
- {path: /abs, kind: symlink, target: `+out+`}
- {path: /up, kind: symlink, target: ../../../../../../../`+out+`}
- {path: /abs/one, kind: file, content: x}
- {path: /up/two, kind: file, content: x}
- {path: /three, kind: symlink, target: `+out+`/three}
- {path: /etc, kind: symlink, target: ../../etc2}
- {path: /etc/four, kind: file, content: x}
`), dir)
	if err != nil {
		t.Fatal(err)
	}
	if names, _ := os.ReadDir(out); len(names) != 0 {
		t.Errorf("outside: %v", names)
	}
	if names, _ := os.ReadDir(top); len(names) != 2 {
		t.Errorf("beside: %v", names)
	}
	for _, p := range []string{out + "/one", out + "/two", "/etc2/four"} {
		if _, err := os.Lstat(dir + p); err != nil {
			t.Error(err)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	files, _ := filepath.Glob(hosts + "/*.yaml")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		if len(data) > 4000 {
			data = data[:4000]
			data = data[:strings.LastIndex(string(data), "\n- ")+1]
		}
		f.Add(data)
	}
	f.Add([]byte("host: {kernel: a, arch: aarch64}\nroot:\n- {path: /a/l, kind: symlink, target: ../../b}\n- {path: /a/l/c, kind: file, mode: \"0444\", content: x}\n- {path: /dev/n, kind: char, major: 1, minor: 2}\n- {path: /x, kind: lib, soname: y, bits: 32}\n- {path: /c, kind: ldcache, entries: {a9: /b, a10: /c}}\ncommands:\n- {argv: [a], exit: 1}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		top := t.TempDir()
		dir := filepath.Join(top, "host")
		err := simulate.Unpack(data, dir)
		names, rerr := os.ReadDir(top)
		if rerr != nil {
			t.Fatal(rerr)
		}
		if err != nil {
			if len(names) != 0 {
				t.Fatalf("%v left %v", err, names)
			}
			return
		}
		if len(names) != 1 || names[0].Name() != "host" {
			t.Fatalf("made %v", names)
		}
		if _, err := rootfs.Open(dir); err != nil {
			t.Fatalf("the host cannot be read: %v", err)
		}
		if err := simulate.Remove(dir); err != nil {
			t.Fatal(err)
		}
	})
}
