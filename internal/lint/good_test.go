// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"os"
	"path/filepath"
	"testing"
)

// Good files have nothing to say, not even a note: a linter that cries at them
// is switched off.
func TestGoodFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/good/*")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 40 {
		t.Fatalf("only %d good files", len(files))
	}
	l := newLinter(t, Options{Read: reader("testdata/good")})
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if list := l.File(filepath.Base(f), text); len(list) > 0 {
				t.Errorf("findings:%s", show(list))
			}
			if fixed := l.Fix(filepath.Base(f), text); string(fixed.Text) != string(text) {
				t.Errorf("changed to\n%s", fixed.Text)
			}
		})
	}
}
