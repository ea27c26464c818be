// SPDX-License-Identifier: Apache-2.0

// Package live applies edits to a container that is created and not yet
// started: the way of docker's prestart hook. The hook runs as root in the
// runtime's namespaces, after the container's mounts are made and before
// pivot_root, so the container's tree is complete and no program of it runs.
//
// All of the host is opened first, in the host's mount namespace. Then a
// thread that is thrown away afterwards enters the container's mount
// namespace, opens its root as a descriptor, and attaches descriptor to
// descriptor. The device cgroup is changed last: whatever fails before, the
// container has not got one device, and the runtime does not start it.
package live

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"davit/internal/loader"
	"davit/internal/plan"
	"davit/internal/rootfs"

	"golang.org/x/sys/unix"
)

// Target is a created container.
type Target struct {
	Pid int // its first process, as in the hook's state
	// RootPath is the absolute path of its root file system on the host, as
	// in its config.json. The path is trusted, what is below it is not.
	RootPath string
}

// Options are what Apply leaves to its caller.
type Options struct {
	// StateDir holds the few small files that are mounted from: the params
	// copy, and loader caches for roots that cannot be written. Their names
	// are hashes of their content. Default /run/davit.
	StateDir string
	// ForceBind takes the way for kernels without open_tree, move_mount and
	// mount_setattr even where they exist.
	ForceBind bool
	// NoCgroups leaves the device cgroup as it is (rootless engines).
	NoCgroups bool
	// Drop says which entries of the container's loader cache to leave out;
	// nil for none.
	Drop func(loader.Entry) bool

	paramsPath string // a test has no NVIDIA driver
}

// Apply makes the edits, or none that the container could use: after an error
// the caller must make the runtime fail, as a prestart hook does by its exit
// status. An error is one line: what, where, what to do. The notes are
// sentences for the trace.
//
// Where the container has a user namespace of its own, nodes are bound from
// the host instead of made. Edits.GIDs cannot be applied to a process that
// exists; a note says so.
func Apply(t Target, e plan.Edits, o Options) (notes []string, err error) {
	if o.StateDir == "" {
		o.StateDir = "/run/davit"
	}
	if o.paramsPath == "" {
		o.paramsPath = "/proc/driver/nvidia/params"
	}
	j := &job{Options: o, target: t, edits: e, bind: o.ForceBind}
	defer j.close()
	if err := j.prepare(); err != nil {
		return nil, err
	}
	if err := inNamespace(j.mntns, j.edit); err != nil {
		return nil, err
	}
	// Inside a user namespace no engine can restrict devices, and nobody could allow them.
	if !o.NoCgroups && !j.inUserNS && len(e.Devices) > 0 {
		if err := j.allowDevices(); err != nil {
			return nil, err
		}
	}
	if len(e.GIDs) > 0 {
		j.notes = append(j.notes, fmt.Sprintf("a hook cannot add the groups %v to the process; start with --group-add if it is not root and cannot open its GPU", e.GIDs))
	}
	return j.notes, nil
}

// job is one Apply.
type job struct {
	Options
	target Target
	edits  plan.Edits
	notes  []string

	// Of the host, opened before the container's namespace is entered.
	proc     *os.File // /proc/PID: it cannot turn into a later process of that number
	mntns    *os.File
	rootStat unix.Stat_t
	hostDev  uint64 // the file system of the host's own /dev
	sources  []*source
	nodes    []*source // one for each device, if they are bound
	params   *source
	null     *source
	bind     bool // the old way to mount
	inUserNS bool // this process is not in the first user namespace
	rootUID  int  // who root of the container's user namespace is here; -1 if it has none of its own
	rootGID  int

	// Of the container.
	root    *rootfs.Handle
	shared  map[int]bool // ids of mounts whose changes reach other namespaces
	checked map[string]bool
}

func (j *job) close() {
	for _, s := range append(append(j.sources, j.nodes...), j.params, j.null) {
		s.close()
	}
	for _, f := range []*os.File{j.proc, j.mntns} {
		if f != nil {
			f.Close()
		}
	}
}

// initialUserNS is the link text of the first user namespace (PROC_USER_INIT_INO).
const initialUserNS = "user:[4026531837]"

// prepare opens all that is needed of the host.
func (j *job) prepare() error {
	pid := strconv.Itoa(j.target.Pid)
	var err error
	if j.proc, err = openPath("/proc/"+pid, unix.O_DIRECTORY); err != nil {
		return fmt.Errorf("enter the container's process %s: %w; it ended before it was started", pid, cause(err))
	}
	fd, err := unix.Openat(int(j.proc.Fd()), "ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = unix.ESRCH // a process that has ended has none
		}
		return fmt.Errorf("open the mount namespace of process %s: %w; the container ended before it was started", pid, err)
	}
	j.mntns = os.NewFile(uintptr(fd), "/proc/"+pid+"/ns/mnt")
	if err := unix.Stat(j.target.RootPath, &j.rootStat); err != nil {
		return fmt.Errorf("find the container's root %s: %w; the path of the bundle's config.json must exist on the host", j.target.RootPath, err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/dev", &st); err == nil {
		j.hostDev = st.Dev
	}
	bindNodes, err := j.userNamespace(pid)
	if err != nil {
		return err
	}
	if err := j.openSources(bindNodes); err != nil {
		return err
	}
	if text, err := readAt(j.proc, "mountinfo"); err != nil {
		return fmt.Errorf("read the mounts of process %s: %w", pid, err)
	} else {
		j.shared = sharedMounts(text)
	}
	return nil
}

// userNamespace looks at the container's user namespace: a node made in one
// cannot be opened, so it must be bound.
func (j *job) userNamespace(pid string) (bindNodes bool, err error) {
	j.rootUID, j.rootGID = -1, -1
	own, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return false, fmt.Errorf("read /proc/self/ns/user: %w", cause(err))
	}
	theirs, err := os.Readlink("/proc/" + pid + "/ns/user")
	if err != nil {
		return false, fmt.Errorf("read the user namespace of process %s: %w", pid, cause(err))
	}
	j.inUserNS = own != initialUserNS
	if own == theirs {
		return j.inUserNS, nil
	}
	for file, id := range map[string]*int{"uid_map": &j.rootUID, "gid_map": &j.rootGID} {
		text, err := readAt(j.proc, file)
		if err != nil {
			return false, fmt.Errorf("read %s of process %s: %w", file, pid, err)
		}
		if *id = mappedRoot(string(text)); *id < 0 {
			return false, fmt.Errorf("read %s of process %s: its user namespace has no root; give it one, or let the runtime do it (--runtime=nvidia, or CDI)", file, pid)
		}
	}
	return true, nil
}

// mappedRoot finds in a uid_map who 0 is; -1 if nobody.
func mappedRoot(text string) int {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "0" {
			if id, err := strconv.Atoi(f[1]); err == nil {
				return id
			}
		}
	}
	return -1
}

// becomeRoot makes this thread create files as root of the container's user
// namespace, if it has one of its own. A file system of a user namespace
// takes no files of users it does not know. Capabilities stay.
func (j *job) becomeRoot(uid, gid int) error {
	if j.rootUID < 0 {
		return nil
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&head, &caps[0]); err != nil {
		return fmt.Errorf("read own capabilities: %w", err)
	}
	if _, err := unix.SetfsgidRetGid(gid); err != nil {
		return fmt.Errorf("take the group of the container's root: %w", err)
	}
	if _, err := unix.SetfsuidRetUid(uid); err != nil {
		return fmt.Errorf("take the user of the container's root: %w", err)
	}
	// Leaving user 0 took the file capabilities away.
	if err := unix.Capset(&head, &caps[0]); err != nil {
		return fmt.Errorf("keep own capabilities: %w", err)
	}
	return nil
}

func (j *job) openSources(bindNodes bool) error {
	const safe = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	for _, m := range j.edits.Mounts {
		s := &source{path: m.Source, folder: m.Folder, socket: m.Writable && !m.Folder, attr: safe}
		if !m.Writable {
			s.attr |= unix.MOUNT_ATTR_RDONLY
		}
		j.sources = append(j.sources, s)
		if err := s.open(&j.bind); err != nil {
			return err
		}
	}
	if bindNodes {
		for _, d := range j.edits.Devices {
			// Read-only does not keep a program from writing to the device, but from chmod.
			s := &source{path: d.Host, device: true, rdev: unix.Mkdev(d.Major, d.Minor),
				attr: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC}
			j.nodes = append(j.nodes, s)
			if err := s.open(&j.bind); err != nil {
				return err
			}
		}
	}
	if len(j.edits.Masks) > 0 {
		j.null = &source{path: "/dev/null", device: true, rdev: unix.Mkdev(1, 3),
			attr: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC}
		if err := j.null.open(&j.bind); err != nil {
			return err
		}
	}
	if j.edits.Params != "" {
		file, err := stateFile(j.StateDir, "params", []byte(j.edits.Params))
		if err != nil && j.inUserNS {
			// A rootless engine has no /run/davit; it also has no right to make nodes.
			j.notes = append(j.notes, "the container keeps the host's /proc/driver/nvidia/params: "+err.Error())
			return nil
		}
		if err != nil {
			return err
		}
		j.params = &source{path: file, attr: safe | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_RDONLY}
		return j.params.open(&j.bind)
	}
	return nil
}

// inNamespace runs f on a thread of its own in the mount namespace ns. The
// thread is never used again: its goroutine ends while it is locked.
func inNamespace(ns *os.File, f func() error) error {
	return onSpareThread(func() error {
		// setns(2) wants a working directory and root that no other thread shares.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("leave the host's working directory: %w; %s", err, hint(err))
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter the container's mount namespace: %w; %s", err, hint(err))
		}
		unix.Umask(0) // of this thread alone: nodes and folders get the mode that is meant
		return f()
	})
}

// onSpareThread runs f on a thread that ends with it. It is never the first
// one: that cannot end, and /proc/self would be in the container from then on.
func onSpareThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- onSpareThread(f) // this one is held meanwhile
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}

// edit makes all edits but the cgroup's, inside the container's namespace.
func (j *job) edit() error {
	if err := j.openRoot(); err != nil {
		return err
	}
	defer j.root.Close()
	if err := j.becomeRoot(j.rootUID, j.rootGID); err != nil {
		return err
	}
	j.checked = map[string]bool{}
	for i, d := range j.edits.Devices {
		var s *source
		if j.nodes != nil {
			s = j.nodes[i]
		}
		if err := j.node(d, s); err != nil {
			return err
		}
	}
	for i, m := range j.edits.Mounts {
		if err := j.mount(j.sources[i], m.Target); err != nil {
			return err
		}
	}
	for _, m := range j.edits.Masks {
		if err := j.mask(m.Path); err != nil {
			return err
		}
	}
	if j.params != nil {
		if err := j.mountParams(); err != nil {
			return err
		}
	}
	if len(j.edits.Cache) > 0 {
		return j.mergeCache()
	}
	return nil
}

// openRoot opens the container's root. The inode must be the one that the host
// sees at RootPath: had the container pivoted already, the path would be
// looked up inside its own tree.
func (j *job) openRoot() error {
	p := j.target.RootPath
	h, err := rootfs.OpenHandle(p)
	if err != nil {
		return fmt.Errorf("open the container's root %s in its mount namespace: %w; the runtime must call this as a prestart hook, before pivot_root", p, cause(err))
	}
	if !sameFile(h.File(), &j.rootStat) {
		h.Close()
		return fmt.Errorf("open the container's root %s in its mount namespace: another folder is there; the runtime must call this as a prestart hook, before pivot_root", p)
	}
	j.root = h
	return nil
}
