// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	for _, c := range []struct {
		name  string
		input string
		last  string
		ok    bool
		shows []string
	}{
		{"subtests count, their parent does not", `
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/x"}
{"Action":"run","Package":"p","Test":"TestA/y"}
{"Action":"pass","Package":"p","Test":"TestA/x"}
{"Action":"pass","Package":"p","Test":"TestA/y"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Elapsed":1.25}`,
			"2 passed, 0 failed, 0 skipped", true, []string{"ok   p", "1.2 s"}},
		{"a failing subtest fails once, with its output", `
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/x"}
{"Action":"output","Package":"p","Test":"TestA/x","Output":"    a_test.go:3: got 1\n"}
{"Action":"fail","Package":"p","Test":"TestA/x"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`,
			"0 passed, 1 failed, 0 skipped", false, []string{"=== FAIL p TestA/x", "got 1"}},
		{"a parent that fails by itself", `
{"Action":"pass","Package":"p","Test":"TestA/x"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`,
			"1 passed, 1 failed, 0 skipped", false, nil},
		{"a package that does not build", `
{"ImportPath":"p [p.test]","Action":"build-output","Output":"p.go:1: no\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}
{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`,
			"0 passed, 1 failed, 0 skipped", false, []string{"p.go:1: no"}},
		{"a test that never ended", `
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"p"}`,
			"0 passed, 1 failed, 0 skipped", false, []string{"timed out"}},
		{"the reader was cut off", `
{"Action":"run","Package":"p","Test":"TestA"}`,
			"0 passed, 1 failed, 0 skipped", false, nil},
		{"skipped, with the reason once", `
{"Action":"pass","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: needs root\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}`,
			"1 passed, 0 failed, 1 skipped", true, []string{"Skipped:\n    p: needs root"}},
		{"no test at all", `
{"Action":"output","Package":"p","Output":"?   \tp\t[no test files]\n"}
{"Action":"skip","Package":"p"}`,
			"0 passed, 0 failed, 0 skipped", false, nil},
		{"what is no event is shown", "\ngo: no such tool\n", "0 passed, 0 failed, 0 skipped", false, []string{"go: no such tool"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			s := newSummary(&out)
			for line := range strings.Lines(strings.TrimPrefix(c.input, "\n")) {
				s.line([]byte(line))
			}
			ok := s.close()
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if last := lines[len(lines)-1]; last != c.last || ok != c.ok {
				t.Errorf("closed with %q, %v; want %q, %v", last, ok, c.last, c.ok)
			}
			for _, want := range c.shows {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in:\n%s", want, out.String())
				}
			}
		})
	}
}
