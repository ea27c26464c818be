// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"os"
	"path/filepath"
	"testing"

	"davit/internal/rootfs"
	"davit/internal/simulate"
)

// healthy fails for every finding that is a warning or worse.
func healthy(t *testing.T, dir string) {
	t.Helper()
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	res, err := Examine(root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if w := res.Worst(); w != OK {
		for _, f := range res.Findings() {
			t.Errorf("%s %s: %s %v", f.Severity, f.ID, f.Summary, f.Because)
		}
	}
}

func TestRecordedHostsAreHealthy(t *testing.T) {
	files, err := filepath.Glob("../../testdata/hosts/*.yaml")
	if err != nil || len(files) < 2 {
		t.Fatalf("%d hosts: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "host")
			if err := simulate.Unpack(text, dir); err != nil {
				t.Fatal(err)
			}
			healthy(t, dir)
		})
	}
}

func TestSimulatedHostsAreHealthy(t *testing.T) {
	for _, layout := range simulate.Layouts() {
		for _, model := range []string{"T4", "H100"} {
			t.Run(layout+" "+model, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "host")
				if _, err := simulate.Make(dir, simulate.Options{GPUs: 2, Model: model, Layout: layout, SideTable: true, DRM: true, CacheEntries: 40}); err != nil {
					t.Fatal(err)
				}
				healthy(t, dir)
			})
		}
	}
	for _, model := range simulate.Models() {
		t.Run(model, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "host")
			if _, err := simulate.Make(dir, simulate.Options{GPUs: 1, Model: model, SideTable: true}); err != nil {
				t.Fatal(err)
			}
			healthy(t, dir)
		})
	}
}

// The whole examination of a healthy host with 8 GPUs; 150 ms is the goal.
func BenchmarkExamine(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "host")
	if _, err := simulate.Make(dir, simulate.Options{GPUs: 8, Model: "H100", SideTable: true, DRM: true, CacheEntries: 3000}); err != nil {
		b.Fatal(err)
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Examine(root, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
