// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"davit/internal/plan"
	"davit/internal/rootfs"
)

// checkTargets tells in one sentence what the runtime would tell in five: an
// image in which there is no place for a mount. It changes nothing and allows
// what does not exist, for the runtime makes that.
func checkTargets(root *rootfs.Handle, e plan.Edits) error {
	known := folders{}
	defer func() {
		for _, f := range known {
			f.Close() // of nil, an error that does not matter
		}
	}()
	for _, m := range e.Mounts {
		f, err := known.open(root, path.Dir(m.Target))
		if err != nil {
			return noPlace(m, err)
		}
		if f == nil {
			continue
		}
		if err := checkTarget(root, f, m); err != nil {
			return noPlace(m, err)
		}
	}
	return nil
}

func noPlace(m plan.Mount, err error) error {
	return fmt.Errorf("mount %s at %s: %w; repair the image, or the volume mounted there", path.Base(m.Source), m.Target, err)
}

// folders are those of a container that were looked for, by path; nil for one
// that does not exist but can be made.
type folders map[string]*os.File

// open opens the folder p, nil if it does not exist but can be made.
func (known folders) open(root *rootfs.Handle, p string) (*os.File, error) {
	for at := p; ; at = path.Dir(at) {
		if _, ok := known[at]; !ok {
			f, err := root.Open(at, unix.O_PATH|unix.O_DIRECTORY)
			switch {
			case err == nil:
				known[at] = f
			case errors.Is(err, unix.ENOENT) && at != "/":
				continue
			case errors.Is(err, unix.ENOTDIR):
				return nil, fmt.Errorf("the image has something at %s that is no folder", at)
			case errors.Is(err, unix.ELOOP):
				return nil, fmt.Errorf("the image's links at %s lead to each other", at)
			default:
				return nil, err
			}
		}
		// Whatever lies between does not exist, and is to be made in this one.
		for absent := p; absent != at; absent = path.Dir(absent) {
			known[absent] = nil
		}
		return known[p], nil
	}
}

// checkTarget looks at what lies in the place of a mount in its open folder.
func checkTarget(root *rootfs.Handle, dir *os.File, m plan.Mount) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), path.Base(m.Target), &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		f, oerr := root.Open(m.Target, unix.O_PATH)
		if oerr == nil {
			err = unix.Fstat(int(f.Fd()), &st)
			f.Close()
		} else {
			err = oerr
		}
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return errors.New("the image's link there leads to nothing that can be a file")
	case err != nil:
		return err
	case m.Folder && st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return errors.New("the image has no folder there but a file")
	case !m.Folder && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return errors.New("the image has a folder there")
	}
	return nil
}
