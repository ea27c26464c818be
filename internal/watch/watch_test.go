// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"davit/internal/cdi"
	"davit/internal/nvidia"
	"davit/internal/rootfs"
	"davit/internal/simulate"
)

// gpuHost is a simulated host that tests change by hand.
type gpuHost struct {
	t   *testing.T
	dir string
	o   Options
}

func newHost(t *testing.T, o simulate.Options) *gpuHost {
	t.Helper()
	h := &gpuHost{t: t, dir: t.TempDir()}
	o.SideTable = true // needs no privileges
	if o.Model == "" {
		o.Model = "A100"
	}
	if _, err := simulate.Make(h.dir, o); err != nil {
		t.Fatal(err)
	}
	h.o = Options{Spec: h.path("/etc/cdi/nvidia.yaml"), StateDir: h.path("/run/davit"), Version: "test"}
	return h
}

func (h *gpuHost) path(p string) string { return filepath.Join(h.dir, p) }

func (h *gpuHost) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *gpuHost) root() rootfs.Root {
	h.t.Helper()
	host, err := rootfs.Open(h.dir)
	h.must(err)
	return host
}

// reconcile does so, and gives the changes without the host's folder.
func (h *gpuHost) reconcile() []string {
	h.t.Helper()
	r, err := Reconcile(h.root(), h.o)
	h.must(err)
	return h.lines(r.Changes)
}

func (h *gpuHost) lines(changes []Change) []string {
	list := []string{}
	for _, c := range changes {
		list = append(list, strings.ReplaceAll(c.String(), h.dir, ""))
	}
	return list
}

// write replaces a file as programs do, by a rename.
func (h *gpuHost) write(p, text string) {
	h.t.Helper()
	h.must(os.MkdirAll(filepath.Dir(h.path(p)), 0o755))
	h.must(rootfs.WriteFile(h.path(p), []byte(text), 0o644))
}

func (h *gpuHost) read(p string) string {
	h.t.Helper()
	text, err := os.ReadFile(h.path(p))
	h.must(err)
	return string(text)
}

func (h *gpuHost) edit(p, old, new string) {
	h.t.Helper()
	text := h.read(p)
	if !strings.Contains(text, old) {
		h.t.Fatalf("%s has no %q", p, old)
	}
	h.write(p, strings.ReplaceAll(text, old, new))
}

// devices are the names in the spec.
func (h *gpuHost) devices() []string {
	h.t.Helper()
	spec, err := cdi.Parse([]byte(h.read("/etc/cdi/nvidia.yaml")))
	h.must(err)
	var names []string
	for _, d := range spec.Devices {
		names = append(names, d.Name)
	}
	return names
}

// upgradeLibraries renames the driver's files to another version.
func (h *gpuHost) upgradeLibraries(old, new string) {
	h.t.Helper()
	h.must(filepath.WalkDir(h.dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(p, "."+old) {
			return err
		}
		return os.Rename(p, strings.TrimSuffix(p, old)+new)
	}))
	// Links that led to the old names lead to the new ones.
	h.must(filepath.WalkDir(h.dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.Type()&os.ModeSymlink == 0 {
			return err
		}
		target, err := os.Readlink(p)
		if err != nil || !strings.HasSuffix(target, "."+old) {
			return err
		}
		if err := os.Remove(p); err != nil {
			return err
		}
		return os.Symlink(strings.TrimSuffix(target, old)+new, p)
	}))
}

func (h *gpuHost) upgradeModule(old, new string) {
	h.t.Helper()
	h.edit("/proc/driver/nvidia/version", old, new)
}

// addMIG makes a MIG device of GPU 0, with nodes for it.
func (h *gpuHost) addMIG(gi, ci int) {
	h.t.Helper()
	dir := fmt.Sprintf("/proc/driver/nvidia/capabilities/gpu0/mig/gi%d", gi)
	for i, p := range []string{dir + "/access", dir + fmt.Sprintf("/ci%d/access", ci)} {
		minor := 12 + 9*gi + i
		h.write(p, fmt.Sprintf("DeviceFileMinor: %d\nDeviceFileMode: 292\nDeviceFileModify: 1\n", minor))
		h.addNode(fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", minor), 511, minor)
	}
}

func (h *gpuHost) addNode(p string, major, minor int) {
	h.t.Helper()
	h.write("/"+rootfs.NodesFile, h.read("/"+rootfs.NodesFile)+fmt.Sprintf("%s c %d %d 0666 0 0\n", p, major, minor))
}

func (h *gpuHost) removeNode(p string) {
	h.t.Helper()
	var keep []string
	for line := range strings.Lines(h.read("/" + rootfs.NodesFile)) {
		if !strings.HasPrefix(line, p+" ") {
			keep = append(keep, line)
		}
	}
	h.write("/"+rootfs.NodesFile, strings.Join(keep, ""))
}

const (
	oldDriver = "550.107.02"
	newDriver = "550.120"
)

// TestReconcile does each change to a host for which all was true.
func TestReconcile(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(h *gpuHost)
		want   []string // beginnings of the changes
		holds  string   // in the spec; "" for no spec
	}{
		{"nothing", func(*gpuHost) {}, nil, "--driver=" + oldDriver},
		{"driver upgraded", func(h *gpuHost) {
			h.upgradeLibraries(oldDriver, newDriver)
			h.upgradeModule(oldDriver, newDriver)
		}, []string{"/etc/cdi/nvidia.yaml: written for driver 550.120, 2 GPUs; it was written for driver 550.107.02, and this host has 550.120; 28 paths that it names are gone"}, "libcuda.so." + newDriver},
		{"libraries upgraded, module not", func(h *gpuHost) { h.upgradeLibraries(oldDriver, newDriver) },
			[]string{"/etc/cdi/nvidia.yaml: removed: the loaded kernel module is 550.107.02 and the driver's libraries are 550.120"}, ""},
		{"a library replaced under the same module", func(h *gpuHost) {
			dir := "/usr/lib/x86_64-linux-gnu/"
			h.must(os.Remove(h.path(dir + "libnvidia-encode.so." + oldDriver)))
		}, []string{"/etc/cdi/nvidia.yaml: written for driver 550.107.02, 2 GPUs; a path that it names is gone"}, "--driver=" + oldDriver},
		{"module unloaded", func(h *gpuHost) { h.must(os.RemoveAll(h.path("/proc/driver/nvidia"))) },
			[]string{"/etc/cdi/nvidia.yaml: removed: the kernel module nvidia is not loaded on this host"}, ""},
		{"GPU gone", func(h *gpuHost) {
			h.must(os.RemoveAll(h.path("/proc/driver/nvidia/gpus/" + h.buses()[1])))
		}, []string{"/etc/cdi/nvidia.yaml: written for driver 550.107.02, 1 GPU; the GPU "}, "name: gpu0"},
		{"node of a GPU gone too", func(h *gpuHost) {
			h.must(os.RemoveAll(h.path("/proc/driver/nvidia/gpus/" + h.buses()[1])))
			h.removeNode("/dev/nvidia1")
		}, []string{"/dev/char/195:1: removed: ../nvidia1 is gone", "/etc/cdi/nvidia.yaml: written for driver 550.107.02, 1 GPU;"}, "name: gpu0"},
		{"MIG device added", func(h *gpuHost) { h.addMIG(1, 0) },
			[]string{"/dev/char/511:21: linked to ../nvidia-caps/nvidia-cap21", "/dev/char/511:22: linked", "/etc/cdi/nvidia.yaml: written for driver 550.107.02, 2 GPUs, 1 MIG device; the MIG devices of GPU "}, "name: mig0:0"},
		{"major of nvidia-uvm changed", func(h *gpuHost) {
			h.removeNode("/dev/nvidia-uvm")
			h.addNode("/dev/nvidia-uvm", 509, 0)
		}, []string{"/dev/char/510:0: removed: ../nvidia-uvm is 509:0 now", "/dev/char/509:0: linked to ../nvidia-uvm"}, "/dev/nvidia-uvm"},
		{"spec removed", func(h *gpuHost) { h.must(os.RemoveAll(h.path("/etc/cdi"))) },
			[]string{"/etc/cdi/nvidia.yaml: written for driver 550.107.02, 2 GPUs"}, "name: gpu1"},
		{"spec edited", func(h *gpuHost) { h.edit("/etc/cdi/nvidia.yaml", "gpu1", "gpu7") },
			[]string{"/etc/cdi/nvidia.yaml: written for driver 550.107.02, 2 GPUs"}, "name: gpu1"},
		{"spec cut off", func(h *gpuHost) { h.write("/etc/cdi/nvidia.yaml", "kind: \x00{") },
			[]string{"/etc/cdi/nvidia.yaml: written for driver 550.107.02, 2 GPUs; another program's was there, kept as nvidia.yaml.before-davit"}, "name: gpu1"},
		{"links removed", func(h *gpuHost) { h.must(os.RemoveAll(h.path("/dev/char"))) },
			[]string{"/dev/char/511:1: linked to ../nvidia-caps/nvidia-cap1", "/dev/char/511:2:", "/dev/char/195:254: linked to ../nvidia-modeset", "/dev/char/510:0:", "/dev/char/510:1:", "/dev/char/195:0: linked to ../nvidia0", "/dev/char/195:1:", "/dev/char/195:255:"}, "gpu0"},
		{"link led astray", func(h *gpuHost) {
			h.must(os.Remove(h.path("/dev/char/195:0")))
			h.must(os.Symlink("../null", h.path("/dev/char/195:0")))
		}, []string{"/dev/char/195:0: linked to ../nvidia0"}, "gpu0"},
		{"another kind's links", func(h *gpuHost) {
			h.must(os.Symlink("../gone", h.path("/dev/char/99:9")))
			h.must(os.Symlink("/dev/nvidia0", h.path("/dev/char/.195:0.davit"))) // left over by a crash
		}, nil, "gpu0"},
		{"whole path in a link", func(h *gpuHost) {
			h.must(os.Remove(h.path("/dev/char/195:0")))
			h.must(os.Symlink("/dev/nvidia0", h.path("/dev/char/195:0")))
		}, nil, "gpu0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t, simulate.Options{GPUs: 2, Driver: oldDriver, Arch: "amd64"})
			h.reconcile()
			c.change(h)
			got := h.reconcile()
			if !sameBeginnings(got, c.want) {
				t.Errorf("changes:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			text, err := os.ReadFile(h.o.Spec)
			if (err == nil) != (c.holds != "") || !strings.Contains(string(text), c.holds) {
				t.Errorf("spec: %v; want %q in\n%s", err, c.holds, text)
			}
			if again := h.reconcile(); len(again) != 0 {
				t.Errorf("a second time: %q", again)
			}
			h.factsAreTrue()
		})
	}
}

func sameBeginnings(got, want []string) bool {
	if len(got) != len(want) {
		return false
	}
	for i := range got {
		if !strings.HasPrefix(got[i], want[i]) {
			return false
		}
	}
	return true
}

// factsAreTrue compares the remembered facts with fresh ones.
func (h *gpuHost) factsAreTrue() {
	h.t.Helper()
	o := nvidia.Options{}
	fresh, err := nvidia.Read(h.root(), o)
	h.must(err)
	kept, err := nvidia.ReadCached(h.root(), o, h.o.StateDir, h.o.Version)
	h.must(err)
	if !slices.EqualFunc(fresh.Files, kept.Files, func(a, b nvidia.File) bool { return a.Host == b.Host && a.SONAME == b.SONAME }) ||
		fresh.Driver.Version != kept.Driver.Version || len(fresh.GPUs) != len(kept.GPUs) {
		h.t.Errorf("remembered facts are not those of the host")
	}
}

func (h *gpuHost) buses() []string {
	h.t.Helper()
	entries, err := os.ReadDir(h.path("/proc/driver/nvidia/gpus"))
	h.must(err)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// TestNothingIsWrittenTwice looks at the times of what was written.
func TestNothingIsWrittenTwice(t *testing.T) {
	h := newHost(t, simulate.Options{GPUs: 1})
	if got := h.reconcile(); len(got) == 0 {
		t.Fatal("nothing was done to a fresh host")
	}
	files := []string{h.o.Spec, filepath.Dir(h.o.Spec), h.path("/dev/char"), h.path("/dev/char/195:0")}
	var before []os.FileInfo
	for _, f := range files {
		info, err := os.Lstat(f)
		h.must(err)
		before = append(before, info)
	}
	for range 3 {
		if got := h.reconcile(); len(got) != 0 {
			t.Errorf("changes: %q", got)
		}
	}
	for i, f := range files {
		if info, err := os.Lstat(f); err != nil || !info.ModTime().Equal(before[i].ModTime()) || !os.SameFile(info, before[i]) {
			t.Errorf("%s was written again: %v", f, err)
		}
	}
}

func TestForeignSpecs(t *testing.T) {
	h := newHost(t, simulate.Options{GPUs: 1})
	const foreign = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia0\n"
	h.write("/etc/cdi/nvidia.yaml", foreign)
	h.reconcile()
	if got := h.read("/etc/cdi/nvidia.yaml" + aside); got != foreign {
		t.Errorf("the copy is %q", got)
	}
	if names := h.devices(); !slices.Contains(names, "all") {
		t.Errorf("devices: %q", names)
	}
	other := strings.Replace(foreign, "nvidia.com/gpu", "acme.org/card", 1)
	h.write("/etc/cdi/nvidia.yaml", other)
	_, err := Reconcile(h.root(), h.o)
	if err == nil || !strings.Contains(err.Error(), "kind acme.org/card, not nvidia.com/gpu: left as it is") {
		t.Errorf("error: %v", err)
	}
	if got := h.read("/etc/cdi/nvidia.yaml"); got != other {
		t.Errorf("a spec of another kind was replaced by %q", got)
	}
}

// TestNoDriver: on a host without one nothing is made.
func TestNoDriver(t *testing.T) {
	h := &gpuHost{t: t, dir: t.TempDir()}
	h.o = Options{Spec: h.path("/etc/cdi/nvidia.yaml"), StateDir: h.path("/run/davit"), Nodes: true}
	r, err := Reconcile(h.root(), h.o)
	if err != nil || len(r.Changes) != 0 || !strings.Contains(r.Refused, "no NVIDIA driver") {
		t.Errorf("%+v, %v", r, err)
	}
	for _, p := range []string{"/etc", "/dev"} {
		if _, err := os.Lstat(h.path(p)); err == nil {
			t.Errorf("%s was made", p)
		}
	}
}

// TestErrorsDoNotStopTheRest: a file in the place of a link is an error, and
// the spec is written nevertheless.
func TestErrorsDoNotStopTheRest(t *testing.T) {
	h := newHost(t, simulate.Options{GPUs: 1})
	h.write("/dev/char/195:0", "no link")
	r, err := Reconcile(h.root(), h.o)
	if err == nil || !strings.Contains(err.Error(), "/dev/char/195:0 is no link") {
		t.Errorf("error: %v", err)
	}
	if got := h.lines(r.Changes); !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "/etc/cdi/nvidia.yaml: written") }) {
		t.Errorf("changes: %q", got)
	}
	if h.read("/dev/char/195:0") != "no link" {
		t.Error("the file was replaced")
	}
}
