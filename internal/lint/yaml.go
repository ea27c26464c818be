// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"bytes"
	"errors"
	"io"

	"go.yaml.in/yaml/v3"
)

// entry is one key of a mapping, with its place.
type entry struct {
	key   *yaml.Node
	value *yaml.Node
}

// real follows aliases.
func real(n *yaml.Node) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.AliasNode && i < 10; i++ {
		n = n.Alias
	}
	return n
}

// get finds a key of a mapping, in merged mappings too.
func get(n *yaml.Node, name string) (entry, bool) { return lookUp(n, name, 0) }

func lookUp(n *yaml.Node, name string, depth int) (entry, bool) {
	n = real(n)
	if n == nil || n.Kind != yaml.MappingNode || depth > 8 {
		return entry{}, false
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return entry{n.Content[i], real(n.Content[i+1])}, true
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != "<<" {
			continue
		}
		merged := real(n.Content[i+1])
		list := []*yaml.Node{merged}
		if merged.Kind == yaml.SequenceNode {
			list = merged.Content
		}
		for _, m := range list {
			if e, ok := lookUp(m, name, depth+1); ok {
				return e, true
			}
		}
	}
	return entry{}, false
}

// dig follows keys.
func dig(n *yaml.Node, names ...string) (e entry, ok bool) {
	e.value = n
	for _, name := range names {
		if e, ok = get(e.value, name); !ok {
			return entry{}, false
		}
	}
	return e, len(names) > 0
}

// items are the members of a sequence, aliases followed.
func items(n *yaml.Node) (list []*yaml.Node) {
	n = real(n)
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	for _, x := range n.Content {
		list = append(list, real(x))
	}
	return list
}

// entries are the keys of a mapping.
func entries(n *yaml.Node) (list []entry) {
	n = real(n)
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		list = append(list, entry{n.Content[i], real(n.Content[i+1])})
	}
	return list
}

// documents reads all documents of a text; those before a mistake are given
// with the error.
func documents(text []byte) (list []*yaml.Node, err error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	for len(list) < 500 {
		var n yaml.Node
		err := d.Decode(&n)
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		if len(n.Content) > 0 {
			list = append(list, n.Content[0])
		}
	}
	return list, nil
}

// strictJSON blanks comments, trailing commas and tabs of a JSON text, each
// line and column kept.
func strictJSON(text []byte) []byte {
	out := bytes.Clone(text)
	comma := -1
	for i := 0; i < len(out); i++ {
		switch b := out[i]; {
		case b == '"':
			comma = -1
			for i++; i < len(out) && out[i] != '"'; i++ {
				if out[i] == '\\' {
					i++
				}
			}
		case b == '/' && i+1 < len(out) && out[i+1] == '/':
			for ; i < len(out) && out[i] != '\n'; i++ {
				out[i] = ' '
			}
		case b == '/' && i+1 < len(out) && out[i+1] == '*':
			for ; i < len(out); i++ {
				end := out[i] == '/' && i > 1 && text[i-1] == '*'
				if out[i] != '\n' {
					out[i] = ' '
				}
				if end {
					break
				}
			}
		case b == ',':
			comma = i
		case b == '}' || b == ']':
			if comma >= 0 {
				out[comma] = ' '
			}
			comma = -1
		case b == '\t' || b == '\r':
			out[i] = ' '
		case b != ' ' && b != '\n':
			comma = -1
		}
	}
	return out
}
