// SPDX-License-Identifier: Apache-2.0

// Package rootfs treats a directory as "/".
//
// Root reads a host: the real one, a simulated one or a recorded one, all by
// the same code; links are resolved as chroot would resolve them. Handle opens
// and changes files inside a container's root, which an attacker may be
// changing at the same moment: it works on descriptors, and the kernel keeps
// every path inside the root.
package rootfs

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
)

// NodesFile, at the top of a recorded host, lists its device nodes, because a
// person without privileges cannot make them. One node a line:
//
//	/dev/nvidia0 c 195 0 0666 0 0
const NodesFile = ".davit-nodes"

// maxLinks is the number of symbolic links followed before ELOOP, as in the
// kernel (path_resolution(7)).
const maxLinks = 40

// Root is a directory read as if it were "/". It trusts the host: it is not
// safe against somebody who changes the tree while it is read; see Handle.
type Root struct {
	dir   string // "" for the machine's own root
	nodes map[string]Node
}

// Node is a device node.
type Node struct {
	Path         string      `json:"path"` // inside the root
	Block        bool        `json:"block,omitempty"`
	Major, Minor uint32      `json:"-"`
	Mode         fs.FileMode `json:"-"` // permission bits alone
	UID, GID     uint32      `json:"-"`
}

// Open makes a Root of dir, which must be a folder.
func Open(dir string) (Root, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Root{}, err
	}
	if abs == "/" {
		return Root{}, nil
	}
	// The folder itself may be reached by links; only what is below is confined.
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return Root{}, err
	}
	if info, err := os.Stat(abs); err != nil {
		return Root{}, err
	} else if !info.IsDir() {
		return Root{}, fmt.Errorf("%s is not a folder", dir)
	}
	r := Root{dir: abs}
	if r.nodes, err = readNodes(filepath.Join(abs, NodesFile)); err != nil {
		return Root{}, err
	}
	return r, nil
}

// Dir is the folder on this machine, "/" for the machine itself.
func (r Root) Dir() string {
	if r.dir == "" {
		return "/"
	}
	return r.dir
}

// Sub is the Root of a folder below this one, for example a driver
// container's root. Recorded nodes go along.
func (r Root) Sub(dir string) (Root, error) {
	real, err := r.Resolve(dir)
	if err != nil {
		return Root{}, err
	}
	sub, err := Open(r.dir + real)
	if err != nil {
		return Root{}, err
	}
	for p, n := range r.nodes {
		if rest, ok := strings.CutPrefix(p, real+"/"); ok {
			if sub.nodes == nil {
				sub.nodes = map[string]Node{}
			}
			n.Path = "/" + rest
			sub.nodes[n.Path] = n
		}
	}
	return sub, nil
}

// Host is where p lies on this machine. Links in p are not resolved, so that
// the result suits files whose folder was resolved before.
func (r Root) Host(p string) string {
	if r.dir == "" {
		return p
	}
	return r.dir + path.Clean("/"+p)
}

// Place is where a file p of the host is to be made on this machine: like Host,
// with the links in p resolved inside the root, and what does not exist yet
// taken as it is written.
func (r Root) Place(p string) (string, error) {
	if r.dir == "" {
		return p, nil
	}
	return securejoin.SecureJoin(r.dir, p)
}

// Resolve follows all links in p, inside the root, and gives the path inside
// the root. What p names must exist.
func (r Root) Resolve(p string) (string, error) {
	return r.resolve(p, true, nil)
}

// ResolveVia is Resolve that tells each symbolic link it follows, as a path
// on this machine.
func (r Root) ResolveVia(p string, visit func(link string)) (string, error) {
	return r.resolve(p, true, visit)
}

func (r Root) resolve(p string, followLast bool, visit func(string)) (string, error) {
	rest := strings.Split(path.Clean("/"+p), "/")[1:]
	done := ""
	links := 0
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = done[:max(strings.LastIndexByte(done, '/'), 0)]
			continue
		}
		next := done + "/" + part
		if _, ok := r.nodes[next]; ok && len(rest) == 0 {
			return next, nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(r.dir+next, &st); err != nil {
			return "", &fs.PathError{Op: "resolve", Path: r.dir + next, Err: err}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK || (len(rest) == 0 && !followLast) {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "resolve", Path: r.dir + p, Err: unix.ELOOP}
		}
		if visit != nil {
			visit(r.dir + next)
		}
		target, err := os.Readlink(r.dir + next)
		if err != nil {
			return "", err
		}
		if strings.HasPrefix(target, "/") {
			done = ""
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	if done == "" {
		done = "/"
	}
	return done, nil
}

// real is the machine's path of p with links inside the root resolved.
func (r Root) real(p string, followLast bool) (string, error) {
	if r.dir == "" {
		return p, nil // the kernel resolves
	}
	in, err := r.resolve(p, followLast, nil)
	return r.dir + in, err
}

// ReadFile reads a small file.
func (r Root) ReadFile(p string) ([]byte, error) {
	real, err := r.real(p, true)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(real)
}

// Open opens a file for reading.
func (r Root) Open(p string) (*os.File, error) {
	real, err := r.real(p, true)
	if err != nil {
		return nil, err
	}
	return os.Open(real)
}

// Entry is a name in a folder.
type Entry struct {
	Name string
	Link bool // a symbolic link
}

// ReadDir lists a folder, in no order. Recorded nodes are among the entries.
func (r Root) ReadDir(p string) ([]Entry, error) {
	real, err := r.real(p, true)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(real)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := f.ReadDir(-1)
	entries := make([]Entry, 0, len(list))
	for _, e := range list {
		entries = append(entries, Entry{e.Name(), e.Type()&fs.ModeSymlink != 0})
	}
	for n := range r.nodes {
		if path.Dir(n) == path.Clean(p) {
			entries = append(entries, Entry{Name: path.Base(n)})
		}
	}
	return entries, err
}

// Stat tells what p is, links followed. A recorded node has ModeDevice.
func (r Root) Stat(p string) (fs.FileInfo, error) {
	real, err := r.real(p, true)
	if err != nil {
		return nil, err
	}
	return os.Stat(real)
}

// Lstat tells what p is, without following p itself.
func (r Root) Lstat(p string) (fs.FileInfo, error) {
	real, err := r.real(p, false)
	if err != nil {
		return nil, err
	}
	return os.Lstat(real)
}

// Readlink gives a link's text as it is written.
func (r Root) Readlink(p string) (string, error) {
	real, err := r.real(p, false)
	if err != nil {
		return "", err
	}
	return os.Readlink(real)
}

// Exists says whether p is there, links followed.
func (r Root) Exists(p string) bool {
	if _, ok := r.nodes[path.Clean(p)]; ok {
		return true
	}
	real, err := r.real(p, true)
	if err != nil {
		return false
	}
	var st unix.Stat_t
	return unix.Stat(real, &st) == nil
}

// ErrNotNode says that a path is there and is no device node.
var ErrNotNode = errors.New("not a device node")

// Node reads a device node; in a recorded host from its list.
func (r Root) Node(p string) (Node, error) {
	p = path.Clean(p)
	if n, ok := r.nodes[p]; ok {
		return n, nil
	}
	real, err := r.real(p, true)
	if err != nil {
		return Node{}, err
	}
	var st unix.Stat_t
	if err := unix.Stat(real, &st); err != nil {
		return Node{}, &fs.PathError{Op: "stat", Path: real, Err: err}
	}
	n := Node{Path: p, Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev),
		Mode: fs.FileMode(st.Mode & 0o7777), UID: st.Uid, GID: st.Gid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
	case unix.S_IFBLK:
		n.Block = true
	default:
		return Node{}, &fs.PathError{Op: "stat", Path: real, Err: ErrNotNode}
	}
	return n, nil
}

func readNodes(file string) (map[string]Node, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	nodes := map[string]Node{}
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		node, err := parseNode(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, n, err)
		}
		nodes[node.Path] = node
	}
	return nodes, lines.Err()
}

// parseNode reads a line such as "/dev/nvidia0 c 195 0 0666 0 0".
func parseNode(line string) (Node, error) {
	f := strings.Fields(line)
	if len(f) != 7 || !strings.HasPrefix(f[0], "/") || (f[1] != "c" && f[1] != "b") {
		return Node{}, fmt.Errorf("want PATH c|b MAJOR MINOR MODE UID GID, got %q", line)
	}
	var num [5]uint64
	for i, s := range f[2:] {
		base := 10
		if i == 2 {
			base = 8
		}
		v, err := strconv.ParseUint(s, base, 32)
		if err != nil {
			return Node{}, fmt.Errorf("%q is not a number", s)
		}
		num[i] = v
	}
	return Node{Path: path.Clean(f[0]), Block: f[1] == "b", Major: uint32(num[0]), Minor: uint32(num[1]),
		Mode: fs.FileMode(num[2]), UID: uint32(num[3]), GID: uint32(num[4])}, nil
}

// FormatNode is the line of NodesFile for a node.
func FormatNode(n Node) string {
	kind := "c"
	if n.Block {
		kind = "b"
	}
	return fmt.Sprintf("%s %s %d %d %04o %d %d", n.Path, kind, n.Major, n.Minor, n.Mode, n.UID, n.GID)
}
