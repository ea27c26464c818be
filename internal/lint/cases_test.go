// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"davit/internal/finding"
)

type expectation struct {
	Inputs     []string
	Verdict    string
	Finding    *bool
	MentionAny [][]string `yaml:"mention_any"`
	NotMention []string   `yaml:"not_mention"`
	Lines      map[string][]int
}

func reader(dir string) func(string) ([]byte, error) {
	return func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, name)) }
}

func newLinter(t testing.TB, o Options) *Linter {
	t.Helper()
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Every case is a file as people write it, with the right answer.
func TestCases(t *testing.T) {
	dirs, err := filepath.Glob("testdata/cases/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(dir, "expect.md"))
			if err != nil {
				t.Fatal(err)
			}
			var want expectation
			if err := yaml.Unmarshal([]byte(strings.SplitN(string(text), "---\n", 3)[1]), &want); err != nil {
				t.Fatal(err)
			}
			l := newLinter(t, Options{Read: reader(dir)})
			var list []finding.Finding
			for _, name := range want.Inputs {
				in, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				list = append(list, l.File(name, in)...)
			}
			judge(t, want, list)
		})
	}
}

func judge(t *testing.T, want expectation, list []finding.Finding) {
	t.Helper()
	serious := slices.DeleteFunc(slices.Clone(list), func(f finding.Finding) bool { return f.Severity != finding.Error && f.Severity != finding.Warning })
	if want.Finding != nil && !*want.Finding {
		if len(serious) > 0 {
			t.Errorf("findings where there is nothing to find: %v", serious)
		}
		return
	}
	if len(list) == 0 {
		t.Fatal("no finding")
	}
	if !slices.ContainsFunc(list, func(f finding.Finding) bool { return f.ID == want.Verdict }) && want.Verdict != "" {
		t.Errorf("no finding %s in %s", want.Verdict, show(list))
	}
	all, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range want.MentionAny {
		if !slices.ContainsFunc(group, func(w string) bool { return strings.Contains(strings.ToLower(string(all)), strings.ToLower(w)) }) {
			t.Errorf("none of %q is mentioned in %s", group, show(list))
		}
	}
	for _, f := range list {
		for _, w := range want.NotMention {
			if strings.Contains(strings.ToLower(f.Summary+" "+f.Remediation.Text), strings.ToLower(w)) {
				t.Errorf("%q is mentioned in %s: %s; %s", w, f.ID, f.Summary, f.Remediation.Text)
			}
		}
	}
	for file, lines := range want.Lines {
		for _, n := range lines {
			if !slices.ContainsFunc(serious, func(f finding.Finding) bool { return f.File == file && f.Line == n }) {
				t.Errorf("no finding at %s:%d in %s", file, n, show(list))
			}
		}
	}
}

func show(list []finding.Finding) string {
	var b strings.Builder
	for _, f := range list {
		fmt.Fprintf(&b, "\n  %s %s:%d %s: %s => %s", f.Severity, f.File, f.Line, f.ID, f.Summary, f.Remediation.Text)
	}
	return b.String()
}

// What the cases allow beside the verdict, so that a new rule does not shout
// over it.
func TestCasesHaveNoMoreThanTheirFindings(t *testing.T) {
	allowed := map[string][]string{
		"061-driver-from-apt":                   {"driver-package-in-image:6", "driver-package-in-image:7"},
		"062-cuda-metapackage-or-toolkit":       {"cuda-metapackage-pulls-driver:7"},
		"063-run-installer":                     {"driver-installer-in-image:6"},
		"064-opencl-dev-pulls-driver":           {"package-pulls-driver-libraries:2"},
		"065-stubs-at-run-time":                 {"stub-library-in-final-stage:2", "stub-library-in-final-stage:3"},
		"067-alpine-base":                       {"musl-image:1"},
		"068-torch-from-cpu-index":              {"cpu-only-framework:4"},
		"070-nvenc-without-video":               {"capability-video-missing:3"},
		"071-gpu-needed-at-build":               {"gpu-used-during-build:2", "gpu-used-during-build:3"},
		"073-clean-stubs-in-builder":            {},
		"074-base-image-claims-all-gpus":        {"image-requests-all-gpus:3"},
		"076-reservation-without-count":         {"compose-count-missing:8"},
		"077-count-and-ids-and-no-capabilities": {"compose-device-request-invalid:19", "compose-device-request-invalid:9"},
		"083-tensorflow-without-gpu":            {"cpu-only-framework:1"},
		"102-devcontainer-run-args":             {"devcontainer-gpu-not-optional:9", "devcontainer-gpus-argument:7"},
		"201-tutorial-brute-force":              {"base-image-end-of-life:1", "driver-installer-in-image:6", "export-without-effect:10"},
		"202-tutorial-smallest-image":           {"retired-base-image:1"},
		"203-tutorial-training-image":           {"apt-without-update:5", "apt-without-yes:6", "command-overridden:2", "framework-cuda-mismatch:1", "retired-base-image:1"},
	}
	for name, want := range allowed {
		dir := filepath.Join("testdata/cases", name)
		l := newLinter(t, Options{Read: reader(dir), Threshold: finding.Warning})
		var got []string
		for _, file := range []string{"Dockerfile", "compose.yaml", "devcontainer.json"} {
			if text, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
				for _, f := range l.File(file, text) {
					got = append(got, fmt.Sprintf("%s:%d", f.ID, f.Line))
				}
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
