// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// tomlDoc is a TOML text that is changed in place: what a change does not
// touch, comments and spaces too, stays byte for byte.
type tomlDoc struct {
	file    string
	text    []byte
	values  map[string]any
	keys    map[string]span // of scalars that stand as KEY = VALUE: where the value is
	headers map[string]int  // of [tables]: where the line after the header starts
	places  map[string]int  // of all that is written as a [table] or KEY = VALUE: where its name starts
	changes []Change
}

// span is a part of a text.
type span struct{ from, to int }

// parseTOML reads a text; one that is not TOML is a *ConfigError.
func parseTOML(file string, text []byte) (*tomlDoc, error) {
	d := &tomlDoc{file: file, text: text}
	return d, d.read()
}

func (d *tomlDoc) read() error {
	d.values = map[string]any{}
	if err := toml.Unmarshal(d.text, &d.values); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, column := at.Position()
			return &ConfigError{d.file, line, column, strings.TrimPrefix(at.Error(), "toml: ")}
		}
		return fmt.Errorf("%s: %w", d.file, err)
	}
	d.keys, d.headers, d.places = map[string]span{}, map[string]int{}, map[string]int{}
	p := unstable.Parser{}
	p.Reset(d.text)
	var table []string
	for p.NextExpression() {
		e := p.Expression()
		var key []string
		start, end := -1, 0
		for it := e.Key(); it.Next(); {
			key = append(key, string(it.Node().Data))
			if start < 0 {
				start = int(it.Node().Raw.Offset)
			}
			end = int(it.Node().Raw.Offset + it.Node().Raw.Length)
		}
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = key
			d.places[joined(key)] = start
			if e.Kind == unstable.Table {
				d.headers[joined(key)] = lineAfter(d.text, end)
			}
		case unstable.KeyValue:
			v := e.Value()
			path := append(append([]string{}, table...), key...)
			d.places[joined(path)] = start
			if v.Raw.Length > 0 && v.Kind != unstable.Array && v.Kind != unstable.InlineTable {
				d.keys[joined(path)] = span{int(v.Raw.Offset), int(v.Raw.Offset + v.Raw.Length)}
			}
		}
	}
	if err := p.Error(); err != nil { // Unmarshal would have said so
		return fmt.Errorf("%s: %w", d.file, err)
	}
	return nil
}

// joined is a path as one string that no other path has.
func joined(path []string) string { return strings.Join(path, "\x00") }

// lineAfter is where the line after an offset starts, or the end of the text.
func lineAfter(text []byte, at int) int {
	if n := bytes.IndexByte(text[at:], '\n'); n >= 0 {
		return at + n + 1
	}
	return len(text)
}

// get gives a value, if it is there and on its path are tables alone.
func (d *tomlDoc) get(path ...string) (any, bool) {
	var v any = d.values
	for _, key := range path {
		table, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = table[key]; !ok {
			return nil, false
		}
	}
	return v, true
}

// has says whether there is a value.
func (d *tomlDoc) has(path ...string) bool {
	_, ok := d.get(path...)
	return ok
}

// str gives a string, "" if there is none.
func (d *tomlDoc) str(path ...string) string {
	v, _ := d.get(path...)
	s, _ := v.(string)
	return s
}

// line is where a value or a table stands, 1 if it has no line of its own.
func (d *tomlDoc) line(path ...string) int {
	return bytes.Count(d.text[:d.places[joined(path)]], []byte("\n")) + 1
}

// set puts a string or a boolean in place unless it is there.
func (d *tomlDoc) set(value any, path ...string) error {
	raw := literal(value)
	old, had := d.get(path...)
	if had && reflect.DeepEqual(old, value) {
		return nil
	}
	change := Change{Key: dotted(path), Now: raw}
	var next []byte
	if had {
		s, ok := d.keys[joined(path)]
		if !ok {
			return d.cannot(path, raw)
		}
		change.Was = string(d.text[s.from:s.to])
		next = spliced(d.text, s, raw)
	} else {
		next = d.inserted(raw, path)
	}
	if next == nil || !d.take(next, value, path) {
		return d.cannot(path, raw)
	}
	d.changes = append(d.changes, change)
	return nil
}

// inserted is the text with a new key, in its table if that has a header, else
// in a table that is appended.
func (d *tomlDoc) inserted(raw string, path []string) []byte {
	last := len(path) - 1
	line := bare(path[last]) + " = " + raw
	if last == 0 {
		return spliced(d.text, span{}, line+"\n") // before the first table
	}
	at, ok := d.headers[joined(path[:last])]
	if !ok {
		return append(appendable(d.text), "\n["+dotted(path[:last])+"]\n  "+line+"\n"...)
	}
	if at == len(d.text) && !bytes.HasSuffix(d.text, []byte("\n")) {
		return append(bytes.Clone(d.text), "\n"+line+"\n"...)
	}
	return spliced(d.text, span{at, at}, d.indent(at)+line+"\n")
}

// indent is that of the keys of the table whose first line is at, or of its
// header and two more.
func (d *tomlDoc) indent(at int) string {
	first, _, _ := bytes.Cut(d.text[at:], []byte("\n"))
	if t := bytes.TrimLeft(first, " \t"); len(t) > 0 && t[0] != '[' && t[0] != '#' && t[0] != '\r' {
		return string(first[:len(first)-len(t)])
	}
	head := d.text[:at-1]
	head = head[bytes.LastIndexByte(head, '\n')+1:]
	return string(head[:len(head)-len(bytes.TrimLeft(head, " \t"))]) + "  "
}

// take makes a text the document's if it is the same document with this value
// beside; otherwise it changes nothing.
func (d *tomlDoc) take(text []byte, value any, path []string) bool {
	n, err := parseTOML(d.file, text)
	if err != nil {
		return false
	}
	want := copied(d.values)
	t := want
	for _, key := range path[:len(path)-1] {
		sub, ok := t[key].(map[string]any)
		if !ok {
			if t[key] != nil {
				return false
			}
			sub = map[string]any{}
			t[key] = sub
		}
		t = sub
	}
	t[path[len(path)-1]] = value
	if !reflect.DeepEqual(n.values, want) {
		return false
	}
	n.changes = d.changes
	*d = *n
	return true
}

// cannot is the error for a place that cannot be written in.
func (d *tomlDoc) cannot(path []string, raw string) error {
	line := 1
	for i := len(path); i > 0 && line == 1; i-- {
		line = d.line(path[:i]...)
	}
	return &ConfigError{d.file, line, 1, "cannot set " + dotted(path) + " = " + raw + " here, because what is above it is not written as a [table]; write it as one, or set this key by hand"}
}

func copied(table map[string]any) map[string]any {
	out := make(map[string]any, len(table))
	for k, v := range table {
		if sub, ok := v.(map[string]any); ok {
			v = copied(sub)
		}
		out[k] = v
	}
	return out
}

func spliced(text []byte, s span, with string) []byte {
	out := make([]byte, 0, len(text)+len(with))
	out = append(append(out, text[:s.from]...), with...)
	return append(out, text[s.to:]...)
}

// appendable is a copy of a text that ends with its last line.
func appendable(text []byte) []byte {
	out := bytes.Clone(text)
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	return out
}

// dotted is a path as TOML writes it.
func dotted(path []string) string {
	parts := make([]string, len(path))
	for i, p := range path {
		parts[i] = bare(p)
	}
	return strings.Join(parts, ".")
}

// bare is a key, in quotes if it needs them.
func bare(key string) string {
	for _, c := range []byte(key) {
		if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return quoted(key)
		}
	}
	if key == "" {
		return `""`
	}
	return key
}

// literal writes a string, a boolean or a list of strings.
func literal(value any) string {
	switch v := value.(type) {
	case bool:
		return fmt.Sprint(v)
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = literal(e)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return quoted(fmt.Sprint(value))
}

// quoted is a basic string.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
