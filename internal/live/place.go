// SPDX-License-Identifier: Apache-2.0

package live

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"

	"davit/internal/loader"
	"davit/internal/plan"
	"davit/internal/rootfs"

	"golang.org/x/sys/unix"
)

// Everything in this file runs in the container's mount namespace.

// kernelFS are file systems that are views of the kernel: nothing is made in
// them or mounted onto them because a link of the image leads there.
var kernelFS = map[int64]bool{
	unix.PROC_SUPER_MAGIC: true, unix.SYSFS_MAGIC: true, unix.CGROUP_SUPER_MAGIC: true, unix.CGROUP2_SUPER_MAGIC: true,
	unix.DEBUGFS_MAGIC: true, unix.TRACEFS_MAGIC: true, unix.SECURITYFS_MAGIC: true, unix.BPF_FS_MAGIC: true,
	unix.SELINUX_MAGIC: true, unix.EFIVARFS_MAGIC: true, unix.DEVPTS_SUPER_MAGIC: true,
}

// checkOpen refuses an open file as a place to make things in or to mount onto.
func (j *job) checkOpen(f *os.File) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return err
	}
	if kernelFS[int64(st.Type)] {
		return errors.New("a link of the image leads into a file system of the kernel (/proc, /sys)")
	}
	return j.checkShared(f)
}

// checkShared refuses a place on a mount whose changes reach the host: a
// volume given with rshared.
func (j *job) checkShared(f *os.File) error {
	if len(j.shared) == 0 {
		return nil
	}
	id, err := mountID(f)
	if err != nil {
		return err
	}
	if j.shared[id] {
		return errors.New("it is on a volume that is shared with the host, which would get the mount too; give that volume without rshared")
	}
	return nil
}

// folder makes the folder p and those above it, as far as checkOpen allows,
// and opens it.
func (j *job) folder(p string) (*os.File, error) {
	p = path.Clean("/" + p)
	f, err := j.root.Open(p, unix.O_PATH|unix.O_DIRECTORY)
	if err == nil {
		if !j.checked[p] {
			if err := j.checkOpen(f); err != nil {
				f.Close()
				return nil, err
			}
			j.checked[p] = true
		}
		return f, nil
	}
	if !errors.Is(err, fs.ErrNotExist) || p == "/" {
		return nil, err
	}
	up, err := j.folder(path.Dir(p))
	if err != nil {
		return nil, err
	}
	defer up.Close()
	if j.onHostDev(up) {
		return nil, errHostDev
	}
	if err := unix.Mkdirat(int(up.Fd()), path.Base(p), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	// A link to nothing in the last place: EEXIST above, and ENOENT here.
	return j.root.Open(p, unix.O_PATH|unix.O_DIRECTORY)
}

// errHostDev says that a container has the host's /dev as a volume.
var errHostDev = errors.New("the container has the host's own /dev, in which nothing is changed, and it is not there")

// onHostDev says whether an open folder is in the host's own /dev.
func (j *job) onHostDev(f *os.File) bool {
	var st unix.Stat_t
	return j.hostDev != j.rootStat.Dev && unix.Fstat(int(f.Fd()), &st) == nil && st.Dev == j.hostDev
}

// place opens the target of a mount and makes it if need be.
func (j *job) place(target string, folder bool) (*os.File, error) {
	if folder {
		f, err := j.folder(target)
		if err == nil {
			err = j.checkPlace(f, true)
		}
		return f, err
	}
	up, err := j.folder(path.Dir(path.Clean("/" + target)))
	if err != nil {
		return nil, err
	}
	up.Close()
	f, err := j.root.Touch(target, 0o644)
	if err != nil {
		return nil, err
	}
	if err := j.checkPlace(f, false); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (j *job) checkPlace(f *os.File, folder bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	switch {
	case folder && kind != unix.S_IFDIR:
		return errors.New("the image has no folder there but a file")
	case folder && st.Dev == j.rootStat.Dev && st.Ino == j.rootStat.Ino:
		return errors.New("a link of the image leads to its root")
	case !folder && kind == unix.S_IFDIR:
		return errors.New("the image has a folder there")
	case !folder && kind != unix.S_IFREG && kind != unix.S_IFSOCK:
		return errors.New("the image has something there that is no plain file")
	}
	return j.checkOpen(f)
}

// mount puts a source at target.
func (j *job) mount(s *source, target string) error {
	at, err := j.place(target, s.folder)
	if err == nil {
		defer at.Close()
		err = s.attach(at, j.opener(target))
	}
	if err != nil {
		return fmt.Errorf("mount %s onto %s: %w; %s", s.name(), target, cause(err), hint(err))
	}
	return nil
}

// opener opens a path of the container again.
func (j *job) opener(p string) func() (*os.File, error) {
	return func() (*os.File, error) { return j.root.Open(p, unix.O_PATH) }
}

// node makes a device node, or binds s onto a file if s is not nil. A node
// that is there with the right number is kept.
func (j *job) node(d plan.Device, s *source) error {
	if err := j.makeNode(d, s); err != nil {
		return fmt.Errorf("make the node %s (%d:%d): %w; %s", d.Path, d.Major, d.Minor, cause(err), hint(err))
	}
	return nil
}

func (j *job) makeNode(d plan.Device, s *source) error {
	p := path.Clean("/" + d.Path)
	if !strings.HasPrefix(p, "/dev/") {
		return errors.New("a node belongs below /dev")
	}
	dir, err := j.folder(path.Dir(p))
	if err != nil {
		return err
	}
	defer dir.Close()
	var st unix.Stat_t
	base, dev := path.Base(p), unix.Mkdev(d.Major, d.Minor)
	err = unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == dev:
		return nil
	case err != nil && !errors.Is(err, unix.ENOENT):
		return err
	case j.onHostDev(dir):
		return errHostDev
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return errors.New("a folder is there")
	case err == nil:
		if err := unix.Unlinkat(int(dir.Fd()), base, 0); err != nil {
			return err
		}
	}
	if s != nil {
		at, err := j.place(p, false)
		if err != nil {
			return err
		}
		defer at.Close()
		return s.attach(at, j.opener(p))
	}
	if err := unix.Mknodat(int(dir.Fd()), base, unix.S_IFCHR|d.Mode&0o777, int(dev)); err != nil {
		return err
	}
	if d.UID == 0 && d.GID == 0 {
		return nil
	}
	return unix.Fchownat(int(dir.Fd()), base, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW)
}

// mask hides a path: a folder under an empty tmpfs, anything else under
// /dev/null. What does not exist needs no mask.
func (j *job) mask(p string) error {
	at, err := j.root.Open(p, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err == nil {
		defer at.Close()
		err = j.maskOpen(at, p)
	}
	if err != nil {
		return fmt.Errorf("hide %s: %w; %s", p, cause(err), hint(err))
	}
	return nil
}

func (j *job) maskOpen(at *os.File, p string) error {
	if err := j.checkShared(at); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(at.Fd()), &st); err != nil {
		return err
	}
	if st.Dev == j.rootStat.Dev && st.Ino == j.rootStat.Ino {
		return errors.New("a link of the image leads to its root")
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		// A source is used up by one move, so each mask takes a copy.
		s := *j.null
		if s.tree != nil {
			if err := s.open(&j.bind); err != nil {
				return err
			}
			defer s.close()
		}
		return s.attach(at, j.opener(p))
	}
	const flags = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	if j.bind {
		return j.maskOld(at, p, flags)
	}
	empty, err := emptyMount(flags)
	if err != nil {
		return err
	}
	defer empty.Close()
	return moveMount(empty, at)
}

// maskOld is the mask of a folder for kernels without fsopen.
func (j *job) maskOld(at *os.File, p string, flags uintptr) error {
	if err := procIsReal(); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", fdPath(at), "tmpfs", flags, "mode=555"); err != nil {
		return err
	}
	top, err := j.root.Open(p, unix.O_PATH)
	if err != nil {
		return err
	}
	defer top.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(top.Fd()), &st); err != nil {
		return err
	}
	if st.Type != unix.TMPFS_MAGIC {
		return errRaced
	}
	return verifyAttr(top, uint64(flags))
}

// emptyMount is a detached mount of an empty read-only tmpfs.
func emptyMount(flags int) (*os.File, error) {
	ctx, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(ctx)
	if err := unix.FsconfigSetString(ctx, "mode", "555"); err != nil {
		return nil, err
	}
	if err := unix.FsconfigSetFlag(ctx, "ro"); err != nil {
		return nil, err
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return nil, err
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, flags)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "tmpfs"), nil
}

// mountParams puts the changed parameters of the kernel module over the
// container's, if it has any.
func (j *job) mountParams() error {
	p := j.paramsPath
	at, err := j.root.Open(p, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err == nil {
		defer at.Close()
		err = j.checkShared(at)
	}
	if err == nil {
		var st unix.Stat_t
		if err = unix.Fstat(int(at.Fd()), &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
			err = errors.New("it is not a plain file")
		}
	}
	if err == nil {
		err = j.params.attach(at, j.opener(p))
	}
	if err != nil {
		return fmt.Errorf("mount the driver's parameters onto %s: %w; %s", p, cause(err), hint(err))
	}
	return nil
}

// mergeCache adds our entries to the container's loader cache. One that is
// not there, or cannot be understood, is left alone: libraries in default
// folders are found without it.
func (j *job) mergeCache() error {
	data, err := loader.ReadCache(j.root)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		j.notes = append(j.notes, fmt.Sprintf("%s is left alone: %v", loader.CachePath, cause(err)))
		return nil
	}
	merged, err := loader.Merge(data, runtime.GOARCH, j.edits.Cache, j.Drop)
	if errors.Is(err, loader.ErrFormat) {
		j.notes = append(j.notes, fmt.Sprintf("%s is left alone: %v", loader.CachePath, err))
		return nil
	}
	if err != nil {
		return fmt.Errorf("merge %s: %w", loader.CachePath, err)
	}
	if string(merged) == string(data) {
		return nil
	}
	err = j.writeCache(merged)
	if err != nil {
		return fmt.Errorf("write %s: %w; %s", loader.CachePath, cause(err), hint(err))
	}
	return nil
}

func (j *job) writeCache(data []byte) error {
	dir, err := j.folder(path.Dir(loader.CachePath))
	if err != nil {
		return err
	}
	defer dir.Close()
	err = rootfs.WriteFileAt(dir, path.Base(loader.CachePath), data, 0o644)
	if !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EPERM) {
		return err
	}
	// Read-only, a mount of its own, or immutable: a copy, the host's, is mounted over it.
	if err := j.becomeRoot(os.Geteuid(), os.Getegid()); err != nil {
		return err
	}
	file, err := stateFile(j.StateDir, "ld.so.cache", data)
	if err != nil {
		return err
	}
	s := &source{path: file, attr: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
	defer s.close()
	if err := s.open(&j.bind); err != nil {
		return err
	}
	at, err := j.root.Open(loader.CachePath, unix.O_PATH)
	if err != nil {
		return err
	}
	defer at.Close()
	if err := j.checkPlace(at, false); err != nil {
		return err
	}
	return s.attach(at, j.opener(loader.CachePath))
}

// sharedMounts reads from a mountinfo text the ids of shared mounts.
func sharedMounts(text []byte) map[int]bool {
	ids := map[int]bool{}
	for line := range strings.Lines(string(text)) {
		// ID PARENT MAJ:MIN ROOT POINT OPTIONS [TAG…] - TYPE SOURCE SUPER
		head, _, _ := strings.Cut(line, " - ")
		f := strings.Fields(head)
		for i := 6; i < len(f); i++ {
			if strings.HasPrefix(f[i], "shared:") {
				if id, err := strconv.Atoi(f[0]); err == nil {
					ids[id] = true
				}
			}
		}
	}
	return ids
}

// mountID is the id, as in mountinfo, of the mount that f was opened on.
func mountID(f *os.File) (int, error) {
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st)
	if err == nil && st.Mask&unix.STATX_MNT_ID != 0 {
		return int(st.Mnt_id), nil
	}
	// Kernels before 5.8.
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, errors.New("the kernel does not tell which mount it is on")
}

// cause is an error without the paths that it was wrapped in on the way, for
// they are the host's: the message names the container's.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// hint is what a person can do.
func hint(err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return "the container's file system is read-only and lacks the place; let the runtime do it (--runtime=nvidia, or CDI)"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "free some space there and start again"
	case errors.Is(err, unix.ELOOP):
		return "the image has links there that lead to each other; repair the image"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "the hook must run as root with all capabilities; rootless engines use CDI"
	case errors.Is(err, unix.ESRCH):
		return "the container's process is gone; start it again"
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EEXIST), errors.Is(err, unix.EAGAIN):
		return "a link in the image leads to nothing, or its files change while it starts; look at the folders above it in the image"
	}
	return "look at that place in the image and at volumes mounted there"
}
