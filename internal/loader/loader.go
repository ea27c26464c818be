// SPDX-License-Identifier: Apache-2.0

// Package loader knows what a dynamic loader inside a container will find: the
// C library's kind, the folder its own libraries lie in, and /etc/ld.so.cache,
// which it parses and merges without running any program.
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
	// "/usr/lib64", "/usr/lib". Where there is no glibc, the host's guess.
	Dir string `json:"dir"`
	// Cache says whether the image has a readable /etc/ld.so.cache.
	Cache bool `json:"cache"`
}

// Entry is one line of a loader cache: who asks for Name gets Path.
type Entry struct {
	Name string `json:"name"` // SONAME or link name
	Path string `json:"path"` // absolute, in the container
}
