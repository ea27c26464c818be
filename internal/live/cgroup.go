// SPDX-License-Identifier: Apache-2.0

package live

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"davit/internal/plan"

	"golang.org/x/sys/unix"
)

// group is the control group that decides about a process's devices.
type group struct {
	v1   bool
	path string // as /proc/PID/cgroup says
	dir  string // where it is mounted
}

// cgroupMount is one mount of a cgroup hierarchy.
type cgroupMount struct {
	root, point string
}

// allowDevices opens the container's device cgroup for the nodes.
func (j *job) allowDevices() error {
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	theirs, err := readAt(j.proc, "cgroup")
	if err != nil {
		return fmt.Errorf("read the control groups of process %d: %w; %s", j.target.Pid, err, hint(err))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	g, err := findGroup(string(theirs), string(mounts), j.target.Pid)
	if err != nil {
		return err
	}
	if g == nil {
		return nil // no hierarchy that could refuse a device
	}
	// A container without a group of its own lives by the rules of whoever
	// started it. They are not ours to change.
	own := groupPath(string(self), g.v1)
	shared := own == g.path
	if g.v1 {
		return allowV1(g.dir, j.edits.Devices, shared)
	}
	return allowV2(g.dir, j.edits.Devices, shared)
}

// groupPath finds in the text of /proc/PID/cgroup the path in the hierarchy
// that holds the device controller (v1), or in the unified one.
func groupPath(text string, v1 bool) string {
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		if v1 && hasWord(f[1], "devices") || !v1 && f[0] == "0" && f[1] == "" {
			return f[2]
		}
	}
	return ""
}

func hasWord(list, word string) bool { return slices.Contains(strings.Split(list, ","), word) }

// cgroupMounts reads from a mountinfo text where the hierarchy is mounted.
func cgroupMounts(mountinfo string, v1 bool) []cgroupMount {
	var found []cgroupMount
	for line := range strings.Lines(mountinfo) {
		head, tail, ok := strings.Cut(line, " - ")
		f, t := strings.Fields(head), strings.Fields(tail)
		if !ok || len(f) < 6 || len(t) < 3 {
			continue
		}
		if v1 && t[0] == "cgroup" && hasWord(t[2], "devices") || !v1 && t[0] == "cgroup2" {
			found = append(found, cgroupMount{root: unescape(f[3]), point: unescape(f[4])})
		}
	}
	return found
}

// unescape undoes mountinfo's \040 and its like.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// within is where a group lies below a mount that shows the hierarchy from
// root on; false if it is outside of it. Where this process has a cgroup
// namespace, both may start with "/..".
func (m cgroupMount) within(group string) (string, bool) {
	rest, ok := strings.CutPrefix(group, strings.TrimSuffix(m.root, "/"))
	if !ok || rest != "" && rest[0] != '/' || slices.Contains(strings.Split(rest, "/"), "..") {
		return "", false
	}
	return path.Join(m.point, rest), true
}

// visible says whether the mount is not hidden by another one over it.
func (m cgroupMount) visible(v1 bool) bool {
	want := int64(unix.CGROUP2_SUPER_MAGIC)
	if v1 {
		want = unix.CGROUP_SUPER_MAGIC
	}
	var st unix.Statfs_t
	return unix.Statfs(m.point, &st) == nil && int64(st.Type) == want
}

// findGroup finds the group that decides about the devices of pid: that of
// the v1 device controller where one is mounted, else the unified one. nil
// means that there is none.
func findGroup(cgroup, mountinfo string, pid int) (*group, error) {
	for _, v1 := range []bool{true, false} {
		p, seen := groupPath(cgroup, v1), false
		for _, m := range cgroupMounts(mountinfo, v1) {
			if p == "" || !m.visible(v1) {
				continue
			}
			seen = true
			if dir, ok := m.within(p); ok && holds(dir, pid) {
				return &group{v1: v1, path: p, dir: dir}, nil
			}
		}
		if !seen {
			continue
		}
		return nil, fmt.Errorf("find the control group %s of process %d: it is not below any mounted hierarchy; start the engine in the host's cgroup namespace, or set no-cgroups", p, pid)
	}
	return nil, nil
}

// holds says whether a process is in the group at dir.
func holds(dir string, pid int) bool {
	text, err := os.ReadFile(path.Join(dir, "cgroup.procs"))
	if err != nil {
		return false
	}
	want := strconv.Itoa(pid)
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == want {
			return true
		}
	}
	return false
}

// allowV1 writes the numbers to devices.allow.
func allowV1(dir string, devices []plan.Device, shared bool) error {
	if shared {
		list, err := os.ReadFile(path.Join(dir, "devices.list"))
		if err == nil && strings.HasPrefix(string(list), "a *:* rwm") {
			return nil
		}
		return errSharedGroup(dir)
	}
	file := path.Join(dir, "devices.allow")
	fd, err := unix.Open(file, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w; %s", file, err, hint(err))
	}
	defer unix.Close(fd)
	for _, d := range devices {
		// One rule a write; mknod is not given.
		rule := fmt.Sprintf("c %d:%d rw", d.Major, d.Minor)
		if _, err := unix.Write(fd, []byte(rule)); err != nil {
			if errors.Is(err, unix.EPERM) {
				return fmt.Errorf("allow %s (%s) in %s: %w; a control group above it refuses the device, allow it there", d.Path, rule, file, err)
			}
			return fmt.Errorf("allow %s (%s) in %s: %w; %s", d.Path, rule, file, err, hint(err))
		}
	}
	return nil
}

func errSharedGroup(dir string) error {
	return fmt.Errorf("allow devices in %s: the container has no control group of its own, and that of its engine refuses devices; give the container one, or allow the GPU's devices there", dir)
}
