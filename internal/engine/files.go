// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/pmezard/go-difflib/difflib"

	"davit/internal/rootfs"
)

// ownMark starts each file that is davit's alone.
const ownMark = "# Written by davit setup; davit setup --undo removes it.\n"

// File is one configuration file as it is and as it shall be.
type File struct {
	Engine  string // docker, containerd, k3s, rke2, k0s, podman, crio
	Path    string // inside the root
	Was     []byte // nil if it is not there
	Now     []byte // Was itself if nothing changes
	Changes []Change
	// Notes are sentences about what is left as it is, and why.
	Notes []string
	// Own: the file is davit's alone, so no backup is kept of it.
	Own bool
	// Generated: the text is made anew now and then, so to undo is to put back
	// what was there before whatever it holds now.
	Generated bool

	// mark is found in what davit wrote.
	mark string
	// again, of files from Written, plans anew for the text from before, as the text now says that it
	// was planned.
	again func(before, now []byte) ([]byte, error)
}

// Changed says whether there is anything to write.
func (f File) Changed() bool { return f.Now != nil && (f.Was == nil || !bytes.Equal(f.Was, f.Now)) }

// Write writes what was planned, with WriteDocker's promises. It refuses if
// the file is no longer what the plan was made of.
func (f File) Write(root rootfs.Root) error {
	if !f.Changed() {
		return nil
	}
	if f.Engine == "docker" {
		return WriteDocker(root, f.Path, f.Was, f.Now)
	}
	t, err := openTarget(root, f.Path)
	if err != nil {
		return err
	}
	if !bytes.Equal(t.data, f.Was) || t.exists != (f.Was != nil) {
		return fmt.Errorf("write %s: the file was changed in the meantime; nothing was written", f.Path)
	}
	if f.Own {
		if err := os.MkdirAll(root.Host(path.Dir(t.in)), 0o755); err != nil {
			return err
		}
		return t.replace(f.Now)
	}
	made := false
	if !t.hasBackup() || !f.Generated && !bytes.Contains(f.Was, []byte(f.mark)) {
		if err := t.backup(); err != nil {
			t.dropFolder()
			return err
		}
		made = true
	}
	if err := t.replace(f.Now); err != nil {
		if made {
			t.dropBackup()
		}
		return err
	}
	return nil
}

// PlanUndo plans to take back what davit did to the file; ErrNothingToUndo if
// that is nothing.
func (f File) PlanUndo(root rootfs.Root) (Undo, error) {
	if f.Engine == "docker" {
		return PlanUndoDocker(root, f.Path)
	}
	t, err := openTarget(root, f.Path)
	if err != nil {
		return Undo{}, err
	}
	if f.Own {
		switch {
		case !t.exists:
			return Undo{}, ErrNothingToUndo
		case !bytes.HasPrefix(t.data, []byte(ownMark)):
			return Undo{}, fmt.Errorf("undo: %s does not start as davit wrote it, so it is left alone; remove it by hand", f.Path)
		}
		return Undo{t: t, Was: t.data, Exact: true, Remove: true, own: true}, nil
	}
	kept, err := t.readBackup()
	if err != nil {
		return Undo{}, err
	}
	u := Undo{t: t, Exact: true, Now: kept.data, Remove: kept.marker}
	if t.exists {
		u.Was = t.data
	}
	switch {
	case f.Generated, !t.exists && kept.marker, !kept.marker && bytes.Equal(t.data, kept.data):
		return u, nil
	case !t.exists:
		return Undo{}, fmt.Errorf("undo: %s was removed since davit changed it; the file from before is %s", f.Path, t.backupName())
	}
	written, err := f.again(kept.data, t.data)
	if err != nil {
		return Undo{}, fmt.Errorf("undo: %w; the file from before is %s", err, t.backupName())
	}
	if bytes.Equal(written, t.data) {
		return u, nil
	}
	rest, ok := reversed(kept.data, written, t.data)
	if !ok {
		return Undo{}, fmt.Errorf("undo: %s was changed since, also where davit had changed it, so it is left alone; the file from before is %s", f.Path, t.backupName())
	}
	u.Exact, u.Remove, u.Now = false, false, rest
	u.Note = f.Path + " was changed since, so only what davit had set is taken out of it"
	return u, nil
}

// reversed takes what turned before into written out of a third text. It says
// no unless each part of that stands in the third text exactly once.
func reversed(before, written, now []byte) ([]byte, bool) {
	split := func(text []byte) []string {
		list := strings.SplitAfter(string(text), "\n")
		return slices.DeleteFunc(list, func(l string) bool { return l == "" })
	}
	a, b, c := split(before), split(written), split(now)
	codes := difflib.NewMatcherWithJunk(a, b, false, nil).GetOpCodes()
	for i := len(codes) - 1; i >= 0; i-- {
		code := codes[i]
		if code.Tag == 'e' {
			continue
		}
		block, at := b[code.J1:code.J2], -1
		for j := 0; len(block) > 0 && j+len(block) <= len(c); j++ {
			if !slices.Equal(block, c[j:j+len(block)]) {
				continue
			}
			if at >= 0 {
				return nil, false
			}
			at = j
		}
		if at < 0 {
			return nil, false
		}
		c = append(append(append([]string{}, c[:at]...), a[code.I1:code.I2]...), c[at+len(block):]...)
	}
	var out []byte
	for i, l := range c {
		if i < len(c)-1 && !strings.HasSuffix(l, "\n") {
			l += "\n" // it was the last line
		}
		out = append(out, l...)
	}
	return out, true
}

// readIf reads a file, nil if it is not there.
func readIf(root rootfs.Root, file string) ([]byte, error) {
	data, err := root.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && data == nil {
		data = []byte{}
	}
	return data, err
}

// anyOf says whether one of these is there.
func anyOf(root rootfs.Root, paths ...string) bool {
	for _, p := range paths {
		if root.Exists(p) {
			return true
		}
	}
	return false
}

// program says whether a program lies where programs lie.
func program(root rootfs.Root, name string) bool {
	return anyOf(root, "/usr/bin/"+name, "/usr/sbin/"+name, "/usr/local/bin/"+name, "/usr/local/sbin/"+name, "/bin/"+name, "/opt/bin/"+name)
}
