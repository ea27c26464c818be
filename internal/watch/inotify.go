// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"davit/internal/nvidia"
	"davit/internal/rootfs"
)

// What is asked of inotify. By hand, because libraries for it do not give
// IN_CLOSE_WRITE, and the end of a program that had the driver's control node
// open is all that is to be seen of a MIG reconfiguration: files in /proc give
// no events, and its nodes can be there already.
const (
	inNames   = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | inSelf
	inNodes   = inNames | unix.IN_ATTRIB
	inFiles   = inNodes | unix.IN_CLOSE_WRITE
	inRemoved = unix.IN_DELETE | unix.IN_MOVED_FROM | inSelf
	inSelf    = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	inControl = unix.IN_CLOSE_WRITE | unix.IN_DELETE_SELF | unix.IN_ATTRIB
)

// wish is what is of interest in a folder: names, as path.Match has them. The
// control node has none.
type wish struct {
	mask  uint32
	names []string
}

// wishes says what to watch, by path on this machine.
type wishes map[string]wish

func (w wishes) add(p string, mask uint32, names ...string) {
	have := w[p]
	have.mask |= mask
	for _, n := range names {
		if !slices.Contains(have.names, n) {
			have.names = append(have.names, n)
		}
	}
	w[p] = have
}

// folder adds a folder of the host, or the deepest above it that is there.
func (w wishes) folder(host rootfs.Root, dir string, mask uint32, names ...string) {
	for {
		real, err := host.Resolve(dir)
		if err == nil {
			w.add(host.Host(real), mask, names...)
			return
		}
		if dir == "/" || !errors.Is(err, fs.ErrNotExist) {
			return
		}
		mask, names = inNames, []string{path.Base(dir)}
		dir = path.Dir(dir)
	}
}

// driverNames are what files of the driver are called: libcuda.so.1,
// libnvoptix.so.1, libEGL_nvidia.so.0, nvidia-smi, 10_nvidia.json.
var driverNames = []string{"*nv*", "*cuda*"}

// installFolders are where a driver comes to that was not there before. The
// loader's cache is written after every installation, wherever it went.
func installFolders(arch string) []string {
	triple := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[arch]
	return []string{"/usr/lib/" + triple, "/usr/lib/" + triple + "/nvidia/current", "/usr/lib64",
		"/usr/local/nvidia/lib64", "/usr/lib/wsl/lib", "/usr/bin", "/run/nvidia", "/run/nvidia-persistenced"}
}

// wishesFor says what can change a host's facts, or what davit wrote. f may
// be nil.
func wishesFor(host rootfs.Root, f *nvidia.Facts, o Options) wishes {
	w := wishes{}
	w.folder(host, "/dev", inNodes, "nvidia*", "dri", "char", "gdrdrv")
	for _, dir := range []string{"/dev/nvidia-caps", "/dev/nvidia-caps-imex-channels", "/dev/dri", "/dev/infiniband"} {
		if host.Exists(dir) {
			w.folder(host, dir, inNodes, "*")
		}
	}
	w.folder(host, charDir, inRemoved, "*:*") // not what davit adds itself
	if real, err := host.Resolve("/dev/nvidiactl"); err == nil {
		w.add(host.Host(real), inControl)
	}
	w.folder(host, "/etc", inNames, "ld.so.cache")
	w.folder(host, "/run", inNames, "nvidia*")
	if host.Exists("/run/nvidia") {
		// A driver container's root is mounted there, of which inotify says
		// nothing; the GPU Operator makes this file when it is.
		w.folder(host, "/run/nvidia/validations", inFiles, ".driver-ctr-ready")
	}
	arch := runtime.GOARCH
	if f != nil {
		arch = f.Arch
		for _, x := range f.Files {
			w.add(filepath.Dir(x.Host), inFiles, append(driverNames, x.Name)...)
		}
	}
	for _, dir := range installFolders(arch) {
		if host.Exists(dir) {
			w.folder(host, dir, inFiles, driverNames...)
		}
	}
	if host.Dir() != "/" {
		w.add(host.Dir(), inNames|unix.IN_CLOSE_WRITE, rootfs.NodesFile)
	}
	// These are paths of this machine.
	var machine rootfs.Root
	if o.Spec != "" {
		w.folder(machine, filepath.Dir(o.Spec), inFiles, filepath.Base(o.Spec))
	}
	if o.StateDir != "" {
		w.folder(machine, filepath.Dir(o.StateDir), inNames, filepath.Base(o.StateDir))
	}
	return w
}

// watches is an open inotify.
type watches struct {
	fd    int
	names map[int][]string // of each watch; nil for the control node
}

func openWatches() (*watches, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open inotify: %w", err)
	}
	return &watches{fd, map[int][]string{}}, nil
}

// set watches what is wished and nothing else. It says whether anything is
// watched that was not before: what happened there until now is unknown.
func (w *watches) set(list wishes) (added bool, err error) {
	names := map[int][]string{}
	for p, wish := range list {
		wd, e := unix.InotifyAddWatch(w.fd, p, wish.mask)
		if errors.Is(e, unix.ENOENT) || errors.Is(e, unix.ENOTDIR) {
			continue // gone since; its folder tells
		}
		if e != nil {
			err = errors.Join(err, &os.PathError{Op: "watch", Path: p, Err: e})
			continue
		}
		if _, ok := w.names[wd]; !ok {
			added = true
		}
		names[wd] = append(names[wd], wish.names...)
	}
	for wd := range w.names {
		if _, ok := names[wd]; !ok {
			_, _ = unix.InotifyRmWatch(w.fd, uint32(wd)) // often gone by itself
		}
	}
	w.names = names
	return added, err
}

// read reads all events that wait. changed: something of interest did;
// closed: a program let go of the driver's control node.
func (w *watches) read(buf []byte) (changed, closed bool, err error) {
	for {
		n, err := unix.Read(w.fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return changed, closed, nil
		case err != nil:
			return changed, closed, fmt.Errorf("read inotify: %w", err)
		}
		for _, e := range parseInotify(buf[:n]) {
			a, b := w.judge(e)
			changed, closed = changed || a, closed || b
		}
	}
}

func (w *watches) judge(e inotifyEvent) (changed, closed bool) {
	names, known := w.names[int(e.wd)]
	switch {
	case e.mask&unix.IN_Q_OVERFLOW != 0:
		return true, false
	case !known:
		return false, false
	case e.mask&unix.IN_IGNORED != 0:
		delete(w.names, int(e.wd))
		return true, false
	case e.name == "" && e.mask&unix.IN_CLOSE_WRITE != 0:
		return false, true
	case e.name == "":
		// The folder itself is gone, moved or unmounted; its attributes are of
		// no interest.
		return e.mask&unix.IN_ATTRIB == 0 || names == nil, false
	}
	hidden := strings.HasPrefix(e.name, ".")
	return slices.ContainsFunc(names, func(pattern string) bool {
		if hidden && pattern[0] != '.' {
			return false // a temporary file, davit's or another program's
		}
		ok, _ := path.Match(pattern, e.name)
		return ok
	}), false
}

type inotifyEvent struct {
	wd   int32
	mask uint32
	name string
}

// parseInotify splits what inotify gives.
func parseInotify(b []byte) (list []inotifyEvent) {
	for len(b) >= unix.SizeofInotifyEvent {
		e := inotifyEvent{wd: int32(binary.NativeEndian.Uint32(b)), mask: binary.NativeEndian.Uint32(b[4:])}
		size := binary.NativeEndian.Uint32(b[12:])
		b = b[unix.SizeofInotifyEvent:]
		if uint64(size) > uint64(len(b)) {
			return list
		}
		name, _, _ := bytes.Cut(b[:size], []byte{0})
		e.name = string(name)
		list = append(list, e)
		b = b[size:]
	}
	return list
}
