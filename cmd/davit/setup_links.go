// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"davit/internal/rootfs"
)

// programNames are the names that engines and configurations look for; each
// becomes a link to davit-runtime.
var programNames = []string{"nvidia-container-runtime", "nvidia-container-runtime-hook", "nvidia-container-toolkit", "nvidia-cdi-hook", "nvidia-container-cli"}

// link is a name to make for davit-runtime.
type link struct {
	path   string // inside the root
	target string
	there  bool // it is right already
}

// planLinks finds davit-runtime and what its names hold now.
func planLinks(host rootfs.Root, binDir string) ([]link, error) {
	target := path.Join(binDir, "davit-runtime")
	if _, err := host.Stat(target); err != nil {
		return nil, fmt.Errorf("%s is not there: install davit-runtime beside davit (make install), or name its folder with --bin-dir", host.Host(target))
	}
	var links []link
	for _, name := range programNames {
		l := link{path: path.Join(binDir, name), target: "davit-runtime"}
		info, err := host.Lstat(l.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case info.Mode()&fs.ModeSymlink == 0:
			return nil, fmt.Errorf("%s is another program, probably of NVIDIA's toolkit: remove the package nvidia-container-toolkit first, or install davit in another folder of dockerd's PATH and name it with --bin-dir", host.Host(l.path))
		default:
			text, err := host.Readlink(l.path)
			if err != nil {
				return nil, err
			}
			if path.Base(text) != "davit-runtime" {
				return nil, fmt.Errorf("%s is a link to %s, not to davit-runtime: remove the package that brought it, or use --bin-dir", host.Host(l.path), text)
			}
			l.there = true
		}
		links = append(links, l)
	}
	return links, nil
}

// makeLinks makes what is missing; a name that turns up meanwhile is an error.
func makeLinks(host rootfs.Root, links []link) error {
	for _, l := range links {
		if l.there {
			continue
		}
		dir, err := host.Resolve(path.Dir(l.path))
		if err != nil {
			return err
		}
		if err := os.Symlink(l.target, host.Host(filepath.Join(dir, path.Base(l.path)))); err != nil {
			return err
		}
	}
	return nil
}

// linksOf gives the names in a folder that lead to davit-runtime.
func linksOf(host rootfs.Root, binDir string) (list []string) {
	for _, name := range programNames {
		p := path.Join(binDir, name)
		if text, err := host.Readlink(p); err == nil && path.Base(text) == "davit-runtime" {
			list = append(list, p)
		}
	}
	return list
}

// removeLinks removes them.
func removeLinks(host rootfs.Root, list []string) error {
	for _, p := range list {
		dir, err := host.Resolve(path.Dir(p))
		if err == nil {
			err = os.Remove(host.Host(filepath.Join(dir, path.Base(p))))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
