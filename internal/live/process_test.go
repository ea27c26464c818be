// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"davit/internal/plan"

	"golang.org/x/sys/unix"
)

// TestNoProcess: the container ended before its hook ran, or has another root.
func TestNoProcess(t *testing.T) {
	root := filepath.Join(t.TempDir(), "rootfs")
	must(t, os.MkdirAll(root+"/dev", 0o755))
	c := newContainer(t, root, "slave")
	other := t.TempDir()
	if _, err := Apply(Target{Pid: c.pid, RootPath: other}, plan.Edits{}, Options{}); err != nil {
		t.Error(err) // the same folder in both namespaces
	}
	over := exec.Command("nsenter", "-m", "-t", fmt.Sprint(c.pid), "mount", "-t", "tmpfs", "tmpfs", other)
	if out, err := over.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if _, err := Apply(Target{Pid: c.pid, RootPath: other}, plan.Edits{}, Options{}); err == nil || !strings.Contains(err.Error(), "another folder is there") {
		t.Error(err)
	}
	c.stop()
	if _, err := Apply(Target{Pid: c.pid, RootPath: root}, plan.Edits{}, Options{}); err == nil || !strings.Contains(err.Error(), "it ended before it was started") {
		t.Error(err)
	}
}

const rootlessScript = `
root=$1
unshare --mount --propagation slave sh -c 'mount --bind "$0" "$0"; mount --make-private "$0"; mount -t tmpfs tmpfs "$0/dev"; : >"$0/up"; exec sleep 60' $root &
pid=$!
while [ ! -e $root/up ]; do sleep 0.01; done
echo "{\"pid\": $pid}" | $2 2>&1
nsenter -m -t $pid cat $root/usr/lib/libdavit.so.1
nsenter -m -t $pid stat -c '%F %t:%T' $root/dev/davit0
nsenter -m -t $pid grep $root/usr/lib/libdavit.so.1 /proc/self/mountinfo
kill $pid
`

// TestRootless: engine, hook and container live in one user namespace.
func TestRootless(t *testing.T) {
	needRoot(t)
	if err := exec.Command("unshare", "--user", "--map-root-user", "true").Run(); err != nil {
		t.Skipf("this test needs user namespaces, and unshare says: %v", err)
	}
	for _, forceBind := range []bool{false, true} {
		dir := t.TempDir()
		root := filepath.Join(dir, "rootfs")
		for _, d := range []string{"usr/lib", "etc", "dev"} {
			must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
		}
		job := hookJob{Root: root, StateDir: dir + "/state", NotesFile: dir + "/notes", Edits: attackEdits(t), ForceBind: forceBind}
		text, err := json.Marshal(job)
		must(t, err)
		must(t, os.WriteFile(dir+"/job", text, 0o600))
		self, err := os.Executable()
		must(t, err)
		cmd := exec.Command("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", rootlessScript, "sh", root, self)
		cmd.Env = append(os.Environ(), hookEnv+"="+dir+"/job")
		out, err := cmd.CombinedOutput()
		for _, want := range []string{"library\n", "character special file 1:3\n", "libdavit.so.1 ro,nosuid,nodev"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("bind=%v: missing %q: %v\n%s", forceBind, want, err, out)
			}
		}
	}
}

// TestThreads: afterwards no thread is left in the container, the first least of all.
func TestThreads(t *testing.T) {
	root := filepath.Join(t.TempDir(), "rootfs")
	must(t, os.MkdirAll(root+"/usr/lib", 0o755))
	must(t, os.MkdirAll(root+"/dev", 0o755))
	for range 2000 {
		must(t, onSpareThread(func() error {
			if unix.Gettid() == unix.Getpid() {
				return errors.New("on the first thread")
			}
			return nil
		}))
	}
	c := newContainer(t, root, "slave")
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", c.pid))
	must(t, err)
	for range 20 {
		_, err := Apply(Target{Pid: c.pid, RootPath: root}, attackEdits(t), Options{StateDir: t.TempDir(), NoCgroups: true})
		must(t, err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		tasks, err := filepath.Glob("/proc/self/task/*/ns/mnt")
		must(t, err)
		left := 0
		for _, task := range tasks {
			if ns, err := os.Readlink(task); err == nil && ns == theirs {
				left++
			}
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d threads are still in the container", left)
		}
	}
}

// BenchmarkApply: 4 nodes and 35 files, the container's process apart.
func BenchmarkApply(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("this needs root")
	}
	dir := b.TempDir()
	root := dir + "/rootfs"
	for _, d := range []string{root + "/usr/lib", root + "/dev"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	var e plan.Edits
	for i := range 35 {
		m := plan.Mount{Source: fmt.Sprintf("%s/lib%d.so", dir, i), Target: fmt.Sprintf("/usr/lib/lib%d.so", i)}
		if err := os.WriteFile(m.Source, nil, 0o644); err != nil {
			b.Fatal(err)
		}
		e.Mounts = append(e.Mounts, m)
	}
	for i := range 4 {
		var d plan.Device
		d.Path, d.Major, d.Minor, d.Mode = fmt.Sprintf("/dev/davit%d", i), 1, 3, 0o666
		e.Devices = append(e.Devices, d)
	}
	for b.Loop() {
		b.StopTimer()
		cmd := exec.Command("unshare", "--mount", "--propagation", "slave", "sh", "-c", `mount --bind "$0" "$0" && mount --make-private "$0" && mount -t tmpfs tmpfs "$0/dev" && echo up && exec sleep 60`, root)
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		_, _ = bufio.NewReader(out).ReadString('\n')
		b.StartTimer()
		_, err = Apply(Target{Pid: cmd.Process.Pid, RootPath: root}, e, Options{NoCgroups: true})
		b.StopTimer()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
