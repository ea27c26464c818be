// SPDX-License-Identifier: Apache-2.0

package nvidia

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"davit/internal/rootfs"

	"golang.org/x/sys/unix"
)

// trail is what a Read looked at: enough to tell later, without reading it
// all again, that another Read would give the same.
type trail struct {
	files []fileStamp // by lstat, each path once
	known map[string]bool
	texts []textStamp // kernel files, whose times say nothing, by content
	lists []textStamp // kernel folders, by their sorted names
}

// fileStamp is how a path looked; ino 0 says that it did not exist.
type fileStamp struct {
	path                string // on this machine
	ino, rdev           uint64
	mode                uint32
	mtime, ctime, mtimn int64 // ctime and mtime in seconds, mtimn: both nanoseconds in one
}

type textStamp struct{ path, text string }

func stampOf(path string) fileStamp {
	s := fileStamp{path: path}
	var st unix.Stat_t
	if unix.Lstat(path, &st) == nil {
		s.ino, s.rdev, s.mode = st.Ino, st.Rdev, st.Mode
		s.mtime, s.ctime = st.Mtim.Sec, st.Ctim.Sec
		s.mtimn = st.Mtim.Nsec<<32 | st.Ctim.Nsec
	}
	return s
}

// add notes how a path looks, the first time that it is looked at: if it
// changes later in the same reading, the facts kept will not hold.
func (t *trail) add(path string) {
	if t == nil || t.known[path] {
		return
	}
	if t.known == nil {
		t.known = map[string]bool{}
	}
	t.known[path] = true
	t.files = append(t.files, stampOf(path))
}

// lost notes the part of a path that does not exist, as Resolve's error has it.
func (t *trail) lost(err error) {
	var pe *fs.PathError
	if t != nil && errors.As(err, &pe) {
		t.add(pe.Path)
	}
}

// settle is how old every file must be before a trail of it is kept: the
// clock of file systems ticks in steps of up to 10 ms, so a change right after
// the reading could leave the same times.
const settle = 50 * time.Millisecond

func (t *trail) settled(now time.Time) bool {
	limit := now.Add(-settle)
	for _, f := range t.files {
		if f.ino != 0 && time.Unix(f.ctime, f.mtimn&(1<<32-1)).After(limit) {
			return false
		}
	}
	return true
}

// holds says whether everything still looks the same.
func (t *trail) holds() bool {
	for _, f := range t.files {
		if stampOf(f.path) != f {
			return false
		}
	}
	for _, x := range t.texts {
		if readText(x.path) != x.text {
			return false
		}
	}
	for _, x := range t.lists {
		if listNames(x.path) != x.text {
			return false
		}
	}
	return true
}

// readText reads a small file of the kernel by three system calls; "" if it
// cannot be read.
func readText(path string) string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	var buf [4096]byte
	n := 0
	for n < len(buf) {
		m, err := unix.Read(fd, buf[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || m == 0 {
			break
		}
		n += m
	}
	return string(buf[:n])
}

// listNames gives the sorted names in a folder, "" if it cannot be read.
func listNames(path string) string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	var names []string
	var buf [4096]byte
	for {
		n, err := syscall.ReadDirent(fd, buf[:])
		if err != nil || n <= 0 {
			break
		}
		_, _, names = syscall.ParseDirent(buf[:n], -1, names)
	}
	slices.Sort(names)
	return strings.Join(names, "\n")
}

// ReadCached is Read with a memory: it keeps the facts in a file of the folder
// dir, and reads only that file as long as all that Read looked at is as it
// was. A file that is damaged, of another version of davit or of another
// owner is not used. That it cannot be written is no error.
func ReadCached(host rootfs.Root, o Options, dir, version string) (*Facts, error) {
	if o.Arch == "" {
		o.Arch = runtime.GOARCH
	}
	key := version + "\x00" + o.Arch + "\x00" + host.Dir() + "\x00" + o.DriverRoot
	file := filepath.Join(dir, "facts-"+hashName(host.Dir()+"\x00"+o.DriverRoot))
	if f := loadFacts(file, key); f != nil {
		return f, nil
	}
	t := &trail{}
	f, err := read(host, o, t)
	if err != nil {
		return nil, err
	}
	if t.settled(time.Now()) && os.MkdirAll(dir, 0o755) == nil {
		_ = rootfs.WriteFile(file, encodeFacts(key, t, f), 0o644)
	}
	return f, nil
}

// hashName is FNV-1a of s in sixteen digits, for a file's name.
func hashName(s string) string {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	text := strconv.FormatUint(h, 16)
	return "0000000000000000"[len(text):] + text
}

// maxCache bounds the file; that of 64 GPUs has less than 200 KiB.
const maxCache = 4 << 20

func loadFacts(file, key string) *Facts {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o022 != 0 ||
		st.Uid != uint32(os.Geteuid()) || st.Size > maxCache {
		return nil
	}
	data := make([]byte, st.Size)
	for n := 0; n < len(data); {
		m, err := unix.Read(fd, data[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || m == 0 {
			return nil
		}
		n += m
	}
	t, f := decodeFacts(key, data)
	if f == nil || !t.holds() {
		return nil
	}
	return f
}
