// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
	"tags.cncf.io/container-device-interface/specs-go"

	"davit/internal/nvidia"
	"davit/internal/rootfs"
)

// Folders are where engines look for specs, the later folder winning. All
// engines read the first; some no other.
var Folders = []string{"/etc/cdi", "/var/run/cdi"}

// maxFile bounds a spec file; NVIDIA's for 8 GPUs has 25 KB.
const maxFile = 4 << 20

// Marshal gives a spec's text in the format yaml or json.
func Marshal(s *specs.Spec, format string) ([]byte, error) {
	var b bytes.Buffer
	switch format {
	case "json":
		e := json.NewEncoder(&b)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		if err := e.Encode(s); err != nil {
			return nil, err
		}
	case "yaml":
		var n yaml.Node
		if err := n.Encode(s); err != nil {
			return nil, err
		}
		flow(&n)
		e := yaml.NewEncoder(&b)
		e.SetIndent(2)
		if err := e.Encode(&n); err != nil {
			return nil, err
		}
		if err := e.Close(); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("unknown format %q: want yaml or json", format)
	}
	return b.Bytes(), nil
}

// Text is what davit writes into a file: Marshal and, where the format has
// comments, a line that says who wrote it for what. All that write a host's spec
// use it, so that none undoes what another did.
func Text(s *specs.Spec, format string, f *nvidia.Facts) ([]byte, error) {
	text, err := Marshal(s, format)
	if err == nil && format == "yaml" {
		text = append(fmt.Appendf(nil, "# Written by davit cdi generate for driver %s and %d GPUs.\n", f.Driver.Version, len(f.GPUs)), text...)
	}
	return text, err
}

// flow writes the options of mounts in one line each: a spec has 60 of them.
func flow(n *yaml.Node) {
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 1 && n.Content[i-1].Value == "options" && c.Kind == yaml.SequenceNode {
			c.Style = yaml.FlowStyle
		}
		flow(c)
	}
}

// FormatOf is the format that a file's name says, "" if it says none that
// engines read.
func FormatOf(file string) string {
	switch filepath.Ext(file) {
	case ".json":
		return "json"
	case ".yaml":
		return "yaml"
	}
	return ""
}

// Write puts a spec's text into a file by a rename in its own folder, which it
// makes if need be: engines watch for renames within the folder, and do not
// see a file that was moved in from elsewhere. A file that holds this text
// already is left alone.
func Write(file string, text []byte) (changed bool, err error) {
	old, err := os.ReadFile(file)
	if err == nil && bytes.Equal(old, text) {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return false, err
	}
	if err := rootfs.WriteFile(file, text, 0o644); err != nil {
		return false, fmt.Errorf("write %s: %w", file, err)
	}
	return true, nil
}

// Parse reads a spec's text as far as it can be understood: fields that nobody
// knows are left out. Check says what is wrong with it.
func Parse(text []byte) (*specs.Spec, error) {
	s := &specs.Spec{}
	err := decode(text, s)
	dropNil(s)
	return s, err
}

// decode reads YAML or JSON. JSON may have tabs, which YAML's reader refuses;
// outside of strings they mean nothing, and inside they must be escaped.
func decode(text []byte, v any) error {
	if len(text) > maxFile {
		return fmt.Errorf("%d bytes are more than a CDI spec can have", len(text))
	}
	if isJSON(text) {
		text = bytes.ReplaceAll(text, []byte("\t"), []byte(" "))
	}
	return yaml.Unmarshal(text, v)
}

func isJSON(text []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) }

// Transform moves paths of a spec from below one folder to below another: for
// a spec written in a container that saw the host elsewhere. container says
// which paths are meant: those in the container, or those of the host.
func Transform(s *specs.Spec, from, to string, container bool) error {
	move := func(p string) string {
		if rest, ok := strings.CutPrefix(p, strings.TrimSuffix(from, "/")); ok && (rest == "" || rest[0] == '/') {
			if moved := strings.TrimSuffix(to, "/") + rest; moved != "" {
				return moved
			}
			return "/"
		}
		return p
	}
	all := []*specs.ContainerEdits{&s.ContainerEdits}
	for i := range s.Devices {
		all = append(all, &s.Devices[i].ContainerEdits)
	}
	for _, e := range all {
		for _, n := range e.DeviceNodes {
			moveNode(n, move, container)
		}
		for _, m := range e.Mounts {
			if container {
				m.ContainerPath = move(m.ContainerPath)
			} else {
				m.HostPath = move(m.HostPath)
			}
		}
		for _, h := range e.Hooks {
			if container {
				moveArgs(h.Args, move)
			} else {
				h.Path = move(h.Path)
			}
		}
	}
	var err error
	s.Version, err = specs.MinimumRequiredVersion(s)
	return err
}

func moveNode(n *specs.DeviceNode, move func(string) string, container bool) {
	host := n.HostPath
	if host == "" {
		host = n.Path
	}
	if container {
		n.Path = move(n.Path)
	} else {
		host = move(host)
	}
	n.HostPath = ""
	if host != n.Path {
		n.HostPath = host
	}
}

// moveArgs moves the container's paths in the arguments of hooks: those of
// links and of folders with libraries.
func moveArgs(args []string, move func(string) string) {
	for i, a := range args {
		name, value, ok := strings.Cut(a, "=")
		if !ok && i > 0 && strings.HasPrefix(args[i-1], "--") {
			name, value = args[i-1], a
		}
		switch name {
		case "--folder", "--libraries", "--libraries32", "--cuda-compat-container-root":
			value = move(value)
		case "--link":
			target, link, is := strings.Cut(value, "::")
			if !is {
				continue
			}
			value = move(target) + "::" + move(link)
		default:
			continue
		}
		if ok {
			value = name + "=" + value
		}
		args[i] = value
	}
}
