// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"davit/internal/finding"
	"davit/internal/knowledge"
)

// One book for all tests: making it takes longer than a test.
var testBook = sync.OnceValues(func() (*book, error) { return readBook("") })

func read(t testing.TB, text string) *Log {
	t.Helper()
	b, err := testBook()
	if err != nil {
		t.Fatal(err)
	}
	l := b.open(nil)
	if err := l.Read("log", strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	return l
}

// followers are the next lines of samples whose fact stands there.
var followers = map[string]string{
	"uvm-module-absent": "\n0\n", "driver-sys": "\n550.120\n", "mps-user": "\nmpsd\n",
	"device-count-one": "\n1\n", "torch-no-cuda-version": "\nNone\n", "torch-not-available": "\nFalse\n", "tf-lists-none": "\n[]\n", "driver-query": "\n550.120\n", "hook-mode": "\n31:mode = \"cdi\"\n",
}

func matched(l *Log, name string) bool {
	return slices.ContainsFunc(l.rules, func(r *rule) bool { return r.Name == name && r.matched > 0 })
}

// Each rule knows its samples, however engines wrap them, and not its near
// misses.
func TestRules(t *testing.T) {
	l, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, r := range l.rules {
		t.Run(r.Name, func(t *testing.T) {
			if names[r.Name] {
				t.Error("name is used twice")
			}
			names[r.Name] = true
			for _, re := range []string{r.Match, r.Unless, r.After} {
				if _, err := regexp.Compile("(?i)" + re); err != nil {
					t.Error(err)
				}
			}
			if len(r.Sample) == 0 || len(r.Find) == 0 {
				t.Fatal("no sample or nothing to find")
			}
			if r.Kind == knowledge.Problem && r.Source == "" {
				t.Error("no source")
			}
			if (r.Kind == knowledge.Good || r.Kind == knowledge.Harmless) && r.Note == "" {
				t.Error("no note")
			}
			for _, sample := range r.Sample {
				for _, w := range quotings {
					text := w(sample) + followers[r.Name]
					if l := read(t, text); !matched(l, r.Name) {
						t.Errorf("does not know its sample %q", text)
					}
				}
			}
			for _, miss := range r.Miss {
				if l := read(t, miss); matched(l, r.Name) {
					t.Errorf("takes %q for its own", miss)
				}
			}
		})
	}
}

// How engines and tools pass on what others said. They keep the line's start
// only sometimes, so rules that want it are tried without.
var quotings = []func(string) string{
	func(s string) string { return s },
	func(s string) string { return s + "\r" },
	func(s string) string { return "\x1b[31m" + s + "\x1b[0m" },
}

var wrapped = []func(string) string{
	func(s string) string {
		return `time="2026-07-30T12:00:44Z" level=error msg="failed" error="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
	},
	func(s string) string {
		return `{"log":"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, ">", `\u003e`, "<", `\u003c`).Replace(s) + `\n","stream":"stderr","time":"2025-01-01T00:00:00.1Z"}`
	},
	func(s string) string {
		return "docker: Error response from daemon: OCI runtime create failed: runc create failed: error running hook #0: exit status 1, stdout: , stderr: Auto-detected mode as 'legacy'\\n" + s
	},
	func(s string) string {
		return "Jan 02 03:04:05 host1 dockerd[811]: " + s
	},
	func(s string) string { // three times
		for range 3 {
			s = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
		}
		return `"` + s + `"`
	},
}

// What a problem's sample says is found in every wrapping.
func TestProblemsWrapped(t *testing.T) {
	l, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range l.rules {
		if r.Kind != knowledge.Problem {
			continue
		}
		for _, sample := range r.Sample {
			for i, w := range wrapped {
				if strings.HasPrefix(r.Match, "^") || r.Join || r.Name == "onnx-cpu" {
					continue
				}
				if l := read(t, w(sample)+followers[r.Name]); !matched(l, r.Name) {
					t.Errorf("%s is not known in wrapping %d: %s", r.Name, i, w(sample))
				}
			}
		}
	}
}

// Each problem leads to a finding with all that a person needs, and each text
// is whole: no fact is left open in it.
func TestProblemsAreExplained(t *testing.T) {
	l, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range l.rules {
		if r.Kind != knowledge.Problem || r.Finding == NoProblem {
			continue
		}
		for _, sample := range r.Sample {
			f := read(t, sample+followers[r.Name]).Findings()[0]
			if f.ID == Unknown || f.ID == NoProblem {
				t.Errorf("%s: sample %q is %s", r.Name, sample, f.ID)
				continue
			}
			checkWhole(t, r.Name, f)
		}
	}
}

func checkWhole(t *testing.T, name string, f finding.Finding) {
	t.Helper()
	if f.Summary == "" || f.Remediation == nil || f.Remediation.Text == "" || f.Line == 0 {
		t.Errorf("%s: %s is incomplete: %+v", name, f.ID, f)
	}
	said := strings.Join([]string{f.Summary, f.Why, f.Avoid, f.Remediation.Text}, "\n")
	for _, bad := range []string{"[[", "]]", "{?", "{!", " ,", " .", "()", ": .", ": :"} {
		for _, line := range strings.Split(said, "\n") {
			if strings.Contains(strings.ReplaceAll(line, " .run", ""), bad) {
				t.Errorf("%s: %s has %q: %s", name, f.ID, bad, line)
			}
		}
	}
	if m := regexp.MustCompile(`\{[a-z*-]+\}`).FindString(said); m != "" {
		t.Errorf("%s: %s has %s left open", name, f.ID, m)
	}
}

func TestEveryFindingHasItsPage(t *testing.T) {
	l, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{NoProblem: true, Unknown: true}
	for _, r := range l.rules {
		if r.Kind == knowledge.Problem && r.Finding != "cuda-number" {
			used[r.Finding] = true
		}
		for _, w := range r.When {
			used[w.Finding] = true
		}
	}
	for _, x := range l.xids {
		id, _ := judgeXid(x)
		used[id] = true
	}
	for id := range used {
		if _, ok := l.pages[id]; !ok {
			t.Errorf("finding %s has no page", id)
		}
	}
	// Other commands have findings of their own, which they name in full.
	others := ""
	for _, dir := range []string{"doctor", "cdi"} {
		files, err := filepath.Glob("../" + dir + "/*.go")
		if err != nil || len(files) == 0 {
			t.Fatalf("no sources of %s: %v", dir, err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			others += string(text)
		}
	}
	for id := range l.pages {
		if !used[id] && !strings.Contains(others, `"`+id+`"`) {
			t.Errorf("page %s is of no finding", id)
		}
	}
}
