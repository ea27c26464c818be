// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"davit/internal/rootfs"
)

// kind is what an entry of a host's root is.
type kind int

const (
	isDir kind = iota
	isFile
	isLink
	isNode
	isSocket
)

// entry is one path of a host's root.
type entry struct {
	kind   kind
	path   string // absolute, as written
	mode   fs.FileMode
	uid    uint32
	gid    uint32
	data   []byte      // isFile
	target string      // isLink
	node   rootfs.Node // isNode; Path is set when written
	line   int         // of a recorded host, for messages
}

func (e entry) fail(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if e.line > 0 {
		return fmt.Errorf("line %d: %s: %w", e.line, e.path, err)
	}
	return fmt.Errorf("%s: %w", e.path, err)
}

// tree is a host's root, not written yet. Its order is of no consequence:
// folders above an entry are implied, and links are made last, so that nothing
// is ever written through one.
type tree struct {
	entries []entry
	// sideTable: nodes are listed in rootfs.NodesFile, not made.
	sideTable bool
}

func (t *tree) dir(p string) { t.entries = append(t.entries, entry{kind: isDir, path: p, mode: 0o755}) }

func (t *tree) file(p string, mode fs.FileMode, data []byte) {
	t.entries = append(t.entries, entry{kind: isFile, path: p, mode: mode, data: data})
}

func (t *tree) text(p, s string) { t.file(p, 0o644, []byte(s)) }

func (t *tree) proc(p, s string) { t.file(p, 0o444, []byte(s)) }

func (t *tree) link(p, target string) {
	t.entries = append(t.entries, entry{kind: isLink, path: p, target: target})
}

func (t *tree) socket(p string, mode fs.FileMode) {
	t.entries = append(t.entries, entry{kind: isSocket, path: p, mode: mode})
}

func (t *tree) char(p string, major, minor uint32, mode fs.FileMode) {
	t.entries = append(t.entries, entry{kind: isNode, path: p, mode: mode, node: rootfs.Node{Major: major, Minor: minor}})
}

// ownPrefix is how HostFile and its kin begin.
const ownPrefix = "/.davit-"

// maxLinks is how many links one path may pass, as in the kernel.
const maxLinks = 40

var errLoop = errors.New("too many levels of symbolic links")

// resolve follows links in the folders of p, not in its last name. Keys of
// links are themselves resolved. Whole paths in links end inside the root.
func resolve(p string, links map[string]string) (string, error) {
	rest := strings.Split(strings.TrimPrefix(path.Clean("/"+p), "/"), "/")
	done, passed := "", 0
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
		target, ok := links[next]
		if !ok || len(rest) == 0 {
			done = next
			continue
		}
		if passed++; passed > maxLinks {
			return "", errLoop
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

// settle gives every entry its place with no link in its folders, checks that
// no two have the same and that none lies below a file, and sorts links last.
func (t *tree) settle() error {
	links := map[string]string{}
	for round := 0; ; round++ {
		settled := map[string]string{}
		for _, e := range t.entries {
			if e.kind != isLink {
				continue
			}
			p, err := resolve(e.path, links)
			if err != nil {
				return e.fail("%w", err)
			}
			settled[p] = e.target
		}
		same := len(settled) == len(links)
		for p := range settled {
			_, ok := links[p]
			same = same && ok
		}
		links = settled
		if same {
			break
		}
		if round > maxLinks {
			return errLoop
		}
	}
	at := make(map[string]kind, len(t.entries))
	for i := range t.entries {
		e := &t.entries[i]
		p, err := resolve(e.path, links)
		if err != nil {
			return e.fail("%w", err)
		}
		if p == "/" && e.kind != isDir {
			return e.fail("the root itself must be a folder")
		}
		if strings.HasPrefix(p, ownPrefix) {
			return e.fail("names that start with %s are kept for the host's own files", ownPrefix[1:])
		}
		if old, ok := at[p]; ok && (old != isDir || e.kind != isDir) {
			return e.fail("is there already")
		}
		at[p], e.path = e.kind, p
	}
	for _, e := range t.entries {
		for up := path.Dir(e.path); up != "/"; up = path.Dir(up) {
			if k, ok := at[up]; ok && k != isDir {
				return e.fail("%s is no folder", up)
			}
		}
	}
	slices.SortStableFunc(t.entries, func(a, b entry) int {
		last := func(e entry) int {
			if e.kind == isLink {
				return 1
			}
			return 0
		}
		return last(a) - last(b)
	})
	return nil
}

// folders are those above the entries, each after the one above it.
func (t *tree) folders() []string {
	known := map[string]bool{"/": true}
	var list []string
	for _, e := range t.entries {
		for up := path.Dir(e.path); !known[up]; up = path.Dir(up) {
			known[up] = true
			list = append(list, up)
		}
	}
	slices.Sort(list)
	return list
}

// makeFolder makes a folder, whatever the umask; what is in it is still to be
// written, and one day removed, so the owner may.
func makeFolder(p string, mode fs.FileMode) error {
	if err := os.Mkdir(p, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chmod(p, mode.Perm()|0o700)
}

// write makes the tree in an empty folder that nobody else changes.
func (t *tree) write(root string) error {
	if err := t.settle(); err != nil {
		return err
	}
	for _, dir := range t.folders() {
		if err := makeFolder(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	var nodes []string
	for _, e := range t.entries {
		p := filepath.Join(root, e.path)
		var err error
		switch e.kind {
		case isDir:
			err = makeFolder(p, e.mode)
		case isFile:
			err = os.WriteFile(p, e.data, 0o600)
		case isLink:
			err = os.Symlink(e.target, p)
		case isSocket:
			err = unix.Mknod(p, unix.S_IFSOCK|0o600, 0)
		case isNode:
			if t.sideTable {
				n := e.node
				n.Path, n.Mode, n.UID, n.GID = e.path, e.mode, e.uid, e.gid
				nodes = append(nodes, rootfs.FormatNode(n)+"\n")
				continue
			}
			err = unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(e.node.Major, e.node.Minor)))
		}
		if err == nil && e.kind != isLink && os.Geteuid() == 0 && (e.uid != 0 || e.gid != 0) {
			err = os.Lchown(p, int(e.uid), int(e.gid))
		}
		if err == nil && e.kind != isLink && e.kind != isDir {
			err = os.Chmod(p, e.mode.Perm()) // whatever the umask
		}
		if err != nil {
			return e.fail("%w", err)
		}
	}
	if len(nodes) == 0 {
		return nil
	}
	slices.Sort(nodes)
	return os.WriteFile(filepath.Join(root, rootfs.NodesFile), []byte(strings.Join(nodes, "")), 0o644)
}
