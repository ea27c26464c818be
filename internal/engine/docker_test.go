// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"davit/internal/rootfs"
)

func fixture(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestPlanDocker(t *testing.T) {
	const right = "{\n  \"runtimes\": {\n    \"nvidia\": {\n      \"path\": \"/usr/bin/nvidia-container-runtime\",\n      \"args\": []\n    }\n  }\n}\n"
	tests := []struct {
		name, was string
		o         DockerOptions
		now       string
		changes   string // a line each
	}{
		{"a new file is laid out", "", DockerOptions{}, right,
			"add runtimes.nvidia.path = \"/usr/bin/nvidia-container-runtime\"\nadd runtimes.nvidia.args = []"},
		{"a blank file is a new one", " \n", DockerOptions{}, right,
			"add runtimes.nvidia.path = \"/usr/bin/nvidia-container-runtime\"\nadd runtimes.nvidia.args = []"},
		{"what is right stays", right, DockerOptions{}, right, ""},
		{"arguments that somebody set stay", `{"runtimes":{"nvidia":{"runtimeArgs":["-x"],"path":"/usr/bin/nvidia-container-runtime"}}}`, DockerOptions{},
			`{"runtimes":{"nvidia":{"runtimeArgs":["-x"],"path":"/usr/bin/nvidia-container-runtime"}}}`, ""},
		{"a runtime that points elsewhere is changed and told", `{"runtimes":{"nvidia":{"args":[],"path":"nvidia-container-runtime"}}}`, DockerOptions{},
			`{"runtimes":{"nvidia":{"args":[],"path":"/usr/bin/nvidia-container-runtime"}}}`,
			`change runtimes.nvidia.path from "nvidia-container-runtime" to "/usr/bin/nvidia-container-runtime"`},
		{"a runtimeType cannot stand beside a path", `{"runtimes":{"nvidia":{"runtimeType": "x"}}}`, DockerOptions{Runtime: "/opt/r"},
			`{"runtimes":{"nvidia":{"path": "/opt/r", "args": []}}}`,
			`change runtimes.nvidia from {"runtimeType":"x"} to {"path": "/opt/r", "args": []}`},
		{"null is filled", `{"runtimes":null}`, DockerOptions{Runtime: "/opt/r"}, `{"runtimes":{"nvidia":{"path":"/opt/r","args":[]}}}`,
			"add runtimes.nvidia.path = \"/opt/r\"\nadd runtimes.nvidia.args = []"},
		{"default runtime and CDI on demand", `{"default-runtime":"crun","features":{"x":true}}`, DockerOptions{Runtime: "/opt/r", Default: true, CDI: true},
			`{"default-runtime":"nvidia","features":{"x":true,"cdi":true},"runtimes":{"nvidia":{"path":"/opt/r","args":[]}}}`,
			"add runtimes.nvidia.path = \"/opt/r\"\nadd runtimes.nvidia.args = []\nchange default-runtime from \"crun\" to \"nvidia\"\nadd features.cdi = true"},
		{"CDI that is off is switched on", "{\"features\":{\"cdi\":false},\"runtimes\":{\"nvidia\":{\"path\":\"/opt/r\"}}}", DockerOptions{Runtime: "/opt/r", CDI: true},
			"{\"features\":{\"cdi\":true},\"runtimes\":{\"nvidia\":{\"path\":\"/opt/r\"}}}", "change features.cdi from false to true"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now, changes, err := PlanDocker([]byte(tt.was), tt.o)
			if err != nil {
				t.Fatal(err)
			}
			if string(now) != tt.now {
				t.Errorf("got\n%s\nwant\n%s", now, tt.now)
			}
			var said []string
			for _, c := range changes {
				said = append(said, c.String())
			}
			if got := strings.Join(said, "\n"); got != tt.changes {
				t.Errorf("changes\n%s\nwant\n%s", got, tt.changes)
			}
			again, changes, err := PlanDocker(now, tt.o)
			if err != nil || len(changes) > 0 || !bytes.Equal(again, now) {
				t.Errorf("a second plan: %v, %v\n%s", err, changes, again)
			}
		})
	}
}

func TestMergeKeepsEverything(t *testing.T) {
	was := fixture(t, "merge.json")
	now, _, err := PlanDocker(was, DockerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Not by content alone: order, tabs and the brothers' style as well.
	if want := fixture(t, "merge-expected.json"); !bytes.Equal(now, want) {
		t.Errorf("got\n%s\nwant\n%s", now, want)
	}
	diff := Diff("/etc/docker/daemon.json", was, now)
	want := `--- /etc/docker/daemon.json
+++ /etc/docker/daemon.json
@@ -2,7 +2,8 @@
 	"registry-mirrors": ["https://mirror.example"],
 	"exec-opts": ["native.cgroupdriver=systemd"],
 	"runtimes": {
-		"crun": { "path": "/usr/bin/crun", "runtimeArgs": ["--log-level=warning"] }
+		"crun": { "path": "/usr/bin/crun", "runtimeArgs": ["--log-level=warning"] },
+		"nvidia": { "path": "/usr/bin/nvidia-container-runtime", "args": [] }
 	},
 	"features": { "containerd-snapshotter": true },
 	"max-concurrent-downloads": 10
`
	if diff != want {
		t.Errorf("diff\n%s\nwant\n%s", diff, want)
	}
	if d := Diff("x", was, was); d != "" {
		t.Errorf("a diff without a change: %s", d)
	}
	if d := Diff("x", []byte("a"), []byte("a\n")); !strings.Contains(d, "No newline") {
		t.Errorf("a missing line break is not shown: %q", d)
	}
	if d := Diff("x", nil, []byte("a\n")); !strings.Contains(d, "+a\n") {
		t.Errorf("a new file is not shown: %q", d)
	}
}

func TestPlanDockerRefuses(t *testing.T) {
	for name, tt := range map[string]struct{ was, want string }{
		"a brace too many":           {string(fixture(t, "stray-brace.json")), "/etc/docker/daemon.json:5:4: the text goes on although its outermost value ended at line 5, column 3; is there one closing brace too many?"},
		"a byte order mark":          {"\xef\xbb\xbf{}", "daemon.json:1:1: the text begins with a byte order mark"},
		"a comment":                  {"{\n  // mine\n}", "daemon.json:2:3: JSON has no comments"},
		"an array":                   {"[]", "daemon.json:1:1: the file should hold an object"},
		"runtimes that are a list":   {"{\n \"runtimes\": []}", `daemon.json:2:14: "runtimes" should be an object, but is an array`},
		"features that are a string": {`{"features": "x"}`, `daemon.json:1:14: "features" should be an object`},
	} {
		t.Run(name, func(t *testing.T) {
			now, changes, err := PlanDocker([]byte(tt.was), DockerOptions{File: "/etc/docker/daemon.json", CDI: true})
			var at *ConfigError
			if !errors.As(err, &at) || !strings.Contains(err.Error(), tt.want) || now != nil || changes != nil {
				t.Errorf("%v, %v, want %q", err, changes, tt.want)
			}
		})
	}
	if _, _, err := PlanDocker(nil, DockerOptions{Runtime: "nvidia-container-runtime"}); err == nil {
		t.Error("a runtime without an absolute path was taken")
	}
}

// host is a root with a daemon.json; "-" leaves the file out.
func host(t *testing.T, content string) (rootfs.Root, string) {
	t.Helper()
	dir := t.TempDir()
	if content != "-" {
		if err := os.MkdirAll(filepath.Join(dir, "etc/docker"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, file), content)
	}
	return open(t, dir), filepath.Join(dir, file)
}

func open(t *testing.T, dir string) rootfs.Root {
	t.Helper()
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

const file = "/etc/docker/daemon.json"

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// names lists a folder.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

// setup plans and writes, as the command does.
func setup(t *testing.T, root rootfs.Root, o DockerOptions) error {
	t.Helper()
	found, err := FindDocker(root)
	if err != nil {
		t.Fatal(err)
	}
	now, _, err := PlanDocker(found[0].Data, o)
	if err != nil {
		t.Fatal(err)
	}
	return WriteDocker(root, file, found[0].Data, now)
}

func TestWriteAndUndo(t *testing.T) {
	was := string(fixture(t, "merge.json"))
	for name, content := range map[string]string{
		"a file": was, "an empty file": "", "no file and no folder": "-", "a file without a line break": `{"runtimes":{}}`,
		"a runtime of others": `{"runtimes":{"nvidia":{"args":[],"path":"nvidia-container-runtime"}},"default-runtime":"nvidia"}`,
	} {
		t.Run(name, func(t *testing.T) {
			root, real := host(t, content)
			// Once, once more without effect, then with more.
			for _, o := range []DockerOptions{{}, {}, {CDI: true}, {Default: true, CDI: true}} {
				if err := setup(t, root, o); err != nil {
					t.Fatal(err)
				}
				if got := names(t, filepath.Dir(real)); got != "daemon.json daemon.json.davit-backup" {
					t.Fatalf("the folder holds %s", got)
				}
			}
			if !strings.Contains(read(t, real), DefaultDockerRuntime) {
				t.Errorf("written:\n%s", read(t, real))
			}
			if content != "-" && read(t, real+backupSuffix) != content {
				t.Errorf("the backup is\n%s", read(t, real+backupSuffix))
			}
			u, err := UndoDocker(root, file)
			if err != nil || !u.Exact {
				t.Fatalf("undo: %v, %+v", err, u)
			}
			if content == "-" {
				if got := names(t, root.Dir()+"/etc"); got != "" {
					t.Errorf("/etc still holds %s", got)
				}
			} else if got := names(t, filepath.Dir(real)); got != "daemon.json" || read(t, real) != content {
				t.Errorf("the folder holds %s, the file\n%s", got, read(t, real))
			}
			if _, err := UndoDocker(root, file); !errors.Is(err, ErrNothingToUndo) {
				t.Errorf("a second undo: %v", err)
			}
		})
	}
}

func TestNoChangeWritesNothing(t *testing.T) {
	root, real := host(t, `{"runtimes":{"nvidia":{"path":"/usr/bin/nvidia-container-runtime"}}}`)
	before, _ := os.Stat(real)
	if err := setup(t, root, DockerOptions{}); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(real); !os.SameFile(before, after) || names(t, filepath.Dir(real)) != "daemon.json" {
		t.Error("something was written")
	}
}

func TestUndoAfterOtherChanges(t *testing.T) {
	const was = "{\n  \"debug\": true\n}\n"
	setUp := func(t *testing.T, o DockerOptions) (rootfs.Root, string) {
		root, real := host(t, was)
		if err := setup(t, root, o); err != nil {
			t.Fatal(err)
		}
		return root, real
	}
	t.Run("other keys stay and davit's go", func(t *testing.T) {
		root, real := setUp(t, DockerOptions{Default: true, CDI: true})
		write(t, real, strings.Replace(read(t, real), `"debug": true`, `"debug": false, "mtu": 1400`, 1))
		u, err := UndoDocker(root, file)
		if err != nil || u.Exact || u.Note == "" {
			t.Fatalf("%v, %+v", err, u)
		}
		if got := read(t, real); got != "{\n  \"debug\": false, \"mtu\": 1400\n}\n" || names(t, filepath.Dir(real)) != "daemon.json" {
			t.Errorf("%s in %s", got, names(t, filepath.Dir(real)))
		}
	})
	t.Run("another default runtime that was chosen since stays", func(t *testing.T) {
		root, real := setUp(t, DockerOptions{Default: true})
		write(t, real, strings.Replace(read(t, real), `"default-runtime": "nvidia"`, `"default-runtime": "crun"`, 1))
		if _, err := UndoDocker(root, file); err != nil {
			t.Fatal(err)
		}
		if got := read(t, real); got != "{\n  \"debug\": true,\n  \"default-runtime\": \"crun\"\n}\n" {
			t.Errorf("%s", got)
		}
	})
	t.Run("another runtime beside davit's stays", func(t *testing.T) {
		root, real := setUp(t, DockerOptions{})
		write(t, real, strings.Replace(read(t, real), `"nvidia": {`, `"crun": {"path": "/usr/bin/crun"},`+"\n"+`    "nvidia": {`, 1))
		if _, err := UndoDocker(root, file); err != nil {
			t.Fatal(err)
		}
		if got := read(t, real); got != "{\n  \"debug\": true,\n  \"runtimes\": {\n    \"crun\": {\"path\": \"/usr/bin/crun\"}\n  }\n}\n" {
			t.Errorf("%s", got)
		}
	})
	refuses := func(name, old, new, want string) {
		t.Run(name, func(t *testing.T) {
			root, real := setUp(t, DockerOptions{})
			changed := strings.Replace(read(t, real), old, new, 1)
			write(t, real, changed)
			_, err := UndoDocker(root, file)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "daemon.json.davit-backup") {
				t.Errorf("error %v, want %q", err, want)
			}
			if read(t, real) != changed || read(t, real+backupSuffix) != was {
				t.Error("a refused undo changed something")
			}
		})
	}
	refuses("davit's runtime with other arguments is left alone", `"args": []`, `"args": ["-x"]`, "daemon.json:4:15: runtimes.nvidia was changed")
	refuses("a runtime that points elsewhere is left alone", DefaultDockerRuntime, "/opt/mine", "runtimes.nvidia was changed")
	refuses("a file that is no JSON any more is left alone", `"debug"`, `debug`, "daemon.json:2:3: a key in double quotes")
	t.Run("a file that is gone is not made again", func(t *testing.T) {
		root, real := setUp(t, DockerOptions{})
		if err := os.Remove(real); err != nil {
			t.Fatal(err)
		}
		if _, err := UndoDocker(root, file); err == nil || !strings.Contains(err.Error(), "was removed since") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a file that was put back by hand needs no undo", func(t *testing.T) {
		root, real := setUp(t, DockerOptions{})
		write(t, real, was)
		if u, err := UndoDocker(root, file); err != nil || !u.Exact || read(t, real) != was || names(t, filepath.Dir(real)) != "daemon.json" {
			t.Errorf("%v, %+v", err, u)
		}
	})
	t.Run("a backup from before another life of the file is renewed", func(t *testing.T) {
		root, real := setUp(t, DockerOptions{})
		write(t, real, `{"mtu": 1400}`)
		if err := setup(t, root, DockerOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := read(t, real+backupSuffix); got != `{"mtu": 1400}` {
			t.Errorf("backup %s", got)
		}
	})
}

func TestWriteKeepsWhatIsAround(t *testing.T) {
	t.Run("mode and owner stay", func(t *testing.T) {
		root, real := host(t, "{}\n")
		if err := os.Chmod(real, 0o640); err != nil {
			t.Fatal(err)
		}
		uid, gid := os.Geteuid(), os.Getegid()
		if uid == 0 {
			uid, gid = 1234, 4321
			if err := os.Chown(real, uid, gid); err != nil {
				t.Fatal(err)
			}
		}
		if err := setup(t, root, DockerOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{real, real + backupSuffix} {
			var st unix.Stat_t
			if err := unix.Stat(name, &st); err != nil || st.Mode&0o7777 != 0o640 || int(st.Uid) != uid || int(st.Gid) != gid {
				t.Errorf("%s: %v, mode %o, owner %d:%d", name, err, st.Mode, st.Uid, st.Gid)
			}
		}
	})
	t.Run("a link stays a link, inside the root", func(t *testing.T) {
		root, real := host(t, "{}\n")
		if err := os.MkdirAll(root.Dir()+"/srv", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(real, root.Dir()+"/srv/d.json"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/srv/d.json", real); err != nil {
			t.Fatal(err)
		}
		if err := setup(t, root, DockerOptions{}); err != nil {
			t.Fatal(err)
		}
		if to, err := os.Readlink(real); err != nil || to != "/srv/d.json" {
			t.Errorf("%q, %v", to, err)
		}
		if got := names(t, root.Dir()+"/srv"); got != "d.json d.json.davit-backup" {
			t.Errorf("/srv holds %s", got)
		}
		if u, err := UndoDocker(root, file); err != nil || !u.Exact || read(t, root.Dir()+"/srv/d.json") != "{}\n" {
			t.Errorf("%v, %+v", err, u)
		}
	})
	t.Run("a link to nothing is told", func(t *testing.T) {
		root, real := host(t, "{}")
		if os.Remove(real) != nil || os.Symlink("/nowhere", real) != nil {
			t.Fatal("link")
		}
		if err := WriteDocker(root, file, nil, []byte("{}")); err == nil || !strings.Contains(err.Error(), "link to a file that does not exist") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a file that changed since the plan is left alone", func(t *testing.T) {
		root, real := host(t, `{"a":1}`)
		err := WriteDocker(root, file, []byte(`{}`), []byte(`{"b":1}`))
		if err == nil || !strings.Contains(err.Error(), "changed in the meantime") || read(t, real) != `{"a":1}` {
			t.Errorf("error %v", err)
		}
		if err := WriteDocker(root, file, nil, []byte(`{"b":1}`)); err == nil || names(t, filepath.Dir(real)) != "daemon.json" {
			t.Errorf("a file that came up since the plan was overwritten: %v", err)
		}
		write(t, real, "")
		if err := WriteDocker(root, file, nil, []byte(`{"b":1}`)); err == nil || read(t, real) != "" {
			t.Errorf("an empty file that came up since the plan was overwritten: %v", err)
		}
	})
}

// With the disk full at any moment, the old file stays whole and nothing is
// left beside it.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a file system")
	}
	const size = 64 << 10
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=65536"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.MkdirAll(dir+"/etc/docker", 0o755); err != nil {
		t.Fatal(err)
	}
	real := dir + file
	was := `{"comment":"` + strings.Repeat("x", 8150) + `"}` // two pages; with a runtime, three
	write(t, real, was)
	root := open(t, dir)
	failed := 0
	for free := 0; free <= 8; free++ { // pages left on the disk
		write(t, dir+"/fill", "")
		f, err := os.OpenFile(dir+"/fill", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		page := make([]byte, 4096)
		for range size / 4096 {
			if _, err = f.Write(page); err != nil {
				break
			}
		}
		f.Close()
		if err == nil {
			t.Fatal("the disk does not get full")
		}
		info, err := os.Stat(dir + "/fill")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(dir+"/fill", max(0, info.Size()/4096*4096-int64(free)*4096)); err != nil {
			t.Fatal(err)
		}
		if err := setup(t, root, DockerOptions{}); err != nil {
			failed++
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("%d pages free: %v", free, err)
			}
			if read(t, real) != was || names(t, filepath.Dir(real)) != "daemon.json" {
				t.Fatalf("%d pages free: the folder holds %s", free, names(t, filepath.Dir(real)))
			}
			continue
		}
		if u, err := UndoDocker(root, file); err != nil || !u.Exact || read(t, real) != was {
			t.Errorf("%d pages free: undo %v", free, err)
		}
	}
	if failed < 2 || failed > 8 {
		t.Errorf("%d of 9 writes failed: the disk was not full at the right moments", failed)
	}
}

func TestFindDocker(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\nbroken\n",
		"var/snap/docker/current/config/daemon.json": "{}",
		"home/ann/.config/docker/daemon.json":        "{\"debug\":true}",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), content)
	}
	found, err := FindDocker(open(t, dir))
	if err != nil || len(found) != 3 {
		t.Fatalf("%v, %+v", err, found)
	}
	if f := found[0]; f.Kind != DockerSystem || f.File != file || f.Exists || f.Data != nil {
		t.Errorf("%+v", f)
	}
	if f := found[1]; f.Kind != DockerSnap || !f.Exists || string(f.Data) != "{}" {
		t.Errorf("%+v", f)
	}
	if f := found[2]; f.Kind != DockerRootless || f.User != "ann" || string(f.Data) != `{"debug":true}` {
		t.Errorf("%+v", f)
	}
	if found, err := FindDocker(open(t, t.TempDir())); err != nil || len(found) != 1 {
		t.Errorf("an empty host: %v, %+v", err, found)
	}
}

// A plan never loses a key and never breaks the file, whatever it is.
func FuzzPlanDocker(f *testing.F) {
	f.Add([]byte("{\n  \"runtimes\": {\"nvidia\": {\"path\": \"x\"}}\n}\n"), true, false)
	f.Add([]byte(`{"features":{"cdi":false},"default-runtime":"crun"}`), true, true)
	f.Add([]byte(" "), false, false)
	f.Fuzz(func(t *testing.T, was []byte, def, cdi bool) {
		o := DockerOptions{Default: def, CDI: cdi}
		now, changes, err := PlanDocker(was, o)
		if err != nil {
			return
		}
		if again, more, err := PlanDocker(now, o); err != nil || len(more) > 0 || !bytes.Equal(again, now) {
			t.Fatalf("a second plan for %q: %v, %v", now, more, err)
		}
		before, err := decode(orEmpty(was))
		if err != nil {
			t.Fatal(err)
		}
		after, err := decode(orEmpty(now))
		if err != nil {
			t.Fatalf("%q became %q: %v", was, now, err)
		}
		for k, v := range before.(map[string]any) {
			got, ok := after.(map[string]any)[k]
			if !ok {
				t.Fatalf("%q lost %q", was, k)
			}
			if k != "runtimes" && k != "features" && k != "default-runtime" && !equal(got, v) {
				t.Fatalf("%q changed in %q", k, was)
			}
		}
		// What was done can be undone by content.
		if len(changes) > 0 {
			stripped, err := stripDocker("x", now, backup{data: was})
			if err == nil {
				_, err = decode(orEmpty(stripped))
			}
			if err != nil && !strings.Contains(err.Error(), "runtimes.nvidia was changed") {
				t.Fatalf("%q: %v", now, err)
			}
		}
	})
}

func equal(a, b any) bool { return reflect.DeepEqual(a, b) }
