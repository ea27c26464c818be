// SPDX-License-Identifier: Apache-2.0

package nvidia

import (
	"encoding/binary"
	"strconv"
	"strings"
)

// cacheMagic begins a cache file; its number changes with the layout.
const cacheMagic = "davit-facts-1\n"

// codec writes or reads, by the same code, so that the two cannot differ. A
// reader that runs out of bytes sets bad and gives zero values.
type codec struct {
	buf  []byte
	text string // what is read; strings are cut out of it, not copied
	at   int
	read bool
	bad  bool
}

func (c *codec) num(n *uint64) {
	if !c.read {
		c.buf = binary.AppendUvarint(c.buf, *n)
		return
	}
	*n = 0
	for shift := 0; shift < 64; shift += 7 {
		if c.at >= len(c.text) {
			c.bad = true
			return
		}
		b := c.text[c.at]
		c.at++
		*n |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return
		}
	}
	c.bad = true
}

// number is num for the other kinds of integers.
func number[T ~int | ~int64 | ~uint32 | ~uint64](c *codec, n *T) {
	u := uint64(*n)
	c.num(&u)
	*n = T(u)
}

func (c *codec) flag(b *bool) {
	n := uint64(0)
	if *b {
		n = 1
	}
	c.num(&n)
	*b = n == 1
}

func str[T ~string](c *codec, s *T) {
	n := uint64(len(*s))
	c.num(&n)
	if !c.read {
		c.buf = append(c.buf, *s...)
		return
	}
	if n > uint64(len(c.text)-c.at) {
		c.bad = true
		*s = ""
		return
	}
	*s = T(c.text[c.at : c.at+int(n)])
	c.at += int(n)
}

// list goes over a slice; when reading it makes it first.
func list[T any](c *codec, s *[]T, item func(*codec, *T)) {
	n := uint64(len(*s))
	c.num(&n)
	if c.read {
		// An item has one byte at least: a longer list is a lie.
		if n > uint64(len(c.text)-c.at) {
			c.bad = true
			return
		}
		if n == 0 {
			return
		}
		*s = make([]T, n)
	}
	for i := range *s {
		item(c, &(*s)[i])
	}
}

func (c *codec) node(n *Node) {
	str(c, &n.Path)
	str(c, &n.Host)
	number(c, &n.Major)
	number(c, &n.Minor)
	number(c, &n.Mode)
	number(c, &n.UID)
	number(c, &n.GID)
}

func (c *codec) mig(m *MIG) {
	number(c, &m.Index)
	str(c, &m.UUID)
	number(c, &m.GI)
	number(c, &m.CI)
	list(c, &m.Caps, (*codec).node)
}

func (c *codec) gpu(g *GPU) {
	number(c, &g.Index)
	for _, s := range []*string{&g.UUID, &g.Name, &g.BusID, &g.Brand, &g.Arch, &g.PCIID} {
		str(c, s)
	}
	number(c, &g.Minor)
	there := g.Node != nil
	c.flag(&there)
	if there {
		if c.read {
			g.Node = &Node{}
		}
		c.node(g.Node)
	}
	list(c, &g.DRM, (*codec).node)
	list(c, &g.MIG, (*codec).mig)
	c.flag(&g.MIGEnabled)
}

func (c *codec) file(f *File) {
	str(c, &f.Kind)
	for _, s := range []*string{&f.Host, &f.Name, &f.SONAME, &f.Link, &f.Target} {
		str(c, s)
	}
	number(c, &f.Bits)
	list(c, &f.Caps, str[string])
}

func (c *codec) facts(f *Facts) {
	str(c, &f.Arch)
	d := &f.Driver
	for _, s := range []*string{&d.Version, &d.LibraryVersion, &d.CUDA, &d.Root} {
		str(c, s)
	}
	c.flag(&d.Open)
	list(c, &d.LibDirs, str[string])
	list(c, &f.GPUs, (*codec).gpu)
	list(c, &f.Control, (*codec).node)
	list(c, &f.Files, (*codec).file)
	list(c, &f.Special, (*codec).node)
	for _, name := range []string{"config", "monitor"} {
		n, there := f.MIGControl[name]
		c.flag(&there)
		if there {
			c.node(&n)
			if f.MIGControl == nil {
				f.MIGControl = map[string]Node{}
			}
			f.MIGControl[name] = n
		}
	}
	str(c, &f.Params)
	list(c, &f.Missing, func(c *codec, m *Missing) { str(c, &m.What); str(c, &m.Why) })
}

func (c *codec) trail(t *trail) {
	list(c, &t.files, func(c *codec, f *fileStamp) {
		str(c, &f.path)
		number(c, &f.ino)
		number(c, &f.rdev)
		number(c, &f.mode)
		number(c, &f.mtime)
		number(c, &f.ctime)
		number(c, &f.mtimn)
	})
	text := func(c *codec, x *textStamp) { str(c, &x.path); str(c, &x.text) }
	list(c, &t.texts, text)
	list(c, &t.lists, text)
}

// sum is FNV-1a; it tells damage, not malice: only root can write the file.
func sum(s string) string { return hashName(s) }

func encodeFacts(key string, t *trail, f *Facts) []byte {
	c := &codec{buf: make([]byte, 0, 16<<10)}
	str(c, &key)
	c.trail(t)
	c.facts(f)
	head := cacheMagic + strconv.Itoa(len(c.buf)) + " " + sum(string(c.buf)) + "\n"
	return append([]byte(head), c.buf...)
}

// decodeFacts gives nil facts for what encodeFacts did not write with the
// same key.
func decodeFacts(key string, data []byte) (*trail, *Facts) {
	rest, ok := strings.CutPrefix(string(data), cacheMagic)
	if !ok {
		return nil, nil
	}
	head, body, ok := strings.Cut(rest, "\n")
	if !ok || head != strconv.Itoa(len(body))+" "+sum(body) {
		return nil, nil
	}
	c := &codec{text: body, read: true}
	var have string
	str(c, &have)
	if have != key {
		return nil, nil
	}
	t, f := &trail{}, &Facts{}
	c.trail(t)
	c.facts(f)
	if c.bad || c.at != len(body) {
		return nil, nil
	}
	return t, f
}
