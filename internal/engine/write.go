// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"davit/internal/rootfs"
)

// backupSuffix is added to a file's name for what stood there before davit.
const backupSuffix = ".davit-backup"

// The texts of a backup where there was no file. They are not JSON, so no file
// that davit changes can hold them.
const (
	noFile   = "davit: there was no file here before\n"
	noFolder = "davit: there was neither a file nor its folder here before\n"
)

// target is a configuration file of the host, links followed.
type target struct {
	name   string // as asked for, for messages
	in     string // inside the root, links resolved
	path   string // on this machine
	exists bool
	data   []byte
	info   fs.FileInfo // nil if the file is not there
	folder bool        // its folder is there
}

// openTarget finds a file and reads it.
func openTarget(root rootfs.Root, file string) (target, error) {
	t := target{name: file}
	real, err := root.Resolve(file)
	switch {
	case err == nil:
		t.exists, t.folder = true, true
	case !errors.Is(err, fs.ErrNotExist):
		return t, err
	default:
		if _, err := root.Lstat(file); err == nil {
			return t, fmt.Errorf("%s is a link to a file that does not exist; make the file or remove the link", file)
		}
		// The folder, or the deepest that exists above it.
		dir, rest := path.Dir(path.Clean("/"+file)), path.Base(file)
		for {
			real, err = root.Resolve(dir)
			if err == nil {
				break
			}
			if !errors.Is(err, fs.ErrNotExist) || dir == "/" {
				return t, err
			}
			dir, rest = path.Dir(dir), path.Join(path.Base(dir), rest)
		}
		t.folder = !strings.Contains(rest, "/")
		real = path.Join(real, rest)
	}
	t.in, t.path = real, root.Host(real)
	if !t.exists {
		return t, nil
	}
	if t.info, err = os.Stat(t.path); err != nil {
		return t, err
	}
	if !t.info.Mode().IsRegular() {
		return t, fmt.Errorf("%s is not a plain file", file)
	}
	t.data, err = os.ReadFile(t.path)
	return t, err
}

func (t target) backupPath() string { return t.path + backupSuffix }

// backupName is the backup's name inside the root, for messages.
func (t target) backupName() string { return t.in + backupSuffix }

func (t target) hasBackup() bool {
	_, err := os.Lstat(t.backupPath())
	return err == nil
}

// backup keeps the file as it is.
func (t target) backup() error {
	if !t.exists {
		text := noFile
		if !t.folder {
			text = noFolder
			if err := os.MkdirAll(filepath.Dir(t.path), 0o755); err != nil {
				return err
			}
		}
		return put(t.backupPath(), []byte(text), nil)
	}
	return put(t.backupPath(), t.data, t.attributes())
}

// dropBackup removes the backup, and the folder if it was made for it; a
// backup that stays does no harm.
func (t target) dropBackup() {
	_ = os.Remove(t.backupPath())
	t.dropFolder()
}

// dropFolder removes a folder that was not there before, unless something is in
// it.
func (t target) dropFolder() {
	if !t.folder {
		_ = os.Remove(filepath.Dir(t.path))
	}
}

// backup is what a backup holds.
type backup struct {
	data   []byte // nil for a marker
	marker bool   // there was no file
	folder bool   // there was no folder either
}

func (t target) readBackup() (backup, error) {
	data, err := os.ReadFile(t.backupPath())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return backup{}, ErrNothingToUndo
	case err != nil:
		return backup{}, err
	case string(data) == noFile:
		return backup{marker: true}, nil
	case string(data) == noFolder:
		return backup{marker: true, folder: true}, nil
	}
	return backup{data: data}, nil
}

// replace puts another text in the file's place.
func (t target) replace(data []byte) error { return put(t.path, data, t.attributes()) }

// restore puts the backup in the file's place. It needs no space on the disk.
func (t target) restore() error {
	if err := os.Rename(t.backupPath(), t.path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(t.path))
}

// remove removes the file, then the backup that says so, then a folder that
// davit made, unless something is in it.
func (t target) remove() error {
	kept, err := t.readBackup()
	if err != nil {
		return err
	}
	if err := os.Remove(t.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Remove(t.backupPath()); err != nil {
		return err
	}
	if kept.folder {
		_ = os.Remove(filepath.Dir(t.path))
		return nil
	}
	return syncFolder(filepath.Dir(t.path))
}

// attributes are what a new text takes over from the old file.
type attributes struct {
	mode     fs.FileMode
	uid, gid int
	label    []byte // of SELinux; nil if there is none
}

func (t target) attributes() *attributes {
	if t.info == nil {
		return nil
	}
	a := &attributes{mode: t.info.Mode().Perm(), uid: -1, gid: -1}
	var st unix.Stat_t
	if unix.Stat(t.path, &st) == nil {
		a.uid, a.gid = int(st.Uid), int(st.Gid)
	}
	label := make([]byte, 256)
	if n, err := unix.Getxattr(t.path, "security.selinux", label); err == nil {
		a.label = label[:n]
	}
	return a
}

// put writes a file by a temporary one in the same folder and a rename, and
// returns when both are on the disk. a may be nil: then mode is 0644.
func put(name string, data []byte, a *attributes) (err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+".")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			_ = os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", name, err)
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if a != nil {
		mode = a.mode
		if a.uid >= 0 && (a.uid != os.Geteuid() || a.gid != os.Getegid()) {
			if err = f.Chown(a.uid, a.gid); err != nil {
				return err
			}
		}
		if a.label != nil {
			// Where the label cannot be set, the folder's default is right.
			_ = unix.Fsetxattr(int(f.Fd()), "security.selinux", a.label, 0)
		}
	}
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncFolder(dir)
}

// syncFolder makes a rename last. A file system that cannot do so for folders
// is not at fault.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}
