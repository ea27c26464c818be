// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"davit/internal/rootfs"
)

// readExisting reads a file; nil if it is not there.
func readExisting(host rootfs.Root, p string) ([]byte, error) {
	data, err := host.ReadFile(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && data == nil {
		data = []byte{}
	}
	return data, err
}

// envString and envBool give the first of these variables that is set.
func envString(otherwise string, names ...string) string {
	for _, n := range names {
		if v := os.Getenv(n); v != "" {
			return v
		}
	}
	return otherwise
}

func envBool(names ...string) bool {
	b, _ := strconv.ParseBool(envString("", names...))
	return b
}

// nodeMode is the mode of nodes that davit makes; the driver's own default.
const nodeMode = 0o666

// ctkSystem is what the two commands of nvidia-ctk system share.
type ctkSystem struct {
	driverRoot, devRoot, charPath string
	all, modules, nodes, controls bool
	dryRun                        bool
	out                           io.Writer
}

func newCtkSymlinks() *cobra.Command {
	var o ctkSystem
	c := &cobra.Command{
		Use:   "create-dev-char-symlinks",
		Short: "Make the links /dev/char/MAJOR:MINOR of the driver's nodes",
		Long: "systemd finds the devices that a container may use by these links; the driver's own\n" +
			"program makes nodes without them. Links that are right stay, wrong ones are replaced.",
		Example: "  nvidia-ctk system create-dev-char-symlinks --create-all",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.out = c.OutOrStdout()
			return o.symlinks()
		},
	}
	f := c.Flags()
	f.StringVar(&o.charPath, "dev-char-path", envString("/dev/char", "DEV_CHAR_PATH"), "the folder for the links")
	f.StringVar(&o.driverRoot, "driver-root", envString("/", "NVIDIA_DRIVER_ROOT", "DRIVER_ROOT"), "the folder that has the driver's dev folder")
	f.BoolVar(&o.all, "create-all", envBool("CREATE_ALL"), "links for all nodes that there could be, not only for those that are there")
	f.BoolVar(&o.modules, "load-kernel-modules", envBool("LOAD_KERNEL_MODULES"), "load the driver's modules first")
	f.BoolVar(&o.nodes, "create-device-nodes", envBool("CREATE_DEVICE_NODES"), "make the control nodes first")
	f.BoolVar(&o.dryRun, "dry-run", envBool("DRY_RUN"), "show what would be done, and do nothing")
	f.BoolP("watch", "w", false, "not supported")
	_ = f.MarkHidden("watch")
	return c
}

func newCtkNodes() *cobra.Command {
	var o ctkSystem
	c := &cobra.Command{
		Use:     "create-device-nodes",
		Short:   "Make the driver's control nodes",
		Long:    "Makes nvidiactl, nvidia-modeset, nvidia-uvm and nvidia-uvm-tools. A node that is there is checked: a wrong number is an error.",
		Example: "  nvidia-ctk system create-device-nodes --control-devices --load-kernel-modules",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.out = c.OutOrStdout()
			if o.devRoot == "" {
				o.devRoot = o.driverRoot
			}
			if err := o.loadModules(); err != nil {
				return err
			}
			if !o.controls {
				fmt.Fprintln(c.ErrOrStderr(), "nvidia-ctk: no nodes to make: --control-devices names them")
				return nil
			}
			return o.makeNodes()
		},
	}
	f := c.Flags()
	f.StringVar(&o.driverRoot, "driver-root", envString("/", "ROOT", "NVIDIA_DRIVER_ROOT", "DRIVER_ROOT"), "the folder of the driver, for modprobe")
	f.StringVar(&o.devRoot, "dev-root", envString("", "NVIDIA_DEV_ROOT", "DEV_ROOT"), "the folder that has the dev folder; by default that of the driver")
	f.BoolVar(&o.controls, "control-devices", false, "make the control nodes")
	f.BoolVar(&o.modules, "load-kernel-modules", envBool("LOAD_KERNEL_MODULES"), "load the driver's modules first")
	f.BoolVar(&o.dryRun, "dry-run", envBool("DRY_RUN"), "show what would be done, and do nothing")
	f.SetNormalizeFunc(aliasing(map[string]string{"root": "driver-root"}))
	return c
}

func (o ctkSystem) say(format string, args ...any) { fmt.Fprintf(o.out, format+"\n", args...) }

// loadModules runs modprobe, of the driver's root if that is another.
func (o ctkSystem) loadModules() error {
	if !o.modules {
		return nil
	}
	for _, m := range []string{"nvidia", "nvidia-uvm", "nvidia-modeset"} {
		args := []string{"modprobe", m}
		if path.Clean(o.driverRoot) != "/" {
			args = []string{"chroot", o.driverRoot, "modprobe", m}
		}
		if o.dryRun {
			o.say("run %s", strings.Join(args, " "))
			continue
		}
		if text, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return &exitError{exitErrors, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(text)))}
		}
	}
	return nil
}

// charNode is a node and its number.
type charNode struct {
	path         string // /dev/nvidia0
	major, minor uint32
}

func (n charNode) name() string { return fmt.Sprintf("%d:%d", n.major, n.minor) }

// kernel is the host whose /proc is read.
func kernel() (rootfs.Root, error) {
	host, err := rootfs.Open("/")
	if err != nil {
		return host, &exitError{exitNoAnswer, err}
	}
	c, err := loadConfig(host)
	if err != nil {
		return host, &exitError{exitErrors, err}
	}
	return readFrom(host, c), nil
}

// majors reads the numbers of the driver's parts from /proc/devices.
func majors(host rootfs.Root) (map[string]uint32, error) {
	text, err := host.ReadFile("/proc/devices")
	if err != nil {
		return nil, &exitError{exitNoAnswer, err}
	}
	return parseDevices(string(text)), nil
}

func parseDevices(text string) map[string]uint32 {
	found := map[string]uint32{}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "Block devices") {
			break
		}
		f := strings.Fields(line)
		if len(f) != 2 || !strings.HasPrefix(f[1], "nvidia") {
			continue
		}
		if n, err := strconv.ParseUint(f[0], 10, 12); err == nil {
			found[strings.TrimSuffix(f[1], "-frontend")] = uint32(n)
		}
	}
	return found
}

// controlNodes are the nodes that all GPUs share, as far as their modules are
// loaded.
func controlNodes(numbers map[string]uint32) (list []charNode, missing []string) {
	for _, n := range []struct {
		path, module string
		minor        uint32
	}{{"/dev/nvidiactl", "nvidia", 255}, {"/dev/nvidia-modeset", "nvidia-modeset", 254}, {"/dev/nvidia-uvm", "nvidia-uvm", 0}, {"/dev/nvidia-uvm-tools", "nvidia-uvm", 1}} {
		major, ok := numbers[n.module]
		if !ok && n.module == "nvidia-modeset" {
			major, ok = numbers["nvidia"]
		}
		if !ok {
			missing = append(missing, n.path+" (module "+n.module+" is not loaded)")
			continue
		}
		list = append(list, charNode{n.path, major, n.minor})
	}
	return list, missing
}

// makeNodes makes the control nodes below the dev root, and checks those that
// are there.
func (o ctkSystem) makeNodes() error {
	host, err := kernel()
	if err != nil {
		return err
	}
	numbers, err := majors(host)
	if err != nil {
		return err
	}
	list, missing := controlNodes(numbers)
	if len(list) == 0 {
		return &exitError{exitErrors, errors.New("the kernel module nvidia is not loaded, so its nodes have no number: run modprobe nvidia, or give --load-kernel-modules")}
	}
	root, err := rootfs.OpenHandle(o.devRoot)
	if err != nil {
		return &exitError{exitErrors, err}
	}
	defer root.Close()
	for _, n := range list {
		if err := o.makeNode(root, n); err != nil {
			return &exitError{exitErrors, err}
		}
	}
	for _, m := range missing {
		o.say("left out %s", m)
	}
	return nil
}

func (o ctkSystem) makeNode(root *rootfs.Handle, n charNode) error {
	full := filepath.Join(o.devRoot, n.path)
	info, err := root.Lstat(n.path)
	if err == nil {
		var st unix.Stat_t
		if err := statIn(root, n.path, &st); err != nil {
			return fmt.Errorf("%s: %w", full, err)
		}
		have := charNode{"", unix.Major(st.Rdev), unix.Minor(st.Rdev)}
		if info.Mode()&fs.ModeCharDevice == 0 || have.major != n.major || have.minor != n.minor {
			return fmt.Errorf("%s is there and is not the character device %s: remove it, then try again", full, n.name())
		}
		o.say("%s is there, %s", full, n.name())
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	o.say("make %s, %s", full, n.name())
	if o.dryRun {
		return nil
	}
	dir, err := root.MkdirAll(path.Dir(n.path), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	base := path.Base(n.path)
	if err := unix.Mknodat(int(dir.Fd()), base, unix.S_IFCHR|nodeMode, int(unix.Mkdev(n.major, n.minor))); err != nil {
		return fmt.Errorf("make %s: %w", full, err)
	}
	if err := unix.Fchmodat(int(dir.Fd()), base, nodeMode, 0); err != nil { // whatever the umask
		return fmt.Errorf("make %s: %w", full, err)
	}
	return nil
}

// statIn is stat, links not followed.
func statIn(root *rootfs.Handle, p string, st *unix.Stat_t) error {
	dir, err := root.Open(path.Dir(p), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Fstatat(int(dir.Fd()), path.Base(p), st, unix.AT_SYMLINK_NOFOLLOW)
}

// symlinks makes the links.
func (o ctkSystem) symlinks() error {
	if err := o.loadModules(); err != nil {
		return err
	}
	if o.nodes {
		n := o
		n.devRoot = o.driverRoot
		if err := n.makeNodes(); err != nil {
			return err
		}
	}
	list, err := o.existing()
	if err == nil && o.all {
		var more []charNode
		more, err = o.possible()
		for _, n := range more {
			if !slices.ContainsFunc(list, func(e charNode) bool { return e.path == n.path }) {
				list = append(list, n)
			}
		}
	}
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return &exitError{exitErrors, fmt.Errorf("no NVIDIA nodes in %s: load the driver first, or give --create-all", filepath.Join(o.driverRoot, "dev"))}
	}
	if !o.dryRun {
		if err := os.MkdirAll(o.charPath, 0o755); err != nil {
			return &exitError{exitErrors, err}
		}
	}
	for _, n := range list {
		if err := o.symlink(n); err != nil {
			return &exitError{exitErrors, err}
		}
	}
	return nil
}

func (o ctkSystem) symlink(n charNode) error {
	link := filepath.Join(o.charPath, n.name())
	info, err := os.Lstat(link)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink == 0:
		return fmt.Errorf("%s is there and no link: remove it, then try again", link)
	default:
		text, err := os.Readlink(link)
		if err != nil {
			return err
		}
		if !path.IsAbs(text) { // as udev writes it: ../nvidia0
			text = path.Join("/dev/char", text)
		}
		if text == n.path {
			return nil
		}
	}
	o.say("link %s -> %s", link, n.path)
	if o.dryRun {
		return nil
	}
	tmp := filepath.Join(o.charPath, fmt.Sprintf(".%s.%d", n.name(), os.Getpid()))
	if err := os.Symlink(n.path, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, link); err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return nil
}

// existing are the driver's nodes that are there.
func (o ctkSystem) existing() (list []charNode, err error) {
	root, err := rootfs.Open(o.driverRoot)
	if err != nil {
		return nil, &exitError{exitErrors, err}
	}
	for _, dir := range []string{"/dev", "/dev/nvidia-caps"} {
		entries, err := root.ReadDir(dir)
		if err != nil {
			continue // a folder that is not there has no nodes
		}
		for _, e := range entries {
			p := path.Join(dir, e.Name)
			// These have links by udev, or are for no container.
			if !strings.HasPrefix(e.Name, "nvidia") || strings.HasPrefix(e.Name, "nvidia-fs") || strings.HasPrefix(e.Name, "nvidia-nvswitch") || strings.HasPrefix(e.Name, "nvidia-nvlink") {
				continue
			}
			if n, err := root.Node(p); err == nil {
				list = append(list, charNode{p, n.Major, n.Minor})
			}
		}
	}
	return list, nil
}

// possible are the nodes of all GPUs and MIG capabilities of the loaded driver,
// whether made or not.
func (o ctkSystem) possible() ([]charNode, error) {
	host, err := kernel()
	if err != nil {
		return nil, err
	}
	numbers, err := majors(host)
	if err != nil {
		return nil, err
	}
	if _, ok := numbers["nvidia"]; !ok {
		return nil, &exitError{exitErrors, errors.New("the kernel module nvidia is not loaded, so its nodes have no number: run modprobe nvidia, or give --load-kernel-modules")}
	}
	list, _ := controlNodes(numbers)
	entries, err := host.ReadDir("/proc/driver/nvidia/gpus")
	if err != nil {
		return nil, &exitError{exitErrors, err}
	}
	for i := range entries {
		// Numbers are given from 0 on; a GPU that says its own is taken at its word.
		minor := uint32(i)
		if text, err := host.ReadFile("/proc/driver/nvidia/gpus/" + entries[i].Name + "/information"); err == nil {
			for line := range strings.Lines(string(text)) {
				if v, ok := strings.CutPrefix(line, "Device Minor:"); ok {
					if n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 20); err == nil {
						minor = uint32(n)
					}
				}
			}
		}
		list = append(list, charNode{fmt.Sprintf("/dev/nvidia%d", minor), numbers["nvidia"], minor})
	}
	caps, ok := numbers["nvidia-caps"]
	text, err := host.ReadFile("/proc/driver/nvidia-caps/mig-minors")
	if !ok || err != nil {
		return list, nil
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line) // gpu0/gi1/access 12
		if len(f) != 2 {
			continue
		}
		if n, err := strconv.ParseUint(f[1], 10, 20); err == nil {
			list = append(list, charNode{fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", n), caps, uint32(n)})
		}
	}
	return list, nil
}
