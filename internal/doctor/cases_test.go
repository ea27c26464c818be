// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"davit/internal/finding"
	"davit/internal/rootfs"
	"davit/internal/simulate"
)

// expectation is the front matter of a case's expect.md.
type expectation struct {
	Command    string           `yaml:"command"`
	Inputs     []string         `yaml:"inputs"`
	Verdict    string           `yaml:"verdict"`
	Finding    bool             `yaml:"finding"`
	MentionAny [][]string       `yaml:"mention_any"`
	NotMention []string         `yaml:"not_mention"`
	Lines      map[string][]int `yaml:"lines"`
}

func readExpectation(t *testing.T, file string) expectation {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.SplitN(string(text), "---\n", 3)
	if len(parts) != 3 {
		t.Fatalf("%s has no front matter", file)
	}
	var x expectation
	if err := yaml.Unmarshal([]byte(parts[1]), &x); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return x
}

// unpackCase makes the root folder of a case.
func unpackCase(t *testing.T, dir string, inputs []string) rootfs.Root {
	t.Helper()
	host := filepath.Join(t.TempDir(), "host")
	for _, in := range inputs {
		text, err := os.ReadFile(filepath.Join(dir, in))
		if err != nil {
			t.Fatal(err)
		}
		if in == "layout.yaml" {
			err = simulate.Unpack(text, host)
		} else {
			place, ok := Place(in, text)
			if !ok {
				t.Fatalf("%s has no usual place", in)
			}
			file := filepath.Join(host, place)
			if err = os.MkdirAll(filepath.Dir(file), 0o755); err == nil {
				err = os.WriteFile(file, text, 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := rootfs.Open(host)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// allowed is how many findings of severity warning or error the prose of a
// case allows, where that is more than one.
var allowed = map[string]int{"035-uvm-missing-after-boot": 2}

func TestCases(t *testing.T) {
	dirs, err := filepath.Glob("testdata/cases/*")
	if err != nil || len(dirs) < 15 {
		t.Fatalf("%d cases: %v", len(dirs), err)
	}
	for _, dir := range dirs {
		name := filepath.Base(dir)
		t.Run(name, func(t *testing.T) {
			x := readExpectation(t, filepath.Join(dir, "expect.md"))
			res, err := Examine(unpackCase(t, dir, x.Inputs), Options{})
			if err != nil {
				t.Fatal(err)
			}
			judge(t, name, x, res.Findings())
		})
	}
}

func judge(t *testing.T, name string, x expectation, list []finding.Finding) {
	t.Helper()
	var ids []string
	said, all := "", ""
	for _, f := range list {
		if f.Severity != finding.Error && f.Severity != finding.Warning {
			continue
		}
		ids = append(ids, f.ID)
		s := f.Summary + "\n" + f.Why + "\n"
		if f.Remediation != nil {
			s += f.Remediation.Text + "\n" + strings.Join(f.Remediation.Commands, "\n") + "\n"
		}
		said += s
		all += s + f.File + "\n" + f.Avoid + "\n"
		for _, b := range f.Because {
			all += b.Source + " " + b.Value + "\n"
		}
	}
	if x.Finding != slices.Contains(ids, x.Verdict) {
		t.Errorf("findings %v, want %s\n%s", ids, x.Verdict, all)
	}
	want := 1
	if n, ok := allowed[name]; ok {
		want = n
	}
	if !x.Finding {
		want = 0
	}
	if len(ids) > want {
		t.Errorf("%d findings %v, want %d at most", len(ids), ids, want)
	}
	contains := func(text, word string) bool { return strings.Contains(strings.ToLower(text), strings.ToLower(word)) }
	for _, group := range x.MentionAny {
		if !slices.ContainsFunc(group, func(w string) bool { return contains(all, w) }) {
			t.Errorf("none of %q is said:\n%s", group, all)
		}
	}
	for _, w := range x.NotMention {
		if contains(said, w) {
			t.Errorf("%q is said:\n%s", w, said)
		}
	}
	for file, lines := range x.Lines {
		if !slices.ContainsFunc(list, func(f finding.Finding) bool {
			return filepath.Base(f.File) == file && slices.Contains(lines, f.Line)
		}) {
			t.Errorf("no finding at %s:%v", file, lines)
		}
	}
}
