// SPDX-License-Identifier: Apache-2.0

package security

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// hostile is an environment that makes other programs load, run or obey files
// of the image, with paths as they lie in the image, from the working folder
// (runc 1.1 starts hooks at createContainer in the image's root), and through
// /proc.
func hostile(c *container) []string {
	env := []string{"GODEBUG=madvdontneed=1,asyncpreemptoff=1", "GOTRACEBACK=crash", "GOGC=1", "GOMAXPROCS=1", "BASH_ENV=evil.sh", "ENV=evil.sh",
		"PATH=/proc/self/cwd/evil:evil:/busybox", "TMPDIR=evil", "HOME=/evil", "GCONV_PATH=evil", "LOCPATH=evil", "MALLOC_TRACE=evil/trace", "SSL_CERT_FILE=evil.so", "TZ=:evil.so"}
	for _, name := range []string{"LD_PRELOAD", "LD_AUDIT"} {
		env = append(env, name+"=evil/evil.so:/evil/evil.so:/proc/self/cwd/evil/evil.so")
	}
	return append(env, "LD_LIBRARY_PATH=evil:/evil:/proc/self/cwd/evil:.")
}

// evilImage puts into the image what a hostile environment leads to, and gives
// an inotify that watches it.
func evilImage(t *testing.T, c *container) int {
	t.Helper()
	for _, f := range []string{"evil.so", "evil.sh", "libc.so.6", "runc", "crun", "nvidia-container-cli", "ldconfig"} {
		write(t, filepath.Join(c.root, "evil", f), "#!/busybox/sh\necho EVIL >/evil/mark\n")
		must(t, os.Chmod(filepath.Join(c.root, "evil", f), 0o755))
	}
	write(t, filepath.Join(c.root, "evil.so"), "evil\n")
	write(t, filepath.Join(c.root, "evil.sh"), "evil\n")
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	must(t, err)
	t.Cleanup(func() { unix.Close(watch) })
	for _, p := range []string{"evil", "evil.so", "evil.sh"} {
		_, err = unix.InotifyAddWatch(watch, filepath.Join(c.root, p), unix.IN_ALL_EVENTS)
		must(t, err)
	}
	return watch
}

// stages are where hooks run; at createContainer runc 1.1 gives a hook that has
// no environment of its own the container's.
var stages = []string{"prestart", "createRuntime", "createContainer"}

// addHook makes a program a hook at a stage, in the place of all others.
func addHook(stage, program string, env []string) func(map[string]any) {
	return func(spec map[string]any) {
		hook := map[string]any{"path": program, "args": []string{filepath.Base(program), "prestart"}}
		if env != nil {
			hook["env"] = env
		}
		spec["hooks"] = map[string]any{stage: []any{hook}}
	}
}

// inherits says whether this machine's runc hands the container's environment
// down to hooks at a stage.
func inherits(t *testing.T, stage string) bool {
	t.Helper()
	c := newContainer(t, "plain")
	c.env = append(c.env, "DAVIT_TEST_MARK=1")
	hook, out := filepath.Join(c.dir, "hook"), filepath.Join(c.dir, "env")
	write(t, hook, "#!/bin/sh\n/bin/cat /proc/self/environ >"+out+"\n")
	must(t, os.Chmod(hook, 0o755))
	c.change = addHook(stage, hook, nil)
	c.writeConfig()
	if s := c.launch("runc"); s.err != nil {
		t.Fatalf("a plain hook at %s: %s", stage, s)
	}
	return strings.Contains(read(t, out), "DAVIT_TEST_MARK")
}

// TestEnvironmentReachesHooks shows that the attack of TestHookEnvironment is
// real here: a dynamic program in davit's place opens the image's library.
func TestEnvironmentReachesHooks(t *testing.T) {
	needBox(t)
	if !inherits(t, "createContainer") {
		t.Skip("this runc gives hooks an empty environment")
	}
	c := newContainer(t, "plain")
	c.env = append(c.env, hostile(c)...)
	watch := evilImage(t, c)
	c.change = addHook("createContainer", "/bin/cat", nil)
	c.writeConfig()
	c.launch("runc")
	if len(events(t, watch)) == 0 {
		t.Skip("/bin/cat is no dynamic program here, or its loader does not heed LD_PRELOAD")
	}
}

// hostPIDs leaves out the container's pid namespace: in one, at createContainer,
// davit's hook refuses to run at all.
func hostPIDs(spec map[string]any) {
	linux := spec["linux"].(map[string]any)
	linux["namespaces"] = linux["namespaces"].([]any)[1:]
}

// TestHookStage: in the container's pid namespace the state's number means
// another process, 1 the host's first.
func TestHookStage(t *testing.T) {
	needBox(t)
	c := newContainer(t, hookWay)
	c.change = addHook("createContainer", filepath.Join(built.dir, hookName), c.hookEnv)
	k := newCanary(t, c.dir)
	if line := checkRefused(t, c.way, c.start()); !strings.Contains(line, "pid namespace") {
		t.Errorf("refused for another reason: %s", line)
	}
	k.check()
}

// TestHookEnvironment is NVIDIAScape: an image whose environment holds what
// loaders and language runtimes obey.
func TestHookEnvironment(t *testing.T) {
	needBox(t)
	for _, stage := range stages {
		t.Run(stage, func(t *testing.T) {
			c := newContainer(t, hookWay)
			k := newCanary(t, c.dir)
			c.env = append(c.env, hostile(c)...)
			watch := evilImage(t, c)
			// No env, and so the argument names the configuration.
			c.change = func(spec map[string]any) {
				hostPIDs(spec)
				addHook(stage, filepath.Join(built.dir, hookName), nil)(spec)
				hook := spec["hooks"].(map[string]any)[stage].([]any)[0].(map[string]any)
				hook["args"] = []string{hookName, "-config", c.toml, "prestart"}
			}
			checkHostile(t, c, k, watch, stage == "createContainer")
		})
	}
}

// TestShimEnvironment gives the same to the shim, whose own environment is the
// engine's.
func TestShimEnvironment(t *testing.T) {
	needBox(t)
	c := newContainer(t, shimWay)
	k := newCanary(t, c.dir)
	c.env = append(c.env, hostile(c)...)
	checkHostile(t, c, k, evilImage(t, c), false)
}

// checkHostile: at createContainer a hook is in the container's cgroup already
// and may be refused for that; all that matters then is that nothing happened.
func checkHostile(t *testing.T, c *container, k *canary, watch int, mayFail bool) {
	t.Helper()
	s := c.start()
	switch {
	case s.err != nil && mayFail:
		checkRefused(t, c.way, s)
	default:
		checkRight(t, s)
		if s.errs != "" {
			t.Errorf("standard error has %q", s.errs)
		}
	}
	for _, e := range events(t, watch) {
		t.Errorf("a file of the image's trap: %s", e.in(map[int]string{1: "/evil", 2: "/evil.so", 3: "/evil.sh"}))
	}
	k.check()
}

// TestHookConfiguration: an image names a configuration of its own, in every
// way that leads from a hook's working folder or the host's root into it. One
// that is obeyed makes the hook write its trace to the canary.
func TestHookConfiguration(t *testing.T) {
	needBox(t)
	for _, stage := range stages {
		for _, value := range []string{"NVIDIA_CTK_CONFIG_FILE_PATH=evil.toml", "NVIDIA_CTK_CONFIG_FILE_PATH=./evil.toml",
			"NVIDIA_CTK_CONFIG_FILE_PATH=/proc/self/cwd/evil.toml", "NVIDIA_CTK_CONFIG_FILE_PATH=ROOT/evil.toml",
			"XDG_CONFIG_HOME=.", "XDG_CONFIG_HOME=/proc/self/cwd", "XDG_CONFIG_HOME=ROOT"} {
			t.Run(stage+"/"+strings.ReplaceAll(value, "/", "_"), func(t *testing.T) {
				c := newContainer(t, hookWay)
				k := newCanary(t, c.dir)
				text := fmt.Sprintf("host-root = %q\nstate-dir = %q\n[nvidia-container-cli]\ndebug = %q\n", c.host, k.dir+"/state", k.dir+"/trace")
				write(t, filepath.Join(c.root, "evil.toml"), text)
				write(t, filepath.Join(c.root, "nvidia-container-runtime/config.toml"), text)
				c.env = append(c.env, strings.ReplaceAll(value, "ROOT", c.root))
				c.change = func(spec map[string]any) {
					hostPIDs(spec)
					addHook(stage, filepath.Join(built.dir, hookName), nil)(spec)
				}
				// The machine's own configuration counts, and this machine has no driver or another.
				s := c.start()
				if s.err == nil {
					t.Logf("this machine has a driver of its own")
				} else {
					checkRefused(t, c.way, s)
				}
				k.check()
			})
		}
	}
}

// TestRelativeConfiguration: even from those that are trusted, a path that
// depends on the working folder is refused.
func TestRelativeConfiguration(t *testing.T) {
	bothWays(t, func(t *testing.T, way string) {
		c := newContainer(t, way)
		write(t, filepath.Join(c.bundle, "config.toml"), read(t, c.toml))
		write(t, filepath.Join(c.root, "config.toml"), read(t, c.toml))
		for _, name := range []string{"NVIDIA_CTK_CONFIG_FILE_PATH=config.toml", "XDG_CONFIG_HOME=."} {
			c.hookEnv = []string{name}
			c.procEnv = []string{"PATH=" + os.Getenv("PATH"), name}
			if line := checkRefused(t, way, c.start()); !strings.Contains(line, "is no absolute path") {
				t.Errorf("%s: %s", name, line)
			}
		}
	})
}
