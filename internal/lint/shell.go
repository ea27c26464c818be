// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"errors"
	"io"
	"maps"
	"path"
	"strings"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

// word is one argument after expansion. What only the build knows, such as
// the output of a command, is *.
type word struct {
	val, raw  string
	line, col int // where it stands, from 1; col in bytes
	end       int // column behind it, on the same line; 0 where it ends on another
	plain     bool
}

// redirect is a file that a command's output or input goes to.
type redirect struct {
	out    bool
	target string
	body   string // of a here-document
	line   int    // first line of the body
}

// command is one simple command of a shell text, wrappers such as sudo taken off.
type command struct {
	name      string // without its folder
	path      string // with it
	args      []word // without the name
	line      int
	file      string // where it stands: the Dockerfile, or a script
	run       *instr // the instruction that runs it
	from      *command
	soft      bool // its failure does not fail the build
	vars      map[string]string
	redirects []redirect
	statement *syntax.Stmt // in the instruction's own text, else nil
}

func (c *command) text() string {
	parts := []string{c.name}
	for _, a := range c.args {
		parts = append(parts, a.val)
	}
	return strings.Join(parts, " ")
}

// has says whether one of the words is an argument.
func (c *command) has(words ...string) bool {
	for _, a := range c.args {
		for _, w := range words {
			if a.val == w {
				return true
			}
		}
	}
	return false
}

// shellReader collects the commands of shell texts.
type shellReader struct {
	file  string
	run   *instr
	vars  map[string]string
	depth int
	out   []*command
	files map[string]string // what the text itself writes by cat > FILE <<EOF
	text  string
	own   bool // positions are those of the instruction
}

// environ is what a shell text sees: known variables; names in unknown stand
// for what only the build knows.
type environ struct{ vars map[string]string }

func (e environ) Get(name string) expand.Variable {
	v, ok := e.vars[name]
	if !ok {
		return expand.Variable{}
	}
	return expand.Variable{Set: true, Exported: true, Kind: expand.String, Str: v}
}

func (e environ) Each(func(string, expand.Variable) bool) {}

// parseShell reads a shell text; a text with mistakes gives what stands before
// the first.
func parseShell(text string) *syntax.File {
	f, err := syntax.NewParser(syntax.Variant(syntax.LangBash), syntax.RecoverErrors(5)).Parse(strings.NewReader(text), "")
	if err != nil && f == nil {
		return &syntax.File{}
	}
	return f
}

// read adds the commands of a text whose first line is line.
func (r *shellReader) read(text string, line int) {
	if r.depth > 4 || len(text) > 1<<20 {
		return
	}
	old := r.text
	r.text = text
	r.statements(parseShell(text).Stmts, line-1, false)
	r.text = old
}

func (r *shellReader) statements(list []*syntax.Stmt, base int, soft bool) {
	for _, s := range list {
		r.statement(s, base, soft)
	}
}

func (r *shellReader) statement(s *syntax.Stmt, base int, soft bool) {
	if s == nil || s.Cmd == nil {
		return
	}
	switch c := s.Cmd.(type) {
	case *syntax.CallExpr:
		r.call(s, c, base, soft)
	case *syntax.DeclClause:
		r.declare(s, c, base)
	case *syntax.BinaryCmd:
		r.statement(c.X, base, soft || c.Op == syntax.OrStmt && !failing(c.Y))
		r.statement(c.Y, base, soft || c.Op == syntax.OrStmt)
	case *syntax.IfClause:
		for i := c; i != nil; i = i.Else {
			r.statements(i.Cond, base, true)
			r.statements(i.Then, base, true)
		}
	case *syntax.WhileClause:
		r.statements(c.Cond, base, true)
		r.statements(c.Do, base, true)
	case *syntax.ForClause:
		if w, ok := c.Loop.(*syntax.WordIter); ok {
			r.vars[w.Name.Value] = strings.Join(vals(r.fields(w.Items, base)), " ")
		}
		r.statements(c.Do, base, soft)
	case *syntax.CaseClause:
		for _, i := range c.Items {
			r.statements(i.Stmts, base, true)
		}
	case *syntax.Subshell:
		r.statements(c.Stmts, base, soft)
	case *syntax.Block:
		r.statements(c.Stmts, base, soft)
	case *syntax.FuncDecl:
		r.statement(c.Body, base, soft)
	case *syntax.TimeClause:
		r.statement(c.Stmt, base, soft)
	}
}

// failing says whether a statement ends in failure on purpose.
func failing(s *syntax.Stmt) bool {
	fails := false
	syntax.Walk(s, func(n syntax.Node) bool {
		if c, ok := n.(*syntax.CallExpr); ok && len(c.Args) > 0 {
			if l := c.Args[0].Lit(); l == "false" || l == "exit" && (len(c.Args) < 2 || c.Args[1].Lit() != "0") {
				fails = true
			}
		}
		return true
	})
	return fails
}

func (r *shellReader) call(s *syntax.Stmt, c *syntax.CallExpr, base int, soft bool) {
	vars := map[string]string{}
	for _, a := range c.Assigns {
		if a.Name != nil {
			vars[a.Name.Value] = strings.Join(vals(r.fields([]*syntax.Word{a.Value}, base)), " ")
			r.nested(a.Value, base, soft)
		}
	}
	if len(c.Args) == 0 {
		maps.Copy(r.vars, vars)
		return
	}
	for _, a := range c.Args {
		r.nested(a, base, soft)
	}
	line := base + int(c.Args[0].Pos().Line())
	r.add(r.fields(c.Args, base), vars, r.redirects(s, base), line, soft, s)
}

func (r *shellReader) declare(s *syntax.Stmt, c *syntax.DeclClause, base int) {
	cmd := &command{name: c.Variant.Value, line: base + int(c.Pos().Line()), file: r.file, run: r.run, vars: map[string]string{}, statement: r.mark(s)}
	for _, a := range c.Args {
		if a.Name == nil || a.Value == nil {
			continue
		}
		v := strings.Join(vals(r.fields([]*syntax.Word{a.Value}, base)), " ")
		r.vars[a.Name.Value], cmd.vars[a.Name.Value] = v, v
		r.nested(a.Value, base, false)
	}
	r.out = append(r.out, cmd)
}

func (r *shellReader) mark(s *syntax.Stmt) *syntax.Stmt {
	if r.own && r.depth == 0 {
		return s
	}
	return nil
}

// nested reads command substitutions inside a word.
func (r *shellReader) nested(w *syntax.Word, base int, soft bool) {
	if w == nil {
		return
	}
	syntax.Walk(w, func(n syntax.Node) bool {
		switch x := n.(type) {
		case *syntax.CmdSubst:
			r.statements(x.Stmts, base, soft)
			return false
		case *syntax.ProcSubst:
			r.statements(x.Stmts, base, soft)
			return false
		}
		return true
	})
}

func (r *shellReader) redirects(s *syntax.Stmt, base int) (list []redirect) {
	for _, x := range s.Redirs {
		d := redirect{out: x.Op == syntax.RdrOut || x.Op == syntax.AppOut || x.Op == syntax.RdrAll || x.Op == syntax.AppAll || x.Op == syntax.ClbOut}
		if x.Hdoc != nil {
			d.line = base + int(x.Hdoc.Pos().Line())
			d.body = strings.Join(vals(r.fields([]*syntax.Word{x.Hdoc}, base)), "\n")
			if from, to := int(x.Hdoc.Pos().Offset()), int(x.Hdoc.End().Offset()); from < to && to <= len(r.text) {
				d.body = r.text[from:to]
			}
		} else if x.Word != nil {
			d.target = strings.Join(vals(r.fields([]*syntax.Word{x.Word}, base)), " ")
		}
		list = append(list, d)
	}
	return list
}

// fields expands words as a shell does, without looking at any file.
func (r *shellReader) fields(list []*syntax.Word, base int) (out []word) {
	for _, w := range list {
		if w == nil {
			continue
		}
		raw := ""
		if from, to := int(w.Pos().Offset()), int(w.End().Offset()); from <= to && to <= len(r.text) {
			raw = r.text[from:to]
		}
		one := word{raw: raw, line: base + int(w.Pos().Line()), col: int(w.Pos().Col())}
		if w.Pos().Line() == w.End().Line() {
			one.end = int(w.End().Col())
		}
		if l := w.Lit(); l != "" && !strings.ContainsAny(l, `\{*?[~`) {
			one.val, one.plain = l, true
			out = append(out, one)
			continue
		}
		if endless(raw) {
			one.val = strings.Trim(raw, `"'`)
			out = append(out, one)
			continue
		}
		values, err := expand.Fields(&expand.Config{Env: environ{r.unknown(w)},
			CmdSubst:  func(o io.Writer, _ *syntax.CmdSubst) error { _, err := io.WriteString(o, "*"); return err },
			ProcSubst: func(*syntax.ProcSubst) (string, error) { return "", errors.New("not run") },
		}, w)
		if err != nil || len(values) > 1000 || len(strings.Join(values, "")) > maxValue {
			values = []string{strings.Trim(raw, `"'`)}
		}
		for _, v := range values {
			one.val = v
			out = append(out, one)
		}
	}
	return out
}

// endless says whether expanding a word's braces could have no end.
func endless(raw string) bool {
	return strings.Contains(raw, "{") && (strings.Contains(raw, "..") || strings.Count(raw, "{")-strings.Count(raw, "${") > 4 || strings.Count(raw, ",") > 40)
}

// unknown is the known variables and *, for those that the word names and
// that have no default there.
func (r *shellReader) unknown(w *syntax.Word) map[string]string {
	vars := r.vars
	syntax.Walk(w, func(n syntax.Node) bool {
		p, ok := n.(*syntax.ParamExp)
		if !ok || p.Param == nil {
			return true
		}
		if _, known := r.vars[p.Param.Value]; !known && p.Exp == nil {
			if len(vars) == len(r.vars) {
				vars = maps.Clone(r.vars)
				if vars == nil {
					vars = map[string]string{}
				}
			}
			vars[p.Param.Value] = "*"
		}
		return true
	})
	return vars
}

func vals(list []word) []string {
	out := make([]string, len(list))
	for i, w := range list {
		out[i] = w.val
	}
	return out
}

// valued are the options of wrappers that have a value behind them.
var valued = map[string]string{"sudo": "ugpC", "env": "uC", "nice": "n", "timeout": "ks", "xargs": "nPIdaLs", "exec": "a", "ionice": "cn", "chroot": ""}

// add adds a command, wrappers taken off, and what shells inside it run.
func (r *shellReader) add(words []word, vars map[string]string, redirects []redirect, line int, soft bool, s *syntax.Stmt) {
	for len(words) > 0 {
		name := path.Base(words[0].val)
		switch name {
		case "sudo", "env", "exec", "command", "nohup", "nice", "xargs", "timeout", "time", "eatmydata", "ionice", "stdbuf", "busybox", "catchsegv", "fakeroot":
		default:
			r.finish(name, words, vars, redirects, line, soft, s)
			return
		}
		words = words[1:]
		if name == "command" && len(words) > 0 && strings.HasPrefix(words[0].val, "-") {
			return // command -v NAME only asks
		}
		for len(words) > 0 {
			w := words[0].val
			if name == "env" && strings.Contains(w, "=") && !strings.HasPrefix(w, "-") {
				k, v, _ := strings.Cut(w, "=")
				vars[k] = v
			} else if !strings.HasPrefix(w, "-") || w == "-" {
				break
			} else if len(w) == 2 && strings.Contains(valued[name], w[1:]) && len(words) > 1 {
				words = words[1:]
			}
			words = words[1:]
		}
		if name == "timeout" && len(words) > 0 {
			words = words[1:]
		}
	}
}

func (r *shellReader) finish(name string, words []word, vars map[string]string, redirects []redirect, line int, soft bool, s *syntax.Stmt) {
	c := &command{name: name, path: words[0].val, args: words[1:], line: line, file: r.file, run: r.run, soft: soft, vars: vars, redirects: redirects, statement: r.mark(s)}
	r.out = append(r.out, c)
	r.depth++
	defer func() { r.depth-- }()
	if isShell(name) {
		for i, a := range c.args {
			if strings.HasPrefix(a.val, "-") && !strings.HasPrefix(a.val, "--") && strings.HasSuffix(a.val, "c") && i+1 < len(c.args) {
				r.read(c.args[i+1].val, c.args[i+1].line)
				return
			}
		}
		for _, d := range redirects {
			if d.body != "" && (len(c.args) == 0 || strings.HasPrefix(c.args[0].val, "-")) {
				r.read(d.body, d.line)
			}
		}
	}
	if name == "eval" {
		r.read(strings.Join(vals(c.args), " "), line)
	}
	if name == "cat" || name == "tee" {
		r.written(c)
	}
}

// written remembers what a here-document writes to a file.
func (r *shellReader) written(c *command) {
	body, target := "", ""
	for _, d := range c.redirects {
		if d.body != "" {
			body = d.body
		}
		if d.out {
			target = d.target
		}
	}
	if c.name == "tee" && len(c.args) > 0 {
		target = c.args[len(c.args)-1].val
	}
	if body != "" && target != "" && r.files != nil {
		r.files[path.Clean(target)] = body
	}
}

func isShell(name string) bool {
	switch name {
	case "sh", "bash", "dash", "ash", "zsh", "ksh":
		return true
	}
	return false
}
