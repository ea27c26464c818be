// SPDX-License-Identifier: Apache-2.0

// Package e2e starts real engines, each in a private box made of Debian's
// packages, installs davit into them beside a simulated GPU host, and runs
// containers as a person would. It needs root, apt and nothing else; boxes and
// images are kept in build/engines (or DAVIT_CACHE) for the next run.
package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// lab is the folder with boxes and images, held by this run alone.
type lab struct {
	here  string // this folder
	cache string
	bin   string // freshly built programs
}

// openLab builds the programs and the images, or skips the test with the
// reason why engines cannot be started here.
func openLab(t *testing.T) *lab {
	t.Helper()
	if testing.Short() {
		t.Skip("real engines are not started with -short")
	}
	if os.Geteuid() != 0 {
		t.Skip("starting engines needs root")
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("the test images are laid out for amd64 only")
	}
	for _, program := range []string{"apt-get", "dpkg-deb", "unshare", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("engines are made of Debian's packages, and %s is missing here", program)
		}
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{here: here, cache: os.Getenv("DAVIT_CACHE")}
	if l.cache == "" {
		l.cache = filepath.Join(here, "..", "..", "build", "engines")
	}
	l.bin = filepath.Join(l.cache, "bin")
	if err := os.MkdirAll(l.bin, 0o755); err != nil {
		t.Fatal(err)
	}
	l.lock(t)
	l.build(t)
	images := strings.Fields(l.must(t, nil, "./images.sh", "--list"))
	l.must(t, []string{"DAVIT=" + filepath.Join(l.bin, "davit")}, "./images.sh", images...)
	return l
}

// lock waits until no other run uses the folder.
func (l *lab) lock(t *testing.T) {
	f, err := os.OpenFile(filepath.Join(l.cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	for errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK) {
		time.Sleep(200 * time.Millisecond)
	}
	t.Cleanup(func() { f.Close() })
}

func (l *lab) build(t *testing.T) {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", l.bin+"/", "./cmd/...")
	cmd.Dir = filepath.Join(l.here, "..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build ./cmd/...: %v\n%s", err, out)
	}
}

// result is what a command printed, on both outputs, and how it ended.
type result struct {
	command string
	out     string
	code    int
}

// timeLimit is for one command: a container that hangs must not take the whole
// run with it.
const timeLimit = 2 * time.Minute

// run runs a program of this folder, or one found on PATH.
func (l *lab) run(limit time.Duration, env []string, name string, args ...string) result {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = l.here
	cmd.Env = append(append(os.Environ(), "DAVIT_CACHE="+l.cache), env...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	r := result{command: strings.Join(append([]string{name}, args...), " "), out: string(out), code: cmd.ProcessState.ExitCode()}
	if err != nil && r.code == 0 {
		r.code = -1
	}
	if ctx.Err() != nil {
		r.out += "\nstopped after " + limit.String()
	}
	return r
}

func (l *lab) must(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	r := l.run(15*time.Minute, env, name, args...)
	if r.code != 0 {
		t.Fatalf("%s: exit status %d\n%s", r.command, r.code, r.out)
	}
	return r.out
}

// box is one engine with davit installed, on simulated hosts.
type box struct {
	lab     *lab
	profile string
	cgroup  string
	root    string
}

// daemonJSON is dockerd's configuration; its hook path needs none.
const daemonJSON = `{"runtimes": {"nvidia": {"path": "/usr/bin/nvidia-container-runtime"}}}`

// start brings an engine up and down again at the end of the test.
func (l *lab) start(t *testing.T, profile, cgroup string) *box {
	t.Helper()
	b := &box{lab: l, profile: profile, cgroup: cgroup, root: filepath.Join(l.cache, profile, "rootfs")}
	l.must(t, nil, "engines/down.sh", profile)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of dockerd's log:\n%s", tail(filepath.Join(l.cache, profile, "log", "docker.log"), 30))
		}
		l.must(t, nil, "engines/down.sh", profile)
	})
	began := time.Now()
	l.must(t, []string{"BOX_CGROUP=" + cgroup, "BOX_PREPARE=" + filepath.Join(l.here, "prepare.sh"), "DAVIT_BIN=" + l.bin,
		"DAEMON_JSON=" + daemonJSON}, "engines/up.sh", profile)
	t.Logf("%s is up after %.1f s", profile, time.Since(began).Seconds())
	b.clean(t)
	b.load(t)
	return b
}

func tail(file string, lines int) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(len(all)-lines, 0):], "\n")
}

// in runs a command in the box.
func (b *box) in(args ...string) result {
	r := b.lab.run(timeLimit, nil, "engines/box.sh", append([]string{"exec", b.profile}, args...)...)
	r.command = strings.Join(args, " ")
	return r
}

func (b *box) mustIn(t *testing.T, args ...string) string {
	t.Helper()
	r := b.in(args...)
	if r.code != 0 {
		t.Fatalf("%s: exit status %d\n%s", r.command, r.code, r.out)
	}
	return r.out
}

// clean removes containers that an interrupted run left.
func (b *box) clean(t *testing.T) {
	t.Helper()
	if ids := strings.Fields(b.mustIn(t, "docker", "ps", "-aq")); len(ids) > 0 {
		b.mustIn(t, append([]string{"docker", "rm", "-f"}, ids...)...)
	}
	b.mustIn(t, "docker", "image", "prune", "-f")
}

// load gives the engine the images that it does not have yet.
func (b *box) load(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(b.lab.cache, "share", "images", "*.tar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no images: %v", err)
	}
	marks := filepath.Join(b.root, "var/lib/docker/test-images")
	if err := os.MkdirAll(marks, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		mark := filepath.Join(marks, filepath.Base(file))
		if m, err := os.Stat(mark); err == nil && m.ModTime().Equal(info.ModTime()) {
			continue
		}
		b.mustIn(t, "docker", "load", "-q", "-i", file)
		if err := os.WriteFile(mark, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(mark, info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
}

// run is docker run --rm with more arguments; the network is left out, which
// makes starts faster, unless they bring one.
func (b *box) run(args ...string) result {
	base := []string{"docker", "run", "--rm"}
	if !strings.Contains(strings.Join(args, " "), "--network") {
		base = append(base, "--network", "none")
	}
	r := b.in(append(base, args...)...)
	if r.code == 0 && r.out == "" {
		// Docker 26 loses the whole output of about one short container in a
		// thousand, plain ones with runc alone too (seen: 1 of 788). All that is
		// run here prints something.
		r = b.in(append(base, args...)...)
	}
	return r
}

// ok fails the test unless the command succeeded and printed all of these.
func (r result) ok(t *testing.T, want ...string) {
	t.Helper()
	if r.code != 0 {
		t.Fatalf("%s: exit status %d\n%s", r.command, r.code, r.out)
	}
	r.says(t, want...)
}

// fails fails the test unless the command failed and printed all of these.
func (r result) fails(t *testing.T, want ...string) {
	t.Helper()
	if r.code == 0 {
		t.Fatalf("%s succeeded and should not have\n%s", r.command, r.out)
	}
	r.says(t, want...)
}

func (r result) says(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(r.out, w) {
			t.Errorf("%s: no %q in:\n%s", r.command, w, r.out)
		}
	}
}

var listedGPU = regexp.MustCompile(`\bGPU \d+: (.*) \(UUID: (GPU-[0-9a-f-]{36})\)`)

// lists fails the test unless nvidia-smi -L printed exactly these GPUs.
func (r result) lists(t *testing.T, want ...gpu) {
	t.Helper()
	if r.code != 0 {
		t.Fatalf("%s: exit status %d\n%s", r.command, r.code, r.out)
	}
	found := listedGPU.FindAllStringSubmatch(r.out, -1)
	same := len(found) == len(want)
	for i := 0; same && i < len(want); i++ {
		same = found[i][1] == want[i].name && found[i][2] == want[i].uuid
	}
	if !same {
		t.Errorf("%s: listed\n%s\nwant %v", r.command, r.out, want)
	}
}
