// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkFile is one usual Dockerfile, the tables read already.
func BenchmarkFile(b *testing.B) {
	text, err := os.ReadFile("testdata/good/llama-cpp.Dockerfile")
	if err != nil {
		b.Fatal(err)
	}
	l := newLinter(b, Options{})
	b.ReportAllocs()
	for b.Loop() {
		l.File("Dockerfile", text)
	}
}

// BenchmarkNew is what the program does before the first file.
func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		newLinter(b, Options{})
	}
}

// A thousand files take two seconds at most; the margin is for busy machines.
func TestThousandFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second")
	}
	files, err := filepath.Glob("testdata/*/*Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("testdata/cases/*/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	var texts [][]byte
	for _, name := range append(files, more...) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
	}
	l := newLinter(t, Options{})
	start := time.Now()
	for i := range 1000 {
		l.File("Dockerfile", texts[i%len(texts)])
	}
	took := time.Since(start)
	t.Logf("1000 files in %v", took)
	if took > 4*time.Second {
		t.Errorf("1000 files took %v, want 2 s on an idle machine", took)
	}
}
