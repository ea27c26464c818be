// SPDX-License-Identifier: Apache-2.0

package simulate_test

import (
	"path/filepath"
	"testing"

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
