// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lab is the workplace: programs, images, columns.
type lab struct {
	settings
	ctx     context.Context
	host    *host
	columns []*column
	env     []string // of every program that is started
	python  string   // of the host, "" if none
	torch   string   // a python with PyTorch, "" if none
	serial  int
	docker  *dockerd
	closed  bool
}

// column is one way into a container: a runtime, and the shim or the hook.
type column struct {
	*lab
	name    string
	way     string // shim or hook
	runtime string // runc or crun; the low-level runtime's path for docker's columns too
	docker  bool
	broken  error // not even a plain container starts
	root    string
	config  string // config.toml of this column
	debug   string // where davit writes its trace
	cgroups bool   // name the container's cgroup
}

// deadlines of single steps.
const (
	shortTime = 30 * time.Second
	longTime  = 150 * time.Second // PyTorch, cold
)

func newLab(ctx context.Context, s settings, h *host) (*lab, error) {
	l := &lab{settings: s, ctx: ctx, host: h}
	for _, d := range []string{"containers", "state", "lowrt", "bin"} {
		if err := os.MkdirAll(s.path(d), 0o755); err != nil {
			return nil, err
		}
	}
	libs := s.path("runtimes", "lib")
	if _, err := os.Stat(s.path("docker", "bin", "dockerd")); err == nil {
		libs += ":" + s.path("docker", "lib")
	}
	l.env = []string{"PATH=" + s.path("bin") + ":" + s.path("runtimes/bin") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"LD_LIBRARY_PATH=" + libs, "HOME=/root"}
	for name, program := range map[string]string{
		"nvidia-container-runtime": "davit-runtime", "nvidia-container-runtime-hook": "davit-runtime",
		"davit-runtime": "davit-runtime", "davit": "davit", "floor-shim": "floor", "floor-hook": "floor"} {
		if err := copyFile(s.path("programs/bin", program), s.path("bin", name)); err != nil {
			return nil, err
		}
	}
	l.findPython()
	if err := l.tryOverlay(); err != nil {
		return nil, err
	}
	for _, rt := range []string{"runc", "crun"} {
		for _, way := range []string{"shim", "hook"} {
			c := &column{lab: l, name: rt + " " + way, way: way, runtime: s.path("runtimes/bin", rt), cgroups: true}
			if !s.wanted(c.name) {
				continue
			}
			c.root = s.path("state", "runtime-"+rt)
			if err := c.writeConfig(); err != nil {
				return nil, err
			}
			c.preflight()
			l.columns = append(l.columns, c)
		}
	}
	return l, l.addDocker()
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

// writeConfig makes this column's config.toml.
func (c *column) writeConfig() error {
	base := c.path("state", strings.ReplaceAll(c.name, " ", "-"))
	c.config, c.debug = base+".toml", base+".log"
	text := fmt.Sprintf("state-dir = %q\n", c.path("state", "davit"))
	if c.host.sim {
		text += fmt.Sprintf("host-root = %q\n", c.host.root)
	}
	text += fmt.Sprintf("[nvidia-container-cli]\ndebug = %q\n[nvidia-container-runtime]\ndebug = %q\nruntimes = [%q]\n", c.debug, c.debug, c.runtime)
	return os.WriteFile(c.config, []byte(text), 0o644)
}

// preflight starts a container that asks for nothing, and finds out whether
// the runtime wants to name the cgroup itself.
func (c *column) preflight() {
	r := c.start(container{image: "busybox", args: []string{"/bin/true"}})
	if r.code != 0 {
		first := r
		c.cgroups = false
		if r = c.start(container{image: "busybox", args: []string{"/bin/true"}}); r.code != 0 {
			c.broken = fmt.Errorf("a container without GPU does not start: %s", strings.TrimSpace(first.all()))
			for _, f := range cgroupFolders() { // a runtime that fails so early may leave them
				_ = unix.Rmdir(f)
			}
		}
	}
}

func (l *lab) findPython() {
	for _, p := range []string{"/opt/torch/.venv/bin/python3", "/usr/local/bin/python3", "/usr/bin/python3"} {
		if _, err := os.Stat(p); err != nil {
			continue
		}
		if l.python == "" {
			l.python = p
		}
		if l.torch == "" && l.command(shortTime, []string{"LD_LIBRARY_PATH="}, p, "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)").code == 0 {
			l.torch = p
		}
	}
}

// tryOverlay makes sure that overlays can be mounted in the work folder; if
// not (it may be one itself), their upper folders go to a tmpfs.
func (l *lab) tryOverlay() error {
	m, err := l.mountRoot("busybox")
	if err == nil {
		m.close()
		return nil
	}
	dir := l.path("containers")
	if err2 := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755,size=4g"); err2 != nil {
		return fmt.Errorf("mount an overlay: %w; mount a tmpfs: %w", err, err2)
	}
	if m, err = l.mountRoot("busybox"); err != nil {
		return fmt.Errorf("mount an overlay: %w", err)
	}
	m.close()
	return nil
}

// mounted is the fresh root of one container.
type mounted struct {
	dir  string // bundle
	root string // dir/rootfs
}

// hostLinks are links on the host into the driver's folder; an image made of
// the host must not have the driver.
var hostLinks = []string{"cuda", "nvidia", "nvcuvid", "GLX_nvidia", "EGL_nvidia", "GLESv", "nvoptix", "vdpau_nvidia"}

// mountRoot makes a bundle folder with an overlay over an image. The image
// named "host" is the host's own root file system, less the driver.
func (l *lab) mountRoot(image string) (*mounted, error) {
	l.serial++
	dir := l.path("containers", fmt.Sprintf("c%d", l.serial))
	m := &mounted{dir, filepath.Join(dir, "rootfs")}
	for _, d := range []string{"rootfs", "upper", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	lower := l.path("images", image)
	if image == "host" {
		lower = "/"
	}
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, dir, dir)
	if err := unix.Mount("overlay", m.root, "overlay", 0, opts); err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("overlay %s: %w", opts, err)
	}
	if image != "host" {
		return m, nil
	}
	for _, d := range []string{"usr/lib", "usr/lib/x86_64-linux-gnu", "usr/lib64"} {
		for _, n := range hostLinks {
			found, _ := filepath.Glob(filepath.Join(m.root, d, "lib"+n+"*"))
			for _, f := range found {
				if info, err := os.Lstat(f); err == nil && !info.IsDir() {
					_ = os.Remove(f) // in the overlay: the host's stays
				}
			}
		}
	}
	for _, n := range []string{"nvidia-smi", "nvidia-debugdump", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server", "nvidia-persistenced"} {
		_ = os.Remove(filepath.Join(m.root, "usr/bin", n))
	}
	return m, nil
}

// close unmounts and removes; what is still mounted is never removed.
func (m *mounted) close() {
	if err := unix.Unmount(m.root, 0); err != nil {
		if err := unix.Unmount(m.root, unix.MNT_DETACH); err != nil {
			return
		}
	}
	os.RemoveAll(m.dir)
}

func (l *lab) close() {
	if l.closed {
		return
	}
	l.closed = true
	if l.docker != nil {
		l.docker.stop()
	}
	_ = unix.Unmount(l.path("containers"), unix.MNT_DETACH)
}

// result is what a program or a container did.
type result struct {
	code  int // -1: ended by a signal or never started
	out   string
	err   string
	trace string // what davit wrote about it
	spec  []byte // the container's config.json as the runtime got it
	took  time.Duration
}

func (r result) all() string { return r.out + r.err }

// command runs a program to its end, or kills it and its children.
func (l *lab) command(limit time.Duration, env []string, name string, args ...string) result {
	return l.commandIn(l.ctx, limit, env, name, args...)
}

// cleanup runs a program even when the time is over.
func (l *lab) cleanup(name string, args ...string) {
	l.commandIn(context.WithoutCancel(l.ctx), shortTime, nil, name, args...)
}

func (l *lab) commandIn(ctx context.Context, limit time.Duration, env []string, name string, args ...string) result {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(append([]string{}, l.env...), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second // a container may hold the pipe
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	err := cmd.Run()
	r := result{out: out.String(), err: errs.String(), took: time.Since(start)}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		r.code = -1
		r.err += fmt.Sprintf("\n[killed after %s]", r.took.Round(time.Millisecond))
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		r.code = -1
		r.err += "\n[" + err.Error() + "]"
	}
	return r
}

// timed runs a program whose output goes to a file, because the container that
// it leaves behind holds it, and gives the time from its start to its end.
func (l *lab) timed(out *os.File, env []string, name string, args ...string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(l.ctx, shortTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(append([]string{}, l.env...), env...)
	cmd.Stdout, cmd.Stderr = out, out
	start := time.Now()
	err := cmd.Run()
	return time.Since(start), err
}
