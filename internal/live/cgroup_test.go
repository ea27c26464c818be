// SPDX-License-Identifier: Apache-2.0

package live

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"davit/internal/plan"

	"golang.org/x/sys/unix"
)

func TestGroupPath(t *testing.T) {
	for _, test := range []struct{ text, v1, v2 string }{
		{"", "", ""},
		{"0::/\n", "", "/"},
		{"0::/system.slice/docker-1.scope\n", "", "/system.slice/docker-1.scope"},
		{"9:name=systemd:/x\n5:devices:/docker/1\n0::/u\n", "/docker/1", "/u"},
		{"4:cpu,devices,pids:/a:b\n", "/a:b", ""},
		{"4:name=devices:/a\nrubbish\n", "", ""},
	} {
		if v1, v2 := groupPath(test.text, true), groupPath(test.text, false); v1 != test.v1 || v2 != test.v2 {
			t.Errorf("%q: %q, %q", test.text, v1, v2)
		}
	}
}

func TestCgroupMounts(t *testing.T) {
	const info = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
36 31 0:33 /box /sys/fs/cgroup/devices rw,relatime shared:3 - cgroup cgroup rw,devices
37 31 0:34 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
41 31 0:38 / /odd\040name rw,relatime - cgroup2 cgroup2 rw
short - cgroup2
`
	if got := cgroupMounts(info, true); !slices.Equal(got, []cgroupMount{{"/box", "/sys/fs/cgroup/devices"}}) {
		t.Errorf("v1: %v", got)
	}
	if got := cgroupMounts(info, false); !slices.Equal(got, []cgroupMount{{"/", "/odd name"}}) {
		t.Errorf("v2: %v", got)
	}
}

func TestWithin(t *testing.T) {
	for _, test := range []struct{ root, group, want string }{
		{"/", "/docker/1", "/m/docker/1"},
		{"/", "/", "/m"},
		{"/box", "/box/docker/1", "/m/docker/1"},
		{"/box", "/box", "/m"},
		{"/box", "/boxes/1", ""},
		{"/box", "/other", ""},
		{"/", "/../x", ""},
		{"/..", "/../x", "/m/x"},
		{"/..", "/../../x", ""},
		{"/..", "/x", ""},
	} {
		got, ok := cgroupMount{test.root, "/m"}.within(test.group)
		if got != test.want || ok != (test.want != "") {
			t.Errorf("%s in %s: %q, %v", test.group, test.root, got, ok)
		}
	}
}

func TestMappedRoot(t *testing.T) {
	for text, want := range map[string]int{
		"         0     100000      65536\n": 100000,
		"1 5 1\n0 7 1\n":                     7,
		"1 5 1\n":                            -1,
		"":                                   -1,
	} {
		if got := mappedRoot(text); got != want {
			t.Errorf("%q: %d", text, got)
		}
	}
}

func TestSharedMounts(t *testing.T) {
	got := sharedMounts([]byte("31 23 0:28 / / rw - ext4 x rw\n32 31 0:1 / /a rw shared:5 master:1 - ext4 x rw\n33 31 0:1 / /b rw master:9 - ext4 shared:1 rw\n"))
	if len(got) != 1 || !got[32] {
		t.Error(got)
	}
}

// FuzzCgroup: no text makes the readers fail hard, and no group is placed
// outside of its mount.
func FuzzCgroup(f *testing.F) {
	f.Add("5:devices:/docker/1\n0::/x\n", "36 31 0:33 /box /m\\040x rw shared:3 - cgroup cgroup rw,devices\n")
	f.Add("0::/../x\n", "36 31 0:33 /.. /m rw - cgroup2 cgroup rw\n")
	f.Fuzz(func(t *testing.T, cgroup, mountinfo string) {
		sharedMounts([]byte(mountinfo))
		mappedRoot(cgroup)
		for _, v1 := range []bool{true, false} {
			group := groupPath(cgroup, v1)
			for _, m := range cgroupMounts(mountinfo, v1) {
				if dir, ok := m.within(group); ok {
					point := filepath.Clean(m.point)
					if rel, err := filepath.Rel(point, dir); strings.HasPrefix(m.point, "/") && (err != nil || rel == ".." || strings.HasPrefix(rel, "../")) {
						t.Errorf("%q in %+v is %q", group, m, dir)
					}
				}
			}
		}
	})
}

func TestCopyable(t *testing.T) {
	good := []insn{{op: opMove, imm: 1}, {op: opExit}}
	for _, test := range []struct {
		name string
		prog []insn
		want string
	}{
		{"plain", good, ""},
		{"64-bit constant", []insn{{op: opLoad64, imm: 1}, {op: opCall}, {op: opExit}}, ""}, // the second half is no operation
		{"hidden", nil, "the kernel does not show it"},
		{"call", append([]insn{{op: opCall, imm: 14}}, good...), errNotCopyable.Error()},
		{"map", append([]insn{{op: opLoad64, regs: 1<<4 | 2, imm: 7}, {}}, good...), errNotCopyable.Error()},
		{"blinded", append([]insn{{op: opMove, regs: 11, imm: 7}}, good...), "net.core.bpf_jit_harden"},
	} {
		err := copyable(test.prog)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// TestAllowV1 changes a real group of the device controller.
func TestAllowV1(t *testing.T) {
	needRoot(t)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	dir := ""
	for _, m := range cgroupMounts(string(mounts), true) {
		if m.visible(true) {
			dir = filepath.Join(m.point, fmt.Sprintf("davit-test-%d", os.Getpid()))
		}
	}
	if dir == "" || os.Mkdir(dir, 0o755) != nil {
		t.Skip("this test needs the device controller of cgroup v1")
	}
	defer removeGroup(t, dir)
	given, refused := testNodes(t)
	// A group with all allowed needs no change, whoever's it is.
	must(t, allowV1(dir, []plan.Device{given}, true))
	must(t, os.WriteFile(dir+"/devices.deny", []byte("a"), 0))
	must(t, os.WriteFile(dir+"/devices.allow", []byte("c 1:3 rw"), 0))
	if err := allowV1(dir, []plan.Device{given}, true); err == nil || opens(t, dir, given, "<") {
		t.Errorf("a group that is not the container's was changed (%v)", err)
	}
	must(t, allowV1(dir, []plan.Device{given}, false))
	if !opens(t, dir, given, "<>") || opens(t, dir, refused, "<") {
		t.Error("not the given node alone opens")
	}
	below := dir + "/below"
	must(t, os.Mkdir(below, 0o755))
	defer removeGroup(t, below)
	err = allowV1(below, []plan.Device{given, refused}, false)
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "a control group above it refuses the device") {
		t.Errorf("above is refused: %v", err)
	}
}

// denyAll is a device filter shaped like runc's: it lets some standard nodes
// through and refuses all else.
func denyAll() []insn {
	return []insn{
		{op: opLoadWord, regs: 2 | 1<<4, off: ctxAccessType},
		{op: opAnd32, regs: 2, imm: 0xffff},
		{op: opLoadWord, regs: 4 | 1<<4, off: ctxMajor},
		{op: opLoadWord, regs: 5 | 1<<4, off: ctxMinor},
		{op: opJumpNot, regs: 2, imm: devChar, off: 4},
		{op: opJumpNot, regs: 4, imm: 1, off: 3},
		{op: opJumpNot, regs: 5, imm: 3, off: 2}, // /dev/null
		{op: opMove, regs: 0, imm: 1},
		{op: opExit},
		{op: opMove, regs: 0, imm: 0},
		{op: opExit},
	}
}

// newGroup makes a cgroup2 group, to be removed after the test.
func newGroup(t *testing.T) string {
	t.Helper()
	needRoot(t)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for _, m := range cgroupMounts(string(mounts), false) {
		if dir := filepath.Join(m.point, fmt.Sprintf("davit-test-%d", os.Getpid())); m.visible(false) && os.Mkdir(dir, 0o755) == nil {
			t.Cleanup(func() { removeGroup(t, dir) })
			return dir
		}
	}
	t.Skip("this test needs a cgroup2 mount in which it can make a group")
	return ""
}

// removeGroup waits for the kernel: a group is busy for a moment after its last process.
func removeGroup(t *testing.T, dir string) {
	t.Helper()
	var err error
	for range 100 {
		if err = os.Remove(dir); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error(err)
}

// attach loads a program and attaches it to the group.
func attach(t *testing.T, dir string, prog []insn, flags uint32) {
	t.Helper()
	fd, err := loadProg(prog, false)
	must(t, err)
	defer unix.Close(fd)
	group, err := os.Open(dir)
	must(t, err)
	defer group.Close()
	must(t, replaceProg(group, -1, fd, flags&^unix.BPF_F_ALLOW_MULTI))
}

func attachMulti(t *testing.T, dir string, progs ...[]insn) {
	t.Helper()
	group, err := os.Open(dir)
	must(t, err)
	defer group.Close()
	for _, prog := range progs {
		fd, err := loadProg(prog, false)
		must(t, err)
		a := attachAttr{targetFd: uint32(group.Fd()), attachBpfFd: uint32(fd), attachType: attachDev, attachFlags: unix.BPF_F_ALLOW_MULTI}
		_, err = bpf(unix.BPF_PROG_ATTACH, ptr(&a), size(a))
		must(t, err)
		unix.Close(fd)
	}
}

// opens tries nodes from a process in the group.
func opens(t *testing.T, dir string, node plan.Device, how string) bool {
	t.Helper()
	script := fmt.Sprintf("echo $$ >%s/cgroup.procs && exec 3%s%s", dir, how, node.Host)
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "Operation not permitted") {
		t.Fatalf("%s: %v %s", script, err, out)
	}
	return err == nil
}

func programIDs(t *testing.T, dir string) []uint32 {
	t.Helper()
	group, err := os.Open(dir)
	must(t, err)
	defer group.Close()
	ids, _, err := queryProgs(group)
	must(t, err)
	return ids
}

// TestAllowV2 extends real filters of a real group.
func TestAllowV2(t *testing.T) {
	for _, test := range []struct {
		name   string
		attach func(t *testing.T, dir string)
		progs  int
	}{
		{"alone", func(t *testing.T, dir string) { attach(t, dir, denyAll(), 0) }, 1},
		{"overridable", func(t *testing.T, dir string) { attach(t, dir, denyAll(), unix.BPF_F_ALLOW_OVERRIDE) }, 1},
		{"multi", func(t *testing.T, dir string) { attachMulti(t, dir, denyAll()) }, 1},
		{"two", func(t *testing.T, dir string) {
			attachMulti(t, dir, denyAll(), append([]insn{{op: opMove, regs: 7, imm: 0}}, denyAll()...))
		}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := newGroup(t)
			given, refused := testNodes(t)
			test.attach(t, dir)
			if opens(t, dir, given, "<") {
				t.Fatal("the filter does not refuse")
			}
			must(t, allowV2(dir, []plan.Device{{}, given}, false))
			if n := len(programIDs(t, dir)); n != test.progs {
				t.Errorf("%d programs are attached", n)
			}
			for _, how := range []string{"<", ">", "<>"} {
				if !opens(t, dir, given, how) {
					t.Errorf("the given node does not open with %s", how)
				}
			}
			null := plan.Device{}
			null.Host = "/dev/null"
			if !opens(t, dir, null, "<>") {
				t.Error("a node that was allowed before is not now")
			}
			if opens(t, dir, refused, "<") {
				t.Error("another node opens")
			}
			// mknod is the old filter's business.
			node := filepath.Join(t.TempDir(), "node")
			script := fmt.Sprintf("echo $$ >%s/cgroup.procs && mknod %s c %d %d", dir, node, given.Major, given.Minor)
			if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err == nil {
				t.Errorf("mknod was allowed: %s", out)
			}
			// Once more, as when a hook runs twice.
			must(t, allowV2(dir, []plan.Device{refused}, false))
			if !opens(t, dir, refused, "<") || !opens(t, dir, given, "<") {
				t.Error("a second change lost something")
			}
		})
	}
}

// TestAllowV2Undo: where one of several filters cannot be changed, none is.
func TestAllowV2Undo(t *testing.T) {
	dir := newGroup(t)
	given, _ := testNodes(t)
	// bpf_ktime_get_ns (5) is a function.
	attachMulti(t, dir, denyAll(), append([]insn{{op: opMove, regs: 6}, {op: opCall, imm: 5}}, insn{op: opMove, imm: 1}, insn{op: opExit}))
	before := programIDs(t, dir)
	err := allowV2(dir, []plan.Device{given}, false)
	if !errors.Is(err, errNotCopyable) {
		t.Fatal(err)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than a line: %v", err)
	}
	after := programIDs(t, dir)
	if !slices.Equal(before, after) {
		t.Errorf("programs %v, were %v", after, before)
	}
	if opens(t, dir, given, "<") {
		t.Error("the device is open")
	}
}

func TestAllowV2Shared(t *testing.T) {
	dir := newGroup(t)
	given, _ := testNodes(t)
	must(t, allowV2(dir, []plan.Device{given}, true)) // no filter, nothing to do
	if n := len(programIDs(t, dir)); n != 0 {
		t.Errorf("%d programs", n)
	}
	attach(t, dir, denyAll(), 0)
	if err := allowV2(dir, []plan.Device{given}, true); err == nil || opens(t, dir, given, "<") {
		t.Errorf("a group that is not the container's was changed (%v)", err)
	}
}

// TestAllowV2Many: the jump over all devices is long.
func TestAllowV2Many(t *testing.T) {
	dir := newGroup(t)
	given, _ := testNodes(t)
	attach(t, dir, denyAll(), 0)
	var many []plan.Device
	for i := range 1000 {
		var d plan.Device
		d.Major, d.Minor = 195, uint32(i)
		many = append(many, d)
	}
	must(t, allowV2(dir, append(many, given), false))
	if !opens(t, dir, given, "<") {
		t.Error("the last of many devices does not open")
	}
}

func ptr(a *attachAttr) unsafe.Pointer { return unsafe.Pointer(a) }
func size(a attachAttr) uintptr        { return unsafe.Sizeof(a) }
