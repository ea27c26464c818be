// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The caches in testdata were made by the real ldconfig of the named glibc:
// go test -update with DAVIT_LOADERS, see TestRealLoader.
func TestParseRealCaches(t *testing.T) {
	for name, want := range map[string]struct {
		entries   int
		hwcaps    []string
		generator string
		endian    byte
	}{
		"glibc-2.31.cache":        {entries: 57, endian: 2},
		"glibc-2.36.cache":        {entries: 53, hwcaps: []string{"x86-64-v2", "x86-64-v3"}, generator: "ldconfig (Debian GLIBC 2.36-9+deb12u14) stable release version 2.36", endian: 2},
		"glibc-2.36-compat.cache": {entries: 53, generator: "ldconfig (Debian GLIBC 2.36-9+deb12u14) stable release version 2.36", endian: 2},
		"glibc-2.36-old.cache":    {entries: 53},
		"glibc-2.41.cache":        {entries: 52, hwcaps: []string{"x86-64-v2", "x86-64-v3"}, generator: "ldconfig (Debian GLIBC 2.41-12+deb13u5) stable release version 2.41", endian: 2},
	} {
		t.Run(name, func(t *testing.T) {
			c := parse(t, read(t, name))
			if len(c.Entries) != want.entries || c.Generator != want.generator || c.endian != want.endian {
				t.Errorf("%d entries by %q, endian %d", len(c.Entries), c.Generator, c.endian)
			}
			if want.hwcaps != nil && !slices.Equal(c.HWCaps, want.hwcaps) {
				t.Errorf("folders %q, want %q", c.HWCaps, want.hwcaps)
			}
			// The same libraries in each of them.
			py := pairs(c, "libpython3.11.so.1.0")
			if want := []string{"/opt/py/lib/libpython3.11.so.1.0", "/lib/x86_64-linux-gnu/libpython3.11.so.1.0"}; !slices.Equal(py, want) {
				t.Errorf("libpython: %v, want %v", py, want)
			}
			for _, e := range c.Entries {
				if !strings.HasPrefix(e.Path, "/") || !strings.HasSuffix(e.Path, "/"+e.Name) {
					t.Errorf("entry %+v", e)
				}
				if e.Flags != FlagsX8664 && e.Flags != FlagsI386 && !strings.HasPrefix(e.Name, "ld-linux") {
					t.Errorf("flags %#x of %+v", e.Flags, e)
				}
				// ldconfig -c old forgets them.
				if strings.Contains(e.Path, "hwcaps/") && name != "glibc-2.36-old.cache" && e.HWCap&(1<<62) == 0 {
					t.Errorf("no hwcap: %+v", e)
				}
			}
			// What the package writes, it reads back.
			data, err := c.encode()
			if err != nil {
				t.Fatal(err)
			}
			back := parse(t, data)
			if !slices.Equal(back.Entries, c.Entries) || !slices.Equal(back.HWCaps, c.HWCaps) || back.Generator != c.Generator {
				t.Errorf("a round trip gives other entries")
			}
		})
	}
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParseTruncated(t *testing.T) {
	for _, name := range []string{"glibc-2.31.cache", "glibc-2.36.cache", "glibc-2.36-old.cache"} {
		data := read(t, name)
		whole := len(parse(t, data).Entries)
		for n := range data {
			c, err := Parse(data[:n])
			// Within the generator alone nothing else is missing, but its
			// section then lies outside.
			if err == nil && len(c.Entries) != whole || err != nil && !errors.Is(err, ErrFormat) {
				t.Fatalf("%s, first %d bytes: error %v", name, n, err)
			}
			if err == nil && n < len(data)-1 {
				t.Errorf("%s: the first %d of %d bytes are taken as whole", name, n, len(data))
			}
		}
	}
}

func TestParseHostile(t *testing.T) {
	le := binary.LittleEndian
	small := func() []byte {
		return file(t, Cache{extensions: true, Generator: "g", HWCaps: []string{"h"}, Entries: []Entry{{Name: "a", Path: "/a"}}})
	}
	ext := int(le.Uint32(small()[32:]))
	for _, tc := range []struct {
		name  string
		spoil func([]byte) []byte
		says  string
	}{
		{"empty", func(b []byte) []byte { return nil }, "empty"},
		{"text", func(b []byte) []byte { return []byte("# nothing here\n") }, "starts with"},
		{"too many entries", func(b []byte) []byte { le.PutUint32(b[20:], 0xffffffff); return b }, "do not fit"},
		{"one entry too many", func(b []byte) []byte { le.PutUint32(b[20:], 6); return b }, "do not fit"},
		{"name outside", func(b []byte) []byte { le.PutUint32(b[52:], 0xffffffff); return b }, "outside"},
		{"path outside", func(b []byte) []byte { le.PutUint32(b[56:], uint32(len(b))); return b }, "outside"},
		{"name in the header", func(b []byte) []byte { le.PutUint32(b[52:], 0); return b }, "among the numbers"},
		{"name without end", func(b []byte) []byte { return append(b[:72], strings.Repeat("a", 9000)...) }, "does not end"},
		{"big-endian", func(b []byte) []byte { b[28] = 3; return b }, "big-endian"},
		{"extensions outside", func(b []byte) []byte { le.PutUint32(b[32:], 0xfffffffc); return b }, "outside"},
		{"extensions odd", func(b []byte) []byte { le.PutUint32(b[32:], uint32(ext+1)); return b }, "odd"},
		{"extensions without magic", func(b []byte) []byte { le.PutUint32(b[ext:], 1); return b }, "start with"},
		{"too many sections", func(b []byte) []byte { le.PutUint32(b[ext+4:], 0xffffffff); return b }, "sections"},
		{"section outside", func(b []byte) []byte { le.PutUint32(b[ext+16:], 0xffffffff); return b }, "outside"},
		{"odd list", func(b []byte) []byte { le.PutUint32(b[ext+8+16+12:], 3); return b }, "no list"},
		{"folder outside", func(b []byte) []byte { le.PutUint32(b[ext+8+32:], 0xffffffff); return b }, "folder 0"},
		{"required and unknown", func(b []byte) []byte { le.PutUint32(b[ext+8:], 9); le.PutUint32(b[ext+12:], 1); return b }, "unknown kind 9"},
		{"more than a file may have", func(b []byte) []byte { return append(b, make([]byte, maxCache)...) }, "too many"},
		{"entries without end", func(b []byte) []byte {
			le.PutUint32(b[20:], maxEntries+1)
			return append(b, make([]byte, (maxEntries+1)*newEntry)...)
		}, "too many"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse(tc.spoil(small()))
			if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want ErrFormat with %q", err, tc.says)
			}
		})
	}
	// An unknown section that nobody requires is no harm.
	b := small()
	le.PutUint32(b[ext+8:], 9)
	if c, err := Parse(b); err != nil || c.Generator != "" || len(c.HWCaps) != 1 {
		t.Errorf("with an unknown section: %+v, %v", c, err)
	}
}

// A few strings that all entries share must not grow into gigabytes.
func TestMergeSharedStrings(t *testing.T) {
	le := binary.LittleEndian
	const n = 60000
	b := make([]byte, newHeader+n*newEntry)
	copy(b, newMagic)
	le.PutUint32(b[20:], n)
	for i := range n {
		le.PutUint32(b[newHeader+i*newEntry+4:], uint32(len(b)))
		le.PutUint32(b[newHeader+i*newEntry+8:], uint32(len(b)))
	}
	b = append(append(b, "/"+strings.Repeat("a", 250)...), 0)
	if _, err := Merge(b, "amd64", nil, nil); err == nil {
		t.Fatal("60,000 entries of 250 letters are 30 MB, want an error")
	} else if !errors.Is(err, ErrFormat) {
		t.Fatalf("error %v, want ErrFormat", err)
	}
}

// seeds are caches, real and small, and the starts of caches.
func seeds(f *testing.F) [][]byte {
	files, err := filepath.Glob("testdata/*.cache")
	if err != nil {
		f.Fatal(err)
	}
	small := file(f, Cache{extensions: true, Generator: "g", HWCaps: []string{"h"}, Entries: []Entry{{Name: "liba.so.1", Path: "/liba.so.1"}, {Name: "libcuda.so.1", Path: "/x", HWCap: 1 << 62}}})
	old := []byte(oldMagic + "\x00\x01\x00\x00\x00\x03\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00/liba.so\x00")
	out := [][]byte{small, old, []byte(oldMagic), []byte(newMagic)}
	for _, p := range files {
		out = append(out, read(f, filepath.Base(p)))
	}
	return out
}

func FuzzParse(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			if c != nil || !errors.Is(err, ErrFormat) {
				t.Fatalf("error %v with %v", err, c)
			}
			return
		}
		out, err := c.encode()
		if err != nil {
			return // too large
		}
		back, err := Parse(out)
		if err != nil {
			t.Fatalf("what was written does not parse: %v", err)
		}
		if !slices.Equal(back.Entries, c.Entries) || !slices.Equal(back.HWCaps, c.HWCaps) || back.Generator != c.Generator {
			t.Fatalf("a round trip gives\n%+v\nwant\n%+v", back, c)
		}
	})
}
