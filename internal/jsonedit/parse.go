// SPDX-License-Identifier: Apache-2.0

// Package jsonedit changes JSON text in place: what an edit does not name is
// kept byte for byte, unknown properties, order, spacing and repeated keys
// included, and what is added follows the style of the text around it.
//
// A Doc is parsed once and read through Value. Edits are collected by Append,
// Set, Delete and DeleteElem and applied by Bytes; reading goes on showing the
// text that was parsed. A Doc is for one goroutine.
package jsonedit

import (
	"bytes"
	"fmt"
	"unicode/utf8"
)

// Kind is what a value is.
type Kind uint8

// The kinds of JSON values. The zero Kind is no value.
const (
	None Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

// String is the name of a kind with its article, for messages.
func (k Kind) String() string {
	return [...]string{"nothing", "null", "a boolean", "a number", "a string", "an array", "an object"}[min(k, Object)]
}

// maxDepth bounds nesting; config.json of a container has less than ten levels.
const maxDepth = 512

// maxSize bounds the text; offsets are kept in 32 bits.
const maxSize = 1 << 30

// node is a value. Nodes stand in the order of the text, so that the children
// of a container follow it.
type node struct {
	kind       Kind
	start, end int32 // of the value
	key        int32 // start of the key of an object's member, at its quote; else that of the value
	keyEnd     int32 // behind the key's quote; 0 if there is no key
	next       int32 // index of the first node behind this one's children
}

// Doc is a JSON text and the edits to it.
type Doc struct {
	data    []byte
	nodes   []node
	changes map[int32]*change
}

// SyntaxError says where a text is not JSON.
type SyntaxError struct {
	Offset int // in bytes, from 0
	Line   int // from 1
	Column int // in characters, from 1
	Msg    string
}

// Error gives line, column and the sentence; callers put the file before it.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Msg)
}

// Parse reads a JSON text of RFC 8259. It accepts what encoding/json accepts
// (repeated keys and bytes that are not UTF-8 inside strings, too), except that
// nesting deeper than 512 is an error. The error is a *SyntaxError. The Doc
// keeps data, which must not be changed afterwards.
func Parse(data []byte) (*Doc, error) {
	if len(data) > maxSize {
		return nil, &SyntaxError{Line: 1, Column: 1, Msg: "the text is larger than 1 GiB"}
	}
	// A config.json has about one value in 9 bytes; what is too much costs less
	// than growing.
	p := parser{data: data, nodes: make([]node, 0, len(data)/8+8)}
	if !p.text() {
		return nil, p.syntaxError()
	}
	return &Doc{data: data, nodes: p.nodes}, nil
}

// valid says whether raw is one JSON value, with nothing around it.
func valid(raw []byte) bool {
	if len(raw) == 0 || len(raw) > maxSize || space(raw[0]) || space(raw[len(raw)-1]) {
		return false
	}
	var few [32]node
	p := parser{data: raw, nodes: few[:0]}
	return p.text()
}

type parser struct {
	data  []byte
	nodes []node
	pos   int
	depth int
	msg   string // what is wrong at pos
}

func (p *parser) fail(msg string) bool {
	p.msg = msg
	return false
}

func space(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// skip moves to the next byte that is no white space; 0 is the end.
func (p *parser) skip() byte {
	for p.pos < len(p.data) {
		if c := p.data[p.pos]; !space(c) {
			return c
		}
		p.pos++
	}
	return 0
}

func (p *parser) text() bool {
	if bytes.HasPrefix(p.data, []byte("\xef\xbb\xbf")) {
		return p.fail("the text begins with a byte order mark, which JSON does not allow; save it as UTF-8 without it")
	}
	p.skip()
	if !p.value(0, 0) {
		return false
	}
	end := p.pos
	if c := p.skip(); p.pos < len(p.data) {
		if c == '/' || c == '#' {
			return p.fail(noComments)
		}
		line, column := position(p.data, end-1)
		msg := fmt.Sprintf("the text goes on although its outermost value ended at line %d, column %d", line, column)
		if p.data[end-1] == '}' {
			msg += "; is there one closing brace too many?"
		}
		return p.fail(msg)
	}
	return true
}

const noComments = "JSON has no comments"

// value parses one value; key and keyEnd are where its key stands.
func (p *parser) value(key, keyEnd int) bool {
	if p.pos >= len(p.data) {
		return p.fail("the text ends where a value should stand")
	}
	at := len(p.nodes)
	start := p.pos
	if keyEnd == 0 {
		key = start
	}
	p.nodes = append(p.nodes, node{start: int32(start), key: int32(key), keyEnd: int32(keyEnd)})
	kind, ok := None, false
	switch c := p.data[p.pos]; {
	case c == '"':
		kind, ok = String, p.str()
	case c == '{':
		kind, ok = Object, p.object()
	case c == '[':
		kind, ok = Array, p.array()
	case c == '-' || c >= '0' && c <= '9':
		kind, ok = Number, p.number()
	case c == 't':
		kind, ok = Bool, p.word("true")
	case c == 'f':
		kind, ok = Bool, p.word("false")
	case c == 'n':
		kind, ok = Null, p.word("null")
	case c == '/' || c == '#':
		return p.fail(noComments)
	case c == '\'':
		return p.fail("strings stand in double quotes")
	case c == '}' || c == ']' || c == ',':
		return p.fail(fmt.Sprintf("a value should stand before %q", rune(c)))
	default:
		return p.fail("a value should stand here: a string, a number, true, false, null, an array or an object")
	}
	if !ok {
		return false
	}
	n := &p.nodes[at]
	n.kind, n.end, n.next = kind, int32(p.pos), int32(len(p.nodes))
	return true
}

func (p *parser) word(w string) bool {
	if !bytes.HasPrefix(p.data[p.pos:], []byte(w)) {
		return p.fail("a value should stand here; the words are true, false and null, all else stands in double quotes")
	}
	p.pos += len(w)
	return true
}

func (p *parser) object() bool {
	if p.depth++; p.depth > maxDepth {
		return p.fail("nested deeper than 512 levels")
	}
	p.pos++
	if p.skip() == '}' {
		p.pos++
		p.depth--
		return true
	}
	for {
		c := p.skip()
		key := p.pos
		switch {
		case c == '"':
		case p.pos >= len(p.data):
			return p.fail("the text ends inside an object; a closing brace is missing")
		case c == '}':
			return p.fail("a comma stands before the closing brace")
		case c == '/' || c == '#':
			return p.fail(noComments)
		default:
			return p.fail("a key in double quotes should stand here")
		}
		if !p.str() {
			return false
		}
		keyEnd := p.pos
		if p.skip() != ':' {
			return p.fail("a colon should stand behind the key")
		}
		p.pos++
		p.skip()
		if !p.value(key, keyEnd) {
			return false
		}
		switch c := p.skip(); {
		case c == ',':
			p.pos++
			p.skip()
		case c == '}':
			p.pos++
			p.depth--
			return true
		case p.pos >= len(p.data):
			return p.fail("the text ends inside an object; a closing brace is missing")
		case c == '/' || c == '#':
			return p.fail(noComments)
		case c == '"':
			return p.fail("a comma is missing before this key")
		default:
			return p.fail("a comma or a closing brace should stand here")
		}
	}
}

func (p *parser) array() bool {
	if p.depth++; p.depth > maxDepth {
		return p.fail("nested deeper than 512 levels")
	}
	p.pos++
	if p.skip() == ']' {
		p.pos++
		p.depth--
		return true
	}
	for {
		if p.pos < len(p.data) && p.data[p.pos] == ']' {
			return p.fail("a comma stands before the closing bracket")
		}
		if !p.value(0, 0) {
			return false
		}
		switch c := p.skip(); {
		case c == ',':
			p.pos++
			p.skip()
		case c == ']':
			p.pos++
			p.depth--
			return true
		case p.pos >= len(p.data):
			return p.fail("the text ends inside an array; a closing bracket is missing")
		case c == '/' || c == '#':
			return p.fail(noComments)
		default:
			return p.fail("a comma or a closing bracket should stand here")
		}
	}
}

func (p *parser) str() bool {
	data := p.data
	for i := p.pos + 1; i < len(data); i++ {
		c := data[i]
		if c == '"' {
			p.pos = i + 1
			return true
		}
		if c >= 0x20 && c != '\\' {
			continue
		}
		p.pos = i
		if c != '\\' {
			return p.fail("a control character stands in a string, or its closing quote is missing")
		}
		i++
		if i >= len(data) {
			break
		}
		switch data[i] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		case 'u':
			for range 4 {
				i++
				if i >= len(data) || unhex(data[i]) < 0 {
					return p.fail(`\u wants four hexadecimal digits`)
				}
			}
		default:
			return p.fail("no escape of JSON: a backslash is written twice")
		}
	}
	p.pos = len(data)
	return p.fail("the text ends inside a string")
}

func unhex(c byte) rune {
	switch {
	case c >= '0' && c <= '9':
		return rune(c - '0')
	case c >= 'a' && c <= 'f':
		return rune(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return rune(c-'A') + 10
	}
	return -1
}

func (p *parser) digits() bool {
	from := p.pos
	for p.pos < len(p.data) && p.data[p.pos] >= '0' && p.data[p.pos] <= '9' {
		p.pos++
	}
	return p.pos > from
}

func (p *parser) is(c byte) bool { return p.pos < len(p.data) && p.data[p.pos] == c }

func (p *parser) number() bool {
	if p.is('-') {
		p.pos++
	}
	if p.is('0') {
		if p.pos++; p.pos < len(p.data) && p.data[p.pos] >= '0' && p.data[p.pos] <= '9' {
			return p.fail("a number does not begin with 0")
		}
	} else if !p.digits() {
		return p.fail("a digit should stand behind the minus sign")
	}
	if p.is('.') {
		p.pos++
		if !p.digits() {
			return p.fail("a digit should stand behind the point")
		}
	}
	if p.is('e') || p.is('E') {
		p.pos++
		if p.is('+') || p.is('-') {
			p.pos++
		}
		if !p.digits() {
			return p.fail("a digit should stand in the exponent")
		}
	}
	return true
}

func (p *parser) syntaxError() *SyntaxError {
	line, column := position(p.data, p.pos)
	return &SyntaxError{Offset: p.pos, Line: line, Column: column, Msg: p.msg}
}

// position counts lines and characters up to an offset.
func position(data []byte, offset int) (line, column int) {
	before := data[:min(offset, len(data))]
	begin := bytes.LastIndexByte(before, '\n') + 1
	return bytes.Count(before, []byte{'\n'}) + 1, utf8.RuneCount(before[begin:]) + 1
}
