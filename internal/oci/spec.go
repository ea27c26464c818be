// SPDX-License-Identifier: Apache-2.0

// Package oci reads a bundle's config.json as far as davit needs it and
// renders edits into it. The text is edited in place: unknown properties,
// their order and spacing survive byte for byte.
package oci

import (
	"bytes"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"davit/internal/jsonedit"
	"davit/internal/request"
)

// ConfigFile is the name of the configuration in a bundle.
const ConfigFile = "config.json"

// MaxConfig bounds the size of a config.json; docker's have 10 to 60 KiB.
const MaxConfig = 16 << 20

// Spec is a parsed config.json.
type Spec struct {
	doc *jsonedit.Doc
	// Root is root.path as written: absolute, or relative to the bundle.
	Root string
	// Readonly is root.readonly.
	Readonly bool
	// UserNS: the container has a user namespace, in which nodes cannot be made.
	UserNS bool
	// Container is what can hold a request.
	Container request.Container
}

// hints are strings one of which any request has in it; see MayAsk.
var hints = [][]byte{[]byte("NVIDIA_VISIBLE_DEVICES"), []byte("nvidia.com"), []byte("nvidia-container-devices"), []byte("CUDA_VERSION")}

// MayAsk is a quick look at the text: false means that the container asks for
// nothing. names are further environment variables to look for.
func MayAsk(config []byte, names []string) bool {
	for _, h := range hints {
		if bytes.Contains(config, h) {
			return true
		}
	}
	return slices.ContainsFunc(names, func(n string) bool { return bytes.Contains(config, []byte(n)) })
}

// Parse reads the text of a config.json.
func Parse(data []byte) (*Spec, error) {
	doc, err := jsonedit.Parse(data)
	if err != nil {
		return nil, err
	}
	s := &Spec{doc: doc}
	if v, ok := doc.Get("root", "path"); ok {
		if s.Root, err = v.String(); err != nil {
			return nil, fmt.Errorf("root.path: %w", err)
		}
	}
	if v, ok := doc.Get("root", "readonly"); ok {
		s.Readonly = string(v.Raw()) == "true"
	}
	if err := s.readProcess(); err != nil {
		return nil, err
	}
	if v, ok := doc.Get("annotations"); ok {
		s.Container.Annotations = map[string]string{}
		for _, m := range v.Members() {
			// A value that is no string is the runtime's to complain about.
			if text, err := m.Value.String(); err == nil {
				s.Container.Annotations[m.Key] = text
			}
		}
	}
	s.readMounts()
	if v, ok := doc.Get("linux", "namespaces"); ok {
		for _, ns := range v.Elems() {
			if t, ok := ns.Get("type"); ok && string(t.Raw()) == `"user"` {
				s.UserNS = true
			}
		}
	}
	return s, nil
}

func (s *Spec) readProcess() error {
	if v, ok := s.doc.Get("process", "env"); ok {
		for i, e := range v.Elems() {
			text, err := e.String()
			if err != nil {
				return fmt.Errorf("process.env[%d]: %w", i, err)
			}
			s.Container.Env = append(s.Container.Env, text)
		}
	}
	if v, ok := s.doc.Get("process", "capabilities", "bounding"); ok {
		for _, e := range v.Elems() {
			if string(e.Raw()) == `"CAP_SYS_ADMIN"` {
				s.Container.Privileged = true
			}
		}
	}
	return nil
}

func (s *Spec) readMounts() {
	v, ok := s.doc.Get("mounts")
	if !ok {
		return
	}
	for _, m := range v.Elems() {
		var mount request.Mount
		if src, ok := m.Get("source"); ok {
			mount.Source, _ = src.String()
		}
		if dst, ok := m.Get("destination"); ok {
			mount.Target, _ = dst.String()
		}
		s.Container.Mounts = append(s.Container.Mounts, mount)
	}
}

// HookEnv looks a variable up in the environment that the configuration gives
// to davit's hook by name; "" if it gives none. Unlike the environment that the
// hook then has, this one is certainly the engine's and not the image's.
func (s *Spec) HookEnv(name string) string {
	value := ""
	for _, stage := range []string{"prestart", "createRuntime", "createContainer"} {
		v, _ := s.doc.Get("hooks", stage)
		for _, h := range v.Elems() {
			p, _ := h.Get("path")
			if text, err := p.String(); err != nil || !hookNames[path.Base(text)] {
				continue
			}
			env, _ := h.Get("env")
			for _, e := range env.Elems() {
				if text, err := e.String(); err == nil && strings.HasPrefix(text, name+"=") {
					value = text[len(name)+1:]
				}
			}
		}
	}
	return value
}

// RootPath is the root file system's folder, given the bundle's.
func (s *Spec) RootPath(bundle string) string {
	if filepath.IsAbs(s.Root) {
		return s.Root
	}
	return filepath.Join(bundle, s.Root)
}
