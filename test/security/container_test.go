// SPDX-License-Identifier: Apache-2.0

package security

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"davit/internal/simulate"
)

// The two ways into a container.
const (
	shimWay = "shim"
	hookWay = "hook"
)

// bothWays runs a test once for each.
func bothWays(t *testing.T, f func(t *testing.T, way string)) {
	t.Helper()
	needBox(t)
	for _, way := range []string{shimWay, hookWay} {
		t.Run(way, func(t *testing.T) { f(t, way) })
	}
}

// container is one that can be started, again and again.
type container struct {
	t                           *testing.T
	way                         string
	dir, bundle, root           string
	host, state, toml, log, run string
	env                         []string // of its process
	script                      string
	readonly                    bool
	runtime                     string   // behind the shim; "" for runc
	hookEnv                     []string // of the hook; nil: config.json gives it none
	procEnv                     []string // of runc or the shim
	change                      func(spec map[string]any)
	changeText                  func(config []byte) []byte
	wrap                        []string // a program to run the start under
}

// image fakes as much of a Debian image as davit looks at: it finds libc by
// its name. The shell is static and lies outside of what attacks replace.
var image = []string{"proc/", "dev/", "sys/", "tmp/", "run/", "etc/passwd", "usr/bin/env",
	"usr/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/aarch64-linux-gnu/libc.so.6", "lib64/ld-linux-x86-64.so.2"}

// newContainer makes a bundle over the shared host.
func newContainer(t *testing.T, way string) *container {
	t.Helper()
	dir := t.TempDir()
	c := &container{
		t: t, way: way, dir: dir, bundle: filepath.Join(dir, "bundle"), root: filepath.Join(dir, "bundle/rootfs"),
		host: built.host, state: filepath.Join(dir, "state"), toml: filepath.Join(dir, "config.toml"),
		log: filepath.Join(dir, "log"), run: filepath.Join(dir, "run"),
		env: []string{"PATH=/busybox", "NVIDIA_VISIBLE_DEVICES=0"}, script: lookAround,
	}
	for _, p := range image {
		if strings.HasSuffix(p, "/") {
			must(t, os.MkdirAll(filepath.Join(c.root, p), 0o755))
		} else {
			write(t, filepath.Join(c.root, p), "image\n")
		}
	}
	busybox, err := findBusybox()
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(c.root, "busybox"), 0o755))
	data, err := os.ReadFile(busybox)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(c.root, "busybox/busybox"), data, 0o755))
	for _, n := range []string{"sh", "cat", "ls", "stat", "grep", "head", "find", "true", "timeout"} {
		must(t, os.Symlink("busybox", filepath.Join(c.root, "busybox", n)))
	}
	must(t, os.WriteFile(filepath.Join(c.root, "etc/ld.so.cache"), imageCache(t), 0o644))
	c.configure("")
	c.hookEnv = []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + c.toml}
	c.procEnv = []string{"PATH=" + os.Getenv("PATH"), "NVIDIA_CTK_CONFIG_FILE_PATH=" + c.toml}
	return c
}

// configure writes config.toml; more goes before the tables.
func (c *container) configure(more string) {
	c.t.Helper()
	runtime := c.runtime
	if runtime == "" {
		runtime = "runc"
	}
	write(c.t, c.toml, fmt.Sprintf("host-root = %q\nstate-dir = %q\n%s\n[nvidia-container-runtime]\nruntimes = [%q]\ndebug = %q\n[nvidia-container-cli]\ndebug = %q\n",
		c.host, c.state, more, runtime, filepath.Join(c.dir, "debug"), filepath.Join(c.dir, "debug")))
}

// ownHost gives the container a host that the test may change.
func (c *container) ownHost(o simulate.Options) {
	c.t.Helper()
	c.host = filepath.Join(c.dir, "host")
	_, err := simulate.Make(c.host, o)
	must(c.t, err)
	c.configure("")
}

// lookAround says what the container was given.
const lookAround = `echo UP
[ -c /dev/nvidia0 ] && (: </dev/nvidia0) && echo GPU0
[ -c /dev/nvidia1 ] && echo GPU1
grep -q '/libcuda\.so\.[0-9.]* /' /proc/self/mountinfo && echo CUDA
find /etc/ /usr/ /run/ /lib64/ /lib/ /opt/ -type f -size -999 2>/dev/null | grep -v /proc/ | head -n 400 | while read -r f; do grep -ls CANARY "$f"; done
cat /proc/self/mountinfo >/tmp/mountinfo
`

// config is the bundle's config.json.
func (c *container) config() []byte {
	c.t.Helper()
	caps := []string{"CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_CHOWN"}
	spec := map[string]any{
		"ociVersion": "1.0.2", "hostname": "test",
		"root": map[string]any{"path": "rootfs", "readonly": c.readonly},
		"process": map[string]any{
			"user": map[string]any{"uid": 0, "gid": 0}, "cwd": "/", "env": c.env,
			"args":         []string{"/busybox/sh", "-c", c.script},
			"capabilities": map[string]any{"bounding": caps, "effective": caps, "permitted": caps},
		},
		"mounts": []any{
			map[string]any{"destination": "/proc", "type": "proc", "source": "proc"},
			map[string]any{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755"}},
		},
		"linux": map[string]any{
			"cgroupsPath": fmt.Sprintf("/davit-security-%d", os.Getpid()),
			"resources":   map[string]any{"devices": []any{map[string]any{"allow": false, "access": "rwm"}}},
			"namespaces":  []any{map[string]any{"type": "pid"}, map[string]any{"type": "mount"}, map[string]any{"type": "ipc"}, map[string]any{"type": "uts"}},
			"maskedPaths": []string{"/proc/kcore"}, "readonlyPaths": []string{"/proc/sys"},
		},
	}
	if c.way == hookWay {
		spec["root"].(map[string]any)["path"] = c.root // as docker writes it
		hook := map[string]any{"path": filepath.Join(built.dir, hookName), "args": []string{hookName, "prestart"}}
		if c.hookEnv != nil {
			hook["env"] = c.hookEnv
		}
		spec["hooks"] = map[string]any{"prestart": []any{hook}}
	}
	if c.change != nil {
		c.change(spec)
	}
	data, err := json.Marshal(spec)
	must(c.t, err)
	if c.changeText != nil {
		data = c.changeText(data)
	}
	return data
}

// writeConfig makes the bundle ready.
func (c *container) writeConfig() {
	c.t.Helper()
	must(c.t, os.WriteFile(filepath.Join(c.bundle, "config.json"), c.config(), 0o644))
}

// started is what came of a start.
type started struct {
	out, errs, log string
	err            error
	killed         bool // by a signal
}

func (s started) String() string {
	return fmt.Sprintf("%v\nstdout: %s\nstderr: %s\nlog: %s", s.err, s.out, s.errs, s.log)
}

// patience is how long a start may take before it counts as hanging.
const patience = 20 * time.Second

// start writes config.json and runs the container to its end.
func (c *container) start() started {
	c.t.Helper()
	c.writeConfig()
	return c.again()
}

// again runs the bundle as it is.
func (c *container) again() started {
	c.t.Helper()
	program := filepath.Join(built.dir, shimName)
	if c.way == hookWay {
		program = "runc"
	}
	return c.launch(program)
}

// launch runs the container by a program that understands runc's arguments.
func (c *container) launch(program string) started {
	c.t.Helper()
	os.Remove(c.log)
	args := append(append([]string{}, c.wrap...), program, "--root", c.run, "--log", c.log, "--log-format", "json", "run", "--bundle", c.bundle, "c1")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = c.bundle, c.procEnv
	cmd.WaitDelay = time.Second
	cmd.Cancel = func() error {
		out, _ := exec.Command("ps", "-eo", "pid,ppid,stat,etimes,wchan:30,args").Output()
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, c.dir) || strings.Contains(line, built.dir) || strings.Contains(line, "/busybox/") || strings.Contains(line, "prestart") || strings.Contains(line, " init") {
				c.t.Logf("hanging: %s", line)
			}
		}
		return cmd.Process.Kill()
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		err = errors.Join(err, ctx.Err())
		c.t.Errorf("the start hangs")
	}
	if err != nil {
		c.clean()
	}
	log, _ := os.ReadFile(c.log)
	return started{out: out.String(), errs: errs.String(), log: string(log), err: err,
		killed: cmd.ProcessState != nil && cmd.ProcessState.ExitCode() < 0}
}

// clean removes what a failed start left of runc's.
func (c *container) clean() {
	_ = exec.Command("runc", "--root", c.run, "delete", "--force", "c1").Run()
}

// checkRight fails unless the container ran and has GPU 0 alone.
func checkRight(t *testing.T, s started) {
	t.Helper()
	for _, want := range []string{"UP\n", "GPU0\n", "CUDA\n"} {
		if !strings.Contains(s.out, want) {
			t.Errorf("the container ran without %q: %s", want, s)
			return
		}
	}
	if strings.Contains(s.out, "GPU1") || s.err != nil {
		t.Errorf("the container did not run as it should: %s", s)
	}
}

// checkRefused fails unless davit gave one line on standard error and in the
// log, without control characters. It gives the line.
func checkRefused(t *testing.T, way string, s started) string {
	t.Helper()
	if s.err == nil || s.killed || strings.Contains(s.out, "UP") {
		t.Errorf("the container should have been refused: %s", s)
		return ""
	}
	for name, text := range map[string]string{"standard error": s.errs, "the log": s.log} {
		if strings.Count(text, "davit: ") != 1 {
			t.Errorf("%s should have one line of davit: %s", name, s)
			return ""
		}
		if strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && (r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0) }) {
			t.Errorf("%s has control characters: %q", name, text)
		}
	}
	_, line, _ := strings.Cut(s.errs, "davit: ")
	if way == shimWay && s.errs != "davit: "+strings.TrimSuffix(line, "\n")+"\n" {
		t.Errorf("standard error has more than davit's line: %s", s)
	}
	if strings.Count(strings.TrimRight(line, "\n"), "\n") != 0 {
		t.Errorf("davit's message has several lines: %s", s)
	}
	for line := range strings.Lines(s.log) {
		if !json.Valid([]byte(line)) {
			t.Errorf("a line of the log is no JSON: %q", line)
		}
	}
	return line
}
