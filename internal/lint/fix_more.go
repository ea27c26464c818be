// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"path"
	"regexp"
	"strings"

	"davit/internal/finding"
)

// mend mends one finding that needs a change of its own line.
func (f *fixer) mend(x finding.Finding) {
	in := f.instrAt(x.Line)
	if in == nil {
		return
	}
	switch x.ID {
	case "stub-library-in-final-stage", "compat-library-forced":
		if in.cmd == "env" {
			f.withoutFolder(in, x)
		}
	case "library-path-overwritten":
		f.envValue(in, "LD_LIBRARY_PATH", func(v string) string { return v + ":${LD_LIBRARY_PATH}" })
		f.note("line %d: LD_LIBRARY_PATH keeps the base's value", x.Line)
	case "capability-video-missing", "capability-graphics-missing", "capability-utility-missing", "capability-compute-missing":
		f.capability(in, x)
	case "apt-without-yes":
		for _, cm := range in.commands {
			for _, a := range cm.args {
				if cm.line == x.Line && a.val == "install" && a.end > 0 && cm.statement != nil {
					at := f.at(a.line, a.end)
					f.edits = append(f.edits, edit{at, at, " -y"})
					f.note("line %d: apt-get install -y", x.Line)
				}
			}
		}
	case "command-overridden":
		f.remove(in)
		f.note("line %d: the CMD without effect is gone", x.Line)
	case "requirement-disabled", "visible-devices-fixed":
		if len(in.args) == 3 {
			f.remove(in)
			f.note("line %d: %s is left to run time", x.Line, in.args[0])
		}
	case "empty-loader-configuration", "driver-removal-useless":
		for _, cm := range in.commands {
			if cm.line == x.Line && oneOf(cm.name, "touch", "apt-get", "apt", "yum", "dnf") {
				f.dropCommand(cm)
			}
		}
	case "export-without-effect":
		if cm := in.commands[0]; !f.tools && len(in.commands) == 1 && len(cm.vars) == 1 && in.line == in.end {
			if f.replace(in.line, strings.TrimSpace(f.d.lines[in.line-1]), "ENV "+strings.TrimSpace(regexp.MustCompile(`(?i)^\s*RUN\s+export\s+`).ReplaceAllString(f.d.lines[in.line-1], ""))) {
				f.note("line %d: ENV in place of export", x.Line)
			}
		}
	case "gpu-variables-missing":
		f.vars["missing"] = true
	case "cpu-only-framework":
		f.gpuBuild(in, x)
	case "cuda-installer-with-driver":
		f.toolkitOnly(in, x)
	}
}

func (f *fixer) instrAt(line int) *instr {
	for _, s := range f.d.stages {
		if line >= s.from.line && line <= s.from.end {
			return s.from
		}
		for _, in := range s.instrs {
			if line >= in.line && line <= in.end {
				return in
			}
		}
	}
	return nil
}

// envValue changes the value of one variable of ENV.
func (f *fixer) envValue(in *instr, name string, change func(string) string) {
	for i := 0; i+1 < len(in.args); i += 3 {
		if in.args[i] != name {
			continue
		}
		old := in.args[i+1]
		bare := strings.Trim(old, `"'`)
		for n := in.line; n <= in.end; n++ {
			if sets(f.d.lines[n-1], name) && f.replace(n, bare, change(bare)) {
				return
			}
		}
	}
}

// withoutFolder takes stubs or compat folders off a path.
func (f *fixer) withoutFolder(in *instr, x finding.Finding) {
	var left []string
	for i := 0; i+1 < len(in.args); i += 3 {
		if in.args[i] != "LD_LIBRARY_PATH" {
			continue
		}
		for _, p := range strings.Split(strings.Trim(in.args[i+1], `"'`), ":") {
			if p != "" && !strings.Contains(p, "/stubs") && !compatPath.MatchString(p) {
				left = append(left, p)
			}
		}
	}
	if len(in.args) == 3 && (len(left) == 0 || len(left) == 1 && strings.Contains(left[0], "$")) {
		f.remove(in)
	} else if len(left) > 0 {
		f.envValue(in, "LD_LIBRARY_PATH", func(string) string { return strings.Join(left, ":") })
	}
	f.note("line %d: that folder is off LD_LIBRARY_PATH", x.Line)
}

func (f *fixer) capability(in *instr, x finding.Finding) {
	word := strings.Split(x.ID, "-")[1]
	if word == "graphics" && strings.Contains(x.Summary, "no display") {
		word = "display"
	}
	for _, done := range f.add {
		if done == word {
			return
		}
	}
	f.add = append(f.add, word)
	if len(f.add) > 1 {
		return // the next round adds it
	}
	if in.cmd == "env" {
		f.envValue(in, "NVIDIA_DRIVER_CAPABILITIES", func(v string) string { return v + "," + word })
	} else {
		at := f.at(f.c.leaves[len(f.c.leaves)-1].leaf.from.end+1, 1)
		f.edits = append(f.edits, edit{at, at, "ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility," + word + "\n"})
	}
	f.note("line %d: the capability %s", x.Line, word)
}

var cpuIndex = regexp.MustCompile(`/whl/(nightly/)?cpu\b`)
var namedIndex = regexp.MustCompile(`/whl/cu\d+`)

func (f *fixer) gpuBuild(in *instr, x finding.Finding) {
	if in.cmd == "from" {
		if tag, ok := strings.CutPrefix(x.Remediation.Text, "FROM "); ok && f.replace(x.Line, in.stage.raw, tag) {
			f.note("line %d: the GPU variant %s", x.Line, tag)
		}
		return
	}
	to := namedIndex.FindString(x.Remediation.Text)
	for n := in.line; n <= in.end && to != ""; n++ {
		if m := cpuIndex.FindString(f.d.lines[n-1]); m != "" && !strings.HasPrefix(strings.TrimSpace(f.d.lines[n-1]), "#") {
			f.replace(n, m, to)
			f.note("line %d: the CUDA index %s", n, strings.TrimPrefix(to, "/whl/"))
		}
	}
}

// toolkitOnly keeps the driver out of a CUDA run file.
func (f *fixer) toolkitOnly(in *instr, x finding.Finding) {
	for _, cm := range in.commands {
		if cm.line != x.Line || cm.statement == nil {
			continue
		}
		toolkit := false
		for _, a := range cm.args {
			if oneOf(a.val, "--driver", "-driver") {
				f.dropWord(a)
			}
			toolkit = toolkit || oneOf(a.val, "--toolkit", "-toolkit")
		}
		if toolkit {
			continue
		}
		for n := cm.line; n <= in.end; n++ {
			program := cm.rawName()
			if isShell(cm.name) && len(cm.args) > 0 {
				program = cm.args[0].val
			}
			if f.replace(n, path.Base(program), path.Base(program)+" --toolkit") {
				f.note("line %d: --toolkit, so that the driver stays out", n)
				break
			}
		}
	}
}

// spec mends compose files and devcontainer.json.
func (f *fixer) spec() {
	f.index()
	lines := strings.Split(string(f.text), "\n")
	for _, x := range f.l.File(f.name, f.text) {
		if x.File != f.name || x.Line < 1 || x.Line > len(lines) {
			continue
		}
		line := strings.TrimRight(lines[x.Line-1], "\r")
		switch x.ID {
		case "compose-count-missing":
			trimmed := strings.TrimLeft(line, " ")
			if !strings.HasPrefix(trimmed, "- ") || strings.Contains(trimmed, "{") {
				continue
			}
			indent := strings.Repeat(" ", len(line)-len(strings.TrimLeft(trimmed[2:], " ")))
			at := f.at(x.Line+1, 1)
			text := indent + "count: all\n"
			if at == len(f.text) && !strings.HasSuffix(string(f.text), "\n") {
				text = "\n" + strings.TrimSuffix(text, "\n")
			}
			f.edits = append(f.edits, edit{at, at, text})
			f.note("line %d: count: all", x.Line)
		case "devcontainer-gpus-argument":
			if m := regexp.MustCompile(`"(--\w+) +([^"]+)"`).FindStringSubmatch(line); m != nil && f.replace(x.Line, m[0], `"`+m[1]+"="+m[2]+`"`) {
				f.note("line %d: one argument with =", x.Line)
			}
		}
	}
}
