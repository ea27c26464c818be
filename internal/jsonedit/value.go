// SPDX-License-Identifier: Apache-2.0

package jsonedit

import (
	"bytes"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Value is a value in the text that was parsed. The zero Value is of kind None.
type Value struct {
	d *Doc
	i int32
}

// Member is a key and its value.
type Member struct {
	Key   string // escapes resolved
	Value Value
}

// Root is the outermost value.
func (d *Doc) Root() Value { return Value{d, 0} }

// Get follows keys, and decimal indexes in arrays, from the outermost value. Of
// repeated keys the last counts.
func (d *Doc) Get(path ...string) (Value, bool) { return d.Root().Get(path...) }

// Get follows keys and indexes from v.
func (v Value) Get(path ...string) (Value, bool) {
	if v.d == nil {
		return Value{}, false
	}
	for _, name := range path {
		i, ok := v.d.child(v.i, name)
		if !ok {
			return Value{}, false
		}
		v.i = i
	}
	return v, true
}

// child finds the node of a key or an index.
func (d *Doc) child(i int32, name string) (int32, bool) {
	found, ok := int32(0), false
	switch n := d.nodes[i]; n.kind {
	case Object:
		for c := i + 1; c < n.next; c = d.nodes[c].next {
			if d.isKey(c, name) {
				found, ok = c, true
			}
		}
	case Array:
		k, isIndex := index(name)
		if !isIndex {
			return 0, false
		}
		for c := i + 1; c < n.next; c = d.nodes[c].next {
			if k == 0 {
				return c, true
			}
			k--
		}
	}
	return found, ok
}

// index reads the decimal index of an array's element.
func index(name string) (int, bool) {
	k, err := strconv.Atoi(name)
	return k, err == nil && k >= 0 && strconv.Itoa(k) == name
}

func (d *Doc) isKey(c int32, name string) bool {
	raw := d.data[d.nodes[c].key+1 : d.nodes[c].keyEnd-1]
	if bytes.IndexByte(raw, '\\') < 0 && !strings.Contains(name, "\ufffd") {
		return string(raw) == name
	}
	return unquote(raw) == name // one key has many spellings
}

// Kind is what v is.
func (v Value) Kind() Kind {
	if v.d == nil {
		return None
	}
	return v.d.nodes[v.i].kind
}

// Raw is the text of v, a part of the parsed text.
func (v Value) Raw() []byte {
	if v.d == nil {
		return nil
	}
	n := v.d.nodes[v.i]
	return v.d.data[n.start:n.end:n.end]
}

// Position is the line and the column, from 1, in which v begins.
func (v Value) Position() (line, column int) {
	if v.d == nil {
		return 0, 0
	}
	return position(v.d.data, int(v.d.nodes[v.i].start))
}

// Len is the number of elements or members, repeated keys counted each time.
func (v Value) Len() int {
	count := 0
	if k := v.Kind(); k == Array || k == Object {
		nodes := v.d.nodes
		for c := v.i + 1; c < nodes[v.i].next; c = nodes[c].next {
			count++
		}
	}
	return count
}

// Elems are the elements of an array with their indexes; of anything else,
// none.
func (v Value) Elems() iter.Seq2[int, Value] {
	return func(yield func(int, Value) bool) {
		if v.Kind() != Array {
			return
		}
		nodes, at := v.d.nodes, 0
		for c := v.i + 1; c < nodes[v.i].next; c = nodes[c].next {
			if !yield(at, Value{v.d, c}) {
				return
			}
			at++
		}
	}
}

// Members are the members of an object in the order of the text, repeated keys
// each time, with their places; of anything else, none.
func (v Value) Members() iter.Seq2[int, Member] {
	return func(yield func(int, Member) bool) {
		if v.Kind() != Object {
			return
		}
		nodes, at := v.d.nodes, 0
		for c := v.i + 1; c < nodes[v.i].next; c = nodes[c].next {
			n := nodes[c]
			if !yield(at, Member{unquote(v.d.data[n.key+1 : n.keyEnd-1]), Value{v.d, c}}) {
				return
			}
			at++
		}
	}
}

// wrongKind says that a value is not what was expected.
func (v Value) wrongKind(want Kind) error {
	line, column := v.Position()
	return fmt.Errorf("line %d, column %d: %s stands where %s should", line, column, v.Kind(), want)
}

// String is the text of a string, escapes resolved; what is no UTF-8 becomes
// U+FFFD, as in encoding/json. Other kinds are an error.
func (v Value) String() (string, error) {
	if v.Kind() != String {
		return "", v.wrongKind(String)
	}
	raw := v.Raw()
	return unquote(raw[1 : len(raw)-1]), nil
}

// Int is a number that is written as an integer and fits into 64 bits.
func (v Value) Int() (int64, error) {
	if v.Kind() != Number {
		return 0, v.wrongKind(Number)
	}
	n, err := strconv.ParseInt(string(v.Raw()), 10, 64)
	if err != nil {
		line, column := v.Position()
		return 0, fmt.Errorf("line %d, column %d: %s is no integer of 64 bits", line, column, v.Raw())
	}
	return n, nil
}

// Bool is true or false; other kinds are an error.
func (v Value) Bool() (bool, error) {
	if v.Kind() != Bool {
		return false, v.wrongKind(Bool)
	}
	return v.Raw()[0] == 't', nil
}

// unquote resolves the escapes of a valid string's inside.
func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 && utf8.Valid(raw) {
		return string(raw)
	}
	var b strings.Builder
	b.Grow(len(raw))
	for i := 0; i < len(raw); {
		c := raw[i]
		if c != '\\' {
			r, size := utf8.DecodeRune(raw[i:])
			b.WriteRune(r) // one U+FFFD for each wrong byte
			i += size
			continue
		}
		switch c = raw[i+1]; c {
		case 'u':
			r := hex4(raw[i:])
			i += 6
			if utf16.IsSurrogate(r) {
				r2 := rune(-1)
				if len(raw) >= i+6 && raw[i] == '\\' && raw[i+1] == 'u' {
					r2 = hex4(raw[i:])
				}
				if r = utf16.DecodeRune(r, r2); r != utf8.RuneError {
					i += 6
				}
			}
			b.WriteRune(r)
			continue
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		}
		b.WriteByte(c)
		i += 2
	}
	return b.String()
}

// hex4 reads \uXXXX.
func hex4(raw []byte) rune {
	r := rune(0)
	for _, c := range raw[2:6] {
		r = r<<4 | unhex(c)
	}
	return r
}

// Quote is s as a JSON string. What is no UTF-8 becomes U+FFFD.
func Quote(s string) []byte { return AppendQuote(make([]byte, 0, len(s)+2), s) }

// AppendQuote appends s as a JSON string to b.
func AppendQuote(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
			b = append(append(b, s[from:i]...), "\ufffd"...)
			i++
			from = i
			continue
		}
		b = append(b, s[from:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		from = i
	}
	return append(append(b, s[from:]...), '"')
}
