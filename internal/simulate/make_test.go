// SPDX-License-Identifier: Apache-2.0

package simulate_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"davit/internal/loader"
	"davit/internal/nvidia"
	"davit/internal/rootfs"
	"davit/internal/simulate"
)

// The package that reads hosts finds in each layout what Make says is there.
func TestLayoutsAreRead(t *testing.T) {
	for _, layout := range simulate.Layouts() {
		t.Run(layout, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "host")
			h, err := simulate.Make(dir, simulate.Options{GPUs: 2, Layout: layout, Arch: "amd64", Model: "H100,T4",
				Compat32: true, DRM: true, Persistenced: true, CacheEntries: 500, Minors: []int{1, 0}})
			if err != nil {
				t.Fatal(err)
			}
			root, err := rootfs.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			facts, err := nvidia.Read(root, nvidia.Options{Arch: "amd64"})
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range facts.Missing {
				t.Errorf("missing %s: %s", m.What, m.Why)
			}
			if facts.Driver.Version != h.Driver || facts.Driver.LibraryVersion != h.Driver || facts.Driver.CUDA != h.CUDA {
				t.Errorf("driver %+v, want %s with CUDA %s", facts.Driver, h.Driver, h.CUDA)
			}
			if len(facts.GPUs) != 2 || len(facts.Control) != 4 {
				t.Fatalf("%d GPUs, %d control nodes", len(facts.GPUs), len(facts.Control))
			}
			used := map[[2]uint32]string{}
			for i, g := range facts.GPUs {
				want := h.GPUs[i]
				if g.UUID != want.UUID || g.Name != want.Name || g.Minor != want.Minor || g.BusID != want.BusID || g.Arch != want.Arch || g.PCIID != want.PCIID {
					t.Errorf("GPU %d: read %+v, made %+v", i, g, want)
				}
				if g.Node == nil || len(g.DRM) != 2 {
					t.Fatalf("GPU %d: node %v, drm %v", i, g.Node, g.DRM)
				}
				for _, n := range append(g.DRM, *g.Node) {
					num := [2]uint32{n.Major, n.Minor}
					if other := used[num]; other != "" && len(h.Notes) == 0 {
						t.Errorf("%s and %s have the same number", other, n.Path)
					}
					used[num] = n.Path
				}
			}
			count := map[string]int{}
			for _, f := range facts.Files {
				count[string(f.Kind)]++
				if f.Kind == nvidia.Library && f.Bits == 32 {
					count["32"]++
				}
			}
			if count["library"]-count["32"] < 34 || (count["32"] < 20) != (layout == "flat") || count["program"] < 5 || count["config"] < 8 || count["socket"] < 1 {
				t.Errorf("files: %v", count)
			}
			t.Log(count, facts.Driver.LibDirs, h.Notes)
		})
	}
}

func TestMakeRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		o    simulate.Options
		want string
	}{
		"layout":        {simulate.Options{Layout: "suse"}, "unknown layout \"suse\": known are debian, debian-current, rhel, flat, nixos, driver-container"},
		"model":         {simulate.Options{GPUs: 1, Model: "Voodoo2"}, "unknown GPU model \"Voodoo2\": known are H100,"},
		"unused model":  {simulate.Options{GPUs: 1, Model: "T4,Voodoo2"}, "unknown GPU model"},
		"driver":        {simulate.Options{Driver: "latest"}, "driver version \"latest\""},
		"old driver":    {simulate.Options{Driver: "304.137"}, "not simulated"},
		"driver path":   {simulate.Options{Driver: "550.1/2"}, "driver version"},
		"card too new":  {simulate.Options{GPUs: 1, Model: "B200", Driver: "535.104.05"}, "driver 535.104.05 does not know the B200: it needs branch 570"},
		"card too old":  {simulate.Options{GPUs: 1, Model: "V100", Driver: "590.48.01"}, "it needs branch 384 to 580"},
		"arch":          {simulate.Options{Arch: "riscv64"}, "unknown architecture"},
		"count":         {simulate.Options{GPUs: 65}, "0 to 64"},
		"negative":      {simulate.Options{GPUs: -1}, "0 to 64"},
		"cuda":          {simulate.Options{CUDA: "twelve"}, "CUDA version"},
		"minors":        {simulate.Options{GPUs: 2, Minors: []int{0}}, "1 minor numbers for 2 GPUs"},
		"minor twice":   {simulate.Options{GPUs: 2, Minors: []int{3, 3}}, "given twice"},
		"minor too big": {simulate.Options{GPUs: 1, Minors: []int{255}}, "0 to 247"},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			_, err := simulate.Make(filepath.Join(top, "host"), c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if names, _ := os.ReadDir(top); len(names) > 0 {
				t.Errorf("left %v", names)
			}
		})
	}
}

func TestPlaces(t *testing.T) {
	top := t.TempDir()
	at := func(p string) string { return filepath.Join(top, p) }
	write := func(p, s string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(at(p)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(p), []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	make := func(p string, gpus int) error {
		_, err := simulate.Make(at(p), simulate.Options{GPUs: gpus, SideTable: true})
		return err
	}
	// Absent, with folders above it absent too; then again in its own place.
	if err := make("a/b/host", 1); err != nil {
		t.Fatal(err)
	}
	write("a/b/host/leftover", "of the first")
	if err := make("a/b/host", 2); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(at("a/b/host/leftover")); err == nil {
		t.Error("the new host has files of the old one")
	}
	if h, err := simulate.Open(at("a/b/host")); err != nil || len(h.GPUs) != 2 {
		t.Errorf("%+v, %v", h, err)
	}
	if names, _ := os.ReadDir(at("a/b")); len(names) != 1 {
		t.Errorf("beside the host: %v", names)
	}
	// A failure leaves the old one.
	if _, err := simulate.Make(at("a/b/host"), simulate.Options{Layout: "x"}); err == nil {
		t.Error("unknown layout accepted")
	}
	if h, err := simulate.Open(at("a/b/host")); err != nil || len(h.GPUs) != 2 {
		t.Errorf("%+v, %v", h, err)
	}
	// Empty, and by a link.
	if err := os.Mkdir(at("empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("empty", at("link")); err != nil {
		t.Fatal(err)
	}
	if err := make("link", 1); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(at("link")); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link was replaced")
	}
	// What is somebody's is left alone.
	write("home/letter", "dear")
	write("file", "x")
	write("broken/.davit-host.json", "{")
	for _, p := range []string{"home", "file", "broken"} {
		for what, err := range map[string]error{"make": make(p, 1), "remove": simulate.Remove(at(p))} {
			if !errors.Is(err, simulate.ErrNotHost) || !strings.Contains(err.Error(), at(p)) {
				t.Errorf("%s %s: %v", what, p, err)
			}
		}
	}
	if data, _ := os.ReadFile(at("home/letter")); string(data) != "dear" {
		t.Error("the letter is gone")
	}
	if err := simulate.Remove("/"); !errors.Is(err, simulate.ErrNotHost) {
		t.Errorf("remove /: %v", err)
	}
	for range 2 { // the second time there is none
		if err := simulate.Remove(at("a/b/host")); err != nil {
			t.Error(err)
		}
	}
	if names, _ := os.ReadDir(at("a/b")); len(names) != 0 {
		t.Errorf("left %v", names)
	}
}

// What is mounted in a host is not emptied with it.
func TestMountBelow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "with space")
	if _, err := simulate.Make(dir, simulate.Options{SideTable: true}); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "tmp")
	if err := unix.Mount("none", at, "tmpfs", 0, ""); err != nil {
		t.Skipf("needs to mount: %v", err)
	}
	defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
	if err := simulate.Remove(dir); err == nil || !strings.Contains(err.Error(), at) {
		t.Errorf("remove: %v", err)
	}
	if _, err := simulate.Make(dir, simulate.Options{}); err == nil {
		t.Error("replaced a host with something mounted in it")
	}
	if err := unix.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	if err := simulate.Remove(dir); err != nil {
		t.Error(err)
	}
}

func TestHostsDiffer(t *testing.T) {
	uuids := func(seed string) (list []string) {
		h, err := simulate.Make(filepath.Join(t.TempDir(), "h"), simulate.Options{GPUs: 3, Seed: seed, SideTable: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range h.GPUs {
			list = append(list, g.UUID)
		}
		return list
	}
	a, again, b := uuids("a"), uuids("a"), uuids("b")
	if !slices.Equal(a, again) {
		t.Error("the same seed gives other UUIDs")
	}
	all := append(a, b...)
	slices.Sort(all)
	if len(slices.Compact(all)) != 6 {
		t.Errorf("%v are not six", all)
	}
}

// Every model and every layout on both machines can be made; the newest and
// oldest driver too.
func TestEverythingCanBeMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "host")
	for _, m := range simulate.Models() {
		driver := "580.159.04"
		if _, err := simulate.Make(dir, simulate.Options{GPUs: 1, Model: m, Driver: driver, SideTable: true}); err != nil {
			t.Error(err)
		}
	}
	if h, err := simulate.Make(dir, simulate.Options{GPUs: simulate.MaxGPUs, SideTable: true}); err != nil || len(h.GPUs) != simulate.MaxGPUs {
		t.Error(err)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		for _, l := range simulate.Layouts() {
			for _, o := range []simulate.Options{{GPUs: 1, Model: "T4", Driver: "410.48"}, {GPUs: 2, Model: "B200,T4", Driver: "615.20.01", CUDA: "13.4"}} {
				o.Layout, o.Arch, o.Compat32, o.SideTable, o.DRM = l, arch, true, true, true
				h, err := simulate.Make(dir, o)
				if err != nil {
					t.Fatal(arch, l, err)
				}
				root, err := rootfs.Open(dir)
				if err != nil {
					t.Fatal(err)
				}
				f, err := nvidia.Read(root, nvidia.Options{Arch: arch})
				if err != nil || len(f.GPUs) != o.GPUs || f.Driver.LibraryVersion != o.Driver || f.Driver.CUDA != h.CUDA {
					t.Errorf("%s %s: %v; %d GPUs, driver %+v", arch, l, err, len(f.GPUs), f.Driver)
				}
			}
		}
	}
}

// The loader's reader finds the driver in the cache.
func TestCacheIsRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "host")
	if _, err := simulate.Make(dir, simulate.Options{CacheEntries: 1500, SideTable: true, Arch: "amd64"}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(dir + "/etc/ld.so.cache")
	if err != nil {
		t.Fatal(err)
	}
	c, err := loader.Parse(data)
	if err != nil || len(c.Entries) != 1500 {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(c.Entries, func(e loader.Entry) bool {
		return e.Name == "libcuda.so.1" && e.Path == "/lib/x86_64-linux-gnu/libcuda.so.1" && e.Flags == loader.FlagsX8664
	}) {
		t.Error("no libcuda.so.1")
	}
}

// Everybody may read a host: engines run as other users, and so do programs in
// containers.
func TestUmaskDoesNotMatter(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	dir := filepath.Join(t.TempDir(), "host")
	if _, err := simulate.Make(dir, simulate.Options{GPUs: 1, SideTable: true, Arch: "amd64"}); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]fs.FileMode{"": 0o755, "usr": 0o755, "usr/bin": 0o755, "dev": 0o755, "dev/nvidia-caps": 0o755,
		"usr/bin/nvidia-smi": 0o755, "proc/devices": 0o444, "usr/lib/x86_64-linux-gnu/libcuda.so.1": 0o644} {
		if info, err := os.Stat(filepath.Join(dir, p)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", p, info.Mode(), err, want)
		}
	}
}
