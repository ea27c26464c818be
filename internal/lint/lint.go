// SPDX-License-Identifier: Apache-2.0

// Package lint reads what people write by hand about GPUs (Dockerfiles,
// compose files, Kubernetes manifests, devcontainer.json, daemon.json) and
// says what will not work, why, and what to write instead. It reads no host
// and asks no network: it judges texts against embedded tables. Files are read
// through a function that its caller gives.
package lint

import (
	"bytes"
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"davit/internal/finding"
	"davit/internal/knowledge"
)

// Options are what a caller chooses.
type Options struct {
	Read      func(name string) ([]byte, error) // of a file, by the name a person would use
	NoIgnore  bool                              // ignore directives are not heeded
	Threshold finding.Severity                  // leave out what is milder; empty for all
}

// Linter holds the tables; it may be used by several goroutines.
type Linter struct {
	rules    map[string]Rule
	order    map[string]int // of two findings on a line the earlier cause stands first
	packages *knowledge.DriverPackages
	options  Options
}

// New reads the tables.
func New(o Options) (*Linter, error) {
	packages, err := knowledge.ReadDriverPackages()
	if err != nil {
		return nil, err
	}
	l := &Linter{rules: map[string]Rule{}, order: map[string]int{}, packages: packages, options: o}
	for i, r := range Rules() {
		l.rules[r.ID], l.order[r.ID] = r, i
	}
	return l, nil
}

// Kind is what a file is.
type Kind string

// The kinds of files.
const (
	Unknown      Kind = ""
	Dockerfile   Kind = "Dockerfile"
	Compose      Kind = "compose"
	Kubernetes   Kind = "kubernetes"
	Devcontainer Kind = "devcontainer"
	Daemon       Kind = "daemon.json"
	Requirements Kind = "requirements"
	Script       Kind = "script"
)

var kubeDocument = regexp.MustCompile(`(?m)^apiVersion\s*:`)
var kubeKind = regexp.MustCompile(`(?m)^kind\s*:`)
var composeDocument = regexp.MustCompile(`(?m)^services\s*:`)
var dockerfileText = regexp.MustCompile(`(?mi)^\s*FROM\s+\S+`)

// KindOf tells from a file's name, and where that does not decide from its
// text, what it is.
func KindOf(name string, text []byte) Kind {
	base := strings.ToLower(path.Base(strings.ReplaceAll(name, "\\", "/")))
	ext := path.Ext(base)
	switch {
	case base == "dockerfile" || base == "containerfile" || strings.HasPrefix(base, "dockerfile.") && ext != ".md" && ext != ".dockerignore" && ext != ".j2" ||
		strings.HasPrefix(base, "containerfile.") || ext == ".dockerfile" || ext == ".containerfile":
		return Dockerfile
	case base == "devcontainer.json" || base == ".devcontainer.json":
		return Devcontainer
	case base == "daemon.json":
		return Daemon
	case ext == ".yaml" || ext == ".yml" || ext == ".json":
		if kubeDocument.Match(text) && kubeKind.Match(text) {
			return Kubernetes
		}
		if composeDocument.Match(text) {
			return Compose
		}
		if ext == ".json" && bytes.Contains(text, []byte(`"runArgs"`)) {
			return Devcontainer
		}
		if ext == ".json" && bytes.Contains(text, []byte(`"apiVersion"`)) && bytes.Contains(text, []byte(`"kind"`)) {
			return Kubernetes
		}
	case ext == ".txt" && (strings.Contains(base, "require") || strings.Contains(base, "constraint")):
		return Requirements
	case ext == ".sh" || ext == ".bash":
		return Script
	case dockerfileText.Match(text) && strings.Contains(base, "docker"):
		return Dockerfile
	}
	return Unknown
}

// report collects the findings of one file.
type report struct {
	l    *Linter
	name string
	list []finding.Finding
}

// add adds a finding of a rule.
func (r *report) add(id string, line int, summary, fix string, because ...finding.Evidence) *finding.Finding {
	return r.at(id, r.name, line, summary, fix, because...)
}

func (r *report) at(id, file string, line int, summary, fix string, because ...finding.Evidence) *finding.Finding {
	rule := r.l.rules[id]
	if fix == "" {
		fix = rule.Right
	}
	where := string(Dockerfile)
	if rule.Group == groupSpec {
		where = rule.For
	}
	f := finding.Finding{ID: id, Severity: rule.Severity, Layer: "image", Summary: summary, File: file, Line: line, Because: because,
		Remediation: &finding.Remediation{Text: fix, Risk: "none", Where: where}, Docs: "docs/rules/" + id + ".md"}
	if rule.Group == groupSpec {
		f.Layer = "engine"
	}
	r.list = append(r.list, f)
	return &r.list[len(r.list)-1]
}

// File judges one file and what it runs and reads.
func (l *Linter) File(name string, text []byte) []finding.Finding {
	r := &report{l: l, name: name}
	switch KindOf(name, text) {
	case Dockerfile:
		l.dockerfile(r, text)
	case Compose:
		composeFile(r, text)
	case Kubernetes:
		kubernetesFile(r, text)
	case Devcontainer:
		devcontainerFile(r, text)
	case Daemon:
		daemonFile(r, text)
	case Requirements:
		l.requirementsFile(r, text)
	}
	list := l.ignored(r.list, name, text)
	slices.SortStableFunc(list, func(a, b finding.Finding) int {
		return cmp.Or(cmp.Compare(rank(a.Severity), rank(b.Severity)), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(l.order[a.ID], l.order[b.ID]))
	})
	list = slices.CompactFunc(list, func(a, b finding.Finding) bool {
		return a.ID == b.ID && a.File == b.File && a.Line == b.Line && a.Summary == b.Summary
	})
	if l.options.Threshold != "" {
		list = slices.DeleteFunc(list, func(f finding.Finding) bool { return rank(f.Severity) > rank(l.options.Threshold) })
	}
	return list
}

func rank(s finding.Severity) int {
	return slices.Index([]finding.Severity{finding.Error, finding.Warning, finding.Info, finding.OK}, s)
}

// beside reads files of a Dockerfile's build context, which is its folder or
// one of the two above it.
func (l *Linter) beside(dockerfile string) func(string) (string, []byte, error) {
	return func(name string) (string, []byte, error) {
		if l.options.Read == nil || name == "" {
			return "", nil, fmt.Errorf("%s: not read", name)
		}
		dir := path.Dir(dockerfile)
		for range 3 {
			full := path.Join(dir, name)
			if text, err := l.options.Read(full); err == nil {
				return full, text, nil
			}
			if dir == "." || dir == "/" || strings.HasSuffix(dir, "..") {
				break
			}
			dir = path.Dir(dir)
		}
		return "", nil, fmt.Errorf("%s: not in the context", name)
	}
}

func (l *Linter) dockerfile(r *report, text []byte) {
	d, err := parseDockerfile(r.name, text, l.beside(r.name))
	if err != nil {
		// A file of comments alone is none that anybody builds.
		if !strings.Contains(err.Error(), "no instructions") {
			r.add("file-not-understood", 1, fmt.Sprintf("not a Dockerfile that BuildKit can read: %s", firstLine(err.Error())), "")
		}
		return
	}
	c := &checker{report: r, d: d}
	c.all()
}

func firstLine(s string) string { s, _, _ = strings.Cut(s, "\n"); return s }

var directive = regexp.MustCompile(`(?i)#\s*davit:\s*(ignore|ignore-file)=([\w.,-]+)[ \t]*(.*)$`)

// ignored takes out what the file's own directives name. A directive holds for
// the next line that is no comment, for the instruction that begins there, and
// for its own line; it needs a reason.
func (l *Linter) ignored(list []finding.Finding, name string, text []byte) []finding.Finding {
	if !bytes.Contains(text, []byte("davit:")) {
		return list
	}
	lines := strings.Split(string(text), "\n")
	type span struct{ from, to int }
	spans := map[string][]span{}
	for i, line := range lines {
		m := directive.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if strings.TrimSpace(m[3]) == "" {
			r := &report{l: l, name: name}
			r.add("ignore-without-reason", i+1, "the ignore directive gives no reason and is not heeded", "")
			list = append(list, r.list...)
			continue
		}
		s := span{1, len(lines)}
		if strings.ToLower(m[1]) == "ignore" {
			s.from, s.to = i+1, i+1
			if strings.HasPrefix(strings.TrimSpace(line), "#") {
				n := i + 1
				for n < len(lines) && (strings.HasPrefix(strings.TrimSpace(lines[n]), "#") || strings.TrimSpace(lines[n]) == "") {
					n++
				}
				s.to = n + 1
				for n < len(lines) && (strings.HasSuffix(strings.TrimRight(lines[n], " \t\r"), "\\") || strings.HasPrefix(strings.TrimSpace(lines[n]), "#")) {
					n++
					s.to = n + 1
				}
			}
		}
		for _, id := range strings.Split(m[2], ",") {
			spans[id] = append(spans[id], s)
		}
	}
	if l.options.NoIgnore {
		return list
	}
	return slices.DeleteFunc(list, func(f finding.Finding) bool {
		return f.File == name && slices.ContainsFunc(spans[f.ID], func(s span) bool { return f.Line >= s.from && f.Line <= s.to })
	})
}

// evidence is a line of a file as a fact.
func (d *dockerfile) evidence(line int) finding.Evidence {
	value := ""
	if line >= 1 && line <= len(d.lines) {
		value = strings.TrimSpace(d.lines[line-1])
	}
	return finding.Evidence{Source: fmt.Sprintf("%s:%d", d.name, line), Value: value}
}
