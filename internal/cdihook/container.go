// SPDX-License-Identifier: Apache-2.0

package cdihook

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"davit/internal/jsonedit"
	"davit/internal/live"
	"davit/internal/loader"
	"davit/internal/plan"
	"davit/internal/rootfs"
)

// Bounds of what is read from runtimes; real ones are far smaller.
const (
	maxState  = 1 << 20
	maxConfig = 16 << 20
)

// node is a device node of the container's configuration.
type node struct {
	path         string
	major, minor int64
}

// bind is a mount of the container's configuration.
type bind struct{ source, target string }

// Container is a container that its runtime is making.
type Container struct {
	// Root is the container's root, with all its mounts.
	Root *rootfs.Handle

	path       string // of Root, on the host
	mounts     []bind
	nodes      []node
	privileged bool
	readonly   bool
}

// Open reads a runtime's state, and the bundle's config.json that it names,
// and opens the container's root. The runtimes' states differ in all else:
// runc gives the pid in the container and no root, crun the root and no pid.
func Open(state io.Reader) (*Container, error) {
	data, err := io.ReadAll(io.LimitReader(state, maxState))
	if err != nil {
		return nil, fmt.Errorf("read the container's state from standard input: %w", err)
	}
	bundle, err := bundleOf(data)
	if err != nil {
		return nil, fmt.Errorf("the container's state on standard input: %w", err)
	}
	file := path.Join(bundle, "config.json")
	text, err := readBounded(file, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("read the container's configuration: %w", err)
	}
	c, err := parseConfig(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if !path.IsAbs(c.path) {
		c.path = path.Join(bundle, c.path)
	}
	if c.Root, err = rootfs.OpenHandle(c.path); err != nil {
		return nil, fmt.Errorf("open the container's root: %w", err)
	}
	return c, nil
}

// Close closes the root.
func (c *Container) Close() error { return c.Root.Close() }

func readBounded(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: %w", file, rootfs.ErrTooLarge)
	}
	return data, err
}

func bundleOf(state []byte) (string, error) {
	doc, err := jsonedit.Parse(state)
	if err != nil {
		return "", err
	}
	for _, key := range []string{"bundle", "bundlePath"} { // the second is of runtimes before 1.0
		if v, ok := doc.Get(key); ok {
			bundle, err := v.String()
			if err != nil {
				return "", fmt.Errorf("%s: %w", key, err)
			}
			if path.IsAbs(bundle) {
				return bundle, nil
			}
			return "", fmt.Errorf("the bundle %q is no absolute path", bundle)
		}
	}
	return "", errors.New("it names no bundle: is this run as a hook of a container runtime?")
}

// parseConfig reads what the hooks need of a config.json.
func parseConfig(text []byte) (*Container, error) {
	doc, err := jsonedit.Parse(text)
	if err != nil {
		return nil, err
	}
	c := &Container{}
	v, ok := doc.Get("root", "path")
	if !ok {
		return nil, errors.New("it has no root.path")
	}
	if c.path, err = v.String(); err != nil {
		return nil, fmt.Errorf("root.path: %w", err)
	}
	if v, ok := doc.Get("root", "readonly"); ok {
		c.readonly, _ = v.Bool()
	}
	if v, ok := doc.Get("process", "capabilities", "bounding"); ok {
		for _, e := range v.Elems() {
			c.privileged = c.privileged || string(e.Raw()) == `"CAP_SYS_ADMIN"`
		}
	}
	text1 := func(v jsonedit.Value, key string) string {
		if m, ok := v.Get(key); ok {
			if s, err := m.String(); err == nil {
				return s
			}
		}
		return ""
	}
	number := func(v jsonedit.Value, key string) int64 {
		if m, ok := v.Get(key); ok {
			if n, err := m.Int(); err == nil {
				return n
			}
		}
		return -1
	}
	if v, ok := doc.Get("mounts"); ok {
		for _, m := range v.Elems() {
			c.mounts = append(c.mounts, bind{text1(m, "source"), path.Clean("/" + text1(m, "destination"))})
		}
	}
	if v, ok := doc.Get("linux", "devices"); ok {
		for _, d := range v.Elems() {
			c.nodes = append(c.nodes, node{path.Clean("/" + text1(d, "path")), number(d, "major"), number(d, "minor")})
		}
	}
	return c, nil
}

// apply makes edits by the same code as docker's hook does, for which this
// process is one that is in the container already.
func (c *Container) apply(e plan.Edits, stateDir string, drop func(loader.Entry) bool) ([]string, error) {
	// The number of this process as /proc has it, which may be of another pid
	// namespace than its own.
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(self)
	if err != nil {
		return nil, fmt.Errorf("/proc/self leads to %q", self)
	}
	return live.Apply(live.Target{Pid: pid, RootPath: c.path}, e, live.Options{StateDir: stateDir, NoCgroups: true, Drop: drop})
}

// errElsewhere says that a place is not the container's own.
var errElsewhere = errors.New("a link of the image leads out of its own file system, into a volume")

// own says whether an open folder is on the same mount as the container's
// root: what the image holds, and no volume of somebody else. /dev is the
// container's own too, unless it is the host's.
func (c *Container) own(dir *os.File) error {
	root, rootDev, err := mountOf(c.Root.File())
	if err != nil {
		return err
	}
	id, dev, err := mountOf(dir)
	if err != nil {
		return err
	}
	if id == root && dev == rootDev {
		return nil
	}
	d, err := c.Root.Open("/dev", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return errElsewhere
	}
	defer d.Close()
	of, ofDev, err := mountOf(d)
	if err != nil {
		return err
	}
	var host unix.Stat_t
	if of != id || ofDev != dev || unix.Stat("/dev", &host) == nil && host.Dev == dev {
		return errElsewhere
	}
	return nil
}

// mountOf gives the mount that f is on, 0 on kernels that do not tell, and its
// file system.
func mountOf(f *os.File) (id, dev uint64, err error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return 0, 0, err
	}
	if st.Mask&unix.STATX_MNT_ID != 0 {
		id = st.Mnt_id
	}
	return id, unix.Mkdev(st.Dev_major, st.Dev_minor), nil
}

// userNS says whether this process is not in the first user namespace: then
// nobody in the container can make device nodes anyway.
func userNS() bool {
	link, err := os.Readlink("/proc/self/ns/user")
	return err == nil && link != "user:[4026531837]" // PROC_USER_INIT_INO
}
