// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// tomlFile is a configuration file in TOML, with the lines of its keys.
type tomlFile struct {
	name  string
	tree  map[string]any
	lines map[string]int // of tables and keys, by their path
}

// tomlError says where a text is no TOML.
type tomlError struct {
	file         string
	line, column int
	msg          string
}

func (e *tomlError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.file, e.line, e.column, e.msg)
}

func tomlKey(path []string) string { return strings.Join(path, "\x00") }

// parseTOML reads a foreign text. The error is a *tomlError.
func parseTOML(name string, text []byte) (*tomlFile, error) {
	f := &tomlFile{name: name, lines: map[string]int{}}
	if err := toml.Unmarshal(text, &f.tree); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, column := at.Position()
			return nil, &tomlError{name, line, column, strings.TrimPrefix(at.Error(), "toml: ")}
		}
		return nil, &tomlError{name, 1, 1, err.Error()}
	}
	var p unstable.Parser
	p.Reset(text)
	var table []string
	for p.NextExpression() {
		n := p.Expression()
		var key []string
		line := 0
		for it := n.Key(); it.Next(); {
			key = append(key, string(it.Node().Data))
			if line == 0 {
				line = p.Shape(it.Node().Raw).Start.Line
			}
		}
		full := key
		if n.Kind == unstable.Table || n.Kind == unstable.ArrayTable {
			table = key
		} else {
			full = append(slices.Clone(table), key...)
		}
		if k := tomlKey(full); f.lines[k] == 0 {
			f.lines[k] = line
		}
	}
	return f, nil
}

// get is the value at a path; nil if there is none.
func (f *tomlFile) get(path ...string) any {
	var v any = f.tree
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

func (f *tomlFile) table(path ...string) map[string]any {
	m, _ := f.get(path...).(map[string]any)
	return m
}

func (f *tomlFile) str(path ...string) string {
	s, _ := f.get(path...).(string)
	return s
}

func (f *tomlFile) list(path ...string) (list []string) {
	items, _ := f.get(path...).([]any)
	for _, i := range items {
		if s, ok := i.(string); ok {
			list = append(list, s)
		}
	}
	return list
}

// line is where a path stands, or the first key below it, or the last above.
func (f *tomlFile) line(path ...string) int {
	k := tomlKey(path)
	if l := f.lines[k]; l > 0 {
		return l
	}
	best := 0
	for key, l := range f.lines {
		if strings.HasPrefix(key, k+"\x00") && (best == 0 || l < best) {
			best = l
		}
	}
	if best == 0 && len(path) > 1 {
		return f.line(path[:len(path)-1]...)
	}
	return best
}

// keysOf are a table's names in the order of the alphabet.
func keysOf(m map[string]any) []string {
	list := make([]string, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}
