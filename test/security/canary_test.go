// SPDX-License-Identifier: Apache-2.0

package security

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"davit/internal/loader"

	"golang.org/x/sys/unix"
)

// canary is a folder of the host, outside of the container's root, in which
// nothing may be opened, changed or mounted. It looks like an image and like a
// /usr, /etc, /dev, so that whoever is led there finds what he looks for.
type canary struct {
	t      *testing.T
	dir    string
	before string
	mounts string
	watch  int            // inotify
	names  map[int]string // of watches
}

// secret is in each of its files.
const secret = "CANARY\n"

// newCanary makes one beside the container's bundle and starts to watch it.
func newCanary(t *testing.T, dir string) *canary {
	t.Helper()
	k := &canary{t: t, dir: filepath.Join(dir, "canary"), names: map[int]string{}}
	for _, f := range []string{"libc.so.6", "nvidia-smi", "libcuda.so.1", "passwd", "davit/x", "nvidia0", "evil.so",
		"x86_64-linux-gnu/libc.so.6", "aarch64-linux-gnu/libc.so.6", "bin/nvidia-smi", "firmware/nvidia/gsp.bin", "nvidia-persistenced/socket",
		"lib/x86_64-linux-gnu/libc.so.6", "lib/x86_64-linux-gnu/libcuda.so.1"} {
		write(t, filepath.Join(k.dir, f), secret)
	}
	write(t, filepath.Join(k.dir, "ld.so.cache"), string(imageCache(t))+secret)
	must(t, os.MkdirAll(filepath.Join(k.dir, "nvidia-caps"), 0o755))
	k.restart()
	t.Cleanup(func() { unix.Close(k.watch) })
	return k
}

// restart forgets what was seen.
func (k *canary) restart() {
	k.t.Helper()
	if k.watch > 0 {
		unix.Close(k.watch)
	}
	k.before, k.mounts = listing(k.t, k.dir), mountinfo(k.t)
	var err error
	k.watch, err = unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	must(k.t, err)
	must(k.t, filepath.WalkDir(k.dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil {
			var n int
			n, err = unix.InotifyAddWatch(k.watch, p, unix.IN_ALL_EVENTS|unix.IN_DONT_FOLLOW)
			k.names[n] = p
		}
		return err
	}))
	events(k.t, k.watch) // this walk's
}

// check fails if something was opened or changed since the last restart.
// Looking a name up opens nothing and does not show.
func (k *canary) check() {
	k.t.Helper()
	for _, e := range events(k.t, k.watch) {
		k.t.Errorf("outside of the root: %s", e.in(k.names))
	}
	if after := listing(k.t, k.dir); after != k.before {
		k.t.Errorf("outside of the root something changed\nbefore:\n%s\nafter:\n%s", k.before, after)
	}
	if after := mountinfo(k.t); after != k.mounts {
		k.t.Errorf("the host's mounts changed\nbefore:\n%s\nafter:\n%s", k.mounts, after)
	}
	k.restart()
}

// event is one of inotify.
type event struct {
	watch int
	mask  uint32
	name  string
}

func (e event) in(names map[int]string) string {
	what := ""
	for _, m := range []struct {
		bit  uint32
		name string
	}{{unix.IN_OPEN, "opened"}, {unix.IN_ACCESS, "read"}, {unix.IN_MODIFY, "written"}, {unix.IN_CREATE, "created"}, {unix.IN_DELETE, "deleted"}, {unix.IN_ATTRIB, "attributes changed"}, {unix.IN_CLOSE, "closed"}} {
		if e.mask&m.bit != 0 {
			what += " " + m.name
		}
	}
	return fmt.Sprintf("%s%s (%#x)", filepath.Join(names[e.watch], e.name), what, e.mask)
}

func events(t *testing.T, fd int) []event {
	t.Helper()
	var list []event
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil || n <= 0 {
			return list
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			size := binary.NativeEndian.Uint32(b[12:])
			name := strings.TrimRight(string(b[16:16+size]), "\x00")
			list = append(list, event{int(int32(binary.NativeEndian.Uint32(b))), binary.NativeEndian.Uint32(b[4:]), name})
			b = b[16+size:]
		}
	}
}

// listing describes a folder so that any change shows: names, kinds, sizes,
// modes, owners, times of change. It opens folders, but no files.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(p, &st))
		fmt.Fprintln(&b, p, st.Mode, st.Ino, st.Nlink, st.Uid, st.Gid, st.Size, st.Mtim, st.Ctim)
		return nil
	}))
	return b.String()
}

// imageCache is a loader cache that an image could have.
func imageCache(t *testing.T) []byte {
	t.Helper()
	return loaderCache("/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/ld-linux.so.2")
}

// loaderCache is a cache in the format of glibc 2.32 with these files, which
// must be in the cache's order: descending.
func loaderCache(paths ...string) []byte {
	flags := loader.FlagsX8664
	if runtime.GOARCH == "arm64" {
		flags = loader.FlagsARM64
	}
	le := binary.LittleEndian
	head := make([]byte, 48+24*len(paths))
	copy(head, "glibc-ld.so.cache1.1")
	le.PutUint32(head[20:], uint32(len(paths)))
	text := ""
	for i, p := range paths {
		at := len(head) + len(text)
		le.PutUint32(head[48+24*i:], flags)
		le.PutUint32(head[48+24*i+4:], uint32(at+strings.LastIndexByte(p, '/')+1))
		le.PutUint32(head[48+24*i+8:], uint32(at))
		text += p + "\x00"
	}
	le.PutUint32(head[24:], uint32(len(text)))
	return append(head, text...)
}
