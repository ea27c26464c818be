// SPDX-License-Identifier: Apache-2.0

package nvidia_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"davit/internal/nvidia"
	"davit/internal/rootfs"
	"davit/internal/simulate"
)

var update = flag.Bool("update", false, "rewrite the golden files, then look at git diff")

// Each recorded host in testdata/hosts gives the facts in its golden file. A
// bug report becomes a test by dropping its recording there.
func TestRecordedHosts(t *testing.T) {
	files, err := filepath.Glob("../../testdata/hosts/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recorded hosts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "host")
			if err := simulate.Unpack(text, dir); err != nil {
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
			got, err := json.MarshalIndent(facts, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			text = []byte(strings.ReplaceAll(string(got), root.Dir(), "HOST") + "\n")
			golden := strings.TrimSuffix(file, ".yaml") + ".facts.json"
			if *update {
				if err := os.WriteFile(golden, text, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatalf("%v; go test ./internal/nvidia -update writes it", err)
			}
			if string(want) != string(text) {
				t.Errorf("%s differs; go test ./internal/nvidia -update, then look at git diff\n%s", golden, text)
			}
		})
	}
}

func benchmarkHost(b *testing.B) rootfs.Root {
	dir := filepath.Join(b.TempDir(), "host")
	if _, err := simulate.Make(dir, simulate.Options{GPUs: 8, CacheEntries: 1500, DRM: true, Persistenced: true, SideTable: false}); err != nil {
		b.Fatal(err)
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	return root
}

// The cost of reading a host with 8 GPUs and a loader cache of 1,500 entries.
func BenchmarkReadCold(b *testing.B) {
	root := benchmarkHost(b)
	for b.Loop() {
		if _, err := nvidia.Read(root, nvidia.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
