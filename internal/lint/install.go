// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"path"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// systemPackage is one argument of a package manager's install.
type systemPackage struct {
	name    string
	word    word
	manager string
	lean    bool // without recommended packages
	cmd     *command
}

// systemPackages are the packages that a command installs.
func systemPackages(c *command) (list []systemPackage) {
	verb, manager := "", c.name
	lean := false
	switch c.name {
	case "apt", "apt-get", "aptitude", "dnf", "yum", "microdnf", "tdnf", "zypper", "apk", "pacman", "mamba-apt", "nala", "install_packages", "pkcon", "urpmi", "emerge", "dnf5":
	default:
		return nil
	}
	words := c.args
	if c.name == "install_packages" {
		verb, lean = "install", true
	}
	skip := false
	for _, w := range words {
		a := w.val
		switch {
		case skip:
			skip = false
			continue
		case a == "--no-install-recommends" || strings.Contains(a, "Install-Recommends=0") || strings.Contains(a, "Install-Recommends=false") || strings.Contains(a, "install_weak_deps=False"):
			lean = true
			continue
		case a == "-o" || a == "-t" || a == "--target-release" || a == "-c" || a == "--repo" || a == "--virtual" || a == "-r" && c.name == "zypper" || a == "--repository" || a == "-X" && c.name == "apk":
			skip = true
			continue
		case strings.HasPrefix(a, "-"):
			if c.name == "pacman" && strings.HasPrefix(a, "-S") {
				verb = "install"
			}
			continue
		}
		if verb == "" {
			verb = a
			if a == "module" || a == "group" || a == "groupinstall" || a == "download" || a == "source" {
				verb = ""
				if a == "download" || a == "source" {
					return nil
				}
			}
			continue
		}
		switch verb {
		case "install", "add", "in", "localinstall", "enable", "dist-upgrade", "reinstall", "satisfy":
		default:
			return nil
		}
		name := a
		if i := strings.IndexAny(name, "=<>~"); i > 0 {
			name = name[:i]
		}
		if strings.HasSuffix(name, "-") || strings.Contains(name, "/") && (strings.HasPrefix(name, "/") || strings.HasPrefix(name, ".") || strings.Contains(name, "://")) {
			if strings.HasSuffix(name, ".deb") || strings.HasSuffix(name, ".rpm") {
				name = fileName.ReplaceAllString(path.Base(name), "")
			} else {
				continue
			}
		}
		name, _, _ = strings.Cut(name, "/")
		name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, ":amd64"), ":i386"), ":arm64")
		list = append(list, systemPackage{name: name, word: w, manager: manager, cmd: c})
	}
	for i := range list {
		list[i].lean = lean
	}
	return list
}

var fileName = regexp.MustCompile(`_.*$`)

// pyPackage is one Python or conda package of an install.
type pyPackage struct {
	name, extras, spec string // spec is what follows the name, such as ==2.3.1
	version            string // pinned by ==, or empty
	file               string
	line               int
	index              string // the index given for it
	indexRaw           string
	conda              bool
	source             bool // from a repository or folder: compiled here
	cmd                *command
	step               int // number of the install
}

var requirement = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?\s*(.*)$`)
var pinned = regexp.MustCompile(`^={2,3}\s*v?([0-9][^\s,;]*)$`)

func normal(name string) string {
	return strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(name))
}

func parseRequirement(text string) (pyPackage, bool) {
	text, marker, _ := strings.Cut(text, ";")
	if strings.Contains(marker, "platform_machine") && !strings.Contains(marker, "x86_64") || strings.Contains(marker, "darwin") && !strings.Contains(marker, "!=") || strings.Contains(marker, "win32") && !strings.Contains(marker, "!=") {
		return pyPackage{}, false
	}
	name, url, direct := strings.Cut(text, "@")
	m := requirement.FindStringSubmatch(strings.TrimSpace(text))
	if direct && strings.Contains(url, ":") {
		m = requirement.FindStringSubmatch(strings.TrimSpace(name))
		if m != nil {
			m[3] = "@ " + strings.TrimSpace(url)
		}
	}
	if m == nil {
		return pyPackage{}, false
	}
	p := pyPackage{name: normal(m[1]), extras: strings.ReplaceAll(strings.ToLower(m[2]), " ", ""), spec: strings.TrimSpace(m[3])}
	if v := pinned.FindStringSubmatch(p.spec); v != nil {
		p.version = v[1]
	}
	p.source = strings.Contains(p.spec, "git+")
	return p, true
}

// pipArgs gives the arguments behind install of pip, or nil.
func pipArgs(c *command) []word {
	words := c.args
	switch {
	case strings.HasPrefix(c.name, "pip"):
	case strings.HasPrefix(c.name, "python") || c.name == "pypy3":
		for len(words) > 0 && strings.HasPrefix(words[0].val, "-") && words[0].val != "-m" {
			words = words[1:]
		}
		if len(words) < 2 || words[0].val != "-m" || words[1].val != "pip" {
			return nil
		}
		words = words[2:]
	case c.name == "uv":
		if len(words) > 0 && words[0].val == "add" {
			return words[1:]
		}
		if len(words) < 2 || words[0].val != "pip" {
			return nil
		}
		words = words[1:]
	case c.name == "poetry" || c.name == "pdm":
		if len(words) > 0 && words[0].val == "add" {
			return words[1:]
		}
		return nil
	default:
		return nil
	}
	for i, w := range words {
		if w.val == "install" {
			return words[i+1:]
		}
	}
	return nil
}

var pipValued = map[string]bool{"-c": true, "--constraint": true, "-t": true, "--target": true, "--prefix": true, "--root": true, "--python": true, "-p": true, "-f": true, "--find-links": true,
	"--trusted-host": true, "--timeout": true, "--retries": true, "--cache-dir": true, "--platform": true, "--python-version": true, "--no-binary": true, "--only-binary": true, "--group": true, "--log": true, "--progress-bar": true, "--upgrade-strategy": true, "--config-settings": true, "--index-strategy": true, "--torch-backend": true}

// pythonPackages are what a command installs, requirement files included.
func (c *checker) pythonPackages(cmd *command, s *stage, step int) (list []pyPackage) {
	if cmd.name == "conda" || cmd.name == "mamba" || cmd.name == "micromamba" {
		return c.condaPackages(cmd, s, step)
	}
	args := pipArgs(cmd)
	if args == nil {
		return nil
	}
	index, raw := cmd.run.vars["PIP_INDEX_URL"], ""
	if v := cmd.vars["PIP_INDEX_URL"]; v != "" {
		index = v
	}
	for _, n := range []string{"PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"} {
		if index == "" {
			index = cmd.run.vars[n]
		}
	}
	var files []word
	var specs []word
	for i := 0; i < len(args); i++ {
		a := args[i].val
		key, val, joined := strings.Cut(a, "=")
		next := func() string {
			if joined {
				return val
			}
			if i+1 < len(args) {
				i++
				raw = args[i].raw
				return args[i].val
			}
			return ""
		}
		switch {
		case key == "-i" || key == "--index-url" || key == "--extra-index-url" || key == "--index" || key == "--default-index":
			raw = args[i].raw
			index = next()
		case key == "-r" || key == "--requirement" || key == "--requirements":
			v := next()
			files = append(files, word{val: v, line: args[min(i, len(args)-1)].line})
		case strings.HasPrefix(a, "-r") && len(a) > 2:
			files = append(files, word{val: a[2:], line: args[i].line})
		case pipValued[key]:
			if v := next(); (key == "-f" || key == "--find-links") && index == "" {
				index = v
			}
		case key == "-e" || key == "--editable":
		case strings.HasPrefix(a, "-"):
		default:
			specs = append(specs, args[i])
		}
	}
	for _, w := range specs {
		p, ok := parseRequirement(w.val)
		if strings.Contains(w.val, "://") && !strings.Contains(w.val, "@ ") || strings.HasPrefix(w.val, ".") || strings.HasPrefix(w.val, "/") {
			p, ok = fromAddress(w.val), true
		}
		if ok {
			p.file, p.line, p.index, p.indexRaw, p.cmd, p.step = cmd.file, w.line, index, raw, cmd, step
			list = append(list, p)
		}
	}
	for _, f := range files {
		list = append(list, c.requirements(cmd, s, f.val, index, raw, step, 0)...)
	}
	return list
}

var wheelName = regexp.MustCompile(`([A-Za-z0-9_.]+?)-([0-9][^-/]*)-[^/]*\.whl`)

// fromAddress is a package given by an address or folder.
func fromAddress(a string) pyPackage {
	if m := wheelName.FindStringSubmatch(strings.ReplaceAll(a, "%2B", "+")); m != nil {
		return pyPackage{name: normal(m[1]), spec: "==" + m[2], version: m[2]}
	}
	at := strings.TrimSuffix(a, "/")
	if i := strings.Index(at, "#egg="); i >= 0 {
		return pyPackage{name: normal(at[i+5:]), source: true, spec: a}
	}
	if i := strings.LastIndex(at, "@"); i > strings.LastIndex(at, "/") {
		at = at[:i]
	}
	at, _, _ = strings.Cut(at, "#")
	return pyPackage{name: normal(strings.TrimSuffix(path.Base(at), ".git")), source: true, spec: a}
}

// requirements reads a requirements file that was copied into the image.
func (c *checker) requirements(cmd *command, s *stage, file, index, raw string, step, depth int) (list []pyPackage) {
	name, text, ok := c.d.contextFile(s, place(cmd.run.workdir, file))
	if !ok || depth > 3 || len(text) > 1<<20 {
		return nil
	}
	where := name
	if name == "" {
		where = c.d.name
	}
	for _, p := range parseRequirements(string(text)) {
		if p.name == "-r" {
			list = append(list, c.requirements(cmd, s, path.Join(path.Dir(file), p.spec), index, raw, step, depth+1)...)
			continue
		}
		if p.name == "-i" {
			index, raw = p.spec, ""
			continue
		}
		p.file, p.index, p.indexRaw, p.cmd, p.step = where, index, raw, cmd, step
		if name == "" {
			p.line = cmd.line
		}
		list = append(list, p)
	}
	return list
}

// parseRequirements reads a requirements file; the names -r and -i stand for
// another file and for an index.
func parseRequirements(text string) (list []pyPackage) {
	for i, line := range strings.Split(text, "\n") {
		if at := strings.Index(" "+line, " #"); at >= 0 {
			line = line[:at]
		}
		line = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(line), "\\"))
		if line == "" {
			continue
		}
		if strings.HasPrefix(line, "-") {
			key, val, ok := strings.Cut(strings.Replace(line, " ", "=", 1), "=")
			val = strings.TrimSpace(val)
			switch {
			case ok && (key == "-r" || key == "--requirement"):
				list = append(list, pyPackage{name: "-r", spec: val, line: i + 1})
			case ok && (key == "-i" || key == "--index-url" || key == "--extra-index-url"):
				list = append(list, pyPackage{name: "-i", spec: val, line: i + 1})
			}
			continue
		}
		line, _, _ = strings.Cut(line, " --")
		if p, ok := parseRequirement(line); ok {
			p.line = i + 1
			list = append(list, p)
		}
	}
	return list
}

// condaPackages are the packages of conda install, create and env.
func (c *checker) condaPackages(cmd *command, s *stage, step int) (list []pyPackage) {
	env := false
	verb, skip := "", false
	for i, w := range cmd.args {
		a := w.val
		if skip {
			skip = false
			continue
		}
		switch {
		case (a == "-f" || a == "--file") && i+1 < len(cmd.args):
			list = append(list, c.environmentFile(cmd, s, cmd.args[i+1].val, step)...)
			skip = true
		case strings.HasPrefix(a, "--file="):
			list = append(list, c.environmentFile(cmd, s, a[7:], step)...)
		case a == "-n" || a == "-c" || a == "-p" || a == "--name" || a == "--channel" || a == "--prefix":
			skip = true
		case strings.HasPrefix(a, "-"):
		case a == "env":
			env = true
		case verb == "":
			verb = a
		case (verb == "install" || verb == "create" || verb == "update") && !env:
			if i := strings.LastIndex(a, "::"); i >= 0 {
				a = a[i+2:]
			}
			if p, ok := parseRequirement(a); ok {
				p.conda, p.file, p.line, p.cmd, p.step = true, cmd.file, w.line, cmd, step
				p.spec = strings.TrimLeft(p.spec, "=")
				list = append(list, p)
			}
		}
	}
	return list
}

// environmentFile reads a conda environment file.
func (c *checker) environmentFile(cmd *command, s *stage, file string, step int) (list []pyPackage) {
	name, text, ok := c.d.contextFile(s, place(cmd.run.workdir, file))
	if !ok || len(text) > 1<<20 {
		return nil
	}
	var doc struct {
		Dependencies []yaml.Node `yaml:"dependencies"`
	}
	if yaml.Unmarshal(text, &doc) != nil {
		return nil
	}
	where := name
	if name == "" {
		where = c.d.name
	}
	add := func(v string, line int, conda bool) {
		if p, ok := parseRequirement(v); ok {
			p.conda, p.file, p.line, p.cmd, p.step = conda, where, line, cmd, step
			if conda {
				p.spec = strings.TrimLeft(p.spec, "=")
			}
			list = append(list, p)
		}
	}
	for _, n := range doc.Dependencies {
		if n.Kind == yaml.ScalarNode {
			add(n.Value, n.Line, true)
		}
		for _, seq := range n.Content {
			for _, x := range seq.Content {
				add(x.Value, x.Line, false)
			}
		}
	}
	return list
}
