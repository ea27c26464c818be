// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"

	"davit/internal/jsonedit"
	"davit/internal/rootfs"
)

// ErrNothingToUndo says that davit changed nothing here, or took it back
// already.
var ErrNothingToUndo = errors.New("there is no backup of davit, so there is nothing to undo")

// Undo is a plan to take a change back.
type Undo struct {
	Was    []byte // the file now; nil if it is not there
	Now    []byte // the file then
	Remove bool   // the file goes: there was none before
	// Exact: Now is the file as it was before davit, byte for byte. Otherwise
	// other things were changed since, which stay, and davit's keys alone go.
	Exact bool
	// Note is a sentence about an undo that is not exact.
	Note string

	t   target
	own bool // no backup was kept
}

// PlanUndoDocker plans to take back what davit did to a daemon.json. It refuses
// if somebody changed davit's own keys since.
func PlanUndoDocker(root rootfs.Root, file string) (Undo, error) {
	t, err := openTarget(root, file)
	if err != nil {
		return Undo{}, err
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
	case !t.exists && kept.marker:
		return u, nil
	case !t.exists:
		return Undo{}, fmt.Errorf("undo: %s was removed since davit changed it; the file from before is %s", file, t.backupName())
	case bytes.Equal(t.data, kept.data) && !kept.marker:
		return u, nil
	}
	stripped, err := stripDocker(file, t.data, kept)
	if err != nil {
		return Undo{}, fmt.Errorf("undo: %w; the file from before is %s", err, t.backupName())
	}
	if sameJSON(stripped, orEmpty(kept.data)) {
		return u, nil
	}
	u.Exact, u.Remove, u.Now = false, false, stripped
	u.Note = file + " was changed since, so only what davit had set is taken out of it"
	return u, nil
}

// Apply carries the plan out and drops the backup.
func (u Undo) Apply() error {
	switch {
	case u.own:
		if err := os.Remove(u.t.path); err != nil {
			return err
		}
		return syncFolder(filepath.Dir(u.t.path))
	case u.Exact && u.Remove:
		return u.t.remove()
	case u.Exact:
		return u.t.restore()
	}
	if err := u.t.replace(u.Now); err != nil {
		return err
	}
	u.t.dropBackup()
	return nil
}

// UndoDocker plans and applies.
func UndoDocker(root rootfs.Root, file string) (Undo, error) {
	u, err := PlanUndoDocker(root, file)
	if err != nil {
		return u, err
	}
	return u, u.Apply()
}

func orEmpty(data []byte) []byte {
	if len(bytes.TrimSpace(data)) == 0 {
		return []byte("{}\n")
	}
	return data
}

// stripDocker takes davit's keys out of a daemon.json, or puts back what they
// held before.
func stripDocker(file string, current []byte, kept backup) ([]byte, error) {
	doc, err := parse(file, orEmpty(current))
	if err != nil {
		return nil, err
	}
	before, err := parse(file, orEmpty(kept.data))
	if err != nil {
		return nil, err
	}
	for _, key := range dockerKeys {
		now, ok := doc.Get(key...)
		old, had := before.Get(key...)
		if !ok || had && sameJSON(now.Raw(), old.Raw()) {
			continue
		}
		switch key[0] {
		case "runtimes":
			if !onlyDavit(now, old) {
				return nil, misplaced(file, now, "runtimes.nvidia was changed since davit set it, so it is left alone and nothing is undone")
			}
		case "default-runtime":
			if string(now.Raw()) != `"nvidia"` {
				continue // somebody chose another since
			}
		case "features":
			if string(now.Raw()) != "true" {
				continue
			}
		}
		if had {
			err = doc.Set(old.Raw(), key...)
		} else {
			err = doc.Delete(key...)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	// An object that was made for davit's key goes with it.
	text := doc.Bytes()
	if doc, err = parse(file, text); err != nil {
		return nil, err
	}
	for _, key := range []string{"runtimes", "features"} {
		v, ok := doc.Get(key)
		_, had := before.Get(key)
		if ok && !had && v.Kind() == jsonedit.Object && v.Len() == 0 {
			if err := doc.Delete(key); err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return doc.Bytes(), nil
}

// onlyDavit says whether a runtime entry holds what davit writes and, beside
// that, what stood there before and nothing else.
func onlyDavit(now, old jsonedit.Value) bool {
	if !davitRuntime(now) {
		return false
	}
	for _, m := range now.Members() {
		if m.Key == "path" || m.Key == "args" && string(m.Value.Raw()) == "[]" {
			continue
		}
		if v, ok := old.Get(m.Key); !ok || !sameJSON(v.Raw(), m.Value.Raw()) {
			return false
		}
	}
	return true
}

// sameJSON compares values, not their spelling.
func sameJSON(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, errX := decode(a)
	y, errY := decode(b)
	return errX == nil && errY == nil && reflect.DeepEqual(x, y)
}

func decode(data []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	err := dec.Decode(&v)
	return v, err
}

// oneLine is a value without line breaks, for messages.
func oneLine(raw []byte) string {
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return string(raw)
	}
	return b.String()
}
