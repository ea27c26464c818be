// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// setTOML puts a value, in TOML's notation, under a key of a text. All else,
// comments and spaces too, stays byte for byte; a result that would say
// anything else is an error.
func setTOML(text []byte, key []string, literal string) ([]byte, error) {
	before, err := decodeTOML(text)
	if err != nil {
		return nil, err
	}
	value, err := decodeTOML([]byte("v = " + literal))
	if err != nil {
		return nil, err
	}
	dotted := strings.Join(key, ".")
	if !putIn(before, key, value["v"]) {
		return nil, fmt.Errorf("%s: what holds it is not a table", dotted)
	}
	from, to, found := findTOML(text, key)
	var out []byte
	switch {
	case found && from < 0:
		return nil, fmt.Errorf("%s is not written as KEY = VALUE: change it by hand", dotted)
	case found:
		out = slices.Concat(text[:from], []byte(literal), text[to:])
	default:
		out = insertTOML(text, from, key, literal)
	}
	after, err := decodeTOML(out)
	if err != nil || !reflect.DeepEqual(before, after) {
		return nil, fmt.Errorf("%s cannot be set without touching what stands around it: change it by hand", dotted)
	}
	return out, nil
}

func decodeTOML(text []byte) (map[string]any, error) {
	v := map[string]any{}
	if err := toml.Unmarshal(text, &v); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, column := at.Position()
			return nil, fmt.Errorf("line %d, column %d: %s", line, column, strings.TrimPrefix(at.Error(), "toml: "))
		}
		return nil, err
	}
	return v, nil
}

// putIn sets a value in a decoded text; no if a table's place is taken.
func putIn(table map[string]any, key []string, value any) bool {
	for _, k := range key[:len(key)-1] {
		next, ok := table[k]
		if !ok {
			next = map[string]any{}
			table[k] = next
		}
		if table, ok = next.(map[string]any); !ok {
			return false
		}
	}
	table[key[len(key)-1]] = value
	return true
}

// findTOML gives the span of a key's value, from -1 if it has none of its own.
// A key that is not there is not found, and from is then where a line for it
// belongs: at its table's beginning, or -1 if the table is not there either.
func findTOML(text []byte, key []string) (from, to int, found bool) {
	table, own := []string{}, key[:len(key)-1]
	place := -1
	if len(own) == 0 {
		place = 0
	}
	p := unstable.Parser{}
	p.Reset(text)
	for p.NextExpression() {
		e := p.Expression()
		var k []string
		end := 0
		for it := e.Key(); it.Next(); {
			k = append(k, string(it.Node().Data))
			end = int(it.Node().Raw.Offset + it.Node().Raw.Length)
		}
		if e.Kind == unstable.Table || e.Kind == unstable.ArrayTable {
			table = k
			if slices.Equal(table, own) && place < 0 {
				place = lineEnd(text, end)
			}
			continue
		}
		if e.Kind != unstable.KeyValue {
			continue
		}
		full := slices.Concat(table, k)
		if !slices.Equal(full, key) {
			if len(table) == 0 && len(own) == 0 { // behind the last one of the file's head
				place = lineEnd(text, valueEnd(text, end+bytes.IndexByte(text[end:], '=')+1))
			}
			if len(full) < len(key) && slices.Equal(full, key[:len(full)]) {
				return -1, 0, true // an inline table
			}
			continue
		}
		from = end + bytes.IndexByte(text[end:], '=') + 1
		for from < len(text) && (text[from] == ' ' || text[from] == '\t') {
			from++
		}
		to = valueEnd(text, from)
		return from, to, to > from
	}
	return place, 0, false
}

// lineEnd is where the line after an offset starts, or the end of the text.
func lineEnd(text []byte, at int) int {
	if n := bytes.IndexByte(text[at:], '\n'); n >= 0 {
		return at + n + 1
	}
	return len(text)
}

// valueEnd is where a value of a text that is TOML ends: behind its last quote
// or bracket, or its last letter.
func valueEnd(text []byte, at int) int {
	depth := 0
	for i := at; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"' || c == '\'':
			i = stringEnd(text, i)
			if depth == 0 {
				return i + 1
			}
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			if depth--; depth == 0 {
				return i + 1
			}
		case c == '#' && depth > 0:
			i = lineEnd(text, i) - 1
		case depth == 0 && (c == '#' || c == '\n' || c == '\r'):
			return at + len(bytes.TrimRight(text[at:i], " \t"))
		}
	}
	return at + len(bytes.TrimRight(text[at:], " \t"))
}

// stringEnd is the place of a string's closing quote.
func stringEnd(text []byte, at int) int {
	q := text[at : at+1]
	if three := bytes.Repeat(q, 3); bytes.HasPrefix(text[at:], three) {
		q = three
	}
	i := at + len(q)
	for ; i < len(text) && !bytes.HasPrefix(text[i:], q); i++ {
		if text[i] == '\\' && q[0] == '"' {
			i++
		}
	}
	for len(q) == 3 && i+3 < len(text) && text[i+3] == q[0] {
		i++ // quotes before the closing ones
	}
	return min(i+len(q), len(text)) - 1
}

// insertTOML adds a line: where its table begins, or with a table of its own
// at the end.
func insertTOML(text []byte, at int, key []string, literal string) []byte {
	nl := "\n"
	if bytes.Contains(text, []byte("\r\n")) {
		nl = "\r\n"
	}
	line := key[len(key)-1] + " = " + literal + nl
	if at < 0 {
		at = len(text)
		line = "[" + strings.Join(key[:len(key)-1], ".") + "]" + nl + line
		if at > 0 {
			line = nl + line
		}
	}
	if at > 0 && text[at-1] != '\n' {
		line = nl + line
	}
	return slices.Concat(text[:at], []byte(line), text[at:])
}

// quoteTOML is a basic string.
func quoteTOML(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case r < ' ' || r == 0x7f:
			b.WriteString(`\u` + strings.Repeat("0", 4-len(strconv.FormatInt(int64(r), 16))) + strconv.FormatInt(int64(r), 16))
		default:
			b.WriteRune(r)
		}
	}
	return b.String() + `"`
}
