// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"davit/internal/plan"

	"golang.org/x/sys/unix"
)

// The test binary is three programs: the tests, a container's prestart hook
// (hookEnv names a file that says what to apply), and the tests again inside a
// box (boxEnv): private namespaces with the cgroup hierarchies of one kind.
const (
	hookEnv = "DAVIT_TEST_LIVE_HOOK"
	boxEnv  = "DAVIT_TEST_LIVE_BOX"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(hookEnv); file != "" {
		if err := hook(file); err != nil {
			_ = os.WriteFile(file+".err", []byte(err.Error()), 0o600) // crun shows nothing
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// hookJob is what a test wants its hook to do.
type hookJob struct {
	Root, StateDir, Params, ParamsPath string
	Edits                              plan.Edits
	ForceBind                          bool
	NotesFile                          string
}

func hook(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var h hookJob
	if err := json.Unmarshal(text, &h); err != nil {
		return err
	}
	var state struct{ Pid int }
	in, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(in, &state); err != nil {
		return err
	}
	h.Edits.Params = h.Params
	notes, err := Apply(Target{Pid: state.Pid, RootPath: h.Root}, h.Edits,
		Options{StateDir: h.StateDir, ForceBind: h.ForceBind, paramsPath: h.ParamsPath})
	if err != nil {
		return err
	}
	return os.WriteFile(h.NotesFile, []byte(strings.Join(notes, "\n")), 0o600)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("this test makes device nodes and mount namespaces and needs root")
	}
	if err := exec.Command("unshare", "--mount", "true").Run(); err != nil {
		t.Skipf("this test needs mount namespaces, and unshare says: %v", err)
	}
}

// busybox is a static shell for the containers.
func busybox(t *testing.T) string {
	t.Helper()
	for _, p := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if out, err := exec.Command(p, "true").CombinedOutput(); err == nil && len(out) == 0 {
			return p
		}
	}
	t.Skip("this test needs a static busybox (Debian's package busybox-static)")
	return ""
}

// boxScript makes the cgroup hierarchies of a box. $1 is its kind. The caller's
// groups get a child each, to be the top of the box's cgroup namespace.
const boxScript = `
set -e
kind=$1 name=davit-test-$$; shift
top=/sys/fs/cgroup
unified=$top
[ "$(stat -f -c %T $top)" = cgroup2fs ] || unified=$top/unified
export DAVIT_TEST_DIRS=
enter() { mkdir "$1/$name"; echo $$ >"$1/$name/cgroup.procs"; DAVIT_TEST_DIRS="$1/$name $DAVIT_TEST_DIRS"; }
if [ $kind = v2 ]; then
	[ "$(stat -f -c %T $unified 2>/dev/null)" = cgroup2fs ] || { echo "no cgroup2 here"; exit 77; }
	enter $unified
else
	[ $unified != $top ] && [ -d $top/devices ] || { echo "no v1 device controller here"; exit 77; }
	enter $top/devices
fi
rc=0
unshare --mount --cgroup --propagation private sh -ec '
	kind=$1; shift
	if [ $kind = v2 ]; then
		mount -t cgroup2 cgroup2 /sys/fs/cgroup
		mkdir /sys/fs/cgroup/init
		echo $$ >/sys/fs/cgroup/init/cgroup.procs
	else
		# crun refuses hybrid hierarchies, and makes folders there even if nothing is mounted.
		! mountpoint -q /sys/fs/cgroup/unified || { umount /sys/fs/cgroup/unified; mount -t tmpfs tmpfs /sys/fs/cgroup/unified; }
	fi
	exec "$@"' box $kind "$@" || rc=$?
echo $$ >${DAVIT_TEST_DIRS%%/$name*}/cgroup.procs
# A group is busy for a moment after its last process.
for try in 1 2 3 4 5 6 7 8 9 10; do
	find $DAVIT_TEST_DIRS -depth -type d -exec rmdir {} + 2>/dev/null || :
	left=; for d in $DAVIT_TEST_DIRS; do [ ! -d $d ] || left=$d; done
	[ "$left" ] || break
	sleep 0.2
done
[ -z "$left" ] || { echo "cannot remove $left"; [ $rc != 0 ] || rc=1; }
exit $rc
`

// TestBoxes runs the container tests on each kind of cgroup hierarchy.
func TestBoxes(t *testing.T) {
	if os.Getenv(boxEnv) != "" {
		t.Skip("in a box already")
	}
	needRoot(t)
	for _, kind := range []string{"v1", "v2"} {
		t.Run(kind, func(t *testing.T) {
			args := []string{"-c", boxScript, "box", kind, os.Args[0], "-test.run=^TestContainer", "-test.v", "-test.timeout=5m"}
			if testing.Short() {
				args = append(args, "-test.short")
			}
			cmd := exec.Command("sh", args...)
			cmd.Env = append(os.Environ(), boxEnv+"="+kind)
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() == 77 {
				t.Skipf("%s cannot be tested: %s", kind, out)
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if !bytes.Contains(out, []byte("--- PASS: TestContainer")) {
				t.Errorf("no container test passed\n%s", out)
			}
			t.Logf("%s", out)
		})
	}
}

func inBox(t *testing.T) string {
	t.Helper()
	kind := os.Getenv(boxEnv)
	if kind == "" {
		t.Skip("run by TestBoxes")
	}
	return kind
}

// bundle is a container to be made.
type bundle struct {
	dir, root string
	script    string
	job       hookJob
	userNS    bool
	readOnly  bool
	mounts    []map[string]any // after /proc, /dev, /sys
	caps      []string
}

func newBundle(t *testing.T) *bundle {
	t.Helper()
	dir := t.TempDir()
	b := &bundle{dir: dir, root: filepath.Join(dir, "rootfs"), caps: []string{"CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER"}}
	makeRoot(t, b.root)
	b.job = hookJob{Root: b.root, StateDir: filepath.Join(dir, "state"), NotesFile: filepath.Join(dir, "notes")}
	return b
}

// cgroup is no other container's, in case two runs of the tests meet.
func (b *bundle) cgroup() string { return "/davit-live-" + strings.ReplaceAll(b.dir[1:], "/", "-") }

// makeRoot makes a small root file system with a static shell.
func makeRoot(t *testing.T, root string) {
	t.Helper()
	for _, d := range []string{"bin", "proc", "dev", "sys", "etc", "tmp", "usr/lib"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	data, err := os.ReadFile(busybox(t))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(root, "bin/busybox"), data, 0o755))
	for _, n := range []string{"sh", "cat", "ls", "mknod", "stat", "mount", "grep", "chmod", "dd", "id"} {
		must(t, os.Symlink("busybox", filepath.Join(root, "bin", n)))
	}
}

// run starts the container and gives its output, or the runtime's.
func (b *bundle) run(t *testing.T, runtime string) (string, error) {
	t.Helper()
	job, err := json.Marshal(b.job)
	must(t, err)
	jobFile := filepath.Join(b.dir, "job.json")
	must(t, os.WriteFile(jobFile, job, 0o600))
	self, err := os.Executable()
	must(t, err)
	namespaces := []map[string]any{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}}
	linux := map[string]any{
		"cgroupsPath": b.cgroup(),
		"resources":   map[string]any{"devices": []any{map[string]any{"allow": false, "access": "rwm"}}},
		"maskedPaths": []string{"/proc/kcore"}, "readonlyPaths": []string{"/proc/sys"},
	}
	if b.userNS {
		namespaces = append(namespaces, map[string]any{"type": "user"})
		ids := []any{map[string]any{"containerID": 0, "hostID": 100000, "size": 65536}}
		linux["uidMappings"], linux["gidMappings"] = ids, ids
	}
	linux["namespaces"] = namespaces
	mounts := []map[string]any{
		{"destination": "/proc", "type": "proc", "source": "proc"},
		{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755"}},
	}
	config, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.2", "hostname": "test",
		"root": map[string]any{"path": b.root, "readonly": b.readOnly},
		"process": map[string]any{
			"user": map[string]any{"uid": 0, "gid": 0}, "cwd": "/", "env": []string{"PATH=/bin"},
			"args":         []string{"/bin/sh", "-c", "exec 2>&1\n" + b.script}, // one stream, so that lines stay whole
			"capabilities": map[string]any{"bounding": b.caps, "effective": b.caps, "permitted": b.caps},
		},
		"mounts": append(mounts, b.mounts...),
		"hooks": map[string]any{"prestart": []any{map[string]any{
			"path": self, "args": []string{"hook", "prestart"}, "env": []string{hookEnv + "=" + jobFile}}}},
		"linux": linux,
	})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(b.dir, "config.json"), config, 0o600))
	cmd := exec.Command(runtime, "--root", filepath.Join(b.dir, "run"), "run", "--bundle", b.dir, "c1")
	os.Remove(jobFile + ".err")
	out, err := cmd.CombinedOutput()
	hookErr, _ := os.ReadFile(jobFile + ".err")
	return string(out) + string(hookErr), err
}

// runtimes gives the low-level runtimes that can start a plain container here.
func runtimes(t *testing.T, f func(t *testing.T, runtime string)) {
	t.Helper()
	needRoot(t)
	inBox(t)
	for _, r := range []string{"runc", "crun"} {
		t.Run(r, func(t *testing.T) {
			if _, err := exec.LookPath(r); err != nil {
				t.Skipf("%s is not installed", r)
			}
			plain := newBundle(t)
			plain.script = "echo fine"
			if out, err := plain.run(t, r); err != nil || out != "fine\n" {
				t.Skipf("%s cannot start a plain container here: %v %s", r, err, out)
			}
			before := hostMounts(t)
			f(t, r)
			if after := hostMounts(t); after != before {
				t.Errorf("mounts of the host changed\nbefore:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

func hostMounts(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	return string(text)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte(text), 0o644))
}

// testNode is a device of this machine that opens, and none that a runtime
// gives to every container.
func testNodes(t *testing.T) (given, refused plan.Device) {
	t.Helper()
	var found []plan.Device
	for _, p := range []string{"/dev/fuse", "/dev/loop-control", "/dev/userfaultfd", "/dev/vhost-net"} {
		var st unix.Stat_t
		if unix.Stat(p, &st) != nil {
			continue
		}
		if f, err := os.Open(p); err == nil {
			f.Close()
			var d plan.Device
			d.Host, d.Major, d.Minor, d.Mode = p, unix.Major(st.Rdev), unix.Minor(st.Rdev), 0o666
			found = append(found, d)
		}
	}
	if len(found) < 2 {
		t.Skip("this test needs two devices among fuse, loop-control, userfaultfd and vhost-net that can be opened")
	}
	return found[0], found[1]
}
