// SPDX-License-Identifier: Apache-2.0

// Package loader knows what a dynamic loader inside a container will find: the
// C library's kind, the folder its own libraries lie in, and /etc/ld.so.cache,
// which it parses and merges without running any program.
//
// An image without /etc/ld.so.cache needs none: glibc then searches its
// default folders, and Layout.Dir is one of them. Making a cache there would
// even change what the image's programs find. So nothing is to be merged where
// Layout.Cache is false.
//
// musl has no cache, and NVIDIA's libraries cannot run with it alone.
package loader

// Libc is the kind of C library an image brings.
type Libc string

// The kinds that matter: NVIDIA's libraries are linked against glibc.
const (
	Glibc Libc = "glibc"
	Musl  Libc = "musl"
	None  Libc = "none" // no dynamic loader at all: static programs alone
)

// Layout is what an image's root says about its dynamic loader.
type Layout struct {
	Libc Libc `json:"libc"`
	// Dir is the folder in which the image keeps libc itself, and so one of
	// the loader's own default folders: "/usr/lib/x86_64-linux-gnu",
	// "/usr/lib64", "/usr/lib". Where there is no glibc, a guess: see Inspect.
	Dir string `json:"dir"`
	// Dir32 is the same for 32-bit programs, "" if the image has no loader
	// for them.
	Dir32 string `json:"dir32,omitempty"`
	// Cache says whether the image has a plain file /etc/ld.so.cache.
	Cache bool `json:"cache"`
}

// Entry is one line of a loader cache: who asks for Name gets Path.
type Entry struct {
	Name string `json:"name"` // SONAME or link name
	Path string `json:"path"` // absolute, in the container
	// Flags are the kind of C library and machine, as glibc writes them. In
	// entries to add, 0 stands for a 64-bit glibc library; FlagsI386 is one
	// for 32-bit programs.
	Flags uint32 `json:"flags,omitempty"`
	// OSVersion is the oldest kernel, as glibc before 2.36 writes it.
	OSVersion uint32 `json:"-"`
	// HWCap limits the entry to machines with some capability: a bit mask, or
	// since glibc 2.33 a bit and the number of a glibc-hwcaps folder's name.
	HWCap uint64 `json:"-"`
}

// Flags of glibc libraries (FLAG_ELF_LIBC6 and the machine), which glibc's
// loader compares as a whole.
const (
	FlagsX8664 uint32 = 0x0303
	FlagsARM64 uint32 = 0x0a03
	FlagsI386  uint32 = 0x0003
)
