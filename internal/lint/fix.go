// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"

	"davit/internal/finding"
	"davit/internal/knowledge"
)

// Fixed is what --fix makes of a file.
type Fixed struct {
	Text  []byte
	Notes []string // what was done, a line each
}

// Fix mends what is mechanical and leaves every other byte as it is. The
// result is linted again by the caller: not every finding can be mended so.
func (l *Linter) Fix(name string, text []byte) Fixed {
	out := Fixed{Text: text}
	for range 5 {
		f := &fixer{l: l, name: name, text: out.Text, vars: map[string]bool{}}
		switch KindOf(name, out.Text) {
		case Dockerfile:
			f.dockerfile()
		case Compose, Devcontainer:
			f.spec()
		}
		next := f.apply()
		if bytes.Equal(next, out.Text) {
			break
		}
		// A result that cannot be read is worse than none.
		if KindOf(name, next) == Dockerfile {
			if _, err := parseDockerfile(name, next, l.beside(name)); err != nil {
				break
			}
		}
		out.Text = next
		for _, n := range f.notes {
			if !slices.Contains(out.Notes, n) {
				out.Notes = append(out.Notes, n)
			}
		}
	}
	return out
}

type edit struct {
	from, to int
	text     string
}

type fixer struct {
	l      *Linter
	name   string
	text   []byte
	starts []int // offset of each line
	edits  []edit
	notes  []string
	d      *dockerfile
	c      *checker
	drop   map[*instr]map[*command]bool
	gone   []string // texts of dropped driver steps
	driver bool     // a driver step goes
	tools  bool     // a CUDA toolkit's run file goes
	add    []string // driver capabilities to add
	vars   map[string]bool
}

func (f *fixer) note(format string, args ...any) {
	f.notes = append(f.notes, fmt.Sprintf(format, args...))
}

// at is the offset of a place, line and column from 1.
func (f *fixer) at(line, col int) int {
	if line < 1 || line > len(f.starts) {
		return len(f.text)
	}
	return min(f.starts[line-1]+max(0, col-1), len(f.text))
}

func (f *fixer) index() {
	f.starts = []int{0}
	for i, b := range f.text {
		if b == '\n' {
			f.starts = append(f.starts, i+1)
		}
	}
}

// apply makes the edits; of two that overlap the first counts.
func (f *fixer) apply() []byte {
	slices.SortStableFunc(f.edits, func(a, b edit) int { return a.from - b.from })
	var out []byte
	at := 0
	for _, e := range f.edits {
		if e.from < at || e.to < e.from {
			continue
		}
		out = append(append(out, f.text[at:e.from]...), e.text...)
		at = e.to
	}
	return append(out, f.text[at:]...)
}

// replace replaces the first occurrence of a text on a line.
func (f *fixer) replace(line int, old, text string) bool {
	from, to := f.at(line, 1), f.at(line+1, 1)
	i := bytes.Index(f.text[from:to], []byte(old))
	if i < 0 || old == "" {
		return false
	}
	f.edits = append(f.edits, edit{from + i, from + i + len(old), text})
	return true
}

// remove takes an instruction out, with comments that speak of it alone.
func (f *fixer) remove(in *instr) {
	from := in.line
	for from > 1 {
		above := strings.ToLower(strings.TrimSpace(f.d.lines[from-2]))
		if !strings.HasPrefix(above, "#") || !(strings.Contains(above, "driver") || strings.Contains(above, "nvidia")) || strings.Contains(above, "davit:") {
			break
		}
		from--
	}
	f.edits = append(f.edits, edit{f.at(from, 1), f.at(in.end+1, 1), ""})
}

func (f *fixer) dockerfile() {
	d, err := parseDockerfile(f.name, f.text, f.l.beside(f.name))
	if err != nil {
		return
	}
	f.index()
	f.d, f.drop = d, map[*instr]map[*command]bool{}
	f.c = &checker{report: &report{l: f.l, name: f.name}, d: d}
	f.c.all()
	list := f.l.ignored(f.c.list, f.name, f.text)
	has := func(id string, line int) bool {
		return slices.ContainsFunc(list, func(x finding.Finding) bool { return x.ID == id && x.File == f.name && x.Line == line })
	}
	f.driverSteps(has)
	for _, x := range list {
		if x.File == f.name {
			f.mend(x)
		}
	}
	f.runs()
	f.unused()
	f.bases(has)
	f.variables()
}

func (f *fixer) dropCommand(cm *command) {
	if cm.statement == nil || cm.file != f.name {
		return
	}
	if f.drop[cm.run] == nil {
		f.drop[cm.run] = map[*command]bool{}
	}
	f.drop[cm.run][cm] = true
	f.gone = append(f.gone, cm.path+" "+cm.text())
}

// driverSteps finds the commands that bring the driver.
func (f *fixer) driverSteps(has func(string, int) bool) {
	f.c.each(func(s *stage, in *instr) {
		for _, cm := range in.commands {
			line := has("driver-installer-in-image", cm.line) && cm.file == f.name
			program := cm.rawName()
			if isShell(cm.name) && len(cm.args) > 0 {
				program = cm.args[0].val
			}
			switch {
			case line && driverRunFile.MatchString(cm.text()+" "+program), line && oneOf(cm.name, "nvidia-installer", "ubuntu-drivers"):
				f.dropCommand(cm)
				f.driver = true
				f.note("line %d: the driver's installer is gone; the host's driver is injected at run time", cm.line)
			case has("kernel-module-in-image", cm.line) && oneOf(cm.name, "modprobe", "insmod"), has("driver-library-in-image", cm.line) && oneOf(cm.name, "cp", "ln", "mv", "install"):
				f.dropCommand(cm)
				f.driver = true
			case has("stub-library-in-final-stage", cm.line) && oneOf(cm.name, "cp", "ln", "echo", "printf"):
				f.dropCommand(cm)
				f.note("line %d: no stub where programs load it", cm.line)
			}
			f.packages(cm, has)
		}
		if (in.cmd == "copy" || in.cmd == "add") && len(in.args) > 1 {
			drivers := 0
			for _, src := range in.args[:len(in.args)-1] {
				if driverFile.MatchString(src) && has("driver-library-in-image", f.d.lineOf(in, path.Base(src))) {
					drivers++
				}
			}
			if drivers > 0 && drivers == len(in.args)-1 {
				f.remove(in)
				f.driver = true
				f.note("line %d: no copied driver files", in.line)
			}
		}
	})
	if f.driver {
		f.around()
	}
}

// around drops what only served a driver step: fetching its installer,
// and, where the installer of an old CUDA toolkit stands beside, that too: the
// base brings the toolkit.
func (f *fixer) around() {
	f.c.each(func(s *stage, in *instr) {
		for _, cm := range in.commands {
			program := cm.rawName()
			if isShell(cm.name) && len(cm.args) > 0 {
				program = cm.args[0].val
			}
			base := path.Base(program)
			switch {
			case driverRunFile.MatchString(cm.text()) && oneOf(cm.name, "curl", "wget", "chmod", "rm", "mv", "aria2c", "sha256sum", "ls"):
				f.dropCommand(cm)
			case cm.name == "rm" && strings.Contains(cm.text(), "/tmp/selfgz"), strings.Contains(cm.text(), "nvidia") && cm.has("remove", "purge") && oneOf(cm.name, "apt-get", "apt"):
				f.dropCommand(cm)
			case strings.HasSuffix(base, ".run") && strings.HasPrefix(base, "cuda"):
				f.dropCommand(cm)
				f.tools = true
				if strings.Contains(base, "samples") {
					f.note("line %d: the samples of that toolkit are gone with it; those of today are at github.com/NVIDIA/cuda-samples", cm.line)
				} else {
					f.note("line %d: the toolkit comes with the devel tag", cm.line)
				}
			}
		}
	})
}

// packages takes driver packages out of an install, and replaces those that
// have a name without the driver.
func (f *fixer) packages(cm *command, has func(string, int) bool) {
	list := systemPackages(cm)
	left := len(list)
	var words []word
	for _, p := range list {
		if cm.statement == nil || p.word.end == 0 || cm.file != f.name {
			return
		}
		known := f.l.packages.Find(p.name)
		if known == nil {
			continue
		}
		switch {
		case known.Kind == "driver" && has("driver-package-in-image", p.word.line):
			left--
			words = append(words, p.word)
			f.driver = true
			f.note("line %d: without %s", p.word.line, p.name)
		case known.Kind == "meta" && has("cuda-metapackage-pulls-driver", p.word.line):
			to := "cuda-toolkit"
			text := strings.Trim(metaInstead(p.name, known.Instead), " ")
			for _, w := range strings.Fields(text) {
				if strings.HasPrefix(w, "cuda-toolkit-") || strings.HasPrefix(w, "cuda-libraries-") && !strings.Contains(w, "X-Y") {
					to = strings.Trim(w, ",;")
					break
				}
			}
			if strings.HasPrefix(p.name, "lambda") || strings.HasPrefix(p.name, "cuda-demo") {
				continue
			}
			f.edits = append(f.edits, edit{f.at(p.word.line, p.word.col), f.at(p.word.line, p.word.end), to})
			f.note("line %d: %s in place of %s", p.word.line, to, p.name)
			f.driver = true
		case p.name == "nvidia-opencl-dev" && has("package-pulls-driver-libraries", p.word.line):
			f.edits = append(f.edits, edit{f.at(p.word.line, p.word.col), f.at(p.word.line, p.word.end), "ocl-icd-opencl-dev opencl-headers"})
			f.note("line %d: OpenCL's own packages in place of nvidia-opencl-dev", p.word.line)
		}
	}
	if len(words) > 0 && left == 0 {
		f.dropCommand(cm)
		return
	}
	for _, w := range words {
		f.dropWord(w)
	}
}

// dropWord takes a word out, and the line that it had for itself.
func (f *fixer) dropWord(w word) {
	from, to := f.at(w.line, w.col), f.at(w.line, w.end)
	lineFrom, lineTo := f.at(w.line, 1), f.at(w.line+1, 1)
	before := strings.TrimSpace(string(f.text[lineFrom:from]))
	after := strings.TrimSpace(string(f.text[to:lineTo]))
	switch {
	case before == "" && after == string(f.d.escape):
		f.edits = append(f.edits, edit{lineFrom, lineTo, ""})
	case before == "" && after == "":
		// The last line: the mark of continuation before it goes too.
		start := lineFrom
		for start > 0 && strings.ContainsRune(" \t\r\n"+string(f.d.escape), rune(f.text[start-1])) {
			start--
		}
		f.edits = append(f.edits, edit{start, to, ""})
	default:
		for from > lineFrom && (f.text[from-1] == ' ' || f.text[from-1] == '\t') {
			from--
		}
		f.edits = append(f.edits, edit{from, to, ""})
	}
}

// leaves are the commands of an && list, in order.
func leaves(list []*syntax.Stmt) (out []*syntax.Stmt) {
	for _, s := range list {
		if b, ok := s.Cmd.(*syntax.BinaryCmd); ok && b.Op == syntax.AndStmt && len(s.Redirs) == 0 && !s.Negated {
			out = append(out, leaves([]*syntax.Stmt{b.X, b.Y})...)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// runs rewrites RUN instructions without the dropped commands.
func (f *fixer) runs() {
	for in, dropped := range f.drop {
		list := leaves(parseShell(in.script).Stmts)
		var keep []int
		useful := false
		for i, leaf := range list {
			out := false
			for cm := range dropped {
				p := cm.statement.Pos().Offset()
				out = out || p >= leaf.Pos().Offset() && p < leaf.End().Offset()
			}
			if out {
				continue
			}
			keep = append(keep, i)
			if c, ok := leaf.Cmd.(*syntax.CallExpr); !ok || len(c.Args) > 0 && !oneOf(c.Args[0].Lit(), "cd", "rm", "true", "echo", "set", "chmod", "mkdir", "ldconfig") {
				useful = useful || !onlyUpdates(leaf)
			}
		}
		if !useful {
			f.remove(in)
			continue
		}
		place := func(p syntax.Pos) int { return f.at(in.line-1+int(p.Line()), int(p.Col())) }
		// A text with mistakes in it has no places to trust.
		last, sound := 0, true
		for _, leaf := range list {
			from, to := place(leaf.Pos()), place(leaf.End())
			sound = sound && leaf.Pos().IsValid() && leaf.End().IsValid() && from >= last && to >= from && to < len(f.text)+1
			last = to
		}
		if !sound {
			continue
		}
		var text strings.Builder
		for n, i := range keep {
			if n > 0 {
				text.Write(f.text[place(list[i-1].End()):place(list[i].Pos())])
			}
			text.Write(f.text[place(list[i].Pos()):place(list[i].End())])
		}
		f.edits = append(f.edits, edit{place(list[0].Pos()), place(list[len(list)-1].End()), text.String()})
	}
}

// onlyUpdates says whether a command only fetches package lists.
func onlyUpdates(s *syntax.Stmt) bool {
	c, ok := s.Cmd.(*syntax.CallExpr)
	if !ok || len(c.Args) < 2 || !oneOf(c.Args[0].Lit(), "apt-get", "apt") {
		return false
	}
	return slices.ContainsFunc(c.Args, func(w *syntax.Word) bool { return oneOf(w.Lit(), "update", "clean", "autoclean") })
}

// unused takes out what was added only for dropped steps.
func (f *fixer) unused() {
	if len(f.gone) == 0 {
		return
	}
	f.c.each(func(s *stage, in *instr) {
		if in.cmd != "add" && in.cmd != "copy" || len(in.args) != 2 {
			return
		}
		target := place(in.workdir, in.args[1])
		if target == "/" || !slices.ContainsFunc(f.gone, func(t string) bool { return strings.Contains(t, target) }) {
			return
		}
		var removals []*command
		for _, other := range s.instrs {
			if other == in {
				continue
			}
			for _, cm := range other.commands {
				if f.drop[other][cm] || !strings.Contains(cm.path+" "+cm.text(), target) {
					continue
				}
				if cm.name != "rm" {
					return
				}
				removals = append(removals, cm)
			}
			if other.cmd != "run" && strings.Contains(other.node.Original, target) {
				return
			}
		}
		f.remove(in)
		for _, cm := range removals {
			if len(cm.run.commands) == 1 {
				f.remove(cm.run)
			}
		}
	})
}

// bases replaces tags that are gone, and the base of an image that built its
// own driver and toolkit.
func (f *fixer) bases(has func(string, int) bool) {
	for _, s := range f.d.stages {
		if s.base == "" || s.chosen {
			continue
		}
		b := imageOf(s.base)
		to := ""
		switch {
		case b.cuda && (has("retired-base-image", s.line) || has("base-image-without-tag", s.line) || has("base-image-end-of-life", s.line)):
			tag, _ := replacement(b.known)
			to = "nvidia/cuda:" + tag
			if strings.HasPrefix(b.repo, "nvcr.io/") {
				to = "nvcr.io/" + to
			}
		case !b.cuda && f.driver && (f.tools || knowledge.EndOfLife(b.system) != "") && strings.HasPrefix(b.system, "ubuntu"):
			flavour := "base"
			if f.tools {
				flavour = "devel"
			}
			tag, _ := replacement(knowledge.Tag{CUDA: "12.9.1", Flavour: flavour, Distro: "ubuntu24.04"})
			to = "nvidia/cuda:" + tag
		}
		if to != "" && f.replace(s.line, s.raw, to) {
			f.note("line %d: FROM %s in place of %s", s.line, to, s.raw)
		}
	}
	// A variable that a step of its own exported: the base sets the path.
	if f.tools {
		f.c.each(func(_ *stage, in *instr) {
			if has("export-without-effect", in.line) {
				f.remove(in)
			}
		})
	}
}

// variables adds the two NVIDIA variables where a driver went.
func (f *fixer) variables() {
	if !f.driver && !f.vars["missing"] {
		return
	}
	im := f.c.leaves[len(f.c.leaves)-1]
	if _, ok := im.env["NVIDIA_VISIBLE_DEVICES"]; ok || im.base.cuda {
		return
	}
	caps := "compute,utility"
	if f.c.usesGraphics(im) != "" {
		caps += ",graphics"
	}
	if f.c.usesVideo(im) != "" {
		caps += ",video"
	}
	text := "ENV NVIDIA_VISIBLE_DEVICES=all\n"
	if _, ok := im.env["NVIDIA_DRIVER_CAPABILITIES"]; !ok {
		text += "ENV NVIDIA_DRIVER_CAPABILITIES=" + caps + "\n"
	}
	at := f.at(im.leaf.from.end+1, 1)
	if at == len(f.text) && len(f.text) > 0 && f.text[len(f.text)-1] != '\n' {
		text = "\n" + text
	}
	f.edits = append(f.edits, edit{at, at, text})
	f.note("the two NVIDIA variables, so that every runtime gives the container its GPUs")
}
