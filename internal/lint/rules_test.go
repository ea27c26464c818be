// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"davit/internal/finding"
)

// The two examples of each rule are its tests: the bad one is found, the good
// one has nothing to say at all.
func TestRuleExamples(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Rules() {
		t.Run(r.ID, func(t *testing.T) {
			if seen[r.ID] {
				t.Error("two rules of this id")
			}
			seen[r.ID] = true
			for _, field := range []string{r.Group, r.Title, r.Why, r.Right, r.Bad, r.Good, r.Sources} {
				if strings.TrimSpace(field) == "" {
					t.Errorf("a field is empty: %+v", r)
				}
			}
			l := newLinter(t, Options{})
			bad := l.File(r.For, []byte(r.Bad))
			i := slices.IndexFunc(bad, func(f finding.Finding) bool { return f.ID == r.ID })
			if i < 0 {
				t.Errorf("not found in its bad example:%s", show(bad))
			} else if bad[i].Severity != r.Severity || bad[i].Line == 0 || bad[i].Summary == "" || bad[i].Remediation.Text == "" {
				t.Errorf("finding %+v", bad[i])
			}
			if good := l.File(r.For, []byte(r.Good)); len(good) > 0 {
				t.Errorf("the good example is not:%s", show(good))
			}
		})
	}
}

// Page is a rule's page in docs/rules.
func page(r Rule) string {
	var b strings.Builder
	kind := "dockerfile"
	switch filepath.Ext(r.For) {
	case ".yaml":
		kind = "yaml"
	case ".json":
		kind = "json"
	}
	fmt.Fprintf(&b, "<!-- made from internal/lint by UPDATE=1 go test ./internal/lint -run Pages -->\n\n# %s\n\n%s — %s, %s", r.ID, r.Title, r.Group, r.Severity)
	if r.Fix {
		b.WriteString(", mended by `davit lint --fix`")
	}
	fmt.Fprintf(&b, "\n\n## Why\n\n%s\n\n## The right way\n\n%s\n\n", r.Why, r.Right)
	if r.Except != "" {
		fmt.Fprintf(&b, "No fault: %s.\n\n", r.Except)
	}
	fmt.Fprintf(&b, "## Example\n\nFound:\n\n```%s\n%s```\n\nRight:\n\n```%s\n%s```\n\n", kind, r.Bad, kind, r.Good)
	fmt.Fprintf(&b, "## To keep it as it is\n\n```\n# davit: ignore=%s the reason why\n```\n\nSources: %s.\n", r.ID, r.Sources)
	return b.String()
}

// The pages in docs/rules say what the rules say. UPDATE=1 writes them.
func TestPages(t *testing.T) {
	dir := filepath.Join("..", "..", "docs", "rules")
	want := map[string]string{}
	var index strings.Builder
	index.WriteString("<!-- made from internal/lint by UPDATE=1 go test ./internal/lint -run Pages -->\n\n# Rules of `davit lint`\n")
	group := ""
	for _, r := range Rules() {
		want[r.ID+".md"] = page(r)
		if r.Group != group {
			group = r.Group
			fmt.Fprintf(&index, "\n## %s%s\n\n| rule | severity | what |\n| --- | --- | --- |\n", strings.ToUpper(group[:1]), group[1:])
		}
		fmt.Fprintf(&index, "| [%s](%s.md) | %s | %s |\n", r.ID, r.ID, r.Severity, r.Title)
	}
	index.WriteString("\nA finding can be milder than its rule: in a build stage it is a note. What only a built image shows (empty driver\nfiles, libraries of two majors) and what depends on a host (its driver, its GPU) is for `davit preflight`.\n")
	want["README.md"] = index.String()
	if os.Getenv("UPDATE") != "" {
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
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(got, []byte(text)) {
			t.Errorf("docs/rules/%s is not what the rule says; UPDATE=1 writes it", name)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if _, ok := want[filepath.Base(f)]; !ok {
			t.Errorf("%s belongs to no rule", f)
		}
	}
}
