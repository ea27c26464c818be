// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// lookup is what glibc's loader makes of a cache: binary search, then the walk
// through the entries of one name. usable are the glibc-hwcaps folders of the
// machine, the best first; nil is a loader before 2.33.
func lookup(c *Cache, m machine, name string, usable []string) string {
	left, right := 0, len(c.Entries)-1
	for left <= right {
		mid := (left + right) / 2
		r := libcmp(name, c.Entries[mid].Name, m.signed)
		if r < 0 {
			left = mid + 1
			continue
		}
		if r > 0 {
			right = mid - 1
			continue
		}
		for mid > 0 && libcmp(name, c.Entries[mid-1].Name, m.signed) == 0 {
			mid--
		}
		best, bestPriority := "", 0
		for ; mid < len(c.Entries) && libcmp(name, c.Entries[mid].Name, m.signed) == 0; mid++ {
			e := c.Entries[mid]
			if e.Flags != m.flags {
				continue
			}
			named := usable != nil && e.HWCap>>62&1 == 1
			if !named && best != "" {
				break
			}
			if named {
				index, priority := int(uint32(e.HWCap)), 0
				if index < len(c.HWCaps) {
					priority = slices.Index(usable, c.HWCaps[index]) + 1
				}
				if priority == 0 || best != "" && priority >= bestPriority {
					continue
				}
				bestPriority = priority
			} else if e.HWCap != 0 {
				continue
			}
			best = e.Path
			if !named {
				break
			}
		}
		return best
	}
	return ""
}

var amd64, _ = machineOf("amd64")

// file makes the cache of entries, sorted as ldconfig would leave them.
func file(t testing.TB, c Cache) []byte {
	t.Helper()
	c.Entries = slices.Clone(c.Entries)
	for i := range c.Entries {
		if c.Entries[i].Flags == 0 {
			c.Entries[i].Flags = FlagsX8664
		}
	}
	slices.SortStableFunc(c.Entries, amd64.compare)
	data, err := c.encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func parse(t testing.TB, data []byte) *Cache {
	t.Helper()
	c, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pairs are "name path" lines of one name.
func pairs(c *Cache, name string) []string {
	var out []string
	for _, e := range c.Entries {
		if e.Name == name {
			out = append(out, e.Path)
		}
	}
	return out
}

func TestMergeKeepsOrderPutsOursFirst(t *testing.T) {
	// Local libraries first by a .conf file that a fresh ldconfig does not have.
	image := file(t, Cache{Entries: []Entry{
		{Name: "libpython3.11.so.1.0", Path: "/usr/local/lib/libpython3.11.so.1.0"},
		{Name: "libpython3.11.so.1.0", Path: "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0"},
		{Name: "libssl.so.3", Path: "/opt/ssl/lib/libssl.so.3"},
		{Name: "libssl.so.3", Path: "/usr/lib/x86_64-linux-gnu/libssl.so.3"},
		{Name: "libcuda.so.1", Path: "/usr/local/cuda/compat/libcuda.so.1"},
		{Name: "libstdc++.so.6", Path: "/usr/lib/x86_64-linux-gnu/libstdc++.so.6"},
	}})
	const dir = "/usr/lib/x86_64-linux-gnu/"
	add := []Entry{
		{Name: "libcuda.so.1", Path: dir + "libcuda.so.1"},
		{Name: "libnvidia-ml.so.1", Path: dir + "libnvidia-ml.so.1"},
	}
	merged, err := Merge(image, "amd64", add, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := parse(t, merged)
	for name, want := range map[string][]string{
		"libpython3.11.so.1.0": {"/usr/local/lib/libpython3.11.so.1.0", dir + "libpython3.11.so.1.0"},
		"libssl.so.3":          {"/opt/ssl/lib/libssl.so.3", dir + "libssl.so.3"},
		"libcuda.so.1":         {dir + "libcuda.so.1", "/usr/local/cuda/compat/libcuda.so.1"},
		"libstdc++.so.6":       {dir + "libstdc++.so.6"},
		"libnvidia-ml.so.1":    {dir + "libnvidia-ml.so.1"},
	} {
		if got := pairs(c, name); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		if got := lookup(c, amd64, name, nil); got != want[0] {
			t.Errorf("the loader finds %s at %q, want %q", name, got, want[0])
		}
	}
	if len(c.Entries) != 8 {
		t.Errorf("%d entries, want 8", len(c.Entries))
	}
}

func TestMergeRules(t *testing.T) {
	v2, v3 := uint64(1<<62), uint64(1<<62|1)
	for _, tc := range []struct {
		name  string
		image Cache
		add   []Entry
		drop  func(Entry) bool
		want  []Entry
	}{
		{"an empty cache", Cache{}, []Entry{{Name: "a", Path: "/a"}}, nil,
			[]Entry{{Name: "a", Path: "/a"}}},
		{"nothing to add", Cache{Entries: []Entry{{Name: "a", Path: "/a"}}}, nil, nil,
			[]Entry{{Name: "a", Path: "/a"}}},
		{"numbers, not letters, set the order",
			Cache{Entries: []Entry{{Name: "liba.so.10", Path: "/10"}, {Name: "liba.so.9", Path: "/9"}}},
			[]Entry{{Name: "liba.so.11", Path: "/11"}, {Name: "liba.so.8", Path: "/8"}}, nil,
			[]Entry{{Name: "liba.so.11", Path: "/11"}, {Name: "liba.so.10", Path: "/10"}, {Name: "liba.so.9", Path: "/9"}, {Name: "liba.so.8", Path: "/8"}}},
		{"same name and path is not doubled, but moves to the front",
			Cache{Entries: []Entry{{Name: "a", Path: "/x"}, {Name: "a", Path: "/a"}, {Name: "a", Path: "/y"}}},
			[]Entry{{Name: "a", Path: "/a"}, {Name: "a", Path: "/a"}}, nil,
			[]Entry{{Name: "a", Path: "/a"}, {Name: "a", Path: "/x"}, {Name: "a", Path: "/y"}}},
		{"ours before folders of better machines",
			Cache{extensions: true, HWCaps: []string{"x86-64-v2", "x86-64-v3"},
				Entries: []Entry{{Name: "a", Path: "/v3", HWCap: v3}, {Name: "a", Path: "/v2", HWCap: v2}, {Name: "a", Path: "/x"}}},
			[]Entry{{Name: "a", Path: "/a", HWCap: 5, OSVersion: 7}}, nil,
			[]Entry{{Name: "a", Path: "/a"}, {Name: "a", Path: "/v3", HWCap: v3}, {Name: "a", Path: "/v2", HWCap: v2}, {Name: "a", Path: "/x"}}},
		{"left-over entries of another driver go",
			Cache{Entries: []Entry{{Name: "libg.so.550", Path: "/d/libg.so.550"}, {Name: "libg.so.550", Path: "/other/libg.so.550"}}},
			[]Entry{{Name: "libg.so.560", Path: "/d/libg.so.560"}},
			func(e Entry) bool { return strings.HasPrefix(e.Path, "/d/") },
			[]Entry{{Name: "libg.so.560", Path: "/d/libg.so.560"}, {Name: "libg.so.550", Path: "/other/libg.so.550"}}},
		{"two machines' libraries of one name, in the order given",
			Cache{Entries: []Entry{{Name: "a", Path: "/x"}, {Name: "a", Path: "/x32", Flags: FlagsI386}}},
			[]Entry{{Name: "a", Path: "/a"}, {Name: "a", Path: "/a32", Flags: FlagsI386}}, nil,
			[]Entry{{Name: "a", Path: "/a"}, {Name: "a", Path: "/a32", Flags: FlagsI386}, {Name: "a", Path: "/x"}, {Name: "a", Path: "/x32", Flags: FlagsI386}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			merged, err := Merge(file(t, tc.image), "amd64", tc.add, tc.drop)
			if err != nil {
				t.Fatal(err)
			}
			want := slices.Clone(tc.want)
			for i := range want {
				if want[i].Flags == 0 {
					want[i].Flags = FlagsX8664
				}
			}
			c := parse(t, merged)
			if !slices.Equal(c.Entries, want) {
				t.Errorf("got  %+v\nwant %+v", c.Entries, want)
			}
			if !slices.Equal(c.HWCaps, tc.image.HWCaps) {
				t.Errorf("folders %v, want %v", c.HWCaps, tc.image.HWCaps)
			}
			for _, e := range want {
				if e.Path == "/a" && lookup(c, amd64, "a", []string{"x86-64-v3", "x86-64-v2"}) != "/a" {
					t.Errorf("the loader finds %q", lookup(c, amd64, "a", []string{"x86-64-v3", "x86-64-v2"}))
				}
			}
			again, err := Merge(merged, "amd64", tc.add, tc.drop)
			if err != nil || !bytes.Equal(again, merged) {
				t.Errorf("a second merge gives other bytes (error %v)", err)
			}
		})
	}
}

func TestMergeOutOfOrder(t *testing.T) {
	c := Cache{Entries: []Entry{{Name: "a", Path: "/1"}, {Name: "c", Path: "/2"}, {Name: "a", Path: "/3"}, {Name: "b", Path: "/4"}}}
	image, err := c.encode()
	if err != nil {
		t.Fatal(err)
	}
	merged, err := Merge(image, "arm64", []Entry{{Name: "b", Path: "/b"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range parse(t, merged).Entries {
		got = append(got, e.Path)
	}
	if want := []string{"/2", "/b", "/4", "/1", "/3"}; !slices.Equal(got, want) {
		t.Errorf("paths %v, want %v", got, want)
	}
}

func TestMergeRefuses(t *testing.T) {
	image := file(t, Cache{})
	for _, tc := range []struct {
		arch   string
		data   []byte
		e      Entry
		format bool // the image's fault
	}{
		{"amd64", image, Entry{Name: "", Path: "/a"}, false},
		{"amd64", image, Entry{Name: "a/b", Path: "/a"}, false},
		{"amd64", image, Entry{Name: "a\x00b", Path: "/a"}, false},
		{"amd64", image, Entry{Name: strings.Repeat("a", 256), Path: "/a"}, false},
		{"amd64", image, Entry{Name: "a", Path: "a"}, false},
		{"amd64", image, Entry{Name: "a", Path: "/a\x00"}, false},
		{"amd64", image, Entry{Name: "a", Path: "/" + strings.Repeat("a", 4095)}, false},
		{"riscv64", image, Entry{Name: "a", Path: "/a"}, false},
		{"amd64", nil, Entry{Name: "a", Path: "/a"}, true},
		{"amd64", []byte("not a cache"), Entry{Name: "a", Path: "/a"}, true},
	} {
		out, err := Merge(tc.data, tc.arch, []Entry{tc.e}, nil)
		if err == nil || out != nil || errors.Is(err, ErrFormat) != tc.format {
			t.Errorf("%s, %+v: %d bytes, error %v, want ErrFormat %v", tc.arch, tc.e, len(out), err, tc.format)
		}
	}
}

func TestMergeRealCaches(t *testing.T) {
	files, err := filepath.Glob("testdata/*.cache")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d caches in testdata: %v", len(files), err)
	}
	usable := []string{"x86-64-v3", "x86-64-v2"}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			add := drivers("/usr/lib/x86_64-linux-gnu/")
			merged, err := Merge(data, "amd64", add, nil)
			if err != nil {
				t.Fatal(err)
			}
			before, after := parse(t, data), parse(t, merged)
			if got := slices.DeleteFunc(slices.Clone(after.Entries), func(e Entry) bool { return slices.ContainsFunc(add, e.sameFile) }); !slices.Equal(got, before.Entries) {
				t.Errorf("the image's entries are\n%v\nwant\n%v", got, before.Entries)
			}
			if !slices.Equal(after.HWCaps, before.HWCaps) || after.Generator != before.Generator || after.endian != before.endian {
				t.Errorf("folders %q by %q, want %q by %q", after.HWCaps, after.Generator, before.HWCaps, before.Generator)
			}
			for _, e := range before.Entries {
				want := lookup(before, amd64, e.Name, usable)
				if strings.HasPrefix(e.Name, "libcuda.so") {
					want = "/usr/lib/x86_64-linux-gnu/libcuda.so.1"
				}
				if got := lookup(after, amd64, e.Name, usable); got != want {
					t.Errorf("the loader finds %s at %q, want %q", e.Name, got, want)
				}
			}
			again, err := Merge(merged, "amd64", add, nil)
			if err != nil || !bytes.Equal(again, merged) {
				t.Errorf("a second merge gives other bytes (error %v)", err)
			}
		})
	}
}

// drivers are 12 entries in dir, those of compute and utility.
func drivers(dir string) []Entry {
	var out []Entry
	for _, n := range []string{"libcuda.so.1", "libcuda.so", "libcudadebugger.so.1", "libnvidia-ml.so.1", "libnvidia-ml.so", "libnvidia-ptxjitcompiler.so.1",
		"libnvidia-nvvm.so.4", "libnvidia-opencl.so.1", "libnvidia-cfg.so.1", "libnvidia-allocator.so.1", "libnvidia-gpucomp.so.560.35.05", "libnvidia-pkcs11.so.560.35.05"} {
		p := n
		if strings.HasSuffix(n, ".so") {
			p += ".1"
		}
		out = append(out, Entry{Name: n, Path: dir + p})
	}
	return out
}

func TestLibcmp(t *testing.T) {
	for _, tc := range []struct {
		a, b   string
		signed bool
		want   int
	}{
		{"libc.so.6", "libc.so.6", true, 0},
		{"libc.so.06", "libc.so.6", true, 0},
		{"libc.so.10", "libc.so.9", true, 1},
		{"libc.so", "libc.so.6", true, -1},
		{"libcuda.so.1", "libcuda.so", true, 1},
		{"lib1", "liba", true, 1}, // digits after letters, not as in ASCII
		{"liba", "lib1", true, -1},
		{"lib-x", "lib", true, 1},
		{"lib", "lib9", true, -1},
		{"", "", true, 0},
		{"a\xff", "ab", true, -1},
		{"a\xff", "ab", false, 1},
		{"a\xff", "a", true, -1},
		{"a\xff", "a", false, 1},
		{"a", "a\xff", true, 1},
		{"lib4294967297", "lib1", true, 0}, // as a 32-bit int overflows
	} {
		got := libcmp(tc.a, tc.b, tc.signed)
		if got > 0 != (tc.want > 0) || got < 0 != (tc.want < 0) {
			t.Errorf("libcmp(%q, %q, %v) = %d, want the sign of %d", tc.a, tc.b, tc.signed, got, tc.want)
		}
	}
}

// large is a cache of n entries, as long as those of a desktop.
func large(t testing.TB, n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	c := Cache{extensions: true, Generator: "ldconfig (GNU libc) stable release version 2.41", endian: endianLittle, HWCaps: []string{"x86-64-v3"}}
	for i := range n {
		name := fmt.Sprintf("lib%c%c%c-%d.so.%d", 'a'+r.IntN(26), 'a'+r.IntN(26), 'a'+r.IntN(26), i, r.IntN(20))
		c.Entries = append(c.Entries, Entry{Name: name, Path: "/lib/x86_64-linux-gnu/" + name})
	}
	return file(t, c)
}

func BenchmarkMerge(b *testing.B) {
	data, add := large(b, 1500), drivers("/usr/lib/x86_64-linux-gnu/")
	drop := func(e Entry) bool { return strings.HasPrefix(e.Name, "libnvidia-gpucomp.so.") }
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Merge(data, "amd64", add, drop); err != nil {
			b.Fatal(err)
		}
	}
}

// fuzzed makes a cache of any bytes: they are one, or they are lines of name
// and path, in any order.
func fuzzed(data []byte) []byte {
	if _, err := Parse(data); err == nil {
		return data
	}
	c := Cache{extensions: len(data)%2 == 0, HWCaps: []string{"x86-64-v2", "x86-64-v3"}}
	for line := range bytes.Lines(data) {
		name, path, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		e := Entry{Name: string(name), Path: string(path), Flags: FlagsX8664}
		switch len(path) % 4 {
		case 1:
			e.HWCap = 1<<62 | uint64(len(path)%3)
		case 2:
			e.Flags, e.OSVersion = FlagsI386, 1
		}
		c.Entries = append(c.Entries, e)
	}
	out, err := c.encode()
	if err != nil {
		return data
	}
	return out
}

// circular: numbers in names overflow in glibc's comparison and can make an
// order in circles, in which its binary search finds nothing surely.
func circular(entries []Entry) bool {
	for _, e := range entries {
		digits := 0
		for _, b := range []byte(e.Name) {
			if isDigit(b) {
				digits++
			}
		}
		if digits > 8 {
			return true
		}
	}
	return false
}

func FuzzMerge(f *testing.F) {
	for _, s := range append(seeds(f), []byte("liba.so.1 /liba.so.1\nlibcuda.so.1 /x\nlibcuda.so.1 /hw\nlibcuda.so.01 /d/libcuda.so.1\nlibb.so.10 /b\nlibb.so.9 /c\n")) {
		f.Add(s, false, "libnvidia-ml.so.1")
		f.Add(s, true, "libcuda.so.1")
	}
	f.Fuzz(func(t *testing.T, data []byte, arm bool, name string) {
		arch := "amd64"
		if arm {
			arch = "arm64"
		}
		data = fuzzed(data)
		add := []Entry{{Name: "libcuda.so.1", Path: "/d/libcuda.so.1"}, {Name: name, Path: "/d/" + name}}
		out, err := Merge(data, arch, add, nil)
		if err != nil {
			if out != nil {
				t.Fatal("bytes and an error")
			}
			return
		}
		before, after := parse(t, data), parse(t, out)
		ours := func(e Entry) bool { return slices.ContainsFunc(add, e.sameFile) }
		// All of the image that is not ours, as often as it was, and ours once.
		count := map[Entry]int{}
		for _, e := range before.Entries {
			count[e]++
		}
		for _, e := range after.Entries {
			count[e]--
		}
		for e, n := range count {
			if n != 0 && !ours(e) {
				t.Fatalf("%d of %+v went", n, e)
			}
		}
		for _, e := range add {
			if n := len(slices.DeleteFunc(slices.Clone(after.Entries), func(l Entry) bool { return !l.sameFile(e) })); n != 1 {
				t.Fatalf("%d of %+v, want 1", n, e)
			}
		}
		if circular(after.Entries) {
			return
		}
		// What other names find is as before, if the image was in order.
		m, _ := machineOf(arch)
		usable := []string{"x86-64-v3", "x86-64-v2"}
		sorted := slices.IsSortedFunc(before.Entries, m.compare)
		for _, e := range after.Entries {
			got := lookup(after, m, e.Name, usable)
			switch {
			case libcmp(e.Name, "libcuda.so.1", m.signed) == 0:
				if got != "/d/libcuda.so.1" {
					t.Fatalf("the loader finds %s at %q", e.Name, got)
				}
			case libcmp(e.Name, name, m.signed) == 0:
				if got != "/d/"+name {
					t.Fatalf("the loader finds %s at %q", e.Name, got)
				}
			case sorted && got != lookup(before, m, e.Name, usable):
				t.Fatalf("the loader finds %s at %q, before at %q", e.Name, got, lookup(before, m, e.Name, usable))
			}
		}
		again, err := Merge(out, arch, add, nil)
		if err != nil || !bytes.Equal(again, out) {
			t.Fatalf("a second merge gives other bytes (error %v)", err)
		}
	})
}
