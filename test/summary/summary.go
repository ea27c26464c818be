// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// event is a line of `go test -json`, see `go doc test2json` and, for build
// output, `go help buildjson`.
type event struct {
	Action      string
	Package     string
	ImportPath  string
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
}

// test is one test or subtest.
type test struct {
	name   string
	result string // "" while it runs
	output []string
	parent bool
	seen   bool // an event named it; a name with "/" in it may have no test above it
}

type pkg struct {
	name   string
	tests  map[string]*test
	order  []string
	output []string // outside any test
}

type summary struct {
	to                      io.Writer
	pkgs                    map[string]*pkg
	builds                  map[string][]string // output of the compiler, by import path
	passed, failed, skipped int
	reasons                 []string // why tests were skipped, in order, each once
}

func newSummary(to io.Writer) *summary {
	return &summary{to: to, pkgs: map[string]*pkg{}, builds: map[string][]string{}}
}

// line takes one line of input. What is not an event is shown as it is.
func (s *summary) line(line []byte) {
	var e event
	if err := json.Unmarshal(line, &e); err != nil || e.Action == "" {
		fmt.Fprint(s.to, string(line))
		return
	}
	if e.Action == "build-output" {
		s.builds[e.ImportPath] = append(s.builds[e.ImportPath], e.Output)
		return
	}
	if e.Package == "" {
		return
	}
	p := s.pkgs[e.Package]
	if p == nil {
		p = &pkg{name: e.Package, tests: map[string]*test{}}
		s.pkgs[e.Package] = p
	}
	if e.Test == "" {
		s.packageEvent(p, e)
		return
	}
	t := p.test(e.Test)
	t.seen = true
	switch e.Action {
	case "output":
		t.output = append(t.output, e.Output)
	case "pass", "fail", "skip":
		t.result = e.Action
	}
}

// test finds or makes a test, and marks the tests that it is part of.
func (p *pkg) test(name string) *test {
	if t := p.tests[name]; t != nil {
		return t
	}
	t := &test{name: name}
	p.tests[name] = t
	p.order = append(p.order, name)
	for i, c := range name {
		if c == '/' {
			p.test(name[:i]).parent = true
		}
	}
	return t
}

func (s *summary) packageEvent(p *pkg, e event) {
	switch e.Action {
	case "output":
		p.output = append(p.output, e.Output)
	case "pass", "skip", "fail":
		s.finish(p, e)
		delete(s.pkgs, e.Package)
	}
}

// finish counts a package's tests and shows it.
func (s *summary) finish(p *pkg, e event) {
	var passed, failed, skipped int
	bad := map[string]bool{} // tests with a failure below them
	for _, name := range slices.Backward(p.order) {
		t := p.tests[name]
		if t.result == "" && t.seen && e.Action == "fail" {
			t.result = "fail" // it was running when the program ended
		}
		switch {
		case t.result == "fail":
			if !bad[name] {
				failed++
			}
			for i, c := range name {
				if c == '/' {
					bad[name[:i]] = true
				}
			}
		case t.parent:
		case t.result == "skip":
			skipped++
			s.reason(p, t)
		case t.result == "pass":
			passed++
		}
	}
	for _, name := range p.order {
		// A test that failed only because a subtest did has nothing to say.
		if t := p.tests[name]; t.result == "fail" && (!bad[name] || said(t.output)) {
			s.show("FAIL "+p.name+" "+name, t.output)
		}
	}
	if e.Action == "fail" && failed == 0 {
		failed++
		s.show("FAIL "+p.name, append(s.builds[e.FailedBuild], p.output...))
	}
	s.passed, s.failed, s.skipped = s.passed+passed, s.failed+failed, s.skipped+skipped
	if len(p.order) > 0 || failed > 0 {
		word := "ok  "
		if failed > 0 {
			word = "FAIL"
		}
		fmt.Fprintf(s.to, "%s %-40s %7.1f s  %d passed, %d failed, %d skipped\n", word, p.name, e.Elapsed, passed, failed, skipped)
	}
}

// reason keeps the last line that a skipped test wrote, with the test it came from first.
func (s *summary) reason(p *pkg, t *test) {
	why := ""
	for _, line := range t.output {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			why = line
		}
	}
	if _, text, ok := strings.Cut(why, ".go:"); ok { // file.go:12: text
		if _, text, ok = strings.Cut(text, ": "); ok {
			why = text
		}
	}
	line := p.name + ": " + why
	if !slices.Contains(s.reasons, line) {
		s.reasons = append(s.reasons, line)
	}
}

// said tells whether a test printed anything by itself.
func said(output []string) bool {
	return slices.ContainsFunc(output, func(line string) bool {
		line = strings.TrimSpace(line)
		return line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===")
	})
}

func (s *summary) show(title string, output []string) {
	fmt.Fprintf(s.to, "\n=== %s\n", title)
	for _, line := range output {
		if !strings.HasPrefix(line, "=== ") {
			fmt.Fprint(s.to, "    ", strings.TrimRight(line, "\n"), "\n")
		}
	}
}

// close counts what never ended, prints the closing line and says whether all is well.
func (s *summary) close() bool {
	for _, p := range s.pkgs {
		s.finish(p, event{Action: "fail"})
	}
	if len(s.reasons) > 0 {
		fmt.Fprintln(s.to, "\nSkipped:")
		for _, r := range s.reasons {
			fmt.Fprintln(s.to, "    "+r)
		}
	}
	fmt.Fprintf(s.to, "\n%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
	return s.failed == 0 && s.passed > 0
}
