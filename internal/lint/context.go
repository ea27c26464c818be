// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"bytes"
	"maps"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// copied remembers which file of the image is which of the context.
func (d *dockerfile) copied(in *instr, s *stage, vars map[string]string, lex *shell.Lex) {
	for i, a := range in.args {
		in.args[i] = expandWord(lex, a, vars)
	}
	for _, f := range in.flags {
		if v, ok := strings.CutPrefix(f, "--from="); ok {
			other := d.stageOf(expandWord(lex, v, vars))
			if other == nil {
				return
			}
			s.uses = append(s.uses, other)
			for _, src := range in.args[:max(0, len(in.args)-1)] {
				if path.Clean(src) == "/" {
					s.whole = append(s.whole, other)
				} else if environmentPath.MatchString(src) {
					s.parted = append(s.parted, other)
				}
			}
			return
		}
	}
	if len(in.args) < 2 {
		if len(in.args) == 1 && len(in.node.Heredocs) > 0 {
			d.text[place(in.workdir, in.args[0])] = in.node.Heredocs[0].Content
		}
		return
	}
	dst := in.args[len(in.args)-1]
	for _, src := range in.args[:len(in.args)-1] {
		to := place(in.workdir, dst)
		if strings.HasSuffix(dst, "/") || dst == "." || len(in.args) > 2 || strings.ContainsAny(src, "*?") {
			to = path.Join(to, path.Base(src))
		}
		if strings.HasPrefix(src, "<<") && len(in.node.Heredocs) > 0 {
			d.text[place(in.workdir, dst)] = in.node.Heredocs[0].Content
			continue
		}
		d.remember(s, to, src)
		// A folder's content lands in the target itself.
		d.remember(s, place(in.workdir, dst)+"/", src+"/")
	}
}

var environmentPath = regexp.MustCompile(`venv|site-packages|dist-packages|conda|\.local|^/usr/local/?$|^/usr/local/lib|^/opt/?|^/install|^/app/?|^/root/|^/home/|^/wheels`)

func place(workdir, p string) string {
	if strings.HasPrefix(p, "/") {
		return path.Clean(p)
	}
	return path.Join("/", workdir, p)
}

func (d *dockerfile) remember(s *stage, to, from string) {
	key := strconv.Itoa(s.index)
	if d.files[key] == nil {
		d.files[key] = map[string]string{}
	}
	d.files[key][to] = from
}

// contextFile gives the content of a file in the image and the name by which a
// person knows it, if it was copied from the context; without a name it was
// written by the Dockerfile itself.
func (d *dockerfile) contextFile(s *stage, file string) (name string, text []byte, ok bool) {
	file = path.Clean(file)
	if t, has := d.text[file]; has {
		return "", []byte(t), true
	}
	for st := s; st != nil; st = st.parent {
		m := d.files[strconv.Itoa(st.index)]
		if src, has := m[file]; has {
			if name, text, err := d.read(path.Clean("/" + src)[1:]); err == nil {
				return name, text, true
			}
		}
		for to, src := range m {
			rest, under := strings.CutPrefix(file, strings.TrimSuffix(to, "/")+"/")
			if !strings.HasSuffix(to, "/") || !under {
				continue
			}
			if name, text, err := d.read(path.Join("/", src, rest)[1:]); err == nil {
				return name, text, true
			}
		}
	}
	return "", nil, false
}

// mounted takes the flags of RUN in: binds of the context and of stages.
func (d *dockerfile) mounted(flag string, in *instr, s *stage) {
	spec, ok := strings.CutPrefix(flag, "--mount=")
	if !ok || !strings.Contains(spec, "type=bind") && strings.Contains(spec, "type=") {
		return
	}
	source, target, from := ".", "", ""
	for _, kv := range strings.Split(spec, ",") {
		k, v, _ := strings.Cut(kv, "=")
		switch k {
		case "source", "src":
			source = v
		case "target", "dst", "destination":
			target = v
		case "from":
			from = v
		}
	}
	if from != "" {
		if other := d.stageOf(from); other != nil {
			s.uses = append(s.uses, other)
		}
		return
	}
	if target != "" {
		d.remember(s, place(in.workdir, target), source)
		d.remember(s, place(in.workdir, target)+"/", source+"/")
	}
}

// scripts reads the scripts that a command runs, if they come from the context.
func (d *dockerfile) scripts(c *command, s *stage, depth int) {
	if depth > 3 {
		return
	}
	file := ""
	switch {
	case isShell(c.name) || c.name == "." || c.name == "source":
		for _, a := range c.args {
			if a.val == "-c" {
				return
			}
			if !strings.HasPrefix(a.val, "-") && !strings.HasPrefix(a.val, "+") {
				file = a.val
				break
			}
		}
	case c.rawName() != "" && strings.Contains(c.rawName(), "/"):
		file = c.rawName()
	}
	if file == "" || strings.Contains(file, "*") {
		return
	}
	name, text, ok := d.contextFile(s, place(c.run.workdir, file))
	if !ok || bytes.IndexByte(text[:min(len(text), 512)], 0) >= 0 {
		return
	}
	first, _, _ := strings.Cut(string(text), "\n")
	if strings.HasPrefix(first, "#!") && !isShell(path.Base(lastField(strings.Fields(first + " x")[0]))) && !strings.Contains(first, "sh") {
		return
	}
	where := d.name
	if name != "" {
		where = name
	}
	r := &shellReader{file: where, run: c.run, vars: maps.Clone(c.run.vars), files: map[string]string{}, depth: 0}
	r.read(string(text), 1)
	for _, sub := range r.out {
		sub.from = c
		sub.soft = sub.soft || c.soft
		if name == "" {
			sub.line = c.line
			for i := range sub.args {
				sub.args[i].line = c.line
			}
		}
		c.run.commands = append(c.run.commands, sub)
		d.scripts(sub, s, depth+1)
	}
}

// rawName is the command's name as it was written, with its folder.
func (c *command) rawName() string {
	if c.path == "" {
		return c.name
	}
	return c.path
}
