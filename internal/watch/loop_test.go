// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"davit/internal/nvidia"
	"davit/internal/simulate"
)

// running is a Run in a test.
type running struct {
	*gpuHost
	mu     sync.Mutex
	passes []Pass
}

func (h *gpuHost) run() *running {
	h.t.Helper()
	r := &running{gpuHost: h}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, h.dir, h.o, func(p Pass) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.passes = append(r.passes, p)
		})
	}()
	h.t.Cleanup(func() {
		stop()
		select {
		case err := <-ended:
			if err != nil {
				h.t.Error(err)
			}
		case <-time.After(10 * time.Second):
			h.t.Error("it does not stop")
		}
	})
	r.until("the first pass", func() bool { return len(r.passes) > 0 })
	r.settle()
	return r
}

// until waits for what the safety net would bring only after 30 s, and gives
// how long it took.
func (r *running) until(what string, ok func() bool) time.Duration {
	r.t.Helper()
	begin := time.Now()
	for {
		r.mu.Lock()
		done := ok()
		r.mu.Unlock()
		if done {
			return time.Since(begin)
		}
		if time.Since(begin) > safety/2 {
			r.t.Fatalf("%s: not within %s", what, safety/2)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// settle waits until nothing happens any more, and gives the number of passes.
func (r *running) settle() int {
	r.t.Helper()
	last, since := -1, time.Now()
	for time.Since(since) < 2*patience {
		r.mu.Lock()
		n := len(r.passes)
		r.mu.Unlock()
		if n != last {
			last, since = n, time.Now()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return last
}

// said waits for a change that begins so.
func (r *running) said(begin string) time.Duration {
	r.t.Helper()
	return r.until(begin, func() bool {
		return slices.ContainsFunc(r.passes, func(p Pass) bool {
			return slices.ContainsFunc(r.lines(p.Changes), func(s string) bool { return strings.HasPrefix(s, begin) })
		})
	})
}

func (r *running) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.passes = nil
}

// TestRun changes a host under the loop's eyes. On an idle machine each is
// seen 0.1 s after the change; the limit here is that of the safety net.
func TestRun(t *testing.T) {
	t.Parallel()
	h := newHost(t, simulate.Options{GPUs: 2, Driver: oldDriver, Arch: "amd64"})
	r := h.run()
	for _, c := range []struct {
		name, want string
		change     func()
	}{
		{"spec removed", "/etc/cdi/nvidia.yaml: written for driver 550.107.02, 2 GPUs", func() { h.must(os.Remove(h.o.Spec)) }},
		{"spec folder removed", "/etc/cdi/nvidia.yaml: written for driver 550.107.02, 2 GPUs", func() { h.must(os.RemoveAll(filepath.Dir(h.o.Spec))) }},
		{"spec written over", "/etc/cdi/nvidia.yaml: written for driver 550.107.02, 2 GPUs; another program's", func() {
			h.must(os.WriteFile(h.o.Spec, []byte("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\n"), 0o644))
		}},
		{"link removed", "/dev/char/195:0: linked", func() { h.must(os.Remove(h.path("/dev/char/195:0"))) }},
		{"links removed", "/dev/char/195:1: linked", func() { h.must(os.RemoveAll(h.path("/dev/char"))) }},
		{"node added", "/dev/char/195:7: linked", func() { h.addNode("/dev/nvidia7", 195, 7) }},
		{"library removed", "/etc/cdi/nvidia.yaml: written for driver 550.107.02, 2 GPUs; a path that it names is gone", func() {
			h.must(os.Remove(h.path("/usr/lib/x86_64-linux-gnu/libnvidia-encode.so." + oldDriver)))
		}},
		{"driver upgraded", "/etc/cdi/nvidia.yaml: written for driver 550.120, 2 GPUs", func() {
			h.upgradeModule(oldDriver, newDriver)
			h.upgradeLibraries(oldDriver, newDriver)
		}},
	} {
		r.forget()
		c.change()
		took := r.said(c.want)
		t.Logf("%s: seen after %s", c.name, took.Round(time.Millisecond))
		n := r.settle()
		if n > 8 {
			t.Errorf("%s: %d passes", c.name, n)
		}
	}
	h.factsAreTrue()
	h.factsAreKept()
}

// factsAreKept: the next reader finds the facts, and need not write them.
func (h *gpuHost) factsAreKept() {
	h.t.Helper()
	files, err := os.ReadDir(h.o.StateDir)
	h.must(err)
	if len(files) != 1 {
		h.t.Fatalf("%d files of facts", len(files))
	}
	before, err := files[0].Info()
	h.must(err)
	_, err = nvidia.ReadCached(h.root(), nvidia.Options{}, h.o.StateDir, h.o.Version)
	h.must(err)
	if after, err := os.Stat(filepath.Join(h.o.StateDir, files[0].Name())); err != nil || !os.SameFile(before, after) {
		h.t.Errorf("the remembered facts were not true: they were written again (%v)", err)
	}
}

// TestMIGIsSeenWhenTheControlNodeIsLetGo: nodes are there already, and files
// in /proc give no events; but whoever changed the MIG devices had the control
// node open.
func TestMIGIsSeenWhenTheControlNodeIsLetGo(t *testing.T) {
	t.Parallel()
	h := newHost(t, simulate.Options{GPUs: 1, Driver: oldDriver})
	h.addMIG(1, 0)
	h.addMIG(2, 0)
	h.must(os.RemoveAll(h.path("/proc/driver/nvidia/capabilities/gpu0/mig/gi2")))
	h.write("/dev/nvidiactl", "") // opens like a node
	r := h.run()
	letGo := func() {
		f, err := os.OpenFile(h.path("/dev/nvidiactl"), os.O_RDWR, 0)
		h.must(err)
		h.must(f.Close())
	}
	r.forget()
	for range 20 {
		letGo()
	}
	if n := r.settle(); n != 0 {
		t.Errorf("%d passes, though the driver shows the same as before", n)
	}
	dir := h.path("/proc/driver/nvidia/capabilities/gpu0/mig/gi2")
	h.must(os.MkdirAll(dir+"/ci0", 0o755))
	h.must(os.WriteFile(dir+"/access", []byte("DeviceFileMinor: 30\n"), 0o644))
	h.must(os.WriteFile(dir+"/ci0/access", []byte("DeviceFileMinor: 31\n"), 0o644))
	if n := r.settle(); n != 0 {
		t.Fatalf("%d passes before the control node was let go", n)
	}
	letGo()
	r.said("/etc/cdi/nvidia.yaml: written for driver 550.107.02, 1 GPU, 2 MIG devices; the MIG devices of GPU ")
}

// TestControlNodeOfThisMachine: with a real driver, a program that asked it
// something is seen to let go of its control node.
func TestControlNodeOfThisMachine(t *testing.T) {
	if _, err := os.Stat("/proc/driver/nvidia/version"); err != nil {
		t.Skip("no driver is loaded here")
	}
	w, err := openWatches()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(w.fd)
	if _, err := w.set(wishes{"/dev/nvidiactl": {mask: inControl}}); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("nvidia-smi", "-L").CombinedOutput(); err != nil {
		t.Skipf("nvidia-smi: %v\n%s", err, out)
	}
	changed, closed, err := w.read(make([]byte, 16<<10))
	if changed || !closed || err != nil {
		t.Errorf("changed %v, closed %v, %v", changed, closed, err)
	}
}

// TestNoBusyLoop: a burst makes few passes, a quiet host none. It runs alone,
// for it looks at the time of the processor.
func TestNoBusyLoop(t *testing.T) {
	h := newHost(t, simulate.Options{GPUs: 1, Driver: oldDriver, Arch: "amd64"})
	r := h.run()
	r.forget()
	begin := time.Now()
	for i := range 400 {
		p := h.path(fmt.Sprintf("/usr/lib/x86_64-linux-gnu/libnvidia-new.so.%d", i))
		h.must(os.WriteFile(p, []byte("not ELF"), 0o644))
		h.must(os.Remove(p))
		time.Sleep(2 * time.Millisecond)
	}
	most := int(time.Since(begin)/patience) + 3
	n := r.settle()
	t.Logf("%d passes in a burst of %s", n, time.Since(begin).Round(time.Millisecond))
	if n == 0 || n > most {
		t.Errorf("%d passes, want 1 to %d", n, most)
	}
	r.forget()
	before := cpuTime(t)
	time.Sleep(time.Second)
	if used := cpuTime(t) - before; used > 200*time.Millisecond {
		t.Errorf("a second of nothing used %s of the processor", used)
	}
	if n := r.settle(); n != 0 {
		t.Errorf("%d passes without an event", n)
	}
	// What is of no interest.
	h.must(os.WriteFile(h.path("/usr/lib/x86_64-linux-gnu/libz.so.1"), nil, 0o644))
	h.must(os.WriteFile(h.path("/dev/tty9"), nil, 0o644))
	h.must(os.WriteFile(h.path("/etc/hosts"), nil, 0o644))
	if n := r.settle(); n != 0 {
		t.Errorf("%d passes for files of others", n)
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestDriverComesLater: a host without anything gets a driver.
func TestDriverComesLater(t *testing.T) {
	t.Parallel()
	h := &gpuHost{t: t, dir: t.TempDir()}
	for _, dir := range []string{"/etc", "/dev", "/run", "/usr/bin"} {
		h.must(os.MkdirAll(h.path(dir), 0o755))
	}
	h.o = Options{Spec: h.path("/etc/cdi/nvidia.yaml"), StateDir: h.path("/run/davit")}
	r := h.run()
	other := newHost(t, simulate.Options{GPUs: 1, Driver: oldDriver})
	r.forget()
	for _, name := range []string{"usr", "proc", "sys", "dev"} {
		h.must(os.CopyFS(h.path("/new-"+name), os.DirFS(other.path("/"+name))))
	}
	for _, name := range []string{"usr", "proc", "sys", "dev"} {
		h.must(os.RemoveAll(h.path("/" + name)))
		h.must(os.Rename(h.path("/new-"+name), h.path("/"+name)))
	}
	h.write("/.davit-nodes", other.read("/.davit-nodes"))
	r.said("/etc/cdi/nvidia.yaml: written for driver 550.107.02, 1 GPU")
}

// TestHostFolderGone: the loop tells, and goes on when it is back.
func TestHostFolderGone(t *testing.T) {
	t.Parallel()
	h := newHost(t, simulate.Options{GPUs: 1, Driver: oldDriver})
	r := h.run()
	r.forget()
	h.must(os.Rename(h.dir, h.dir+".away"))
	r.until("an error", func() bool { return slices.ContainsFunc(r.passes, func(p Pass) bool { return p.Err != nil }) })
	h.must(os.Rename(h.dir+".away", h.dir))
	if n := r.settle(); n > 6 {
		t.Errorf("%d passes", n)
	}
}

func TestMetrics(t *testing.T) {
	s := newStatus()
	h := newHost(t, simulate.Options{GPUs: 2, Driver: oldDriver})
	r, err := Reconcile(h.root(), h.o)
	h.must(err)
	s.count(Pass{Result: r}, time.UnixMilli(1_700_000_000_500))
	s.count(Pass{Result: Result{Facts: r.Facts}, Err: os.ErrPermission}, time.UnixMilli(1_700_000_010_000))
	text := s.Metrics()
	for _, want := range []string{
		`davit_driver_info{version="550.107.02"} 1`, "davit_gpus 2", "davit_cdi_spec_true 0", "davit_watch_passes_total 2",
		"davit_watch_errors_total 1", `davit_watch_changes_total{what="spec"} 1`, `davit_watch_changes_total{what="link"} 8`,
		"davit_watch_last_success_timestamp_seconds 1700000000.500", "davit_watch_last_pass_timestamp_seconds 1700000010.000",
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
