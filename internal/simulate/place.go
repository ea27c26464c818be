// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// HostFile, at the top of the folder, says that it is a simulated or recorded
// host, and which. It is JSON: a Host.
const HostFile = ".davit-host.json"

// CommandsFile, at the top of a recorded host, holds the recorded answers of
// other programs. It is JSON: a list of Command.
const CommandsFile = ".davit-commands.json"

// ErrNotHost says that a folder is neither empty nor a simulated or recorded
// host, and so none that may be replaced or removed.
var ErrNotHost = errors.New("not a simulated host")

// Open reads what Make or Unpack wrote about a host.
func Open(dir string) (Host, error) {
	data, err := os.ReadFile(filepath.Join(dir, HostFile))
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := os.Stat(dir); serr != nil {
			return Host{}, serr
		}
		return Host{}, fmt.Errorf("%s: %w: no %s in it", dir, ErrNotHost, HostFile)
	} else if err != nil {
		return Host{}, err
	}
	var h Host
	if err := json.Unmarshal(data, &h); err != nil {
		return Host{}, fmt.Errorf("%s: %w: %w", filepath.Join(dir, HostFile), ErrNotHost, err)
	}
	if h.Dir, err = filepath.Abs(dir); err != nil {
		return Host{}, err
	}
	return h, nil
}

// Remove removes a host's folder. It refuses a folder that is no simulated
// host, and one with something mounted below it. That the folder is gone
// already is no error.
func Remove(dir string) error {
	dir, state, err := look(dir)
	if err != nil || state == absent {
		return err
	}
	if state == empty {
		return os.Remove(dir)
	}
	return os.RemoveAll(dir)
}

// What may be at a place for a host.
type state int

const (
	absent state = iota
	empty
	host
)

// look says what is at dir, links to it resolved, and refuses what must not be
// touched.
func look(dir string) (string, state, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", absent, err
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", absent, err
	} else if _, err := os.Lstat(abs); err == nil {
		return "", absent, fmt.Errorf("%s: a link that leads nowhere", abs)
	}
	if abs == "/" {
		return "", absent, fmt.Errorf("/: %w", ErrNotHost)
	}
	info, err := os.Stat(abs)
	if errors.Is(err, fs.ErrNotExist) {
		return abs, absent, nil
	} else if err != nil {
		return "", absent, err
	}
	if !info.IsDir() {
		return "", absent, fmt.Errorf("%s: %w: a file", abs, ErrNotHost)
	}
	names, err := os.ReadDir(abs)
	if err != nil {
		return "", absent, err
	}
	if len(names) == 0 {
		return abs, empty, nil
	}
	if _, err := Open(abs); err != nil {
		return "", absent, fmt.Errorf("%w; it is left as it is: choose another folder or empty this one", err)
	}
	if at, err := mountBelow(abs); err != nil {
		return "", absent, err
	} else if at != "" {
		return "", absent, fmt.Errorf("%s is mounted in the simulated host: unmount it first", at)
	}
	return abs, host, nil
}

// mountBelow gives a mount point at or below dir; "" if there is none.
// Removing the folder would empty what is mounted there.
func mountBelow(dir string) (string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // no proc here: nothing to go by
	} else if err != nil {
		return "", err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		at := unescape.Replace(f[4])
		if strings.HasPrefix(at, dir+"/") {
			return at, nil
		}
	}
	return "", nil
}

// place builds a host in a new folder beside dir and puts it in the place of
// dir, which must be absent, empty, or a host. It is there whole or not at all.
func place(dir string, build func(tmp string) error) (err error) {
	dir, was, err := look(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".new-")
	if err != nil {
		return err
	}
	defer func() {
		if rerr := os.RemoveAll(tmp); err == nil && rerr != nil {
			err = fmt.Errorf("remove the former host: %w", rerr)
		}
	}()
	if err := build(tmp); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if was == host {
		// The old one takes the new one's name, and goes.
		err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
			// A file system that cannot exchange: for a moment there is none.
			old := tmp + ".old"
			if err = unix.Rename(dir, old); err == nil {
				defer func() {
					if rerr := os.RemoveAll(old); err == nil {
						err = rerr
					}
				}()
				if err = unix.Rename(tmp, dir); err != nil {
					_ = unix.Rename(old, dir)
				}
			}
		}
	} else {
		err = unix.Rename(tmp, dir) // onto an empty folder too
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: tmp, New: dir, Err: err}
	}
	return nil
}
