// SPDX-License-Identifier: Apache-2.0

package security

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// published are the holes that were published of NVIDIA's container toolkit and
// of what it stands on, and the tests that try the same on davit. "TestX: name"
// is a row of that test's table.
var published = []struct {
	id, what string
	tests    []string
}{
	{"CVE-2024-0132", "CUDA compat libraries of the image are mounted by path; a link swapped in between mounts the host's file system",
		[]string{"TestBait: CUDA compat folder, links in it", "TestBait: CUDA compat folder, a link itself", "TestImages", "TestRaces"}},
	{"CVE-2024-0133", "the same path makes empty files on the host",
		[]string{"TestImages: dangling", "TestBait: links to be written through", "TestRaces"}},
	{"CVE-2024-0134", "the create-symlinks hook writes outside of the root",
		[]string{"TestBait: links to be written through", "TestImages: dots", "TestImages: absolute link to the file"}},
	{"CVE-2024-0135", "an image changes a binary of the host",
		[]string{"TestBait: links to be written through", "TestImages: link through proc", "TestImages: absolute link to the file"}},
	{"CVE-2024-0136", "the image's ldconfig runs with access to devices of the host",
		[]string{"TestBait: ldconfig"}},
	{"CVE-2024-0137", "the image's ldconfig runs in the host's network namespace",
		[]string{"TestBait: ldconfig"}},
	{"CVE-2025-23359", "the fix of CVE-2024-0132 is got round: a link swapped after the check",
		[]string{"TestRaces", "TestBait: CUDA compat folder, a library that is a folder"}},
	{"CVE-2025-23266", "NVIDIAScape: hooks inherit LD_PRELOAD and the like from the image",
		[]string{"TestHookEnvironment", "TestEnvironmentReachesHooks", "TestShimEnvironment", "TestHookConfiguration"}},
	{"CVE-2025-23267", "the update-ldcache hook follows links of the image",
		[]string{"TestImages", "TestBait: ldconfig", "TestHostileCaches: paths with dots"}},
	{"CVE-2026-24260", "the compat and symlink hooks look a path up twice",
		[]string{"TestRaces", "TestBait: CUDA compat folder, links in it"}},
	{"CVE-2024-45310", "runc before 1.1.14 makes empty files on the host in a race; not davit's, but near it",
		[]string{"TestRaces"}},
	{"firmware", "a link at /lib/firmware of the image leads to the host",
		[]string{"TestBait: firmware"}},
	{"configuration", "the image chooses the hook's configuration by variables, and so its state folder and trace file on the host",
		[]string{"TestHookConfiguration", "TestRelativeConfiguration"}},
	{"stage", "a hook in the container's pid namespace takes the host's first process for the container",
		[]string{"TestHookStage"}},
	{"terminal", "control characters of an image or a configuration reach a person's terminal or the engine's log",
		[]string{"TestConfigs: escape in the device", "TestConfigs: escape in a requirement's name", "TestHostileDriver: SONAME with letters for terminals"}},
	{"SONAME", "a driver library names itself so that it is mounted over another file",
		[]string{"TestHostileDriver: SONAME with a path", "TestHostileDriver: SONAME of libc"}},
	{"state", "files of davit's own are damaged or replaced",
		[]string{"TestDamagedState: link to the canary", "TestDamagedState: FIFO", "TestDamagedState: other owner"}},
}

// TestPublished fails if a test or a row named above does not exist.
func TestPublished(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	must(t, err)
	tests, rows := map[string]bool{}, map[string]bool{}
	for _, name := range files {
		if name == "cves_test.go" {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		must(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				tests[n.Name.Name] = true
			case *ast.BasicLit:
				rows[strings.Trim(n.Value, `"`)] = true
			}
			return true
		})
	}
	for _, p := range published {
		for _, name := range p.tests {
			test, row, _ := strings.Cut(name, ": ")
			if !tests[test] || row != "" && !rows[row] {
				t.Errorf("%s: there is no %s", p.id, name)
			}
		}
	}
}
