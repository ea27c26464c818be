// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"encoding/binary"
	"slices"
)

// cacheEntry is one line of a loader cache.
type cacheEntry struct {
	name  string
	path  string
	flags uint32
}

// loaderCache writes /etc/ld.so.cache as glibc has since 2.2 in its newer form
// alone (struct cache_file_new of sysdeps/generic/dl-cache.h), which is what
// ldconfig writes by default since 2.32. Entries of the same name and kind keep
// their order, which is the order in which the loader takes them.
func loaderCache(entries []cacheEntry) []byte {
	sorted := slices.Clone(entries)
	slices.SortStableFunc(sorted, func(a, b cacheEntry) int {
		if c := cacheCompare(b.name, a.name); c != 0 {
			return c // descending: the loader searches by halves
		}
		return int(int64(b.flags) - int64(a.flags))
	})
	const header, size = 48, 24
	var strs []byte
	at := map[string]uint32{}
	base := uint32(header + size*len(sorted))
	offset := func(s string) uint32 {
		off, ok := at[s]
		if !ok {
			off = base + uint32(len(strs))
			at[s] = off
			strs = append(append(strs, s...), 0)
		}
		return off
	}
	out := make([]byte, header, int(base))
	copy(out, "glibc-ld.so.cache1.1")
	binary.LittleEndian.PutUint32(out[20:], uint32(len(sorted)))
	out[28] = 2 // little endian
	for _, e := range sorted {
		out = binary.LittleEndian.AppendUint32(out, e.flags)
		out = binary.LittleEndian.AppendUint32(out, offset(e.name))
		out = binary.LittleEndian.AppendUint32(out, offset(e.path))
		out = binary.LittleEndian.AppendUint32(out, 0) // kernel version
		out = binary.LittleEndian.AppendUint64(out, 0) // hardware capabilities
	}
	binary.LittleEndian.PutUint32(out[24:], uint32(len(strs)))
	return append(out, strs...)
}

// cacheCompare is glibc's _dl_cache_libcmp: digits compare as numbers.
func cacheCompare(a, b string) int {
	digit := func(s string, i int) bool { return i < len(s) && s[i] >= '0' && s[i] <= '9' }
	i, j := 0, 0
	for i < len(a) {
		switch {
		case digit(a, i) && digit(b, j):
			x, y := uint64(0), uint64(0)
			for ; digit(a, i); i++ {
				x = x*10 + uint64(a[i]-'0')
			}
			for ; digit(b, j); j++ {
				y = y*10 + uint64(b[j]-'0')
			}
			if x != y {
				if x < y {
					return -1
				}
				return 1
			}
		case digit(a, i):
			return 1
		case digit(b, j):
			return -1
		case j >= len(b):
			return 1
		case a[i] != b[j]:
			return int(int8(a[i])) - int(int8(b[j]))
		default:
			i, j = i+1, j+1
		}
	}
	if j < len(b) {
		return -1
	}
	return 0
}
