// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"davit/internal/rootfs"
)

// Command is the recorded answer of a program.
type Command struct {
	Argv   []string `json:"argv"`
	Stdout string   `json:"stdout"`
	Stderr string   `json:"stderr,omitempty"`
	Exit   int      `json:"exit,omitempty"`
}

// Unpack makes the folder of a recorded host, under the same rules as Make. The
// recording is one YAML document:
//
//	host: {kernel: 6.8.0-45-generic, arch: x86_64}
//	root:
//	- {path: /dev/nvidia0, kind: char, major: 195, minor: 0, mode: "0666", uid: 0, gid: 0}
//	- {path: /usr/lib64/libcuda.so.1, kind: symlink, target: libcuda.so.550.120}
//	- {path: /usr/lib64/libcuda.so.550.120, kind: lib, soname: libcuda.so.1}
//	- {path: /etc/ld.so.cache, kind: ldcache, entries: {libcuda.so.1: /usr/lib64/libcuda.so.1}}
//	- {path: /usr/bin/nvidia-smi, kind: program, mode: "0755"}
//	- {path: /proc/devices, kind: file, mode: "0444", content: "…"}
//	- {path: /dev/char, kind: dir, mode: "0755"}
//	- {path: /run/docker.sock, kind: socket, mode: "0660", uid: 0, gid: 998}
//	commands:
//	- {argv: [docker, info], stdout: "…"}
//
// A lib may have "bits: 32". Nodes, of kind char or block, go to
// rootfs.NodesFile, whoever runs this. Owners are set for root alone; set-id
// bits never are, because a recording comes from elsewhere; folders stay open to
// their owner. Nothing is written outside the folder, whatever the recording
// says. An unknown kind or field is an error that names its line.
func Unpack(recording []byte, dir string) error {
	r, err := parseRecording(recording)
	if err != nil {
		return fmt.Errorf("recorded host: %w", err)
	}
	err = place(dir, func(tmp string) error {
		if err := r.tree.write(tmp); err != nil {
			return err
		}
		if len(r.commands) > 0 {
			if err := writeJSON(filepath.Join(tmp, CommandsFile), r.commands); err != nil {
				return err
			}
		}
		return writeJSON(filepath.Join(tmp, HostFile), r.host)
	})
	if err != nil {
		return fmt.Errorf("unpack recorded host: %w", err)
	}
	return nil
}

// recording is a parsed one.
type recording struct {
	host     Host
	machine  machine
	tree     tree
	commands []Command
}

// wrong makes an error that names a line.
func wrong(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: %w", n.Line, fmt.Errorf(format, args...))
}

func parseRecording(data []byte) (*recording, error) {
	var doc, more yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, errors.New("empty: want host and root")
	} else if err != nil {
		return nil, err
	}
	if err := dec.Decode(&more); err == nil {
		return nil, wrong(&more, "a second document: want one")
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	r := &recording{host: Host{Kind: "recorded"}, machine: machines[0]}
	r.tree.sideTable = true
	top, err := mapping(doc.Content[0], "host", "root", "commands")
	if err != nil {
		return nil, err
	}
	if n := top.by["host"]; n != nil {
		if err := r.parseHost(n); err != nil {
			return nil, err
		}
	}
	root := top.by["root"]
	if root == nil {
		return nil, wrong(doc.Content[0], "no \"root\"")
	}
	if err := list(root, r.parseEntry); err != nil {
		return nil, err
	}
	if n := top.by["commands"]; n != nil {
		if err := list(n, r.parseCommand); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *recording) parseHost(n *yaml.Node) error {
	m, err := mapping(n, "kernel", "arch")
	if err != nil {
		return err
	}
	if r.host.Kernel, err = m.text("kernel"); err != nil {
		return err
	}
	if r.host.Arch, err = m.text("arch"); err != nil {
		return err
	}
	i := slices.IndexFunc(machines, func(k machine) bool { return k.uname == r.host.Arch })
	if i < 0 {
		return wrong(n, "unknown arch %q: known are x86_64, aarch64", r.host.Arch)
	}
	r.machine = machines[i]
	return nil
}

// fieldsOf says which fields an entry of each kind has beside path and kind.
var fieldsOf = map[string][]string{
	"char":    {"major", "minor", "mode", "uid", "gid"},
	"block":   {"major", "minor", "mode", "uid", "gid"},
	"symlink": {"target"},
	"lib":     {"soname", "bits", "mode", "uid", "gid"},
	"ldcache": {"entries", "mode", "uid", "gid"},
	"program": {"mode", "uid", "gid"},
	"file":    {"content", "mode", "uid", "gid"},
	"dir":     {"mode", "uid", "gid"},
	"socket":  {"mode", "uid", "gid"},
}

// usualMode is the mode of entries that name none.
var usualMode = map[string]fs.FileMode{"char": 0o600, "block": 0o600, "lib": 0o644, "ldcache": 0o644,
	"program": 0o755, "file": 0o644, "dir": 0o755, "socket": 0o666}

func (r *recording) parseEntry(n *yaml.Node) error {
	m, err := mapping(n)
	if err != nil {
		return err
	}
	what, err := m.text("kind")
	if err != nil {
		return err
	}
	fields, ok := fieldsOf[what]
	if !ok {
		return wrong(n, "unknown kind %q: known are block, char, dir, file, ldcache, lib, program, socket, symlink", what)
	}
	if m, err = mapping(n, append([]string{"path", "kind"}, fields...)...); err != nil {
		return err
	}
	e := entry{line: n.Line, mode: usualMode[what]}
	if e.path, err = m.text("path"); err != nil {
		return err
	}
	if err := checkPath(e.path); err != nil {
		return wrong(n, "path %q: %w", e.path, err)
	}
	if err := m.owner(&e); err != nil {
		return err
	}
	switch what {
	case "dir":
		e.kind = isDir
	case "socket":
		e.kind = isSocket
	case "symlink":
		e.kind = isLink
		if e.target, err = m.text("target"); err == nil && (e.target == "" || strings.Contains(e.target, "\x00") || len(e.target) > 4095) {
			err = wrong(n, "%q is no target of a link", e.target)
		}
	case "char", "block":
		e.kind = isNode
		e.node.Block = what == "block"
		err = m.numbers(&e.node)
		if strings.ContainsFunc(e.path, unicode.IsSpace) {
			err = wrong(n, "path %q: a node's has no spaces", e.path)
		}
	default:
		e.kind = isFile
		e.data, err = r.content(what, m)
	}
	if err != nil {
		return err
	}
	r.tree.entries = append(r.tree.entries, e)
	return nil
}

// content makes what is in a file.
func (r *recording) content(what string, m fields) ([]byte, error) {
	switch what {
	case "program":
		return r.machine.stub("program")
	case "lib":
		soname, err := m.text("soname")
		if err != nil {
			return nil, err
		}
		if soname == "" || len(soname) > 255 || strings.ContainsAny(soname, "/\x00") {
			return nil, wrong(m.by["soname"], "%q is no SONAME", soname)
		}
		kind := r.machine.elf
		if n := m.by["bits"]; n != nil {
			switch n.Value {
			case "64":
			case "32":
				kind = r.machine.elf32
			default:
				return nil, wrong(n, "bits %q: want 32 or 64", n.Value)
			}
		}
		return sharedObject(kind, soname), nil
	case "ldcache":
		return r.cache(m)
	}
	if m.by["content"] == nil {
		return nil, nil
	}
	s, err := m.text("content")
	return []byte(s), err
}

func (r *recording) cache(m fields) ([]byte, error) {
	n := m.by["entries"]
	if n == nil {
		return nil, wrong(m.node, "an ldcache needs entries")
	}
	if n.Kind != yaml.MappingNode {
		return nil, wrong(n, "entries: want NAME: PATH")
	}
	var list []cacheEntry
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode || v.Kind != yaml.ScalarNode || strings.Contains(k.Value+v.Value, "\x00") {
			return nil, wrong(k, "entries: want NAME: PATH")
		}
		list = append(list, cacheEntry{k.Value, v.Value, r.machine.cache})
	}
	return loaderCache(list), nil
}

func (r *recording) parseCommand(n *yaml.Node) error {
	m, err := mapping(n, "argv", "stdout", "stderr", "exit")
	if err != nil {
		return err
	}
	var c Command
	if m.by["argv"] == nil {
		return wrong(n, "no \"argv\"")
	}
	err = list(m.by["argv"], func(a *yaml.Node) error {
		if a.Kind != yaml.ScalarNode {
			return wrong(a, "argv: want words")
		}
		c.Argv = append(c.Argv, a.Value)
		return nil
	})
	if err != nil {
		return err
	}
	if len(c.Argv) == 0 {
		return wrong(n, "an empty \"argv\"")
	}
	for name, to := range map[string]*string{"stdout": &c.Stdout, "stderr": &c.Stderr} {
		if m.by[name] != nil {
			if *to, err = m.text(name); err != nil {
				return err
			}
		}
	}
	if e := m.by["exit"]; e != nil {
		code, err := strconv.ParseUint(e.Value, 10, 8)
		if err != nil {
			return wrong(e, "exit %q: want 0 to 255", e.Value)
		}
		c.Exit = int(code)
	}
	r.commands = append(r.commands, c)
	return nil
}

// checkPath accepts whole, clean paths that are not our own.
func checkPath(p string) error {
	switch {
	case !strings.HasPrefix(p, "/"):
		return errors.New("want one that starts with /")
	case path.Clean(p) != p:
		return errors.New("want it clean, without //, /./ and /../")
	case p == "/":
		return errors.New("the root itself is there already")
	case len(p) > 4000 || strings.ContainsFunc(p, unicode.IsControl):
		return errors.New("no path of a file")
	}
	return nil
}

// fields are the values of a mapping by their keys.
type fields struct {
	node *yaml.Node
	by   map[string]*yaml.Node
}

// mapping reads a mapping; if keys are given, no others are accepted.
func mapping(n *yaml.Node, keys ...string) (fields, error) {
	if n.Kind != yaml.MappingNode {
		return fields{}, wrong(n, "want KEY: VALUE")
	}
	m := fields{node: n, by: map[string]*yaml.Node{}}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if len(keys) > 0 && !slices.Contains(keys, k.Value) {
			return fields{}, wrong(k, "unknown field %q: known are %s", k.Value, strings.Join(keys, ", "))
		}
		if m.by[k.Value] != nil {
			return fields{}, wrong(k, "field %q is given twice", k.Value)
		}
		if v.Kind == yaml.AliasNode {
			return fields{}, wrong(v, "aliases are not used here")
		}
		m.by[k.Value] = v
	}
	return m, nil
}

func list(n *yaml.Node, each func(*yaml.Node) error) error {
	if n.Kind != yaml.SequenceNode {
		return wrong(n, "want a list")
	}
	for _, item := range n.Content {
		if err := each(item); err != nil {
			return err
		}
	}
	return nil
}

// text is the value of a field that must be there.
func (m fields) text(key string) (string, error) {
	n := m.by[key]
	if n == nil {
		return "", wrong(m.node, "no %q", key)
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return "", wrong(n, "%s: want text", key)
	}
	return n.Value, nil
}

// number reads a field, if it is there.
func (m fields) number(key string, base, bits int, to *uint64) error {
	n := m.by[key]
	if n == nil {
		return nil
	}
	v, err := strconv.ParseUint(n.Value, base, bits)
	if err != nil {
		return wrong(n, "%s: %q is no number of this kind", key, n.Value)
	}
	*to = v
	return nil
}

func (m fields) owner(e *entry) error {
	mode, uid, gid := uint64(e.mode), uint64(0), uint64(0)
	if err := errors.Join(m.number("mode", 8, 12, &mode), m.number("uid", 10, 31, &uid), m.number("gid", 10, 31, &gid)); err != nil {
		return err
	}
	e.mode, e.uid, e.gid = fs.FileMode(mode), uint32(uid), uint32(gid)
	return nil
}

func (m fields) numbers(n *rootfs.Node) error {
	if m.by["major"] == nil || m.by["minor"] == nil {
		return wrong(m.node, "a node needs major and minor")
	}
	var major, minor uint64
	if err := errors.Join(m.number("major", 10, 32, &major), m.number("minor", 10, 32, &minor)); err != nil {
		return err
	}
	n.Major, n.Minor = uint32(major), uint32(minor)
	return nil
}
