// SPDX-License-Identifier: Apache-2.0

package jsonedit

import (
	"bytes"
	"slices"
	"strings"
)

// style is how new text is laid out.
type style struct {
	// line is the line break and the indentation of the line that a value
	// begins in; "" if everything stands in one line.
	line  string
	unit  string // indentation of one level more
	colon string // what stands between a key and its value
	comma string // white space behind a comma within a line
	pad   string // white space inside the braces of an object within a line
}

// Bytes applies the edits. Without edits it is the text that was parsed; the
// caller must not change it.
func (d *Doc) Bytes() []byte {
	if len(d.changes) == 0 {
		return d.data
	}
	r := renderer{d: d, changed: make([]int32, 0, len(d.changes))}
	size := len(d.data) + 64
	for i, c := range d.changes {
		r.changed = append(r.changed, i)
		size += sizeOf(c.added)
		if c.replaced != nil {
			size += len(c.replaced.raw) + sizeOf(c.replaced.added)
		}
	}
	slices.Sort(r.changed)
	root := d.nodes[0]
	r.out = append(make([]byte, 0, size), d.data[:root.start]...)
	r.value(0, style{line: "?"})
	return append(r.out, d.data[root.end:]...)
}

// sizeOf guesses how long additions are.
func sizeOf(list []added) int {
	size := 0
	for _, a := range list {
		size += len(a.val.raw) + len(a.name) + 32 + sizeOf(a.val.added)
	}
	return size
}

type renderer struct {
	d       *Doc
	out     []byte
	changed []int32 // nodes with changes, sorted
	doc     style   // of the whole text; see docStyle
	known   bool
}

// value writes a node. st is the style of a value that replaces it; line "?"
// leaves finding that out to when it is needed.
func (r *renderer) value(i int32, st style) {
	d, n := r.d, r.d.nodes[i]
	at, _ := slices.BinarySearch(r.changed, i)
	if at == len(r.changed) || r.changed[at] >= n.next {
		r.out = append(r.out, d.data[n.start:n.end]...)
		return
	}
	c := d.changes[i]
	if c != nil && c.replaced != nil {
		if st.line == "?" {
			st = r.docStyle()
			if st.line != "" {
				st.line = lineOf(d.data, int(n.start), st.line)
			}
		}
		r.fresh(c.replaced, st)
		return
	}
	if n.kind != Object && n.kind != Array {
		r.out = append(r.out, d.data[n.start:n.end]...)
		return
	}
	r.container(i, c)
}

// container writes the children that stay, with the text between them, then
// the new ones.
func (r *renderer) container(i int32, ch *change) {
	d, n := r.d, r.d.nodes[i]
	r.out = append(r.out, d.data[n.start])
	behind := n.start + 1 // end of the last child that was looked at
	kept := false
	for c := i + 1; c < n.next; c = d.nodes[c].next {
		child := d.nodes[c]
		if !d.isDeleted(c) {
			if kept {
				r.out = append(r.out, d.data[behind:child.key]...)
			} else {
				r.out = append(r.out, d.data[n.start+1:d.nodes[i+1].key]...)
			}
			kept = true
			r.out = append(r.out, d.data[child.key:child.start]...)
			r.value(c, style{line: "?"})
		}
		behind = child.end
	}
	had := n.next > i+1
	if ch == nil || len(ch.added) == 0 {
		if kept || !had {
			r.out = append(r.out, d.data[behind:n.end-1]...)
		}
		r.out = append(r.out, d.data[n.end-1])
		return
	}
	st, inner := r.styleIn(i)
	for k, a := range ch.added {
		switch {
		case kept || k > 0:
			r.out = append(append(r.out, ','), st.line...)
			if st.line == "" {
				r.out = append(r.out, st.comma...)
			}
		case st.line != "":
			r.out = append(r.out, st.line...)
		case n.kind == Object:
			r.out = append(r.out, st.pad...)
		}
		if n.kind == Object {
			r.out = append(AppendQuote(r.out, a.name), st.colon...)
		}
		r.fresh(a.val, inner)
	}
	switch {
	case had:
		r.out = append(r.out, d.data[behind:n.end-1]...)
	case st.line != "":
		r.out = append(r.out, strings.TrimSuffix(st.line, st.unit)...)
	case n.kind == Object:
		r.out = append(r.out, st.pad...)
	}
	r.out = append(r.out, d.data[n.end-1])
}

// styleIn is the style of what is added to a container of the text, and of what
// is inside that: as its last child has it.
func (r *renderer) styleIn(i int32) (st, inner style) {
	d, n := r.d, r.d.nodes[i]
	st = r.docStyle()
	if n.next == i+1 {
		if st.line != "" {
			st.line = lineOf(d.data, int(n.start), st.line) + st.unit
		}
		return st, st
	}
	last, count := i+1, 1
	for c := d.nodes[last].next; c < n.next; c = d.nodes[c].next {
		last, count = c, count+1
	}
	child := d.nodes[last]
	lead := before(d.data, int(child.key))
	if nl := strings.LastIndexByte(lead, '\n'); nl >= 0 {
		if nl > 0 && lead[nl-1] == '\r' {
			nl--
		}
		st.line = lead[nl:]
	} else {
		st.line = ""
		if count > 1 {
			st.comma = lead
		} else if n.kind == Object {
			st.pad = lead
		}
	}
	if child.keyEnd > 0 {
		st.colon = string(d.data[child.keyEnd:child.start])
	}
	inner = st
	// A sibling within one line has brothers within one line.
	if text := d.data[child.start:child.end]; child.next > last+1 && bytes.IndexByte(text, '\n') < 0 {
		inner.line, inner.pad = "", ""
		if child.kind == Object {
			first := d.nodes[last+1]
			inner.pad = before(d.data, int(first.key))
			inner.colon = string(d.data[first.keyEnd:first.start])
		}
	}
	return st, inner
}

// fresh writes a new value.
func (r *renderer) fresh(f *fresh, st style) {
	if f.kind == None {
		if f.doc != nil {
			r.out = append(r.out, f.doc.Bytes()...)
		} else {
			r.out = append(r.out, f.raw...)
		}
		return
	}
	open, end := byte('['), byte(']')
	if f.kind == Object {
		open, end = '{', '}'
	}
	r.out = append(r.out, open)
	outer := st.line
	if st.line != "" {
		st.line += st.unit
	}
	for k, a := range f.added {
		if k > 0 {
			r.out = append(r.out, ',')
		}
		switch {
		case st.line != "":
			r.out = append(r.out, st.line...)
		case k > 0:
			r.out = append(r.out, st.comma...)
		case f.kind == Object:
			r.out = append(r.out, st.pad...)
		}
		if f.kind == Object {
			r.out = append(AppendQuote(r.out, a.name), st.colon...)
		}
		r.fresh(a.val, st)
	}
	if len(f.added) > 0 {
		if st.line != "" {
			r.out = append(r.out, outer...)
		} else if f.kind == Object {
			r.out = append(r.out, st.pad...)
		}
	}
	r.out = append(r.out, end)
}

// docStyle is the style of the whole text, told from its outermost container
// and its first key. Its line is the line break alone; "" for a text in one
// line.
func (r *renderer) docStyle() style {
	if r.known {
		return r.doc
	}
	d := r.d
	st := style{unit: "  ", colon: ":"}
	root := d.nodes[0]
	sample := "" // white space that shows whether the text has line breaks
	switch {
	case root.next > 1:
		sample = before(d.data, int(d.nodes[1].key))
	case root.kind == Object || root.kind == Array:
		sample = string(d.data[root.start+1:root.end]) + string(d.data[root.end:])
	}
	if nl := strings.LastIndexByte(sample, '\n'); nl >= 0 {
		st.line, st.colon, st.comma = "\n", ": ", " "
		if nl > 0 && sample[nl-1] == '\r' {
			st.line = "\r\n"
		}
		if root.next > 1 {
			st.unit = strings.TrimPrefix(sample[nl+1:], lineOf(d.data, int(root.start), ""))
		}
	}
	for _, n := range d.nodes {
		if n.keyEnd > 0 {
			st.colon = string(d.data[n.keyEnd:n.start])
			break
		}
	}
	if strings.HasSuffix(st.colon, " ") {
		st.comma = " "
	}
	r.doc, r.known = st, true
	return st
}

// before is the white space in front of an offset.
func before(data []byte, at int) string {
	from := at
	for from > 0 && space(data[from-1]) {
		from--
	}
	return string(data[from:at])
}

// lineOf is a line break and the indentation of the line that an offset is in.
func lineOf(data []byte, at int, br string) string {
	from := bytes.LastIndexByte(data[:at], '\n') + 1
	to := from
	for to < at && (data[to] == ' ' || data[to] == '\t') {
		to++
	}
	return br + string(data[from:to])
}
