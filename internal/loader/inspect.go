// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"golang.org/x/sys/unix"

	"davit/internal/rootfs"
)

// CachePath is where glibc's loader looks for its cache.
const CachePath = "/etc/ld.so.cache"

// maxCache is the largest cache read or made. Real ones have 20 to 300 KB.
const maxCache = 16 << 20

// machine is what differs between processors.
type machine struct {
	interpreter string // glibc's loader, as programs name it
	musl        string
	triplet     string // Debian's name of the machine
	flags       uint32
	// signed: whether char is, and so how _dl_cache_libcmp orders bytes above 127.
	signed bool
	// compat32 is the loader of 32-bit programs that NVIDIA has libraries for.
	compat32 string
}

// machineOf knows the processors by their GOARCH names.
func machineOf(arch string) (machine, bool) {
	switch arch {
	case "amd64":
		return machine{
			interpreter: "/lib64/ld-linux-x86-64.so.2",
			musl:        "/lib/ld-musl-x86_64.so.1",
			triplet:     "x86_64-linux-gnu",
			flags:       FlagsX8664,
			signed:      true,
			compat32:    "/lib/ld-linux.so.2",
		}, true
	case "arm64":
		return machine{
			interpreter: "/lib/ld-linux-aarch64.so.1",
			musl:        "/lib/ld-musl-aarch64.so.1",
			triplet:     "aarch64-linux-gnu",
			flags:       FlagsARM64,
		}, true
	}
	return machine{}, false
}

// Inspect tells what dynamic loader an image has, by names alone: it opens no
// file for reading, so that FIFOs, devices and huge files in it do no harm. It
// looks at 8 names at most (3 in Debian's layout, 5 in Fedora's), and at up to 4
// more in an image with a 32-bit loader. It does not check for which machine
// the files are.
//
// Dir is where libc.so.6 lies, by its /usr name, which is a default folder of
// the loader in each distribution known, whether /lib is a link to it or a
// folder of its own. The folder of the loader alone says nothing: Debian has it
// in /lib64, which Debian's loader does not search.
//
// Where libc.so.6 is in none of the usual folders, Dir is a guess: /usr/lib64,
// or /usr/lib with musl. So it is in NixOS's images, which keep each glibc in
// /nix/store: they count as Glibc, though their loaders search neither Dir nor
// the cache, and programs need LD_LIBRARY_PATH.
func Inspect(h *rootfs.Handle, arch string) Layout {
	m, ok := machineOf(arch)
	if !ok {
		return Layout{Libc: None, Dir: "/usr/lib64"}
	}
	l := Layout{Libc: Glibc}
	var found bool
	if l.Dir, found = libcDir(h, m); !found {
		// Alpine's gcompat puts a link under the name of glibc's loader, so
		// musl is asked first.
		switch {
		case isFile(h, m.musl):
			return Layout{Libc: Musl, Dir: "/usr/lib"}
		case isFile(h, m.interpreter), isFolder(h, "/nix/store"):
			l.Dir = "/usr/lib64"
		default:
			return Layout{Libc: None, Dir: "/usr/lib64"}
		}
	}
	l.Cache = isFile(h, CachePath)
	if m.compat32 != "" && isFile(h, m.compat32) {
		l.Dir32 = libcDir32(h)
	}
	return l
}

// libcDir finds the folder of the 64-bit libc.so.6.
func libcDir(h *rootfs.Handle, m machine) (string, bool) {
	multiarch := "/usr/lib/" + m.triplet
	if isFile(h, multiarch+"/libc.so.6") {
		return multiarch, true
	}
	if in64 := stat(h, "/usr/lib64/libc.so.6"); isKind(in64, unix.S_IFREG) {
		// Arch has /usr/lib64 as a link to lib, and its loader knows /usr/lib
		// alone. In Fedora /usr/lib holds another libc, the 32-bit one.
		if in := stat(h, "/usr/lib/libc.so.6"); in != nil && sameFile(in64, in) {
			return "/usr/lib", true
		}
		return "/usr/lib64", true
	}
	// /lib a folder of its own: old Debian and Ubuntu, SUSE Leap.
	if isFile(h, "/lib/"+m.triplet+"/libc.so.6") {
		return multiarch, true
	}
	if isFile(h, "/lib64/libc.so.6") {
		return "/usr/lib64", true
	}
	// No lib64 at all. musl's libc6-compat has a link libc.so.6 to musl here.
	if libc := stat(h, "/usr/lib/libc.so.6"); isKind(libc, unix.S_IFREG) {
		if musl := stat(h, m.musl); musl == nil || !sameFile(libc, musl) {
			return "/usr/lib", true
		}
	}
	return "", false
}

// libcDir32 finds the folder of libc.so.6 for i386: Debian's, Arch's and
// Debian's libc6-i386, or else Fedora's.
func libcDir32(h *rootfs.Handle) string {
	for _, c := range [...]struct{ libc, dir string }{
		{"/usr/lib/i386-linux-gnu/libc.so.6", "/usr/lib/i386-linux-gnu"},
		{"/usr/lib32/libc.so.6", "/usr/lib32"},
		{"/lib/i386-linux-gnu/libc.so.6", "/usr/lib/i386-linux-gnu"},
		{"/lib32/libc.so.6", "/usr/lib32"},
	} {
		if isFile(h, c.libc) {
			return c.dir
		}
	}
	return "/usr/lib"
}

// stat is nil for everything that cannot be looked at.
func stat(h *rootfs.Handle, p string) *unix.Stat_t {
	st, err := h.StatFile(p)
	if err != nil {
		return nil
	}
	return &st
}

func isKind(st *unix.Stat_t, kind uint32) bool { return st != nil && st.Mode&unix.S_IFMT == kind }

func isFile(h *rootfs.Handle, p string) bool { return isKind(stat(h, p), unix.S_IFREG) }

func isFolder(h *rootfs.Handle, p string) bool { return isKind(stat(h, p), unix.S_IFDIR) }

func sameFile(a, b *unix.Stat_t) bool { return a.Dev == b.Dev && a.Ino == b.Ino }

// ReadCache reads an image's cache. It fails with fs.ErrNotExist if there is
// none, rootfs.ErrNotRegular or rootfs.ErrTooLarge (over 16 MiB) if what lies
// there cannot be one, and never blocks.
func ReadCache(h *rootfs.Handle) ([]byte, error) {
	return h.ReadFile(CachePath, maxCache)
}
