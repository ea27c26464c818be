// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"davit/internal/loader"
	"davit/internal/nvidia"
	"davit/internal/oci"
	"davit/internal/plan"
	"davit/internal/request"
	"davit/internal/rootfs"
)

// Options are what the shim needs to know beside the bundle.
type Options struct {
	Facts  func() (*nvidia.Facts, error) // called only for a container that asks
	Policy request.Policy
	Plan   plan.Options
	// StateDir holds loader caches for read-only roots.
	StateDir string
	// GIDs: add the groups of nodes to the process.
	GIDs bool
}

// Create edits the bundle's config.json, and the loader cache in its root, if
// the container asks for a GPU. The plan is nil for a container that asks for
// nothing, whose files are not touched. On an error nothing is changed in
// config.json.
func Create(bundle string, o Options) (*plan.Plan, error) {
	file := filepath.Join(bundle, oci.ConfigFile)
	data, mode, err := readConfig(file)
	if err != nil {
		return nil, err
	}
	if !oci.MayAsk(data, o.Policy.SwarmResources) {
		return nil, nil
	}
	spec, err := oci.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	req, err := request.Read(spec.Container, o.Policy)
	if err != nil {
		return nil, err
	}
	if !req.Asked {
		return &plan.Plan{Untouched: true, Notes: req.Notes}, nil
	}
	facts, err := o.Facts()
	if err != nil {
		return nil, err
	}
	root, err := rootfs.OpenHandle(spec.RootPath(bundle))
	if err != nil {
		return nil, fmt.Errorf("open the container's root: %w", err)
	}
	defer root.Close()
	o.Plan.Privileged = spec.Container.Privileged
	p, err := plan.Make(facts, req, loader.Inspect(root, facts.Arch), o.Plan)
	if err != nil || p.Untouched {
		return p, err
	}
	edits := p.Edits
	if !o.GIDs {
		edits.GIDs = nil
	}
	if err := checkSources(edits); err != nil {
		return nil, err
	}
	if err := checkTargets(root, edits); err != nil {
		return nil, err
	}
	cache, note, err := mergeCache(root, spec.Readonly, facts, edits.Cache, o.StateDir)
	if err != nil {
		return nil, err
	}
	if note != "" {
		p.Notes = append(p.Notes, note)
	}
	if cache != nil {
		edits.Mounts = append(edits.Mounts, *cache)
	}
	out, err := spec.Render(edits)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := rootfs.WriteFile(file, out, mode); err != nil {
		return nil, fmt.Errorf("write %s: %w", file, err)
	}
	return p, nil
}

// readConfig reads config.json whole, and its mode: environments hold secrets,
// and an engine may keep others from reading them.
func readConfig(file string) ([]byte, fs.FileMode, error) {
	data, mode, err := rootfs.ReadHostFile(file, oci.MaxConfig)
	if errors.Is(err, rootfs.ErrTooLarge) {
		return nil, 0, fmt.Errorf("%s has more than %d bytes, more than a container's configuration can have", file, oci.MaxConfig)
	}
	return data, mode, err
}

// checkSources tells in one sentence what the runtime would tell in five: a
// driver file that has gone since it was found.
func checkSources(e plan.Edits) error {
	for _, m := range e.Mounts {
		var st unix.Stat_t
		if err := unix.Stat(m.Source, &st); err != nil {
			return fmt.Errorf("the driver's file %s is gone (%w): was the driver changed a moment ago? start the container again", m.Source, err)
		}
	}
	return nil
}

// cacheFile is the loader's cache in a container.
const cacheFile = "/etc/ld.so.cache"

// mergeCache adds entries to the container's loader cache: in its root, or,
// where the root is or will be read-only, as a mount of a copy. A mount over
// a root that can be written would make ldconfig, and so package managers,
// fail in the container.
func mergeCache(root *rootfs.Handle, readonly bool, f *nvidia.Facts, add []loader.Entry, stateDir string) (*plan.Mount, string, error) {
	if len(add) == 0 {
		return nil, "", nil
	}
	old, err := loader.ReadCache(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	} else if err != nil {
		return nil, "the image's " + cacheFile + " could not be read and is left alone: " + err.Error(), nil
	}
	merged, err := loader.Merge(old, f.Arch, add, Leftover(root, add))
	if errors.Is(err, loader.ErrFormat) {
		return nil, "the image's " + cacheFile + " is damaged and is left alone: " + err.Error(), nil
	} else if err != nil {
		return nil, "", err
	}
	if string(merged) == string(old) {
		return nil, "", nil
	}
	if !readonly {
		err := root.WriteFile(cacheFile, merged, 0o644)
		if err == nil {
			return nil, "", nil
		}
		if !errors.Is(err, unix.EROFS) {
			return nil, "", fmt.Errorf("write the container's loader cache: %w", err)
		}
	}
	file, err := StoreCache(stateDir, merged)
	if err != nil {
		return nil, "", err
	}
	return &plan.Mount{Source: file, Target: cacheFile, Why: "the container's root is read-only"}, "", nil
}

// Leftover finds, among an image's cache entries, those that an earlier start
// of the same container with another driver left: driver libraries in our
// folder that are not ours now and are empty files, the places of old mounts.
func Leftover(root *rootfs.Handle, add []loader.Entry) func(loader.Entry) bool {
	if len(add) == 0 {
		return nil
	}
	dir := path.Dir(add[0].Path) + "/"
	return func(e loader.Entry) bool {
		// Of a thousand entries few are in our folder, so no path is cleaned for
		// them; a path with ".." or "//" in it is none that davit wrote.
		base, ours := strings.CutPrefix(e.Path, dir)
		if !ours || strings.Contains(base, "/") || !nvidia.IsDriverLibrary(e.Name) || slices.ContainsFunc(add, func(a loader.Entry) bool { return a.Name == e.Name && a.Path == e.Path }) {
			return false
		}
		st, err := root.StatFile(e.Path)
		return err != nil || st.Size == 0
	}
}

// StoreCache keeps a merged cache in a file named by its content, and gives
// its path. A file of that name with other content is damaged and replaced.
func StoreCache(stateDir string, data []byte) (string, error) {
	sum := sha256.Sum256(data)
	file := filepath.Join(stateDir, "ldcache", hex.EncodeToString(sum[:16]))
	if err := rootfs.KeepFile(file, data, 0o644); err != nil {
		return "", fmt.Errorf("keep a loader cache: %w", err)
	}
	return file, nil
}
