// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"davit/internal/jsonedit"
	"davit/internal/rootfs"
)

// DefaultDockerRuntime is where davit's runtime lies unless told otherwise.
const DefaultDockerRuntime = "/usr/bin/nvidia-container-runtime"

// The kinds of docker installations, which read different files.
const (
	DockerSystem   = "system"
	DockerSnap     = "snap"
	DockerRootless = "rootless"
)

// DockerConfig is a daemon.json, or the place for one.
type DockerConfig struct {
	Kind   string `json:"kind"` // system, snap, rootless
	File   string `json:"file"` // inside the root
	User   string `json:"user,omitempty"`
	Exists bool   `json:"exists"`
	Data   []byte `json:"-"`
}

// FindDocker finds the files that docker daemons of a host read: always the
// system's, which may not exist yet, then that of docker's snap if it is
// installed, then those of users with a rootless daemon. A file that cannot be
// read is an error.
func FindDocker(root rootfs.Root) ([]DockerConfig, error) {
	found := []DockerConfig{{Kind: DockerSystem, File: "/etc/docker/daemon.json"}}
	if root.Exists("/var/snap/docker/current") {
		found = append(found, DockerConfig{Kind: DockerSnap, File: "/var/snap/docker/current/config/daemon.json"})
	}
	passwd, err := root.ReadFile("/etc/passwd")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("find docker: %w", err)
	}
	seen := map[string]bool{}
	for line := range strings.SplitSeq(string(passwd), "\n") {
		f := strings.Split(line, ":")
		if len(f) != 7 || !path.IsAbs(f[5]) || seen[f[5]] {
			continue
		}
		seen[f[5]] = true
		if file := path.Join(f[5], ".config/docker/daemon.json"); root.Exists(file) {
			found = append(found, DockerConfig{Kind: DockerRootless, File: file, User: f[0]})
		}
	}
	for i := range found {
		data, err := root.ReadFile(found[i].File)
		switch {
		case err == nil:
			found[i].Exists, found[i].Data = true, data
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("find docker: %w", err)
		}
	}
	return found, nil
}

// DockerOptions say what daemon.json shall hold.
type DockerOptions struct {
	// File names the file in errors; "" is daemon.json.
	File string
	// Runtime is the absolute path of the runtime; "" is
	// DefaultDockerRuntime.
	Runtime string
	// Default makes nvidia the default runtime.
	Default bool
	// CDI switches features.cdi on.
	CDI bool
}

func (o DockerOptions) file() string {
	if o.File == "" {
		return "daemon.json"
	}
	return o.File
}

// PlanDocker gives daemon.json as it shall be, and what that changes. Whatever
// the options do not name is kept byte for byte; without a change the result is
// current itself. A text that is not JSON is a *ConfigError, never repaired. A
// nil or blank current is a file that is not there yet.
func PlanDocker(current []byte, o DockerOptions) ([]byte, []Change, error) {
	if o.Runtime == "" {
		o.Runtime = DefaultDockerRuntime
	}
	if !path.IsAbs(o.Runtime) {
		return nil, nil, fmt.Errorf("runtime %q is not an absolute path", o.Runtime)
	}
	text := current
	if len(bytes.TrimSpace(current)) == 0 {
		text = []byte("{}\n")
	}
	doc, err := parse(o.file(), text)
	if err != nil {
		return nil, nil, err
	}
	p := dockerPlan{doc: doc, file: o.file()}
	p.runtime(o.Runtime)
	if o.Default {
		p.set(jsonedit.Quote("nvidia"), "default-runtime")
	}
	if o.CDI {
		p.object("features")
		p.set([]byte("true"), "features", "cdi")
	}
	if p.err != nil {
		return nil, nil, p.err
	}
	if len(p.changes) == 0 {
		return current, nil, nil
	}
	return doc.Bytes(), p.changes, nil
}

// dockerPlan collects changes; after the first error it does nothing.
type dockerPlan struct {
	doc     *jsonedit.Doc
	file    string
	changes []Change
	err     error
}

// object checks that a key, if it is there, holds an object.
func (p *dockerPlan) object(key string) {
	v, ok := p.doc.Get(key)
	if p.err == nil && ok && v.Kind() != jsonedit.Object && v.Kind() != jsonedit.Null {
		p.err = misplaced(p.file, v, fmt.Sprintf("%q should be an object, but is %s", key, v.Kind()))
	}
}

// set puts a value in place unless it is there.
func (p *dockerPlan) set(raw []byte, key ...string) {
	if p.err != nil {
		return
	}
	was := ""
	if v, ok := p.doc.Get(key...); ok {
		if sameJSON(v.Raw(), raw) {
			return
		}
		was = oneLine(v.Raw())
	}
	if err := p.doc.Set(raw, key...); err != nil {
		p.err = fmt.Errorf("%s: %w", p.file, err)
		return
	}
	p.changes = append(p.changes, Change{Key: strings.Join(key, "."), Was: was, Now: string(raw)})
}

func (p *dockerPlan) runtime(file string) {
	p.object("runtimes")
	if p.err != nil {
		return
	}
	old, ok := p.doc.Get("runtimes", "nvidia")
	_, shim := old.Get("runtimeType")
	switch {
	case ok && old.Kind() != jsonedit.Null && (old.Kind() != jsonedit.Object || shim):
		// docker takes either a path or a runtimeType.
		p.set(append(append([]byte(`{"path": `), jsonedit.Quote(file)...), `, "args": []}`...), "runtimes", "nvidia")
	case ok && old.Kind() == jsonedit.Object:
		p.set(jsonedit.Quote(file), "runtimes", "nvidia", "path")
	default:
		p.set(jsonedit.Quote(file), "runtimes", "nvidia", "path")
		p.set([]byte("[]"), "runtimes", "nvidia", "args")
	}
}

// dockerKeys are the keys that davit may set.
var dockerKeys = [...][]string{{"runtimes", "nvidia"}, {"default-runtime"}, {"features", "cdi"}}

// WriteDocker writes a planned daemon.json: was is the text that the plan was
// made of (nil if there was no file), now the plan's. The text that stood there
// before davit's first change is kept beside it in FILE.davit-backup. At every
// moment the file holds the old text or the new one; after an error it holds
// the old. Mode and owner stay; a link is followed.
func WriteDocker(root rootfs.Root, file string, was, now []byte) error {
	if now == nil || was != nil && bytes.Equal(was, now) {
		return nil
	}
	t, err := openTarget(root, file)
	if err != nil {
		return err
	}
	if !bytes.Equal(t.data, was) || t.exists != (was != nil) {
		return fmt.Errorf("write %s: the file was changed in the meantime; nothing was written", file)
	}
	// A file that holds davit's runtime already came from a file that is in
	// the backup.
	made := false
	if !t.hasBackup() || !holdsDavit(was) {
		if err := t.backup(); err != nil {
			t.dropFolder()
			return err
		}
		made = true
	}
	if err := t.replace(now); err != nil {
		if made {
			t.dropBackup()
		}
		return err
	}
	return nil
}

// holdsDavit says whether a daemon.json has the runtime that davit writes.
func holdsDavit(data []byte) bool {
	doc, err := jsonedit.Parse(data)
	if err != nil {
		return false
	}
	v, ok := doc.Get("runtimes", "nvidia")
	return ok && davitRuntime(v)
}

// davitRuntime knows a runtime entry that davit wrote or changed: its path is
// absolute and has one of davit's names.
func davitRuntime(v jsonedit.Value) bool {
	p, ok := v.Get("path")
	if !ok {
		return false
	}
	text, err := p.String()
	if err != nil || !path.IsAbs(text) {
		return false
	}
	return strings.HasPrefix(path.Base(text), "nvidia-container-runtime") || strings.HasPrefix(path.Base(text), "davit")
}
