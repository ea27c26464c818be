// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"davit/internal/knowledge"
)

var update = flag.Bool("update", false, "write docs/findings anew")

// The pages in docs/findings are those of the tables. With -update they are
// written.
func TestDocs(t *testing.T) {
	const dir = "../../docs/findings"
	pages, err := knowledge.Pages("en")
	if err != nil {
		t.Fatal(err)
	}
	lines, date, err := knowledge.Lines()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	var index strings.Builder
	fmt.Fprintf(&index, "# Findings\n\nWhat davit can say, a page each; `davit explain ID` shows the same. Made from the tables in\n`internal/knowledge`, as of %s.\n\n| id | what |\n| --- | --- |\n", date)
	for _, p := range pages {
		want[p.ID+".md"] = Markdown(p, lines)
		fmt.Fprintf(&index, "| [%s](%s.md) | %s |\n", p.ID, p.ID, p.Title)
	}
	want["README.md"] = index.String()
	if *update {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range want {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, text := range want {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != text {
			t.Errorf("%s is not what the tables say (%v); run go test ./internal/explain -update", name, err)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if _, ok := want[f.Name()]; !ok {
			if *update {
				os.Remove(filepath.Join(dir, f.Name()))
				continue
			}
			t.Errorf("%s is the page of no finding", f.Name())
		}
	}
}
