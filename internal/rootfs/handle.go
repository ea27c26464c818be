// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"
)

// Handle is an open directory that paths are resolved in, all links confined
// to it by the kernel (openat2(2) with RESOLVE_IN_ROOT; on kernels before 5.6
// by pathrs, component by component). It guarantees that nothing outside the
// directory is opened, made or renamed, whoever changes links meanwhile. It
// does not guarantee that two calls see the same tree.
type Handle struct {
	dir       *os.File
	noOpenat2 bool // the kernel has no openat2, or a test takes that way
}

// OpenHandle opens dir, whose own path must be trusted.
func OpenHandle(dir string) (*Handle, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return &Handle{dir: os.NewFile(uintptr(fd), dir)}, nil
}

// Close closes the directory.
func (h *Handle) Close() error { return h.dir.Close() }

// Name is the path that the directory was opened by, for messages.
func (h *Handle) Name() string { return h.dir.Name() }

// File is the directory itself.
func (h *Handle) File() *os.File { return h.dir }

// Open opens p inside the directory. flags are those of open(2), without
// O_CREAT; O_CLOEXEC is added. Opening a FIFO or a device of the container
// could block or have effects, so callers that read add O_NONBLOCK|O_NOCTTY
// and check what they got.
func (h *Handle) Open(p string, flags int) (*os.File, error) {
	if fd, err := h.openat2(p, flags); err == nil {
		return os.NewFile(uintptr(fd), path.Join(h.dir.Name(), p)), nil
	} else if !h.noOpenat2 {
		return nil, &fs.PathError{Op: "open", Path: path.Join(h.dir.Name(), p), Err: err}
	}
	return h.openSlowly(p, flags)
}

// openat2 opens p and gives a bare descriptor. An error while noOpenat2 is set
// says nothing: the kernel has no such call.
func (h *Handle) openat2(p string, flags int) (int, error) {
	if !h.noOpenat2 {
		how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
		// EAGAIN: something was renamed while ".." was resolved; openat2(2) asks to retry.
		for range 128 {
			fd, err := unix.Openat2(int(h.dir.Fd()), p, &how)
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
				continue
			}
			if errors.Is(err, unix.ENOSYS) {
				h.noOpenat2 = true
			}
			return fd, err
		}
		return -1, unix.EAGAIN
	}
	return -1, unix.ENOSYS
}

// openSlowly is Open on kernels without openat2.
func (h *Handle) openSlowly(p string, flags int) (*os.File, error) {
	name := path.Join(h.dir.Name(), p)
	if flags&unix.O_NOFOLLOW != 0 {
		// pathrs follows the last component: resolve the parent, then open below it.
		dir, base := path.Split(path.Clean("/" + p))
		parent, err := pathrs.OpenatInRoot(h.dir, dir)
		if err != nil {
			return nil, err
		}
		defer parent.Close()
		fd, err := unix.Openat(int(parent.Fd()), base, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
	at, err := pathrs.OpenatInRoot(h.dir, p)
	if err != nil || flags&unix.O_PATH != 0 {
		return at, err
	}
	defer at.Close()
	return pathrs.Reopen(at, flags)
}

// ErrNotRegular says that a path names something that is no plain file.
var ErrNotRegular = errors.New("not a plain file")

// ErrTooLarge says that a file is larger than the caller accepts.
var ErrTooLarge = errors.New("file too large")

// ReadFile reads a plain file of at most limit bytes; it never blocks on a
// FIFO or reads a device.
func (h *Handle) ReadFile(p string, limit int64) ([]byte, error) {
	f, err := h.Open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: f.Name(), Err: ErrNotRegular}
	}
	if info.Size() > limit {
		return nil, &fs.PathError{Op: "read", Path: f.Name(), Err: ErrTooLarge}
	}
	buf := make([]byte, info.Size())
	n, err := io.ReadFull(f, buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return buf[:n], nil
}

// Stat tells what p is, links followed inside the directory.
func (h *Handle) Stat(p string) (fs.FileInfo, error) {
	f, err := h.Open(p, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Stat()
}

// StatFile is Stat in the kernel's words, for the way that each start of a
// container goes.
func (h *Handle) StatFile(p string) (unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := h.openat2(p, unix.O_PATH)
	if err == nil {
		err = unix.Fstat(fd, &st)
		unix.Close(fd)
		return st, err
	}
	if !h.noOpenat2 {
		return st, err
	}
	f, err := h.openSlowly(p, unix.O_PATH)
	if err != nil {
		return st, err
	}
	defer f.Close()
	err = unix.Fstat(int(f.Fd()), &st)
	return st, err
}

// Lstat tells what p is, its own link not followed.
func (h *Handle) Lstat(p string) (fs.FileInfo, error) {
	f, err := h.Open(p, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Stat()
}

// MkdirAll makes the folder p and those above it, and opens it with O_PATH.
// Links in p are followed inside the directory.
func (h *Handle) MkdirAll(p string, mode fs.FileMode) (*os.File, error) {
	if f, err := h.Open(p, unix.O_PATH|unix.O_DIRECTORY); err == nil {
		return f, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if h.noOpenat2 {
		return pathrs.MkdirAllHandle(h.dir, p, mode)
	}
	// The deepest folder that exists, then one mkdirat a level.
	p = path.Clean("/" + p)
	parent, base := path.Split(p)
	if p == "/" || base == "" {
		return nil, &fs.PathError{Op: "mkdir", Path: p, Err: fs.ErrNotExist}
	}
	up, err := h.MkdirAll(strings.TrimSuffix(parent, "/")+"/", mode)
	if err != nil {
		return nil, err
	}
	defer up.Close()
	if err := unix.Mkdirat(int(up.Fd()), base, uint32(mode.Perm())); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, &fs.PathError{Op: "mkdir", Path: path.Join(h.dir.Name(), p), Err: err}
	}
	// A dangling link in the last place gives ENOENT here: that is a clear error, not a loop.
	return h.Open(p, unix.O_PATH|unix.O_DIRECTORY)
}

// Touch makes p an empty plain file unless something is there, and opens it
// with O_PATH: a place to mount onto. Folders above it are made.
func (h *Handle) Touch(p string, mode fs.FileMode) (*os.File, error) {
	f, err := h.Open(p, unix.O_PATH)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	dir, base := path.Split(path.Clean("/" + p))
	parent, err := h.MkdirAll(dir, 0o755)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	// A dangling link: remove it, for a mount point must be a file of this name.
	if fi, err := h.Lstat(p); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		if err := unix.Unlinkat(int(parent.Fd()), base, 0); err != nil {
			return nil, &fs.PathError{Op: "remove link", Path: path.Join(h.dir.Name(), p), Err: err}
		}
	}
	fd, err := unix.Openat(int(parent.Fd()), base, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_WRONLY|unix.O_CLOEXEC, uint32(mode.Perm()))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, &fs.PathError{Op: "create", Path: path.Join(h.dir.Name(), p), Err: err}
	}
	if err == nil {
		unix.Close(fd)
	}
	fd, err = unix.Openat(int(parent.Fd()), base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path.Join(h.dir.Name(), p), Err: err}
	}
	return os.NewFile(uintptr(fd), path.Join(h.dir.Name(), p)), nil
}

// WriteFile puts data at p by a temporary file in the same folder and a
// rename; the old file or the new one is there at every moment. A link at p is
// replaced, not followed. The folder must exist.
func (h *Handle) WriteFile(p string, data []byte, mode fs.FileMode) error {
	dir, base := path.Split(path.Clean("/" + p))
	parent, err := h.Open(dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer parent.Close()
	return WriteFileAt(parent, base, data, mode)
}

// WriteFileAt is WriteFile in an open folder. A file that was there hands on
// its owner.
func WriteFileAt(dir *os.File, base string, data []byte, mode fs.FileMode) (err error) {
	var random [6]byte
	if _, err := rand.Read(random[:]); err != nil {
		return err
	}
	tmp := "." + base + "." + hex.EncodeToString(random[:])
	full := path.Join(dir.Name(), base)
	fd, err := unix.Openat(int(dir.Fd()), tmp, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_WRONLY|unix.O_CLOEXEC, uint32(mode.Perm()))
	if err != nil {
		return &fs.PathError{Op: "create", Path: full, Err: err}
	}
	f := os.NewFile(uintptr(fd), full)
	defer func() {
		if err != nil {
			_ = unix.Unlinkat(int(dir.Fd()), tmp, 0)
		}
	}()
	_, err = f.Write(data)
	var old unix.Stat_t
	if err == nil && unix.Fstatat(int(dir.Fd()), base, &old, unix.AT_SYMLINK_NOFOLLOW) == nil && (old.Uid != 0 || old.Gid != 0) {
		// A container in a user namespace owns its files by another number.
		err = unix.Fchown(fd, int(old.Uid), int(old.Gid))
	}
	if err == nil {
		err = unix.Fchmod(fd, uint32(mode.Perm())) // whatever the umask
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err = unix.Renameat(int(dir.Fd()), tmp, int(dir.Fd()), base); err != nil {
		return &fs.PathError{Op: "rename", Path: full, Err: err}
	}
	return nil
}

// WriteFile is Handle.WriteFile for a trusted path of the host.
func WriteFile(p string, data []byte, mode fs.FileMode) error {
	dir, err := os.Open(path.Dir(p))
	if err != nil {
		return err
	}
	defer dir.Close()
	return WriteFileAt(dir, path.Base(p), data, mode)
}

// ReadHostFile reads a file of the host of at most limit bytes, and gives its
// permissions. The path is trusted; links in it are followed. Errors are those
// of os.ReadFile, or ErrTooLarge. It spends four system calls.
func ReadHostFile(p string, limit int64) ([]byte, fs.FileMode, error) {
	fd, err := unix.Open(p, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	for errors.Is(err, unix.EINTR) {
		fd, err = unix.Open(p, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, 0, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, 0, &fs.PathError{Op: "stat", Path: p, Err: err}
	}
	if st.Size > limit {
		return nil, 0, &fs.PathError{Op: "read", Path: p, Err: ErrTooLarge}
	}
	// One byte more than the size, so that the end is seen; what has no size,
	// such as a pipe, is read as it comes.
	data := make([]byte, 0, max(st.Size+1, 512))
	for {
		n, err := unix.Read(fd, data[len(data):cap(data)])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, 0, &fs.PathError{Op: "read", Path: p, Err: err}
		case n == 0:
			return data, fs.FileMode(st.Mode & 0o777), nil
		}
		data = data[:len(data)+n]
		if int64(len(data)) > limit {
			return nil, 0, &fs.PathError{Op: "read", Path: p, Err: ErrTooLarge}
		}
		if len(data) == cap(data) {
			data = append(data, 0)[:len(data)]
		}
	}
}

// KeepFile makes the file p of the program's own state hold data, in a folder
// that it makes if need be. A plain file of root alone with this content stays;
// anything else in its place, damaged, of another owner, a FIFO, a folder, is
// replaced without having been followed or waited for.
func KeepFile(p string, data []byte, mode fs.FileMode) error {
	if holds(p, data) {
		return nil
	}
	if err := os.MkdirAll(path.Dir(p), 0o755); err != nil {
		return err
	}
	err := WriteFile(p, data, mode)
	if errors.Is(err, unix.EISDIR) {
		if err = os.RemoveAll(p); err == nil {
			err = WriteFile(p, data, mode)
		}
	}
	return err
}

// holds says whether p is a plain file with this content that only this user
// can change.
func holds(p string, data []byte) bool {
	fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	f := os.NewFile(uintptr(fd), p)
	defer f.Close()
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != int64(len(data)) ||
		st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0 {
		return false
	}
	have := make([]byte, len(data))
	_, err = io.ReadFull(f, have)
	return err == nil && string(have) == string(data)
}
