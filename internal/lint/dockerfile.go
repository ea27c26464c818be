// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// instr is one instruction.
type instr struct {
	cmd       string // lower case
	args      []string
	flags     []string
	json      bool
	line, end int
	stage     *stage
	node      *parser.Node
	commands  []*command // of RUN, with those of scripts that it runs
	vars      map[string]string
	workdir   string
	script    string // RUN's own shell text, positions as in the file
}

// setting is one variable set by ENV.
type setting struct {
	value, raw string
	line       int
	in         *instr
}

// stage is one FROM and what follows.
type stage struct {
	index    int
	name     string
	base     string // the image, or empty where it is another stage
	raw      string
	line     int
	platform string
	parent   *stage
	from     *instr
	instrs   []*instr
	uses     []*stage // by COPY --from or a mount
	whole    []*stage // stages whose whole tree is copied
	parted   []*stage // stages of which an environment of packages is copied
	env      map[string]string
	byArg    bool // the base is chosen by an ARG that has no value here
	chosen   bool // the base holds an ARG at all
}

// dockerfile is a parsed Dockerfile.
type dockerfile struct {
	name   string
	lines  []string
	stages []*stage
	read   func(string) (string, []byte, error) // of the context: gives the name for people too
	escape rune
	files  map[string]map[string]string // by stage: file in the image -> file in the context
	text   map[string]string            // content of files written by the Dockerfile itself
	args   map[string]bool              // names of ARGs
}

// parseDockerfile reads a Dockerfile. read gives files of the build context
// by their path beside the Dockerfile.
func parseDockerfile(name string, text []byte, read func(string) (string, []byte, error)) (*dockerfile, error) {
	parsed, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	d := &dockerfile{name: name, read: read, escape: parsed.EscapeToken, args: map[string]bool{},
		files: map[string]map[string]string{}, text: map[string]string{}}
	for line := range strings.Lines(string(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")))) {
		d.lines = append(d.lines, strings.TrimRight(line, "\r\n"))
	}
	global := map[string]string{}
	lex := shell.NewLex(d.escape)
	vars := map[string]string{}
	for _, node := range parsed.AST.Children {
		in := &instr{cmd: strings.ToLower(node.Value), flags: node.Flags, json: node.Attributes["json"], line: node.StartLine, end: node.EndLine, node: node}
		for n := node.Next; n != nil; n = n.Next {
			in.args = append(in.args, n.Value)
		}
		if in.cmd == "from" {
			vars = d.startStage(in, global, lex)
			continue
		}
		if in.cmd == "arg" {
			for _, a := range in.args {
				k, v, ok := strings.Cut(a, "=")
				d.args[k] = true
				if g, has := global[k]; !ok && has && len(d.stages) > 0 {
					v, ok = g, true
				}
				if ok {
					if _, isEnv := d.envOf(k); !isEnv {
						vars[k] = expandWord(lex, v, vars)
					}
				}
			}
			if len(d.stages) == 0 {
				global = vars
			}
		}
		if len(d.stages) == 0 {
			continue
		}
		s := d.stages[len(d.stages)-1]
		in.stage = s
		s.instrs = append(s.instrs, in)
		d.follow(in, s, vars, lex)
	}
	return d, nil
}

func (d *dockerfile) envOf(name string) (string, bool) {
	if len(d.stages) == 0 {
		return "", false
	}
	v, ok := d.stages[len(d.stages)-1].env[name]
	return v, ok
}

// maxValue is the longest value that is followed: a few lines can double one
// without end.
const maxValue = 1 << 14

// expandWord expands variables as Docker does; what is not known becomes *.
func expandWord(lex *shell.Lex, text string, vars map[string]string) string {
	if !strings.Contains(text, "$") && !strings.ContainsAny(text, `"'\`) {
		return text
	}
	r, err := lex.ProcessWordWithMatches(text, mapEnv(vars))
	if err != nil {
		return text
	}
	if len(r.Result) > maxValue {
		return "*"
	}
	if len(r.Unmatched) == 0 {
		return r.Result
	}
	more := maps.Clone(vars)
	if more == nil {
		more = map[string]string{}
	}
	for name := range r.Unmatched {
		if !strings.Contains(text, "${"+name+":") && !strings.Contains(text, "${"+name+"-") {
			more[name] = "*"
		}
	}
	if r2, err := lex.ProcessWordWithMatches(text, mapEnv(more)); err == nil {
		return r2.Result
	}
	return r.Result
}

type mapEnv map[string]string

func (m mapEnv) Get(name string) (string, bool) { v, ok := m[name]; return v, ok }
func (m mapEnv) Keys() []string                 { return slices.Collect(maps.Keys(m)) }

func (d *dockerfile) startStage(in *instr, global map[string]string, lex *shell.Lex) map[string]string {
	s := &stage{index: len(d.stages), line: in.line, from: in, env: map[string]string{}}
	in.stage = s
	if len(in.args) > 0 {
		s.raw = in.args[0]
		s.base = expandWord(lex, s.raw, global)
		s.chosen = strings.Contains(s.raw, "$")
		s.byArg = strings.Contains(s.base, "*")
	}
	for _, f := range in.flags {
		if v, ok := strings.CutPrefix(f, "--platform="); ok {
			s.platform = expandWord(lex, v, global)
		}
	}
	if len(in.args) == 3 && strings.EqualFold(in.args[1], "as") {
		s.name = strings.ToLower(in.args[2])
	}
	if p := d.stageOf(s.base); p != nil {
		s.parent, s.base = p, ""
		s.env = maps.Clone(p.env)
	}
	d.stages = append(d.stages, s)
	vars := maps.Clone(s.env)
	vars["TARGETARCH"], vars["TARGETPLATFORM"], vars["TARGETOS"], vars["BUILDPLATFORM"] = "amd64", "linux/amd64", "linux", "linux/amd64"
	return vars
}

func (d *dockerfile) stageOf(name string) *stage {
	for _, s := range slices.Backward(d.stages) {
		if s.name != "" && s.name == strings.ToLower(name) {
			return s
		}
	}
	if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < len(d.stages) {
		return d.stages[n]
	}
	return nil
}

// follow takes one instruction of a stage in.
func (d *dockerfile) follow(in *instr, s *stage, vars map[string]string, lex *shell.Lex) {
	in.workdir = vars["\x00workdir"]
	switch in.cmd {
	case "env":
		old := maps.Clone(vars)
		for i := 0; i+1 < len(in.args); i += 3 { // name, value, separator
			v := expandWord(lex, in.args[i+1], old)
			vars[in.args[i]], s.env[in.args[i]] = v, v
		}
		in.vars = maps.Clone(vars)
	case "workdir":
		if len(in.args) > 0 {
			w := expandWord(lex, in.args[0], vars)
			if !strings.HasPrefix(w, "/") {
				w = path.Join("/", in.workdir, w)
			}
			vars["\x00workdir"] = w
		}
	case "copy", "add":
		d.copied(in, s, vars, lex)
	case "run":
		in.vars = maps.Clone(vars)
		d.runs(in, s)
	}
	if in.vars == nil {
		in.vars = vars
	}
}

var runPrefix = regexp.MustCompile(`(?i)^\s*RUN\b`)
var runFlag = regexp.MustCompile("^(?:[ \t]|\\\\\n)*--(?:mount|network|security|device)(?:=(?:\"[^\"]*\"|[^\\s\"])+)?")

// runs reads what a RUN instruction runs.
func (d *dockerfile) runs(in *instr, s *stage) {
	r := &shellReader{file: d.name, run: in, vars: maps.Clone(in.vars), files: map[string]string{}, own: true}
	for _, f := range in.flags {
		d.mounted(f, in, s)
	}
	switch {
	case in.json:
		var words []word
		for _, a := range in.args {
			words = append(words, word{val: a, raw: a, line: d.lineOf(in, a)})
		}
		if len(words) > 0 {
			r.add(words, map[string]string{}, nil, in.line, false, nil)
		}
	case len(in.node.Heredocs) > 0 && strings.TrimSpace(bare(in.node.Original)) == "":
		h := in.node.Heredocs[0]
		first := in.end - strings.Count(h.Content, "\n")
		if lang, _, _ := strings.Cut(h.Content, "\n"); strings.HasPrefix(lang, "#!") && !isShell(path.Base(lastField(lang))) {
			r.out = append(r.out, &command{name: path.Base(lastField(lang)), line: in.line, file: d.name, run: in, redirects: []redirect{{body: h.Content, line: first}}})
			break
		}
		r.own = false
		r.read(h.Content, first)
	default:
		in.script = d.runText(in)
		r.read(in.script, in.line)
	}
	maps.Copy(d.text, absolute(r.files, in.workdir))
	in.commands = append(in.commands, r.out...)
	for _, c := range r.out {
		d.scripts(c, s, 0)
	}
}

// bare is a RUN's line without the instruction, flags and here-document mark.
func bare(line string) string {
	line = runPrefix.ReplaceAllString(line, "")
	for loc := runFlag.FindStringIndex(line); loc != nil; loc = runFlag.FindStringIndex(line) {
		line = line[loc[1]:]
	}
	return hereMark.ReplaceAllString(line, "")
}

var hereMark = regexp.MustCompile(`^\s*\d*<<-?\s*["']?\w+["']?\s*$`)

func lastField(s string) string {
	f := strings.Fields(strings.TrimPrefix(s, "#!"))
	if len(f) == 0 {
		return ""
	}
	return f[len(f)-1]
}

func absolute(files map[string]string, workdir string) map[string]string {
	out := map[string]string{}
	for k, v := range files {
		out[place(workdir, k)] = v
	}
	return out
}

// runText is the shell text of a RUN, each byte on the line and column where
// it stands in the file.
func (d *dockerfile) runText(in *instr) string {
	if in.line < 1 || in.end > len(d.lines) || in.line > in.end {
		return bare(in.node.Original)
	}
	lines := slices.Clone(d.lines[in.line-1 : in.end])
	header := len(lines)
	for _, h := range in.node.Heredocs {
		header -= strings.Count(h.Content, "\n") + 1
	}
	for i := 0; i < header && i < len(lines); i++ {
		trimmed := strings.TrimSpace(lines[i])
		switch {
		case i > 0 && (trimmed == "" || strings.HasPrefix(trimmed, "#")):
			lines[i] = "\\"
		case d.escape != '\\':
			lines[i] = strings.TrimSuffix(strings.TrimRight(lines[i], " \t"), string(d.escape))
			if i < header-1 {
				lines[i] += "\\"
			}
		default:
			if t := strings.TrimRight(lines[i], " \t"); strings.HasSuffix(t, "\\") {
				lines[i] = t
			}
		}
	}
	text := strings.Join(lines, "\n")
	blank := func(n int) {
		head := []byte(text[:n])
		for i, b := range head {
			if b != '\n' && !(b == '\\' && i+1 < len(text) && text[i+1] == '\n') {
				head[i] = ' '
			}
		}
		text = string(head) + text[n:]
	}
	if loc := runPrefix.FindStringIndex(text); loc != nil {
		blank(loc[1])
	}
	for {
		lead := len(text) - len(strings.TrimLeft(text, " \t\\\n"))
		loc := runFlag.FindStringIndex(text[lead:])
		if loc == nil {
			break
		}
		blank(lead + loc[1])
	}
	return text
}

// lineOf is the first line of an instruction that has the text.
func (d *dockerfile) lineOf(in *instr, text string) int {
	for n := in.line; n <= in.end && n <= len(d.lines); n++ {
		if text != "" && strings.Contains(d.lines[n-1], text) {
			return n
		}
	}
	return in.line
}

// settings are the variables that the stage's image has, with their lines.
func (d *dockerfile) settings(s *stage) map[string]setting {
	all := map[string]setting{}
	if s.parent != nil {
		all = d.settings(s.parent)
	}
	for _, in := range s.instrs {
		if in.cmd != "env" {
			continue
		}
		for i := 0; i+1 < len(in.args); i += 3 {
			name := in.args[i]
			line := in.line
			for n := in.line; n <= in.end && n <= len(d.lines); n++ {
				if sets(d.lines[n-1], name) {
					line = n
					break
				}
			}
			all[name] = setting{value: expandedEnv(in, name), raw: in.args[i+1], line: line, in: in}
		}
	}
	return all
}

// sets says whether a line of ENV sets a variable.
func sets(line, name string) bool {
	if name == "" {
		return false
	}
	for rest, at := line, 0; ; rest = line[at:] {
		i := strings.Index(rest, name)
		if i < 0 {
			return false
		}
		from, to := at+i, at+i+len(name)
		if (from == 0 || strings.ContainsRune(" \t\"", rune(line[from-1]))) && to < len(line) && strings.ContainsRune("= \t", rune(line[to])) {
			return true
		}
		at = to
	}
}

func expandedEnv(in *instr, name string) string { return in.vars[name] }

func (s *stage) String() string { return fmt.Sprintf("stage %d %s", s.index, s.name) }
