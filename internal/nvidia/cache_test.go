// SPDX-License-Identifier: Apache-2.0

package nvidia_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"davit/internal/nvidia"
	"davit/internal/rootfs"
	"davit/internal/simulate"
)

// cachedHost is a simulated host that has stood still long enough to be
// remembered.
func cachedHost(t testing.TB, o simulate.Options) (dir, state string) {
	t.Helper()
	dir, state = filepath.Join(t.TempDir(), "host"), t.TempDir()
	o.SideTable = true
	if _, err := simulate.Make(dir, o); err != nil {
		t.Fatal(err)
	}
	time.Sleep(60 * time.Millisecond)
	return dir, state
}

func readCached(t testing.TB, dir, state string) *nvidia.Facts {
	t.Helper()
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := nvidia.ReadCached(root, nvidia.Options{Arch: "amd64"}, state, "v1")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func readFresh(t testing.TB, dir string) *nvidia.Facts {
	t.Helper()
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := nvidia.Read(root, nvidia.Options{Arch: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func asJSON(t testing.TB, f *nvidia.Facts) string {
	t.Helper()
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + f.Params
}

// cacheFiles are the files in the state folder.
func cacheFiles(t testing.TB, state string) []string {
	t.Helper()
	files, err := filepath.Glob(state + "/*")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestRememberedFactsAreThoseOfAReading(t *testing.T) {
	for _, layout := range simulate.Layouts() {
		dir, state := cachedHost(t, simulate.Options{GPUs: 3, Layout: layout, DRM: true, Compat32: true, Persistenced: true})
		first := readCached(t, dir, state)
		if len(cacheFiles(t, state)) != 1 {
			t.Fatalf("%s: nothing is remembered", layout)
		}
		second := readCached(t, dir, state)
		if !reflect.DeepEqual(first, second) || asJSON(t, second) != asJSON(t, readFresh(t, dir)) {
			t.Errorf("%s: remembered\n%s\nread\n%s", layout, asJSON(t, second), asJSON(t, first))
		}
	}
}

// Whatever changes on a host, the next start sees it.
func TestAChangeOfTheHostIsSeen(t *testing.T) {
	write := func(p, text string) func(string) error {
		return func(dir string) error { return os.WriteFile(dir+p, []byte(text), 0o644) }
	}
	const lib = "/usr/lib/x86_64-linux-gnu/"
	for name, change := range map[string]func(dir string) error{
		"another module":         write("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  560.35.03  x\n"),
		"the module is unloaded": func(d string) error { return os.Remove(d + "/proc/driver/nvidia/version") },
		"a library is gone":      func(d string) error { return os.Remove(d + lib + "libnvidia-ml.so.580.159.04") },
		"a library comes": func(d string) error {
			return os.Link(d+lib+"libcuda.so.580.159.04", d+lib+"libnvidia-new.so.580.159.04")
		},
		"a GPU is gone":             func(d string) error { return os.RemoveAll(d + "/proc/driver/nvidia/gpus/0000:2a:00.0") },
		"a node is gone":            func(d string) error { return dropLine(d+"/"+rootfs.NodesFile, "/dev/nvidia1 ") },
		"nvidia-smi is gone":        func(d string) error { return os.Remove(d + "/usr/bin/nvidia-smi") },
		"a program comes":           write("/usr/bin/nvidia-imex", "#!"),
		"a socket's folder is gone": func(d string) error { return os.RemoveAll(d + "/run/nvidia-persistenced") },
		"an icd file comes": func(d string) error {
			return mkfile(d+"/usr/local/share/X11/xorg.conf.d/10-nvidia.conf", "#")
		},
		"params change": write("/proc/driver/nvidia/params", "ModifyDeviceFiles: 1\nX: 1\n"),
		"a GPU gets its UUID": func(d string) error {
			return swap(d+"/proc/driver/nvidia/gpus/0000:18:00.0/information", "GPU UUID", "GPU XUID")
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, state := cachedHost(t, simulate.Options{GPUs: 2, Persistenced: true})
			before := asJSON(t, readCached(t, dir, state))
			if len(cacheFiles(t, state)) != 1 {
				t.Fatal("nothing is remembered")
			}
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			after := asJSON(t, readCached(t, dir, state))
			if want := asJSON(t, readFresh(t, dir)); after != want {
				t.Errorf("still\n%s\nwant\n%s", after, want)
			}
			if after == before && !strings.Contains(name, "params") {
				t.Error("the change changed nothing: this test proves nothing")
			}
		})
	}
}

func dropLine(file, start string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var kept []byte
	for line := range bytes.Lines(text) {
		if !bytes.HasPrefix(line, []byte(start)) {
			kept = append(kept, line...)
		}
	}
	return os.WriteFile(file, kept, 0o644)
}

func mkfile(file, text string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

func swap(file, old, now string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(strings.Replace(string(text), old, now, 1)), 0o644)
}

// What is kept on disk may be damaged or come from elsewhere: then it is read
// anew and kept anew.
func TestADamagedMemoryIsNotUsed(t *testing.T) {
	dir, state := cachedHost(t, simulate.Options{GPUs: 1})
	want := asJSON(t, readCached(t, dir, state))
	file := cacheFiles(t, state)[0]
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	damage := map[string][]byte{
		"empty": {}, "garbage": []byte("garbage"), "cut": good[:len(good)/2], "longer": append(bytes.Clone(good), 0),
		"a lie": bytes.Replace(good, []byte("NVIDIA H100"), []byte("NVIDIA X100"), 1),
		"other": bytes.Replace(good, []byte("davit-facts-1"), []byte("davit-facts-0"), 1),
	}
	for name, data := range damage {
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if got := asJSON(t, readCached(t, dir, state)); got != want {
			t.Errorf("%s: got %s", name, got)
		}
		if now, _ := os.ReadFile(file); !bytes.Equal(now, good) {
			t.Errorf("%s: it was not written anew", name)
		}
	}
	// Others may write it: it is no memory of ours.
	lie := []byte(strings.ReplaceAll(string(good), "NVIDIA H100", "NVIDIA H200"))
	if err := os.WriteFile(file, lie, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	if got := asJSON(t, readCached(t, dir, state)); got != want {
		t.Errorf("a file that all may write was believed: %s", got)
	}
	// A folder or a FIFO in its place is left alone and does not hang.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := asJSON(t, readCached(t, dir, state)); got != want {
		t.Errorf("with a folder in its place: %s", got)
	}
}

func TestAnotherVersionOfDavitReadsAnew(t *testing.T) {
	dir, state := cachedHost(t, simulate.Options{GPUs: 1})
	readCached(t, dir, state)
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nvidia.ReadCached(root, nvidia.Options{Arch: "amd64"}, state, "v2"); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(cacheFiles(t, state)[0]); !bytes.Contains(text, []byte("v2\x00")) {
		t.Error("the memory of another version stays")
	}
}

// A host that changes while it is read must not be remembered as it was.
func TestAHostThatJustChangedIsNotRemembered(t *testing.T) {
	dir, state := cachedHost(t, simulate.Options{GPUs: 1})
	if err := mkfile(dir+"/usr/bin/nvidia-imex", "#!"); err != nil {
		t.Fatal(err)
	}
	readCached(t, dir, state)
	if files := cacheFiles(t, state); len(files) != 0 {
		t.Errorf("remembered within the clock's step: %v", files)
	}
}

func BenchmarkReadWarm(b *testing.B) {
	root := benchmarkHost(b)
	state := b.TempDir()
	time.Sleep(60 * time.Millisecond)
	for b.Loop() {
		if _, err := nvidia.ReadCached(root, nvidia.Options{}, state, "v1"); err != nil {
			b.Fatal(err)
		}
	}
}
