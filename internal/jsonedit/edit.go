// SPDX-License-Identifier: Apache-2.0

package jsonedit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// change is what happens to one node.
type change struct {
	replaced *fresh
	deleted  bool
	added    []added // to a container, at its end
}

// added is a new member or element.
type added struct {
	name string // of a member
	val  *fresh
}

// fresh is a value that is not in the parsed text: a container that an edit
// made, or text that an edit gave. Such text is parsed when an edit goes into
// it.
type fresh struct {
	kind  Kind // Object or Array if made, None if given as raw
	added []added
	raw   []byte
	doc   *Doc
}

// slot is a place that an edit goes to: a node of a document, or a made
// container.
type slot struct {
	d *Doc
	i int32
	f *fresh
}

func (d *Doc) slot(i int32) slot {
	if c := d.changes[i]; c != nil && c.replaced != nil {
		return c.replaced.slot()
	}
	return slot{d: d, i: i}
}

func (f *fresh) slot() slot {
	if f.kind != None {
		return slot{f: f}
	}
	if f.doc == nil {
		f.doc, _ = Parse(f.raw) // it was found valid when it came
	}
	return f.doc.slot(0)
}

func (d *Doc) change(i int32) *change {
	c := d.changes[i]
	if c == nil {
		if d.changes == nil {
			d.changes = map[int32]*change{}
		}
		c = &change{}
		d.changes[i] = c
	}
	return c
}

func (s slot) kind() Kind {
	if s.f != nil {
		return s.f.kind
	}
	return s.d.nodes[s.i].kind
}

// additions is where new members of a container go.
func (s slot) additions() *[]added {
	if s.f != nil {
		return &s.f.added
	}
	return &s.d.change(s.i).added
}

// replace puts another value into a slot.
func (s slot) replace(f *fresh) {
	if s.f != nil {
		*s.f = *f
		return
	}
	c := s.d.change(s.i)
	c.replaced, c.added = f, nil
}

// old finds a key or an index in the parsed text, unless it is deleted.
func (s slot) old(name string) (int32, bool) {
	if s.f != nil {
		return 0, false
	}
	if s.kind() != Object {
		c, ok := s.d.child(s.i, name)
		return c, ok && !s.d.isDeleted(c)
	}
	found, ok := int32(0), false
	for c := s.i + 1; c < s.d.nodes[s.i].next; c = s.d.nodes[c].next {
		if s.d.isKey(c, name) && !s.d.isDeleted(c) {
			found, ok = c, true
		}
	}
	return found, ok
}

func (d *Doc) isDeleted(i int32) bool {
	c := d.changes[i]
	return c != nil && c.deleted
}

// child goes to a member or an element.
func (s slot) child(name string) (slot, bool) {
	if a := s.addition(name); a != nil {
		return a.val.slot(), true
	}
	if c, ok := s.old(name); ok {
		return s.d.slot(c), true
	}
	return slot{}, false
}

// addition finds a member that an edit added.
func (s slot) addition(name string) *added {
	if s.kind() != Object {
		return nil
	}
	var list []added
	if s.f != nil {
		list = s.f.added
	} else if c := s.d.changes[s.i]; c != nil {
		list = c.added
	}
	for i := range list {
		if list[i].name == name {
			return &list[i]
		}
	}
	return nil
}

// walk goes along a path and makes what is missing: objects, and a container of
// the wanted kind at the end. null counts as missing. Nothing is made if there
// is an error.
func (d *Doc) walk(path []string, want Kind) (slot, error) {
	s := d.slot(0)
	for depth, name := range path {
		if s.kind() == Null {
			f := &fresh{kind: Object}
			s.replace(f)
			s = slot{f: f}
		}
		c, ok := s.child(name)
		if !ok {
			if s.kind() != Object {
				return slot{}, wrongPlace(path[:depth], s.kind(), name)
			}
			f := &fresh{kind: Object}
			if depth == len(path)-1 {
				f.kind = want
			}
			list := s.additions()
			*list = append(*list, added{name, f})
			c = slot{f: f}
		}
		s = c
	}
	if s.kind() == Null {
		f := &fresh{kind: want}
		s.replace(f)
		s = slot{f: f}
	}
	return s, nil
}

func wrongPlace(path []string, kind Kind, name string) error {
	if kind == Array {
		return fmt.Errorf("%s has no element %s", where(path), name)
	}
	return fmt.Errorf("%s is %s, so there can be no %q in it", where(path), kind, name)
}

func where(path []string) string {
	if len(path) == 0 {
		return "the outermost value"
	}
	return strings.Join(path, ".")
}

var errRaw = errors.New("the new value is not JSON")

// Append adds an element at the end of the array at path. An array that is
// missing or null is made, and so are the objects above it. raw must be one
// JSON value, without white space around; it is kept and must not be changed.
func (d *Doc) Append(raw []byte, path ...string) error {
	if !valid(raw) {
		return fmt.Errorf("append to %s: %w", where(path), errRaw)
	}
	s, err := d.walk(path, Array)
	if err != nil {
		return fmt.Errorf("append: %w", err)
	}
	if k := s.kind(); k != Array {
		return fmt.Errorf("append: %s is %s, not an array", where(path), k)
	}
	list := s.additions()
	*list = append(*list, added{val: &fresh{raw: raw}})
	return nil
}

// Set puts raw at path: in place of the value there (of repeated keys, the
// last), or as a new member at the end. Missing objects above it are made; an
// element of an array must exist. For raw see Append.
func (d *Doc) Set(raw []byte, path ...string) error {
	if !valid(raw) {
		return fmt.Errorf("set %s: %w", where(path), errRaw)
	}
	f := &fresh{raw: raw}
	if len(path) == 0 {
		d.changes = nil
		d.slot(0).replace(f)
		return nil
	}
	parent, name := path[:len(path)-1], path[len(path)-1]
	s, err := d.walk(parent, Object)
	if err != nil {
		return fmt.Errorf("set: %w", err)
	}
	if a := s.addition(name); a != nil {
		a.val = f
		return nil
	}
	if c, ok := s.old(name); ok {
		slot{d: s.d, i: c}.replace(f)
		return nil
	}
	if s.kind() != Object {
		return fmt.Errorf("set: %w", wrongPlace(parent, s.kind(), name))
	}
	list := s.additions()
	*list = append(*list, added{name, f})
	return nil
}

// Delete removes the member or element at path, all of them if a key is
// repeated. If nothing is there, nothing happens.
func (d *Doc) Delete(path ...string) error {
	if len(path) == 0 {
		return errors.New("delete: the outermost value cannot be deleted")
	}
	s := d.slot(0)
	name := path[len(path)-1]
	for _, p := range path[:len(path)-1] {
		c, ok := s.child(p)
		if !ok {
			return nil
		}
		s = c
	}
	if s.addition(name) != nil {
		list := s.additions()
		var kept []added
		for _, a := range *list {
			if a.name != name {
				kept = append(kept, a)
			}
		}
		*list = kept
	}
	for {
		c, ok := s.old(name)
		if !ok {
			return nil
		}
		s.d.change(c).deleted = true
	}
}

// DeleteElem removes an element of the array at path. The index is that in the
// parsed text, whatever else was deleted.
func (d *Doc) DeleteElem(index int, path ...string) error {
	s := d.slot(0)
	for _, p := range path {
		c, ok := s.child(p)
		if !ok {
			return fmt.Errorf("delete: there is no %s", where(path))
		}
		s = c
	}
	if s.kind() != Array {
		return fmt.Errorf("delete: %s is %s, not an array", where(path), s.kind())
	}
	c, ok := s.old(strconv.Itoa(index))
	if !ok {
		return fmt.Errorf("delete: %w", wrongPlace(path, Array, strconv.Itoa(index)))
	}
	s.d.change(c).deleted = true
	return nil
}
