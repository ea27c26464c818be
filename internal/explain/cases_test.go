// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"davit/internal/finding"
)

// A testCase is the front matter of expect.md.
type testCase struct {
	Command    string     `yaml:"command"`
	Inputs     []string   `yaml:"inputs"`
	Verdict    string     `yaml:"verdict"`
	Finding    bool       `yaml:"finding"`
	MentionAny [][]string `yaml:"mention_any"`
	NotMention []string   `yaml:"not_mention"`
}

// answer is what a person reads of the findings, less the quoted lines.
func answer(list []finding.Finding) string {
	var b strings.Builder
	for _, f := range list {
		b.WriteString(strings.Join([]string{f.Summary, f.Why, f.Avoid, strings.Join(f.Confirm, "\n")}, "\n") + "\n")
		if f.Remediation != nil {
			b.WriteString(f.Remediation.Text + "\n" + strings.Join(f.Remediation.Commands, "\n") + "\n")
		}
	}
	return b.String()
}

func hasError(list []finding.Finding) bool {
	return slices.ContainsFunc(list, func(f finding.Finding) bool {
		return f.Severity == finding.Error || f.Severity == finding.Warning
	})
}

func TestCases(t *testing.T) {
	dirs, err := filepath.Glob("../../testdata/cases/*/expect.md")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	ran := 0
	for _, expect := range dirs {
		text, err := os.ReadFile(expect)
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.SplitN(string(text), "---\n", 3)
		if len(parts) != 3 {
			t.Fatalf("%s has no front matter", expect)
		}
		var c testCase
		if err := yaml.Unmarshal([]byte(parts[1]), &c); err != nil {
			t.Fatalf("%s: %v", expect, err)
		}
		if c.Command != "explain" {
			continue
		}
		ran++
		dir := filepath.Dir(expect)
		t.Run(filepath.Base(dir), func(t *testing.T) { runCase(t, dir, c) })
	}
	if ran < 30 {
		t.Errorf("only %d cases for explain", ran)
	}
}

func runCase(t *testing.T, dir string, c testCase) {
	for _, wrap := range wrappings {
		l := read(t, "")
		for _, name := range c.Inputs {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Read(name, strings.NewReader(wrap.with(string(text)))); err != nil {
				t.Fatal(err)
			}
		}
		list := l.Findings()
		if hasError(list) != c.Finding {
			t.Errorf("%s: finding is %v, want %v: %v", wrap.name, !c.Finding, c.Finding, list)
		}
		if list[0].ID != c.Verdict {
			t.Errorf("%s: verdict %q, want %q", wrap.name, list[0].ID, c.Verdict)
		}
		if len(list) != 1 {
			t.Errorf("%s: %d findings, want one", wrap.name, len(list))
		}
		said := strings.ToLower(answer(list))
		for _, group := range c.MentionAny {
			if !slices.ContainsFunc(group, func(w string) bool { return strings.Contains(said, strings.ToLower(w)) }) {
				t.Errorf("%s: none of %q is mentioned in:\n%s", wrap.name, group, said)
			}
		}
		for _, w := range c.NotMention {
			if strings.Contains(said, strings.ToLower(w)) {
				t.Errorf("%s: %q is mentioned in:\n%s", wrap.name, w, said)
			}
		}
	}
}

// The ways in which logs reach people.
var wrappings = []struct {
	name string
	with func(string) string
}{
	{"plain", func(s string) string { return s }},
	{"CRLF", func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }},
	{"colours", func(s string) string {
		return "\x1b[1m" + strings.ReplaceAll(s, "rror", "r\x1b[31mr\x1b[0mor")
	}},
	{"noise before and after", func(s string) string {
		noise := strings.Repeat("2025-01-01T00:00:00Z INFO request served in 12 ms status=200\n", 3000)
		return noise + s + "\n" + noise
	}},
}
