// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// ErrFormat says that a file is no loader cache, or one damaged, hostile or
// made for a big-endian machine. It is best left alone: glibc ignores such a
// file too, and searches its default folders.
var ErrFormat = errors.New("no usable loader cache")

// The format (glibc, sysdeps/generic/dl-cache.h). A cache is one table, or the
// table of glibc 2.1 followed by that of 2.2, aligned to 8 bytes. All numbers
// are those of the machine, which is little-endian here.
//
//	old: magic 11, 1 unused, count 4; entries of 12: flags, name, path
//	new: magic 20, count 4, length of strings 4, flags 1, 3 unused,
//	     offset of extensions 4, 12 unused;
//	     entries of 24: flags, name, path, osversion, hwcap 8
//	extensions: magic 4, count 4; sections of 16: tag, flags, offset, size
//
// Names and paths are offsets from the start of their table's header (new) or
// from the end of its entries (old); those of extensions are offsets from the
// start of the file.
const (
	oldMagic  = "ld.so-1.7.0"
	oldHeader = 16
	oldEntry  = 12

	newMagic  = "glibc-ld.so.cache1.1"
	newHeader = 48
	newEntry  = 24

	endianMask   = 3
	endianLittle = 2

	extMagic     = 0xeaa42174
	extHeader    = 8
	extSection   = 16
	tagGenerator = 0
	tagHWCaps    = 1
	extRequired  = 1
)

// Limits, far above what a real cache has, so that a hostile one costs little
// time and memory.
const (
	maxEntries = 1 << 16
	maxName    = 255 // a file's name
	maxPath    = 4095
	maxHWCaps  = 1024
)

// Cache is a parsed loader cache.
type Cache struct {
	// Entries in the order of the file, in which the loader takes the first
	// that fits among those of one name.
	Entries []Entry
	// HWCaps are the names of glibc-hwcaps folders ("x86-64-v3") that entries
	// refer to by number.
	HWCaps []string
	// Generator is the program that says it made the file; since glibc 2.33.
	Generator string

	endian     byte // the byte about it, 0 in caches of glibc before 2.33
	extensions bool // the file has extensions, maybe empty ones
}

// Parse reads a loader cache of any format since glibc 2.0. Of a file with both
// tables it reads the new one, as each glibc since 2.2 does. All offsets and
// lengths are checked; what is wrong is an ErrFormat. Extensions of kinds not
// known here are ignored, unless marked as required.
func Parse(data []byte) (*Cache, error) {
	if len(data) > maxCache {
		return nil, fmt.Errorf("%w: %d bytes are too many", ErrFormat, len(data))
	}
	file := string(data) // the one copy, which all names and paths share
	switch {
	case strings.HasPrefix(file, newMagic):
		return parseNew(file, 0)
	case strings.HasPrefix(file, oldMagic):
		return parseOld(file)
	case len(data) == 0:
		return nil, fmt.Errorf("%w: the file is empty", ErrFormat)
	}
	return nil, fmt.Errorf("%w: it starts with %q", ErrFormat, file[:min(len(file), len(newMagic))])
}

// parseOld reads the table of glibc 2.1, or the new one behind it.
func parseOld(file string) (*Cache, error) {
	n, err := count(file, oldHeader, 12, oldEntry)
	if err != nil {
		return nil, err
	}
	base := oldHeader + n*oldEntry
	if at := (base + 7) &^ 7; at < len(file) && strings.HasPrefix(file[at:], newMagic) {
		return parseNew(file, at)
	}
	c := &Cache{Entries: make([]Entry, n)}
	for i := range c.Entries {
		at := oldHeader + i*oldEntry
		c.Entries[i].Flags = u32(file, at)
		if err := c.Entries[i].setNames(file, base, base, u32(file, at+4), u32(file, at+8)); err != nil {
			return nil, fmt.Errorf("%w: entry %d: %w", ErrFormat, i, err)
		}
	}
	return c, nil
}

// parseNew reads the table of glibc 2.2 at offset start.
func parseNew(file string, start int) (*Cache, error) {
	table := file[start:]
	n, err := count(table, newHeader, len(newMagic), newEntry)
	if err != nil {
		return nil, err
	}
	c := &Cache{Entries: make([]Entry, n), endian: table[28]}
	if e := c.endian & endianMask; e != 0 && e != endianLittle {
		return nil, fmt.Errorf("%w: it is for big-endian machines", ErrFormat)
	}
	base := newHeader + n*newEntry
	for i := range c.Entries {
		e, at := &c.Entries[i], newHeader+i*newEntry
		e.Flags = u32(table, at)
		e.OSVersion = u32(table, at+12)
		e.HWCap = uint64(u32(table, at+16)) | uint64(u32(table, at+20))<<32
		if err := e.setNames(table, 0, base, u32(table, at+4), u32(table, at+8)); err != nil {
			return nil, fmt.Errorf("%w: entry %d: %w", ErrFormat, i, err)
		}
	}
	if ext := u32(table, 32); ext != 0 {
		if err := c.parseExtensions(file, uint64(ext)); err != nil {
			return nil, fmt.Errorf("%w: extensions: %w", ErrFormat, err)
		}
	}
	return c, nil
}

// parseExtensions reads the part that glibc 2.33 added.
func (c *Cache) parseExtensions(file string, at uint64) error {
	size := uint64(len(file))
	if at%4 != 0 || at < newHeader || at+extHeader > size {
		return fmt.Errorf("offset %d is outside the file or odd", at)
	}
	if m := u32(file, int(at)); m != extMagic {
		return fmt.Errorf("they start with %#x", m)
	}
	n := uint64(u32(file, int(at)+4))
	if at+extHeader+n*extSection > size {
		return fmt.Errorf("%d sections do not fit into the file", n)
	}
	c.extensions = true
	for i := range int(n) {
		section := int(at) + extHeader + i*extSection
		tag, flags := u32(file, section), u32(file, section+4)
		from, length := uint64(u32(file, section+8)), uint64(u32(file, section+12))
		if from+length > size {
			return fmt.Errorf("section %d lies outside the file", i)
		}
		switch content := file[from : from+length]; {
		case tag == tagGenerator:
			if length > maxPath {
				return fmt.Errorf("the generator has %d letters", length)
			}
			c.Generator = content
		case tag == tagHWCaps:
			if err := c.parseHWCaps(file, content, from); err != nil {
				return err
			}
		case flags&extRequired != 0:
			return fmt.Errorf("section %d is of the unknown kind %d", i, tag)
		}
	}
	return nil
}

// parseHWCaps reads the names of glibc-hwcaps folders. In a file with both
// tables (ldconfig -c compat) ldconfig writes their offsets from the new table
// but reads them from the start of the file, as the loader does, so that both
// see other texts. Here they are read as the loader reads them: then a merge
// does not change which folders it takes.
func (c *Cache) parseHWCaps(file, list string, at uint64) error {
	if at%4 != 0 || len(list)%4 != 0 || len(list)/4 > maxHWCaps {
		return fmt.Errorf("%d bytes at %d are no list of folders", len(list), at)
	}
	c.HWCaps = make([]string, len(list)/4)
	for i := range c.HWCaps {
		name, err := cString(file, uint64(u32(list, i*4)), maxName)
		if err != nil {
			return fmt.Errorf("folder %d: %w", i, err)
		}
		c.HWCaps[i] = name
	}
	return nil
}

// setNames reads name and path, offsets from base, none of which may lie
// before the strings.
func (e *Entry) setNames(table string, base, strs int, name, path uint32) error {
	n, p := uint64(base)+uint64(name), uint64(base)+uint64(path)
	if n < uint64(strs) || p < uint64(strs) {
		return errors.New("a name lies among the numbers")
	}
	var err error
	if e.Name, err = cString(table, n, maxName); err != nil {
		return err
	}
	e.Path, err = cString(table, p, maxPath)
	return err
}

// cString reads up to a NUL that must come within limit bytes.
func cString(s string, at uint64, limit int) (string, error) {
	if at >= uint64(len(s)) {
		return "", fmt.Errorf("offset %d is outside the file", at)
	}
	rest := s[at:]
	n := strings.IndexByte(rest[:min(len(rest), limit+1)], 0)
	if n < 0 {
		return "", fmt.Errorf("the text at offset %d does not end within %d letters", at, limit)
	}
	return rest[:n], nil
}

// count reads the number of entries and checks that they are there.
func count(table string, header, at, entry int) (int, error) {
	if len(table) < header {
		return 0, fmt.Errorf("%w: it ends within its header", ErrFormat)
	}
	n := u32(table, at)
	if uint64(n) > uint64((len(table)-header)/entry) {
		return 0, fmt.Errorf("%w: %d entries do not fit into %d bytes", ErrFormat, n, len(table))
	}
	if n > maxEntries {
		return 0, fmt.Errorf("%w: %d entries are too many", ErrFormat, n)
	}
	return int(n), nil
}

// u32 reads a number at an offset known to be inside s.
func u32(s string, at int) uint32 {
	return uint32(s[at]) | uint32(s[at+1])<<8 | uint32(s[at+2])<<16 | uint32(s[at+3])<<24
}

// encode writes the new table alone, which each glibc since 2.2 reads. Equal
// caches give equal bytes. A cache too large for Parse is an error.
func (c *Cache) encode() ([]byte, error) {
	base := newHeader + len(c.Entries)*newEntry
	size := base
	for i := range c.Entries {
		size += len(c.Entries[i].Name) + len(c.Entries[i].Path) + 2
	}
	for _, h := range c.HWCaps {
		size += len(h) + 1 + 4
	}
	size += 4 + extHeader + 2*extSection + len(c.Generator) // at most
	if size > maxCache || len(c.Entries) > maxEntries {
		return nil, fmt.Errorf("%w: %d entries would make %d bytes, which are too many", ErrFormat, len(c.Entries), size)
	}
	out := make([]byte, base, size)
	le := binary.LittleEndian
	copy(out, newMagic)
	le.PutUint32(out[20:], uint32(len(c.Entries)))
	out[28] = c.endian
	lastName, lastAt := "", -1
	for i := range c.Entries {
		e := &c.Entries[i]
		path := len(out)
		out = append(append(out, e.Path...), 0)
		// A name is mostly the end of its path, or the name before.
		name := path + len(e.Path) - len(e.Name)
		if !strings.HasSuffix(e.Path, e.Name) {
			if e.Name != lastName || lastAt < 0 {
				lastName, lastAt = e.Name, len(out)
				out = append(append(out, e.Name...), 0)
			}
			name = lastAt
		}
		at := out[newHeader+i*newEntry:]
		le.PutUint32(at, e.Flags)
		le.PutUint32(at[4:], uint32(name))
		le.PutUint32(at[8:], uint32(path))
		le.PutUint32(at[12:], e.OSVersion)
		le.PutUint64(at[16:], e.HWCap)
	}
	folders := make([]uint32, len(c.HWCaps))
	for i, h := range c.HWCaps {
		folders[i] = uint32(len(out))
		out = append(append(out, h...), 0)
	}
	le.PutUint32(out[24:], uint32(len(out)-base))
	if c.extensions {
		out = c.appendExtensions(out, folders)
	}
	return out, nil
}

// appendExtensions writes the part that glibc 2.33 added: the list of folders
// if there is any, for glibc takes an empty one as damage, and the generator.
func (c *Cache) appendExtensions(out []byte, folders []uint32) []byte {
	le := binary.LittleEndian
	out = append(out, make([]byte, -len(out)&3)...)
	at := uint32(len(out))
	le.PutUint32(out[32:], at)
	sections := uint32(1)
	if len(folders) > 0 {
		sections = 2
	}
	out = le.AppendUint32(out, extMagic)
	out = le.AppendUint32(out, sections)
	from := at + extHeader + sections*extSection
	list := uint32(len(folders) * 4)
	for _, s := range [][4]uint32{
		{tagGenerator, 0, from + list, uint32(len(c.Generator))},
		{tagHWCaps, 0, from, list},
	}[:sections] {
		for _, v := range s {
			out = le.AppendUint32(out, v)
		}
	}
	for _, f := range folders {
		out = le.AppendUint32(out, f)
	}
	return append(out, c.Generator...)
}
