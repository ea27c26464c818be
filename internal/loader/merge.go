// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"slices"
	"strings"
)

// Merge adds entries to a loader cache, as read from an image, and gives the
// new file.
//
// All entries of the image are kept, and among those of one name their order,
// but for these: those for which drop, if not nil, says true, and those with
// name and path of one of add. So merging twice gives the same bytes.
//
// The entries of add come before the image's of the same name, which is enough
// to win. glibc's loader (search_cache in elf/dl-cache.c) walks the entries of
// a name from the first. One for another machine or with an unusable HWCap is
// passed over; with one in a glibc-hwcaps folder the loader goes on to look for
// a better one; at one that needs no HWCap it stops and takes the best so far.
// Ours needs none and is first, so nothing behind it is seen, whatever folder
// it lies in. Not so before the cache: LD_LIBRARY_PATH and a program's own
// RUNPATH are searched earlier.
//
// The image's cache must parse, else the error is an ErrFormat. Names and paths
// of add must be whole, else it is another error; their OSVersion and HWCap are
// ignored. The result is in the format of glibc 2.2, which each later one reads,
// and has extensions if the image's cache has them.
func Merge(data []byte, arch string, add []Entry, drop func(Entry) bool) ([]byte, error) {
	m, ok := machineOf(arch)
	if !ok {
		return nil, fmt.Errorf("no loader known for machine %q", arch)
	}
	ours, err := m.ours(add)
	if err != nil {
		return nil, err
	}
	c, err := Parse(data)
	if err != nil {
		return nil, err
	}
	m.merge(c, ours, drop)
	return c.encode()
}

// ours checks, completes and sorts the entries to add.
func (m machine) ours(add []Entry) ([]Entry, error) {
	ours := make([]Entry, 0, len(add))
	for _, e := range add {
		switch {
		case e.Name == "" || len(e.Name) > maxName || strings.ContainsAny(e.Name, "/\x00"):
			return nil, fmt.Errorf("cache entry: %q is no library's name", e.Name)
		case !strings.HasPrefix(e.Path, "/") || len(e.Path) > maxPath || strings.Contains(e.Path, "\x00"):
			return nil, fmt.Errorf("cache entry %s: %q is no absolute path", e.Name, e.Path)
		}
		if e.Flags == 0 {
			e.Flags = m.flags
		}
		e.OSVersion, e.HWCap = 0, 0
		if !slices.ContainsFunc(ours, e.sameFile) {
			ours = append(ours, e)
		}
	}
	slices.SortStableFunc(ours, m.compare)
	return ours, nil
}

func (e Entry) sameFile(other Entry) bool { return e.Name == other.Name && e.Path == other.Path }

// merge puts ours, which are sorted, into the cache.
func (m machine) merge(c *Cache, ours []Entry, drop func(Entry) bool) {
	image := c.Entries
	if drop != nil {
		image = slices.DeleteFunc(image, drop)
	}
	// A cache out of order is of no use to glibc's binary search.
	if !slices.IsSortedFunc(image, m.compare) {
		slices.SortStableFunc(image, m.compare)
	}
	merged := make([]Entry, 0, len(image)+len(ours))
	for len(ours) > 0 {
		same := 1 // ours of one name
		for same < len(ours) && m.compare(ours[same], ours[0]) == 0 {
			same++
		}
		before, _ := slices.BinarySearchFunc(image, ours[0], m.compare)
		merged = append(append(merged, image[:before]...), ours[:same]...)
		image = image[before:]
		for len(image) > 0 && m.compare(image[0], ours[0]) == 0 {
			if !slices.ContainsFunc(ours[:same], image[0].sameFile) {
				merged = append(merged, image[0])
			}
			image = image[1:]
		}
		ours = ours[same:]
	}
	c.Entries = append(merged, image...)
}

// compare orders entries as the file does: descending by name.
func (m machine) compare(a, b Entry) int { return libcmp(b.Name, a.Name, m.signed) }

// libcmp compares names as _dl_cache_libcmp of glibc does: runs of digits as
// numbers, and digits before all else. Like there, numbers overflow, in the
// way that machines do it: the order must be the loader's.
func libcmp(a, b string, signed bool) int {
	// What both begin with is equal; a number that goes on behind it is not.
	same := 0
	for same < len(a) && same < len(b) && a[same] == b[same] {
		same++
	}
	for same > 0 && isDigit(a[same-1]) {
		same--
	}
	i, j := same, same
	for i < len(a) && j < len(b) {
		x, y := a[i], b[j]
		switch {
		case isDigit(x) && isDigit(y):
			var v, w int32
			for ; i < len(a) && isDigit(a[i]); i++ {
				v = v*10 + int32(a[i]-'0')
			}
			for ; j < len(b) && isDigit(b[j]); j++ {
				w = w*10 + int32(b[j]-'0')
			}
			if v != w {
				return int(v - w)
			}
		case isDigit(x):
			return 1
		case isDigit(y):
			return -1
		case x != y:
			return char(x, signed) - char(y, signed)
		default:
			i++
			j++
		}
	}
	// One has ended, or both.
	switch {
	case i < len(a) && isDigit(a[i]):
		return 1
	case i < len(a):
		return char(a[i], signed)
	case j < len(b):
		return -char(b[j], signed)
	}
	return 0
}

func isDigit(c byte) bool { return c-'0' <= 9 }

func char(c byte, signed bool) int {
	if signed {
		return int(int8(c))
	}
	return int(c)
}
