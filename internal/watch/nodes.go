// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"davit/internal/nvidia"
	"davit/internal/rootfs"
)

// wanted is a node that the driver serves.
type wanted struct {
	path     string
	majors   []uint32 // any is right; the first is for a new node
	minor    uint32
	mode     uint32
	uid, gid int
}

// makeNodes makes the nodes that the loaded driver serves and that are not
// there, with the numbers of /proc/devices. A node with another major is an
// earlier load's: every open of it fails, so it is replaced. Minor numbers are
// fixed by the driver's interface and not looked at.
func makeNodes(host rootfs.Root) (changes []Change, err error) {
	list, err := servedNodes(host)
	if err != nil {
		return nil, err
	}
	var all []error
	for _, w := range list {
		did := fmt.Sprintf("made as %d:%d", w.majors[0], w.minor)
		n, err := host.Node(w.path)
		switch {
		case err == nil && !n.Block && slices.Contains(w.majors, n.Major):
			continue
		case err == nil:
			did += ", was " + number(n)
		case !errors.Is(err, fs.ErrNotExist):
			all = append(all, fmt.Errorf("%w: left as it is", err))
			continue
		}
		if err := w.make(host); err != nil {
			all = append(all, fmt.Errorf("make node %s: %w", w.path, err))
			continue
		}
		changes = append(changes, Change{Node, host.Host(w.path), did})
	}
	return changes, errors.Join(all...)
}

// make puts the node in its place by a rename, with its mode and owner.
func (w wanted) make(host rootfs.Root) error {
	parent := path.Dir(w.path)
	dir, err := host.Resolve(parent)
	if errors.Is(err, fs.ErrNotExist) {
		dir, err = parent, os.MkdirAll(host.Host(parent), 0o755)
	}
	if err != nil {
		return err
	}
	tmp := host.Host(path.Join(dir, "."+path.Base(w.path)+".davit"))
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = unix.Mknod(tmp, unix.S_IFCHR|w.mode, int(unix.Mkdev(w.majors[0], w.minor)))
	if err == nil {
		err = unix.Chmod(tmp, w.mode) // whatever the umask
	}
	if err == nil && (w.uid != 0 || w.gid != 0) {
		err = unix.Chown(tmp, w.uid, w.gid)
	}
	if err == nil {
		err = os.Rename(tmp, host.Host(path.Join(dir, path.Base(w.path))))
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}

// servedNodes lists the nodes of the loaded driver: none without one.
func servedNodes(host rootfs.Root) ([]wanted, error) {
	id, err := nvidia.ReadIdentity(host)
	if err != nil || id.Driver == "" {
		return nil, err
	}
	text, err := host.ReadFile("/proc/devices")
	if err != nil {
		return nil, err
	}
	majors := charMajors(string(text))
	params, _ := host.ReadFile("/proc/driver/nvidia/params")
	like := wanted{mode: 0o666}
	if v, ok := field(string(params), "DeviceFileMode"); ok {
		like.mode = v & 0o777
	}
	if v, ok := field(string(params), "DeviceFileUID"); ok {
		like.uid = int(v)
	}
	if v, ok := field(string(params), "DeviceFileGID"); ok {
		like.gid = int(v)
	}
	var list []wanted
	add := func(p string, minor, mode uint32, names ...string) {
		w := like
		w.path, w.minor, w.mode = p, minor, mode
		for _, name := range names {
			w.majors = append(w.majors, majors[name]...)
		}
		if len(w.majors) > 0 {
			list = append(list, w)
		}
	}
	// Drivers before 525 have one entry for all: nvidia-frontend.
	add("/dev/nvidiactl", 255, like.mode, "nvidiactl", "nvidia", "nvidia-frontend")
	if host.Exists("/sys/module/nvidia_modeset") {
		add("/dev/nvidia-modeset", 254, like.mode, "nvidia-modeset", "nvidia", "nvidia-frontend")
	}
	add("/dev/nvidia-uvm", 0, like.mode, "nvidia-uvm")
	add("/dev/nvidia-uvm-tools", 1, like.mode, "nvidia-uvm")
	for _, g := range id.GPUs {
		add("/dev/nvidia"+strconv.Itoa(g.Minor), uint32(g.Minor), like.mode, "nvidia", "nvidia-frontend")
	}
	const caps = "/proc/driver/nvidia/capabilities"
	dirs := []string{caps + "/mig"}
	for _, g := range id.GPUs {
		dirs = append(dirs, fmt.Sprintf("%s/gpu%d/mig", caps, g.Minor))
	}
	for _, dir := range dirs {
		capabilities(host, dir, 3, func(minor, mode uint32) {
			// The owner of capabilities is root whatever the parameters say.
			n := len(list)
			add(fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", minor), minor, mode, "nvidia-caps")
			if len(list) > n {
				list[n].uid, list[n].gid = 0, 0
			}
		})
	}
	return list, nil
}

// capabilities gives the number and mode of each capability in a folder of
// /proc and below.
func capabilities(host rootfs.Root, dir string, depth int, give func(minor, mode uint32)) {
	entries, err := host.ReadDir(dir)
	if err != nil || depth == 0 {
		return
	}
	slices.SortFunc(entries, func(a, b rootfs.Entry) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range entries {
		p := dir + "/" + e.Name
		switch e.Name {
		case "access", "config", "monitor":
			text, err := host.ReadFile(p)
			if err != nil {
				continue
			}
			minor, ok := field(string(text), "DeviceFileMinor")
			mode, okMode := field(string(text), "DeviceFileMode")
			if ok && okMode && minor < 1<<20 {
				give(minor, mode&0o777)
			}
		default:
			capabilities(host, p, depth-1, give)
		}
	}
}

// field reads "NAME: NUMBER" of the driver's files in /proc.
func field(text, name string) (uint32, bool) {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
			return uint32(n), err == nil
		}
	}
	return 0, false
}

// charMajors reads the first part of /proc/devices. A name can have several
// numbers.
func charMajors(text string) map[string][]uint32 {
	majors := map[string][]uint32{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) > 0 && f[0] == "Block" {
			break
		}
		if len(f) != 2 {
			continue
		}
		if n, err := strconv.ParseUint(f[0], 10, 32); err == nil && n < 1<<12 {
			majors[f[1]] = append(majors[f[1]], uint32(n))
		}
	}
	return majors
}
