// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"

	"davit/internal/rootfs"

	"golang.org/x/sys/unix"
)

// source is something of the host that is mounted into the container: a plain
// file, or what one of the three flags says.
type source struct {
	path   string
	folder bool
	socket bool // a socket, or a plain file
	device bool // a character device with the number rdev
	rdev   uint64
	attr   uint64 // MOUNT_ATTR_*, what the mount must have

	st   unix.Stat_t
	tree *os.File // a detached mount of it with attr; nil for the old way
}

func (s *source) close() {
	if s != nil && s.tree != nil {
		s.tree.Close()
	}
}

// name is how messages call it.
func (s *source) name() string { return path.Base(s.path) }

// open opens the source in the host's namespace, checks what it is, and makes
// a detached mount of it. If the kernel has no such mounts it sets *bind.
//
// The file is closed again at once: beyond 64 descriptors the kernel enlarges
// the table of a process with threads only after it has waited for all
// processors, which takes 10 to 30 ms.
func (s *source) open(bind *bool) error {
	file, err := openPath(s.path, unix.O_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("open %s of the host: %w; the driver or its devices changed meanwhile, start the container again", s.path, cause(err))
	}
	defer file.Close()
	if err := unix.Fstat(int(file.Fd()), &s.st); err != nil {
		return fmt.Errorf("stat %s of the host: %w", s.path, err)
	}
	if want := s.wrongKind(); want != "" {
		return fmt.Errorf("mount %s of the host: it is not %s; the driver or its devices changed meanwhile, start the container again", s.path, want)
	}
	if *bind {
		return nil
	}
	s.tree, err = cloneMount(file, s.attr)
	if errors.Is(err, unix.ENOSYS) {
		*bind = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("copy the mount of %s: %w; %s", s.path, err, hint(err))
	}
	return nil
}

// wrongKind names the kind that the source should be and is not.
func (s *source) wrongKind() string {
	switch kind := s.st.Mode & unix.S_IFMT; {
	case s.folder && kind != unix.S_IFDIR:
		return "a folder"
	case s.device && (kind != unix.S_IFCHR || s.st.Rdev != s.rdev):
		return fmt.Sprintf("the character device %d:%d", unix.Major(s.rdev), unix.Minor(s.rdev))
	case s.socket && kind != unix.S_IFSOCK && kind != unix.S_IFREG:
		return "a socket"
	case !s.folder && !s.device && !s.socket && kind != unix.S_IFREG:
		return "a plain file"
	}
	return ""
}

// cloneMount makes a private, detached mount of an open file, with attr set
// before anybody can see it.
func cloneMount(f *os.File, attr uint64) (*os.File, error) {
	fd, err := unix.OpenTree(int(f.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, err
	}
	tree := os.NewFile(uintptr(fd), f.Name())
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: attr, Propagation: unix.MS_PRIVATE})
	if err == nil {
		err = verifyAttr(tree, attr)
	}
	if err != nil {
		tree.Close()
		return nil, err
	}
	return tree, nil
}

// attach puts the source on the open file at, which is inside the container.
// Called in the container's namespace. again opens the same place once more
// and is needed for the old way alone.
func (s *source) attach(at *os.File, again func() (*os.File, error)) error {
	if s.tree != nil {
		return moveMount(s.tree, at)
	}
	return s.bindOnto(at, again)
}

func moveMount(tree, at *os.File) error {
	return unix.MoveMount(int(tree.Fd()), "", int(at.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// errRaced says that what was mounted is not what stands at the target.
var errRaced = errors.New("something else stands there; the container's files change while it starts")

// bindOnto is attach for kernels before 5.12. A bind mount takes its flags only by
// a second call, and by name: so the place is opened again, and only if the
// very source stands there the flags are set on that descriptor and verified.
func (s *source) bindOnto(at *os.File, again func() (*os.File, error)) error {
	// A mount of the host's namespace cannot be bound here, but this namespace has a copy of it.
	from, err := openPath(s.path, unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer from.Close()
	if !sameFile(from, &s.st) {
		return fmt.Errorf("%s is another file in the container's mount namespace", s.path)
	}
	if err := procIsReal(); err != nil {
		return err
	}
	if err := unix.Mount(fdPath(from), fdPath(at), "", unix.MS_BIND, ""); err != nil {
		return err
	}
	top, err := again()
	if err != nil {
		return err
	}
	defer top.Close()
	if !sameFile(top, &s.st) {
		return errRaced
	}
	if err := setAttrOld(top, s.attr); err != nil {
		_ = unix.Unmount(fdPath(top), unix.MNT_DETACH)
		return err
	}
	return nil
}

// setAttrOld sets flags on a mount by its descriptor with mount(2).
func setAttrOld(top *os.File, attr uint64) error {
	if err := unix.Mount("", fdPath(top), "", unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(top.Fd()), &st); err != nil {
		return err
	}
	// Flags that are not named again would be cleared. ST_* and MS_* of these are the same numbers
	// but for relatime, which is the default.
	keep := uintptr(st.Flags) & (unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_NOATIME | unix.ST_NODIRATIME)
	set := uintptr(attr) // MOUNT_ATTR_RDONLY, NOSUID, NODEV, NOEXEC are MS_*'s numbers as well
	if err := unix.Mount("", fdPath(top), "", unix.MS_REMOUNT|unix.MS_BIND|keep|set, ""); err != nil {
		return err
	}
	return verifyAttr(top, attr)
}

// verifyAttr checks that the mount of f has the flags; ST_* and MOUNT_ATTR_*
// are the same numbers.
func verifyAttr(f *os.File, attr uint64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return err
	}
	if uint64(st.Flags)&attr != attr {
		return errors.New("the kernel did not set the mount's flags (read-only, nosuid, nodev)")
	}
	return nil
}

// procIsReal checks that /proc/self/fd can be relied upon in this namespace.
func procIsReal() error {
	var st unix.Statfs_t
	if err := unix.Statfs("/proc/self", &st); err != nil || st.Type != unix.PROC_SUPER_MAGIC {
		return errors.New("there is no /proc of this process in the container's mount namespace")
	}
	return nil
}

func fdPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

func sameFile(f *os.File, want *unix.Stat_t) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Dev == want.Dev && st.Ino == want.Ino
}

// openPath opens a trusted path as a mere reference.
func openPath(p string, flags int) (*os.File, error) {
	fd, err := unix.Open(p, flags|unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), p), nil
}

// readAt reads a file of /proc below an open folder.
func readAt(dir *os.File, name string) ([]byte, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var buf bytes.Buffer
	_, err = buf.ReadFrom(f)
	return buf.Bytes(), err
}

// stateFile gives a file of this content in dir, named by the content, and
// makes it if it is not there or is not whole.
func stateFile(dir, prefix string, data []byte) (string, error) {
	sum := sha256.Sum256(data)
	file := path.Join(dir, prefix+"-"+hex.EncodeToString(sum[:12]))
	if err := rootfs.KeepFile(file, data, 0o444); err != nil {
		return "", fmt.Errorf("write %s: %w; %s", file, cause(err), hint(err))
	}
	return file, nil
}
