// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"davit/internal/rootfs"
)

// charDir holds a link MAJOR:MINOR for each character device. udev makes them
// for devices that stand in sysfs, and NVIDIA's do not; systemd and runc find
// a device's path by them and forget a device that has none.
const charDir = "/dev/char"

// nodeDirs are the folders with NVIDIA's nodes.
var nodeDirs = []string{"/dev", "/dev/nvidia-caps", "/dev/nvidia-caps-imex-channels"}

// nvidiaNodes lists NVIDIA's character devices by path.
func nvidiaNodes(host rootfs.Root) ([]rootfs.Node, error) {
	var nodes []rootfs.Node
	for _, dir := range nodeDirs {
		entries, err := host.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if dir == "/dev" && !strings.HasPrefix(e.Name, "nvidia") || e.Link {
				continue
			}
			n, err := host.Node(dir + "/" + e.Name)
			if err == nil && !n.Block {
				nodes = append(nodes, n)
			}
		}
	}
	slices.SortFunc(nodes, func(a, b rootfs.Node) int { return strings.Compare(a.Path, b.Path) })
	return nodes, nil
}

// makeLinks makes the links of NVIDIA's nodes, and removes those whose node is
// gone or has another number now. Links that lead to the right device by
// another name stay.
func makeLinks(host rootfs.Root) (changes []Change, err error) {
	nodes, err := nvidiaNodes(host)
	if err != nil {
		return nil, err
	}
	old, err := host.ReadDir(charDir)
	if errors.Is(err, fs.ErrNotExist) {
		if len(nodes) == 0 {
			return nil, nil
		}
		if err := os.MkdirAll(host.Host(charDir), 0o755); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	for _, e := range old {
		change, err := removeLink(host, e)
		if err != nil {
			return changes, err
		}
		if change != nil {
			changes = append(changes, *change)
		}
	}
	var all []error
	for _, n := range nodes {
		change, err := makeLink(host, n)
		if err != nil {
			all = append(all, err)
		}
		if change != nil {
			changes = append(changes, *change)
		}
	}
	return changes, errors.Join(all...)
}

// number is how a node is called in /dev/char.
func number(n rootfs.Node) string { return fmt.Sprintf("%d:%d", n.Major, n.Minor) }

// nodeBehind follows links to a node, also to one that is only recorded.
func nodeBehind(host rootfs.Root, p string) (rootfs.Node, error) {
	real, err := host.Resolve(p)
	if err != nil {
		return rootfs.Node{}, err
	}
	return host.Node(real)
}

func makeLink(host rootfs.Root, n rootfs.Node) (*Change, error) {
	p := charDir + "/" + number(n)
	if is, err := nodeBehind(host, p); err == nil && !is.Block && number(is) == number(n) {
		return nil, nil
	}
	info, err := host.Lstat(p)
	if err == nil && info.Mode()&fs.ModeSymlink == 0 {
		return nil, fmt.Errorf("%s is no link and no such device: left as it is", host.Host(p))
	}
	dir, err := host.Resolve(charDir)
	if err != nil {
		return nil, err
	}
	target := "../" + strings.TrimPrefix(n.Path, "/dev/")
	if err := putLink(host.Host(dir), number(n), target); err != nil {
		return nil, err
	}
	return &Change{Link, host.Host(p), "linked to " + target}, nil
}

// putLink makes a link by a rename, so that it is there at every moment.
func putLink(dir, name, target string) error {
	tmp := path.Join(dir, "."+name+".davit")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, path.Join(dir, name)); err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return nil
}

// removeLink removes a link to one of NVIDIA's nodes that is not true.
func removeLink(host rootfs.Root, e rootfs.Entry) (*Change, error) {
	if !e.Link || strings.HasPrefix(e.Name, ".") {
		return nil, nil
	}
	p := charDir + "/" + e.Name
	target, err := host.Readlink(p)
	if err != nil {
		return nil, nil // gone meanwhile
	}
	to := target
	if !path.IsAbs(to) {
		to = path.Join(charDir, to)
	}
	if !strings.HasPrefix(path.Clean(to), "/dev/nvidia") {
		return nil, nil
	}
	why := target + " is gone"
	if n, err := nodeBehind(host, to); err == nil {
		if number(n) == e.Name {
			return nil, nil
		}
		why = target + " is " + number(n) + " now"
	}
	dir, err := host.Resolve(charDir)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(host.Host(dir + "/" + e.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &Change{Link, host.Host(p), "removed: " + why}, nil
}
