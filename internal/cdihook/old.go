// SPDX-License-Identifier: Apache-2.0

package cdihook

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"davit/internal/plan"
	"davit/internal/rootfs"
)

// call is one call of an old hook.
type call struct {
	hook     string
	lists    map[string][]string // values of flags
	spec     string              // --container-spec
	notes    []string
	leftover Leftover
}

// oldHooks are the hooks of NVIDIA's toolkit by name, with their flags.
var oldHooks = map[string]struct {
	flags []string
	run   func(*call, *Container) error
}{
	"create-symlinks":                  {[]string{"--link"}, createSymlinks},
	"update-ldcache":                   {[]string{"--folder", "--ldconfig-path"}, updateCache},
	"enable-cuda-compat":               {[]string{"--host-driver-version", "--host-cuda-version", "--cuda-compat-container-root"}, enableCompat},
	"disable-device-node-modification": {nil, disableNodes},
	"update-application-profile":       {nil, applicationProfile},
	"chmod":                            {[]string{"--mode", "--path"}, changeMode},
	"noop":                             {nil, nil},
	"cuda-compat":                      {[]string{"--host-driver-version", "--host-cuda-version", "--cuda-compat-container-root"}, enableCompat}, // its first name
}

// RunOld does what NVIDIA's nvidia-cdi-hook did under the same arguments: those
// behind the program's name. Specs that its toolkit wrote go on working. An
// unknown hook, or none, is a note and no error; an unknown flag is an error.
func RunOld(args []string, state io.Reader, left Leftover) ([]string, error) {
	c := call{lists: map[string][]string{}, leftover: left}
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		switch name, _, _ := strings.Cut(args[0], "="); name {
		case "--debug", "-d", "--quiet":
		case "--help", "-h", "--version", "-v":
			return []string{"hooks: " + strings.Join(hookNames(), ", ")}, nil
		default:
			return nil, fmt.Errorf("unknown flag %q", args[0])
		}
		args = args[1:]
	}
	if len(args) == 0 {
		return []string{"no hook named: nothing done; there are " + strings.Join(hookNames(), ", ")}, nil
	}
	c.hook = args[0]
	hook, ok := oldHooks[c.hook]
	if !ok {
		return []string{fmt.Sprintf("unknown hook %q: nothing done; there are %s", c.hook, strings.Join(hookNames(), ", "))}, nil
	}
	err := parseFlags(c.hook, args[1:], func(name, value string) error {
		switch {
		case name == "--container-spec":
			c.spec = value
		case slices.Contains(hook.flags, name):
			c.lists[name] = append(c.lists[name], strings.Split(value, ",")...)
		default:
			return errUnknownFlag
		}
		return nil
	})
	if err != nil || hook.run == nil {
		return nil, err
	}
	if c.spec != "" && c.spec != "-" {
		f, err := os.Open(c.spec)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		state = f
	}
	container, err := Open(state)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.hook, err)
	}
	defer container.Close()
	if err := hook.run(&c, container); err != nil {
		return c.notes, fmt.Errorf("%s: %w", c.hook, err)
	}
	return c.notes, nil
}

func hookNames() (names []string) {
	for n := range oldHooks {
		if n != "noop" && n != "cuda-compat" {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

func (c *call) note(format string, args ...any) {
	c.notes = append(c.notes, c.hook+": "+fmt.Sprintf(format, args...))
}

// one gives a flag's last value.
func (c *call) one(flag, otherwise string) string {
	if l := c.lists[flag]; len(l) > 0 {
		return l[len(l)-1]
	}
	return otherwise
}

// createSymlinks makes links TARGET::LINK. A link that is right is left, any
// other file of its name replaced; a folder is not.
func createSymlinks(c *call, in *Container) error {
	for _, l := range c.lists["--link"] {
		target, link, ok := strings.Cut(l, "::")
		if !ok || target == "" || !path.IsAbs(link) || strings.Contains(target, "\x00") || path.Clean(link) == "/" {
			return fmt.Errorf("--link %q: want TARGET::LINK, the link with an absolute path", l)
		}
		if err := in.link(target, path.Clean(link)); err != nil {
			return fmt.Errorf("make the link %s: %w", link, err)
		}
	}
	return nil
}

// link makes one link, by a temporary name and a rename, in a folder of the
// container's own.
func (c *Container) link(target, link string) error {
	dir, err := c.Root.MkdirAll(path.Dir(link), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	fd, base := int(dir.Fd()), path.Base(link)
	buf := make([]byte, len(target)+1)
	n, err := unix.Readlinkat(fd, base, buf)
	if err == nil && string(buf[:n]) == target {
		return nil
	}
	if err := c.own(dir); err != nil {
		return err
	}
	tmp := "." + base + ".davit"
	_ = unix.Unlinkat(fd, tmp, 0) // of a start that was interrupted
	if err := unix.Symlinkat(target, fd, tmp); err != nil {
		return err
	}
	if err := unix.Renameat(fd, tmp, fd, base); err != nil {
		_ = unix.Unlinkat(fd, tmp, 0)
		return err
	}
	return nil
}

// disableNodes mounts the parameters with the making of nodes switched off over
// the container's.
func disableNodes(c *call, in *Container) error {
	if userNS() {
		c.note("nothing done: in a user namespace nobody can make device nodes")
		return nil
	}
	host, err := openHost("")
	if err != nil {
		return err
	}
	if params := paramsOf(host); params != "" {
		_, err = in.apply(plan.Edits{Params: params}, "", nil)
	}
	return err
}

// profileFile limits EGL and Vulkan to some GPUs (the driver's README, chapter
// "Application Profiles").
const profileFile = "/etc/nvidia/nvidia-application-profiles-rc.d/10-container.conf"

// applicationProfile names the container's GPUs, a bit for each minor number.
func applicationProfile(_ *call, in *Container) error {
	var mask uint64
	for _, n := range in.nodes {
		digits, ok := strings.CutPrefix(n.path, "/dev/nvidia")
		if minor, err := strconv.ParseUint(digits, 10, 8); ok && err == nil && minor < 64 {
			mask |= 1 << minor
		}
	}
	if mask == 0 {
		return nil
	}
	text := fmt.Sprintf(`{"profiles": [{"name": "_container_", "settings": ["EGLVisibleDGPUDevices", %d]}], "rules": [{"pattern": [], "profile": "_container_"}]}`+"\n", mask)
	return in.write(profileFile, []byte(text))
}

// write puts a file into a folder of the container's own.
func (c *Container) write(p string, data []byte) error {
	dir, err := c.Root.MkdirAll(path.Dir(p), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := c.own(dir); err != nil {
		return fmt.Errorf("write %s: %w", p, err)
	}
	return rootfs.WriteFileAt(dir, path.Base(p), data, 0o644)
}

// changeMode sets permission bits of the container's own files and folders.
func changeMode(c *call, in *Container) error {
	mode, err := strconv.ParseUint(c.one("--mode", "755"), 8, 12)
	if err != nil {
		return fmt.Errorf("--mode: %w", err)
	}
	for _, p := range c.lists["--path"] {
		if err := in.chmod(p, uint32(mode)&0o777); err != nil {
			return fmt.Errorf("change the mode of %s: %w", p, err)
		}
	}
	return nil
}

func (c *Container) chmod(p string, mode uint32) error {
	f, err := c.Root.Open(p, unix.O_PATH)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	if err := c.own(f); err != nil {
		return err
	}
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), mode)
}
