// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestAssign(t *testing.T) {
	nodes := []nodeWanted{{path: "/dev/nvidia0", driver: driverGPU}, {path: "/dev/nvidia1", driver: driverGPU},
		{path: "/dev/nvidiactl"}, {path: "/dev/nvidia-uvm"}}
	free := func(n int) (list []number) {
		for i := range n {
			list = append(list, number{9, uint32(i)})
		}
		return list
	}
	for _, c := range []struct {
		free  int
		want  []uint32
		notes int
	}{
		{6, []uint32{0, 1, 2, 3}, 0},
		{4, []uint32{0, 1, 2, 3}, 0},
		{3, []uint32{0, 1, 2, 2}, 1},
		{2, []uint32{0, 0, 1, 1}, 2},
		{1, []uint32{0, 0, 0, 0}, 2},
	} {
		given, notes := assign(nodes, free(c.free))
		var got []uint32
		for _, n := range given {
			got = append(got, n.minor)
		}
		if !slices.Equal(got, c.want) || len(notes) != c.notes {
			t.Errorf("%d free: %v, want %v; notes %q", c.free, got, c.want, notes)
		}
	}
	given, notes := assign(nodes, nil)
	if given[3] != (number{1, 3}) || len(notes) != 1 {
		t.Errorf("none free: %v %q", given, notes)
	}
}

func TestProbe(t *testing.T) {
	found, err := probe(3, t.TempDir())
	if errors.Is(err, errNoNodes) {
		t.Skip("nodes cannot be made here")
	}
	if err != nil || len(found) > 3 {
		t.Fatal(found, err)
	}
	for i, n := range found {
		if slices.Contains(found[:i], n) {
			t.Errorf("%v twice", n)
		}
		// Allowed to every container by runtimes: would prove nothing.
		if n.major == 1 && n.minor != 11 || n.major == 5 || n.major == 136 || n == (number{10, 200}) {
			t.Errorf("%v is allowed by default", n)
		}
	}
}

func TestProcDevices(t *testing.T) {
	got := procDevices([]deviceMajor{{4, "nvidia"}, {4, "nvidiactl"}, {10, "nvidia"}, {226, "drm"}})
	for _, want := range []string{"Character devices:\n  1 mem\n  4 tty\n  4 nvidia\n  4 nvidiactl\n", "\n 10 misc\n 10 nvidia\n", "\n\nBlock devices:\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
	if strings.Count(got, "226 drm") != 1 {
		t.Error(got)
	}
}

func TestSharedObject(t *testing.T) {
	for _, kind := range []elfKind{elfAMD64, elfARM64, elf386, elfARM} {
		for _, soname := range []string{"libcuda.so.1", "x", strings.Repeat("l", 200)} {
			f, err := elf.NewFile(bytes.NewReader(sharedObject(kind, soname)))
			if err != nil {
				t.Fatal(kind, err)
			}
			names, err := f.DynString(elf.DT_SONAME)
			if err != nil || len(names) != 1 || names[0] != soname {
				t.Errorf("%v: SONAME %q, %v", kind, names, err)
			}
			if f.Machine != kind.machine || f.Class != kind.class || f.Type != elf.ET_DYN {
				t.Errorf("%v: %v", kind, f.FileHeader)
			}
			if _, err := f.DynamicSymbols(); err != nil && !errors.Is(err, elf.ErrNoSymbols) {
				t.Errorf("%v: symbols: %v", kind, err)
			}
			stack := false
			for _, p := range f.Progs {
				stack = stack || p.Type == elf.PT_GNU_STACK && p.Flags&elf.PF_X == 0
			}
			if !stack {
				t.Errorf("%v: would make the stack executable", kind)
			}
		}
	}
}

func TestCacheCompare(t *testing.T) {
	sorted := []string{"liba.so", "liba.so.1", "liba.so.2", "liba.so.10", "libb.so.1"}
	for i, a := range sorted {
		for j, b := range sorted {
			if got := cacheCompare(a, b); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%s, %s: %d", a, b, got)
			}
		}
	}
}

func TestPatch(t *testing.T) {
	for _, m := range machines {
		p, err := newPlan(Options{GPUs: MaxGPUs, Model: "L4", Driver: "550.54.15", Arch: m.goarch})
		if err != nil {
			t.Fatal(err)
		}
		table, err := p.hostTable()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"libcuda", "libnvidia-ml"} {
			stub, err := m.stub(name + ".so")
			if err != nil {
				t.Fatal(err)
			}
			out, err := patch(stub, table)
			if err != nil {
				t.Fatal(err)
			}
			f, err := elf.NewFile(bytes.NewReader(out))
			if err != nil {
				t.Fatal(err)
			}
			s := f.Section(".davit")
			if s == nil {
				t.Fatalf("%s %s: no section .davit", m.goarch, name)
			}
			data, err := s.Data()
			if err != nil || !bytes.Equal(data, table) {
				t.Errorf("%s %s: the table is not in its section: %v", m.goarch, name, err)
			}
			if bytes.Count(out, []byte("NVIDIA L4\x00")) != MaxGPUs {
				t.Errorf("%s %s: not all GPUs are in it", m.goarch, name)
			}
		}
		if _, err := patch([]byte("no library"), table); err == nil {
			t.Error("patched what has no table")
		}
		old := bytes.Clone(table)
		binary.LittleEndian.PutUint32(old[32:], tableVersion+1)
		if _, err := patch(old, table); err == nil {
			t.Error("patched a table of another version")
		}
	}
}

// shape is what of a built stub must be as in the one that is kept here.
func shape(t *testing.T, file string) string {
	t.Helper()
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b strings.Builder
	names, err := f.DynString(elf.DT_SONAME)
	if err == nil {
		b.WriteString("soname " + strings.Join(names, " ") + "\n")
	}
	if needed, err := f.ImportedLibraries(); err == nil {
		b.WriteString("needs " + strings.Join(needed, " ") + "\n")
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			data := make([]byte, p.Filesz)
			if _, err := p.ReadAt(data, 0); err != nil {
				t.Fatal(err)
			}
			b.WriteString("loader " + string(data) + "\n")
		}
	}
	symbols, err := f.DynamicSymbols()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		t.Fatal(err)
	}
	var list []string
	for _, s := range symbols {
		where := "has "
		if s.Section == elf.SHN_UNDEF {
			where = "wants "
		}
		list = append(list, where+s.Name+"\n")
	}
	slices.Sort(list)
	return f.Machine.String() + "\n" + b.String() + strings.Join(list, "")
}

// The kept libraries and programs are those that the sources make.
func TestStubsAreBuilt(t *testing.T) {
	for arch, cc := range map[string]string{"amd64": "gcc", "arm64": "aarch64-linux-gnu-gcc"} {
		t.Run(arch, func(t *testing.T) {
			if _, err := exec.LookPath(cc); err != nil {
				t.Skip("needs " + cc)
			}
			if machine, err := exec.Command(cc, "-dumpmachine").Output(); err != nil || arch == "amd64" && !strings.HasPrefix(string(machine), "x86_64") {
				t.Skipf("%s is for %s", cc, machine)
			}
			out := t.TempDir()
			if text, err := exec.Command("stub/build.sh", "-o", out, arch).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			entries, err := os.ReadDir("stub/" + arch)
			if err != nil || len(entries) != 4 {
				t.Fatal(entries, err)
			}
			for _, e := range entries {
				kept, made := shape(t, filepath.Join("stub", arch, e.Name())), shape(t, filepath.Join(out, arch, e.Name()))
				if kept != made {
					t.Errorf("%s: run stub/build.sh; kept:\n%s\nthe sources make:\n%s", e.Name(), kept, made)
				}
				if strings.HasSuffix(e.Name(), ".so") && (!strings.Contains(made, "soname "+strings.TrimSuffix(e.Name(), ".so")+".so.1\n") || strings.Contains(made, "wants ")) {
					t.Errorf("%s:\n%s", e.Name(), made)
				}
			}
		})
	}
}
