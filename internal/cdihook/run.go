// SPDX-License-Identifier: Apache-2.0

package cdihook

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"runtime"
	"strconv"
	"strings"

	"davit/internal/loader"
	"davit/internal/nvidia"
	"davit/internal/plan"
	"davit/internal/rootfs"
)

// Leftover tells which entries of a loader cache an earlier start left; nil for
// none. It is shim.Leftover, which this package must not know.
type Leftover func(root *rootfs.Handle, add []loader.Entry) func(loader.Entry) bool

// Run is davit's own hook. It fails if the spec is stale or the container has
// been given a wrong node: then the container must not start. Else it makes
// right what a spec cannot: it puts the libraries into the loader cache, hides
// other GPUs' entries in /proc, and tells the driver not to make nodes. The
// notes are worth a line on standard error.
func Run(c *Container, a Args, left Leftover) (notes []string, err error) {
	host, err := openHost(a.HostRoot)
	if err != nil {
		return nil, err
	}
	now, err := nvidia.ReadIdentity(host)
	if err != nil {
		return nil, err
	}
	if why := Stale(a.Stamp, now); why != "" {
		return nil, fmt.Errorf("the CDI spec is stale: %s; write it again (davit cdi generate --output FILE)", why)
	}
	if err := c.checkNumbers(host); err != nil {
		return nil, err
	}
	e := plan.Edits{Masks: c.masks(now)}
	if !userNS() {
		e.Params = paramsOf(host)
	}
	if len(e.Masks) > 0 || e.Params != "" {
		more, err := c.apply(e, a.StateDir, nil)
		if err != nil {
			return nil, err
		}
		notes = append(notes, more...)
	}
	more, err := c.cache(a, left)
	return append(notes, more...), err
}

func openHost(dir string) (rootfs.Root, error) {
	if dir == "" {
		dir = "/"
	}
	host, err := rootfs.Open(dir)
	if err != nil {
		return host, fmt.Errorf("open the host's root: %w", err)
	}
	return host, nil
}

// paramsOf is the parameters of the kernel module with the making of nodes
// switched off; "" if there are none.
func paramsOf(host rootfs.Root) string {
	text, err := host.ReadFile("/proc/driver/nvidia/params")
	if err != nil {
		return ""
	}
	return strings.Replace(string(text), "ModifyDeviceFiles: 1\n", "ModifyDeviceFiles: 0\n", 1)
}

// given says whether the container has the GPU /dev/nvidiaN.
func (c *Container) given(minor int) bool {
	p := "/dev/nvidia" + strconv.Itoa(minor)
	for _, n := range c.nodes {
		if n.path == p {
			return true
		}
	}
	return false
}

// masks hides the entries of GPUs that the container has not got. A privileged
// container can open every node anyway.
func (c *Container) masks(host nvidia.Identity) (masks []plan.Mask) {
	if c.privileged {
		return nil
	}
	for _, g := range host.GPUs {
		if !c.given(g.Minor) {
			masks = append(masks, plan.Mask{Path: "/proc/driver/nvidia/gpus/" + g.BusID})
		}
	}
	return masks
}

// dynamic gives, for nodes whose major number the kernel chooses anew at each
// boot, its name in /proc/devices.
func dynamic(p string) string {
	switch {
	case p == "/dev/nvidia-uvm" || p == "/dev/nvidia-uvm-tools":
		return "nvidia-uvm"
	case strings.HasPrefix(p, "/dev/nvidia-caps/"):
		return "nvidia-caps"
	case strings.HasPrefix(p, "/dev/nvidia-caps-imex-channels/"):
		return "nvidia-caps-imex-channels"
	}
	return ""
}

// checkNumbers compares the container's nodes with the kernel's table: a node
// with an old number opens another device, or none, and CUDA fails with 999.
func (c *Container) checkNumbers(host rootfs.Root) error {
	var majors map[string]int64
	for _, n := range c.nodes {
		name := dynamic(n.path)
		if name == "" {
			continue
		}
		if majors == nil {
			text, err := host.ReadFile("/proc/devices")
			if err != nil {
				return nil
			}
			majors = characterMajors(string(text))
		}
		if want, ok := majors[name]; ok && want != n.major {
			return fmt.Errorf("the container was given %s as device %d:%d, and the kernel's %s is %d now: write the CDI spec again (davit cdi generate --output FILE), and if /dev itself has the old number, run nvidia-modprobe -u -c 0 on the host",
				n.path, n.major, n.minor, name, want)
		}
	}
	return nil
}

// characterMajors reads /proc/devices.
func characterMajors(text string) map[string]int64 {
	majors := map[string]int64{}
	character := false
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "Character devices:"):
			character = true
		case strings.HasPrefix(line, "Block devices:"):
			character = false
		case character && len(f) == 2:
			if n, err := strconv.ParseInt(f[0], 10, 32); err == nil {
				majors[f[1]] = n
			}
		}
	}
	return majors
}

// entries are the loader cache's lines for the libraries that the spec mounts:
// files of the driver, by their names on the host, straight in the folder.
func (c *Container) entries(a Args) (add []loader.Entry) {
	for _, m := range c.mounts {
		name, flags := path.Base(m.target), uint32(0)
		switch path.Dir(m.target) {
		case a.Libraries:
		case a.Libraries32:
			flags = loader.FlagsI386
		default:
			continue
		}
		source := path.Base(m.source)
		if !strings.Contains(name, ".so") || !strings.HasSuffix(source, "."+a.Stamp.Driver) && !nvidia.IsDriverLibrary(source) {
			continue
		}
		add = append(add, loader.Entry{Name: name, Path: m.target, Flags: flags})
	}
	return add
}

// emptyCache is a loader cache without entries (glibc, dl-cache.h): magic,
// number of entries, length of strings, and the mark for little-endian.
var emptyCache = append(append([]byte("glibc-ld.so.cache1.1"), make([]byte, 8)...), append([]byte{2}, make([]byte, 19)...)...)

// cache puts the libraries into the container's loader cache. An image without
// a cache whose loader searches the folder by itself needs none; one of another
// distribution gets a cache with our entries alone, behind which the loader
// goes on as before.
func (c *Container) cache(a Args, left Leftover) ([]string, error) {
	image := loader.Inspect(c.Root, runtime.GOARCH)
	add := c.entries(a)
	if image.Libc != loader.Glibc || len(add) == 0 {
		return nil, nil
	}
	searched := true // whether the loader finds all of them without a cache
	for _, e := range add {
		if d := path.Dir(e.Path); d != image.Dir && d != image.Dir32 {
			searched = false
		}
	}
	return c.mergeCache(add, image.Cache, searched, a.StateDir, left)
}

// mergeCache adds entries to the cache. A failure matters only where the loader
// would not find the libraries without it.
func (c *Container) mergeCache(add []loader.Entry, has, searched bool, stateDir string, left Leftover) (notes []string, err error) {
	if !has {
		if searched {
			return nil, nil
		}
		err = c.placeCache()
	}
	if err == nil {
		var drop func(loader.Entry) bool
		if left != nil {
			drop = left(c.Root, add)
		}
		notes, err = c.apply(plan.Edits{Cache: add}, stateDir, drop)
	}
	if err != nil && searched {
		return append(notes, err.Error()), nil
	}
	return notes, err
}

// placeCache makes an empty cache for entries to be merged into.
func (c *Container) placeCache() error {
	dir, err := c.Root.MkdirAll("/etc", 0o755)
	if err == nil {
		defer dir.Close()
		err = c.own(dir)
	}
	if err == nil {
		err = rootfs.WriteFileAt(dir, path.Base(loader.CachePath), emptyCache, 0o644)
	}
	if err != nil {
		var p *fs.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		return fmt.Errorf("make %s in the container, whose loader does not search the driver's folder: %w", loader.CachePath, err)
	}
	return nil
}
