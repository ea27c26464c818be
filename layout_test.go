// SPDX-License-Identifier: Apache-2.0

// Package davit_test holds the rules that the compiler does not check: who may
// import whom, what the hot path links, and that each package says what it is.
package davit_test

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// layers says which packages of this module a package may import. A package
// that is not here does not belong to the layout: add it with its place in it.
var layers = map[string]string{
	// Leaves.
	"internal/rootfs":   "",
	"internal/jsonedit": "",
	"internal/finding":  "",
	"internal/request":  "",
	"internal/config":   "request",

	"internal/loader":    "rootfs",
	"internal/nvidia":    "rootfs",
	"internal/knowledge": "finding",
	"internal/plan":      "nvidia request loader",

	// What writes: the three ways into a container.
	"internal/oci":  "plan request jsonedit",
	"internal/cdi":  "plan request rootfs nvidia loader finding cdihook",
	"internal/live": "plan loader rootfs nvidia",
	// The hooks of CDI specs, old and new; no YAML in it.
	"internal/cdihook": "live plan loader rootfs nvidia jsonedit",
	"internal/shim":    "plan request nvidia loader rootfs oci live jsonedit",

	"internal/simulate": "rootfs loader nvidia",
	"internal/engine":   "rootfs jsonedit finding",
	"internal/doctor":   "rootfs loader nvidia request plan cdi engine finding knowledge jsonedit",
	"internal/explain":  "finding knowledge",
	"internal/lint":     "finding knowledge request",
	"internal/image":    "finding knowledge request rootfs loader",
	"internal/watch":    "rootfs nvidia plan cdi request",
	"internal/kube":     "rootfs nvidia plan cdi request",

	// The hot path's program is held to what the shim may have.
	"cmd/davit-runtime": "shim plan request nvidia loader rootfs oci live jsonedit config cdihook",
	"cmd/davit":         "*",
	"cmd/davit-k8s":     "*",
}

// pure packages open nothing, run nothing and know no time.
var pure = []string{"internal/request", "internal/plan"}
var impure = []string{"os", "os/exec", "net", "net/http", "time", "log", "log/slog", "syscall", "io/ioutil",
	"golang.org/x/sys/unix", "path/filepath"}

// Names that say nothing of what a package is about.
var drawers = []string{"util", "utils", "common", "types", "helpers", "helper", "misc", "base", "shared"}

// What davit-runtime must not link: it starts once for every container.
var notOnHotPath = []string{"net", "net/http", "regexp", "text/template", "html/template", "os/exec", "log/slog", "plugin",
	"github.com/spf13", "go.yaml.in", "gopkg.in/yaml", "github.com/BurntSushi", "github.com/pelletier",
	"google.golang.org/grpc", "k8s.io", "sigs.k8s.io", "github.com/opencontainers/runc"}

const maxRuntimeSize = 4 << 20

type listed struct {
	Dir, ImportPath      string
	GoFiles, TestGoFiles []string
	Imports              []string
	Module               *struct{ Path string }
}

func goList(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-e", "-json=Dir,ImportPath,GoFiles,TestGoFiles,Imports,Module"}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// inModule is the path below the module, for packages of it.
func inModule(path string) (string, bool) { return strings.CutPrefix(path, "davit/") }

func TestImports(t *testing.T) {
	for _, p := range goList(t, "./...") {
		name, ok := inModule(p.ImportPath)
		if !ok {
			continue // the module's root: this file
		}
		t.Run(name, func(t *testing.T) {
			allowed, ok := layers[name]
			if strings.HasPrefix(name, "test/") {
				allowed, ok = "*", true // tests of the whole may look at all of it
			}
			if !ok {
				t.Fatalf("%s is not in the layout: add it to layers, with what it may import", name)
			}
			for _, imp := range p.Imports {
				if slices.Contains(pure, name) && slices.Contains(impure, imp) {
					t.Errorf("%s is pure and must not import %s", name, imp)
				}
				in, ok := inModule(imp)
				if !ok {
					continue
				}
				if strings.HasPrefix(in, "cmd/") || strings.HasPrefix(in, "test/") && !strings.HasPrefix(name, "test/") {
					t.Errorf("%s imports %s: programs and tests are not for import", name, in)
				}
				if allowed != "*" && !slices.Contains(strings.Fields(allowed), strings.TrimPrefix(in, "internal/")) {
					t.Errorf("%s must not import %s: it may import %q", name, in, allowed)
				}
			}
		})
	}
}

func TestPackages(t *testing.T) {
	for _, p := range goList(t, "./...") {
		name := strings.TrimPrefix(p.ImportPath, "davit/")
		t.Run(name, func(t *testing.T) {
			if slices.Contains(drawers, filepath.Base(p.Dir)) {
				t.Errorf("%s is a name for anything: name it by what it answers", name)
			}
			if depth := strings.Count(name, "/"); strings.HasPrefix(name, "internal/") && depth > 1 {
				t.Errorf("%s: internal is one level deep", name)
			}
			files := p.GoFiles
			if len(files) == 0 {
				files = p.TestGoFiles
			}
			if comments := packageComments(t, p.Dir, files); len(comments) != 1 && len(files) > 0 {
				t.Errorf("%s has %d package comments %v, want one", name, len(comments), comments)
			}
		})
	}
}

// packageComments gives the files that have a package comment, and checks that
// each file starts with the licence.
func packageComments(t *testing.T, dir string, files []string) (with []string) {
	for _, f := range files {
		file := filepath.Join(dir, f)
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if hasText(parsed.Doc) {
			with = append(with, f)
		}
		if len(parsed.Comments) == 0 || parsed.Comments[0].List[0].Text != "// SPDX-License-Identifier: Apache-2.0" {
			t.Errorf("%s does not start with its SPDX line", file)
		}
	}
	return with
}

func hasText(doc *ast.CommentGroup) bool { return doc != nil && strings.TrimSpace(doc.Text()) != "" }

func TestHotPathLinks(t *testing.T) {
	for _, p := range goList(t, "-deps", "./cmd/davit-runtime") {
		for _, no := range notOnHotPath {
			if p.ImportPath == no || (strings.Contains(no, ".") && strings.HasPrefix(p.ImportPath, no)) {
				t.Errorf("davit-runtime links %s, which slows each container's start", p.ImportPath)
			}
		}
	}
}

func TestRuntimeIsSmallAndStatic(t *testing.T) {
	out := filepath.Join(t.TempDir(), "davit-runtime")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "./cmd/davit-runtime")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	info, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("davit-runtime has %d bytes", info.Size())
	if info.Size() > maxRuntimeSize {
		t.Errorf("davit-runtime has %d bytes, more than %d", info.Size(), maxRuntimeSize)
	}
	f, err := elf.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, s := range f.Progs {
		if s.Type == elf.PT_INTERP || s.Type == elf.PT_DYNAMIC {
			t.Errorf("davit-runtime has a %s segment: it is not static", s.Type)
		}
	}
}
