// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// Whatever a file holds, it is judged without a panic, each finding points
// into it, and mending it twice changes nothing more.
func FuzzFile(fz *testing.F) {
	names := []string{"Dockerfile", "compose.yaml", "pod.yaml", "devcontainer.json", "daemon.json", "requirements.txt"}
	for _, r := range Rules() {
		for i, n := range names {
			if n == r.For {
				fz.Add(i, []byte(r.Bad))
			}
		}
	}
	files, err := filepath.Glob("testdata/good/*")
	if err != nil {
		fz.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			fz.Fatal(err)
		}
		fz.Add(0, text)
	}
	l, err := New(Options{Read: func(string) ([]byte, error) { return []byte("apt-get install nvidia-driver-550\ntorch==1\n"), nil }})
	if err != nil {
		fz.Fatal(err)
	}
	fz.Fuzz(func(t *testing.T, kind int, text []byte) {
		name := names[((kind%len(names))+len(names))%len(names)]
		lines := bytes.Count(text, []byte("\n")) + 2
		for _, f := range l.File(name, text) {
			if f.ID == "" || f.Summary == "" || f.Remediation == nil || f.Line < 0 || f.File == name && f.Line > lines {
				t.Fatalf("finding %+v of %q", f, text)
			}
		}
		once := l.Fix(name, text)
		if twice := l.Fix(name, once.Text); len(once.Text) > 4*len(text)+4096 {
			t.Fatalf("%q grows to %q, then %q", text, once.Text, twice.Text)
		}
	})
}
