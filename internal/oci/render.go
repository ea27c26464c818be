// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"path"
	"strconv"

	"davit/internal/jsonedit"
	"davit/internal/plan"
)

// hookNames are the names under which davit or NVIDIA's toolkit stand as a
// hook in a configuration: the shim does their work, so they are taken out.
var hookNames = map[string]bool{"nvidia-container-runtime-hook": true, "nvidia-container-toolkit": true}

// Render gives the text with the edits in it.
func (s *Spec) Render(e plan.Edits) ([]byte, error) {
	for _, d := range e.Devices {
		if err := s.addDevice(d); err != nil {
			return nil, err
		}
	}
	for _, m := range e.Mounts {
		if err := s.doc.Append(mountJSON(m), "mounts"); err != nil {
			return nil, err
		}
	}
	for _, m := range e.Masks {
		if s.has(m.Path, "linux", "maskedPaths") {
			continue
		}
		if err := s.doc.Append(jsonedit.Quote(m.Path), "linux", "maskedPaths"); err != nil {
			return nil, err
		}
	}
	for _, g := range e.GIDs {
		text := strconv.FormatUint(uint64(g), 10)
		if s.hasRaw(text, "process", "user", "additionalGids") {
			continue
		}
		if err := s.doc.Append([]byte(text), "process", "user", "additionalGids"); err != nil {
			return nil, err
		}
	}
	for _, stage := range []string{"prestart", "createRuntime"} {
		if err := s.dropHook(stage); err != nil {
			return nil, err
		}
	}
	return s.doc.Bytes(), nil
}

// addDevice adds a node, unless its path is there already (a privileged
// container has every node of the host), and its cgroup rule.
func (s *Spec) addDevice(d plan.Device) error {
	there := false
	if v, ok := s.doc.Get("linux", "devices"); ok {
		for _, e := range v.Elems() {
			if p, ok := e.Get("path"); ok {
				if text, err := p.String(); err == nil && path.Clean(text) == d.Path {
					there = true
				}
			}
		}
	}
	number := func(b []byte, key string, n uint32) []byte {
		b = append(b, `,"`...)
		b = append(b, key...)
		b = append(b, `":`...)
		return strconv.AppendUint(b, uint64(n), 10)
	}
	if !there {
		b := append([]byte(`{"path":`), jsonedit.Quote(d.Path)...)
		b = append(b, `,"type":"c"`...)
		b = number(b, "major", d.Major)
		b = number(b, "minor", d.Minor)
		b = number(b, "fileMode", d.Mode)
		b = number(b, "uid", d.UID)
		b = number(b, "gid", d.GID)
		if err := s.doc.Append(append(b, '}'), "linux", "devices"); err != nil {
			return err
		}
	}
	b := []byte(`{"allow":true,"type":"c"`)
	b = number(b, "major", d.Major)
	b = number(b, "minor", d.Minor)
	return s.doc.Append(append(b, `,"access":"rwm"}`...), "linux", "resources", "devices")
}

func mountJSON(m plan.Mount) []byte {
	b := append([]byte(`{"destination":`), jsonedit.Quote(m.Target)...)
	b = append(b, `,"type":"bind","source":`...)
	b = append(b, jsonedit.Quote(m.Source)...)
	if m.Writable {
		return append(b, `,"options":["nosuid","nodev","noexec","rbind","rprivate"]}`...)
	}
	return append(b, `,"options":["ro","nosuid","nodev","rbind","rprivate"]}`...)
}

// has says whether the array at where holds the string.
func (s *Spec) has(text string, where ...string) bool {
	return s.hasRaw(string(jsonedit.Quote(text)), where...)
}

func (s *Spec) hasRaw(raw string, where ...string) bool {
	if v, ok := s.doc.Get(where...); ok {
		for _, e := range v.Elems() {
			if string(e.Raw()) == raw {
				return true
			}
		}
	}
	return false
}

func (s *Spec) dropHook(stage string) error {
	v, ok := s.doc.Get("hooks", stage)
	if !ok {
		return nil
	}
	for i, h := range v.Elems() {
		if p, ok := h.Get("path"); ok {
			if text, err := p.String(); err == nil && hookNames[path.Base(text)] {
				if err := s.doc.DeleteElem(i, "hooks", stage); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
