// SPDX-License-Identifier: Apache-2.0

package security

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"davit/internal/simulate"

	"golang.org/x/sys/unix"
)

// steps are the system calls that davit changes things by. It is killed at each
// one in turn, before it happens.
var steps = []string{"openat", "openat2", "write", "fchmod", "renameat", "renameat2", "mkdirat", "mknodat", "unlinkat", "fchownat", "linkat",
	"open_tree", "move_mount", "mount_setattr", "fsopen", "fsmount", "mount", "setns", "unshare", "execve"}

// maxKills bounds the kills at one kind of call.
const maxKills = 60

// TestKilled: after a kill at any step config.json is the old or the new one,
// what is there otherwise is whole, and the next start goes well.
func TestKilled(t *testing.T) {
	bothWays(t, func(t *testing.T, way string) {
		if _, err := exec.LookPath("strace"); err != nil {
			t.Skip("strace, which kills at a chosen system call, is not installed")
		}
		every := 1
		if testing.Short() {
			every = 16
		}
		c := newContainer(t, way)
		c.runtime = "/bin/true" // killed before it starts; the hook's runtime is runc
		if way == hookWay {
			c.runtime = ""
		}
		k := newCanary(t, c.dir)
		kills := 0
		for _, call := range steps {
			for n := 1; n <= maxKills; n += every {
				if !killAt(t, c, call, n) {
					break
				}
				kills++
				checkLeft(t, c)
				if kills%10 == 0 {
					again := *c
					again.runtime = ""
					again.configure("")
					checkRight(t, again.start())
				}
				if t.Failed() {
					t.Fatalf("after a kill at %s number %d", call, n)
				}
			}
		}
		t.Logf("killed at %d steps", kills)
		if kills < 20 && every == 1 {
			t.Errorf("only %d kills", kills)
		}
		c.runtime = ""
		c.configure("")
		checkRight(t, c.start())
		k.check()
	})
}

// killAt starts the container with davit killed at its n-th such call; false if
// it makes no n of them.
func killAt(t *testing.T, c *container, call string, n int) bool {
	t.Helper()
	inject := []string{"-f", "-qq", "-o", "/dev/null", "-e", "trace=" + call, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n)}
	c.configure("")
	if c.way == shimWay {
		c.writeConfig()
		// The shim's exec of the runtime is the last step.
		c.wrap = append([]string{"strace"}, inject...)
		defer func() { c.wrap = nil }()
		s := c.again()
		return s.err != nil && !strings.Contains(s.errs, "davit: ")
	}
	// runc runs strace in the hook's place. A killed hook ends strace by the same signal.
	strace, err := exec.LookPath("strace")
	must(t, err)
	c.change = func(spec map[string]any) {
		args := append(append([]string{"strace"}, inject...), filepath.Join(built.dir, hookName), "-config", c.toml, "prestart")
		spec["hooks"] = map[string]any{"prestart": []any{map[string]any{"path": strace, "args": args, "env": []string{"PATH=/bin:/usr/bin"}}}}
	}
	defer func() { c.change = nil }()
	s := c.start()
	return s.err != nil && strings.Contains(s.errs, "signal: killed")
}

// checkLeft looks at what a killed start left.
func checkLeft(t *testing.T, c *container) {
	t.Helper()
	file := filepath.Join(c.bundle, "config.json")
	text := read(t, file)
	switch {
	case !json.Valid([]byte(text)):
		t.Errorf("config.json is no JSON: %s", text)
	case c.way == shimWay && text != string(c.config()) && !(strings.Contains(text, "libcuda.so.1") && strings.Contains(text, `"/dev/nvidia0"`)):
		t.Errorf("config.json is neither the old nor the new one: %s", text)
	}
	if cache := read(t, filepath.Join(c.root, "etc/ld.so.cache")); cache != string(imageCache(t)) {
		if !strings.Contains(cache, "libcuda.so.1\x00") || !strings.HasPrefix(cache, "glibc-ld.so.cache1.1") || !strings.Contains(cache, "libpython3.11.so.1.0\x00") {
			t.Errorf("the loader cache is neither the old nor the new one: %q", cache)
		}
		must(t, os.WriteFile(filepath.Join(c.root, "etc/ld.so.cache"), imageCache(t), 0o644))
	}
	// A temporary file may stay of a kill between its making and its renaming; one at most, of each folder.
	for _, dir := range []string{c.bundle, filepath.Join(c.root, "etc"), c.state} {
		var odd []string
		_ = filepath.Walk(dir, func(p string, info os.FileInfo, err error) error {
			if err == nil && strings.HasPrefix(info.Name(), ".") {
				odd = append(odd, p)
				os.Remove(p)
			}
			return nil
		})
		if len(odd) > 1 {
			t.Errorf("left behind: %v", odd)
		}
	}
	if way := c.way; way == hookWay {
		c.clean()
	}
}

// TestRandomKills kills the whole start, runc and all, at random moments, and
// then starts the same bundle.
func TestRandomKills(t *testing.T) {
	bothWays(t, func(t *testing.T, way string) {
		rounds := 40
		if testing.Short() {
			rounds = 5
		}
		c := newContainer(t, way)
		begin := time.Now()
		checkRight(t, c.start())
		whole := time.Since(begin)
		c.wrap = []string{"timeout", "-s", "KILL", ""}
		for i := range rounds {
			c.wrap[3] = fmt.Sprintf("%.4f", (whole * time.Duration(i+1) / time.Duration(rounds)).Seconds())
			c.start()
			c.clean()
		}
		c.wrap = nil
		checkRight(t, c.start())
	})
}

// TestFullDisk: no space for the bundle, the root or davit's state.
func TestFullDisk(t *testing.T) {
	bothWays(t, func(t *testing.T, way string) {
		t.Run("root", func(t *testing.T) {
			c := newContainer(t, way)
			small := filepath.Join(c.root, "etc")
			mountTmpfs(t, small, "size=64k")
			must(t, os.WriteFile(filepath.Join(small, "ld.so.cache"), imageCache(t), 0o644))
			fill(t, small)
			// runc mounts its own root alone, and sees the tmpfs below it.
			line := checkRefused(t, way, c.start())
			if !strings.Contains(line, "no space left") {
				t.Errorf("refused for another reason: %s", line)
			}
			if got := read(t, filepath.Join(small, "ld.so.cache")); got != string(imageCache(t)) {
				t.Errorf("the loader cache is half written: %q", got)
			}
			// The place of a mount, an empty file, may be there.
			for _, f := range stateFiles(t, small) {
				if info, err := os.Stat(f); err != nil || strings.HasPrefix(info.Name(), ".") || info.Size() > 0 && info.Name() != "fill" && info.Name() != "ld.so.cache" {
					t.Errorf("left behind: %s", f)
				}
			}
			os.Remove(filepath.Join(small, "fill"))
			checkRight(t, c.start())
		})
		t.Run("state", func(t *testing.T) {
			c := newContainer(t, way)
			mountTmpfs(t, c.state, "size=16k")
			fill(t, c.state)
			c.readonly = true // so that the loader cache goes to the state folder
			must(t, os.MkdirAll(filepath.Join(c.root, "usr/share/egl"), 0o755))
			s := c.start()
			if s.err != nil {
				if line := checkRefused(t, way, s); !strings.Contains(line, "no space left") {
					t.Errorf("refused for another reason: %s", line)
				}
			} else {
				checkReadOnlyRight(t, s)
			}
			if n := len(strings.Fields(names(t, c.state))); n > 2 {
				t.Errorf("left in the state folder: %s", names(t, c.state))
			}
			os.Remove(filepath.Join(c.state, "fill"))
			checkReadOnlyRight(t, c.start())
		})
		t.Run("bundle", func(t *testing.T) {
			if way == hookWay {
				t.Skip("the hook writes nothing there")
			}
			c := newContainer(t, way)
			elsewhere := filepath.Join(c.dir, "rootfs")
			must(t, os.Rename(c.root, elsewhere))
			mountTmpfs(t, c.bundle, "size=16k")
			c.change = func(spec map[string]any) { spec["root"].(map[string]any)["path"] = elsewhere }
			c.writeConfig()
			fill(t, c.bundle)
			before := read(t, c.bundle+"/config.json")
			line := checkRefused(t, way, c.again())
			if !strings.Contains(line, "no space left") {
				t.Errorf("refused for another reason: %s", line)
			}
			if read(t, c.bundle+"/config.json") != before || names(t, c.bundle) != "config.json\nfill\n" {
				t.Errorf("the bundle has %s", names(t, c.bundle))
			}
			os.Remove(filepath.Join(c.bundle, "fill"))
			checkRight(t, c.again())
		})
	})
}

// fill leaves no byte free in a small file system.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "fill"))
	must(t, err)
	defer f.Close()
	for size := 64 << 10; size > 0; size /= 2 {
		for {
			if _, err := f.Write(bytes.Repeat([]byte("x"), size)); err != nil {
				break
			}
		}
	}
}

// names are the files below a folder, one a line.
func names(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	must(t, err)
	var b strings.Builder
	for _, e := range list {
		fmt.Fprintln(&b, e.Name())
	}
	return b.String()
}

// checkReadOnlyRight is checkRight for a root that cannot be written.
func checkReadOnlyRight(t *testing.T, s started) {
	t.Helper()
	s.err = nil // the script cannot write its last file
	checkRight(t, s)
}

// TestDamagedState: files in davit's own folder that are not what they were are
// made anew, never used.
func TestDamagedState(t *testing.T) {
	bothWays(t, func(t *testing.T, way string) {
		for _, kind := range []string{"truncated", "empty", "garbage", "a bit", "other owner", "writable by all", "folder", "link to the canary", "FIFO", "device", "state is a file", "state is a dangling link"} {
			t.Run(kind, func(t *testing.T) {
				c := newContainer(t, way)
				c.readonly = true
				k := newCanary(t, c.dir)
				time.Sleep(60 * time.Millisecond) // facts are kept of a host that has been left alone for a moment
				c.script = "cat /etc/ld.so.cache | grep -q libcuda && echo CACHE\n" + strings.Split(lookAround, "find")[0] + ":"
				checkReadOnlyRight(t, c.start())
				files := stateFiles(t, c.state)
				if len(files) == 0 {
					t.Skip("no state is kept in this way")
				}
				for _, f := range files {
					damageFile(t, f, kind, k.dir)
				}
				if strings.HasPrefix(kind, "state is") {
					must(t, os.RemoveAll(c.state))
					if kind == "state is a file" {
						write(t, c.state, "file\n")
					} else {
						must(t, os.Symlink("/nowhere/at/all", c.state))
					}
				}
				k.restart()
				s := c.start()
				if s.err != nil || !strings.Contains(s.out, "UP") {
					line := checkRefused(t, way, s)
					if kind != "folder" && !strings.HasPrefix(kind, "state is") {
						t.Errorf("state that is damaged stops containers: %s", line)
					}
				} else {
					checkReadOnlyRight(t, s)
					if !strings.Contains(s.out, "CACHE") && way == shimWay {
						t.Errorf("the container's loader cache is not the merged one: %s", s)
					}
				}
				k.check()
			})
		}
	})
}

func stateFiles(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	_ = filepath.Walk(dir, func(p string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			files = append(files, p)
		}
		return nil
	})
	return files
}

func damageFile(t *testing.T, f, kind, canary string) {
	t.Helper()
	text := []byte(read(t, f))
	replace := func(data []byte) { must(t, os.Remove(f)); must(t, os.WriteFile(f, data, 0o644)) }
	switch kind {
	case "truncated":
		replace(text[:len(text)/2])
	case "empty":
		replace(nil)
	case "garbage":
		replace(bytes.Repeat([]byte("\xff\x00\x1b[2J"), len(text)/6+1))
	case "a bit":
		text[len(text)*2/3] ^= 4
		replace(text)
	case "other owner":
		must(t, os.Chown(f, 1234, 1234))
	case "writable by all":
		must(t, os.Chmod(f, 0o666))
	case "folder":
		must(t, os.Remove(f))
		must(t, os.MkdirAll(filepath.Join(f, "x"), 0o755))
	case "link to the canary":
		must(t, os.Remove(f))
		must(t, os.Symlink(filepath.Join(canary, "ld.so.cache"), f))
	case "FIFO":
		must(t, os.Remove(f))
		must(t, unix.Mkfifo(f, 0o644))
	case "device":
		must(t, os.Remove(f))
		must(t, unix.Mknod(f, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))))
	}
}

// TestDriverUpgrade starts one container, whose writable layer stays, with one
// driver and then with another.
func TestDriverUpgrade(t *testing.T) {
	bothWays(t, func(t *testing.T, way string) {
		c := newContainer(t, way)
		c.ownHost(simulate.Options{GPUs: 2, Driver: "580.159.04"})
		checkRight(t, c.start())
		for _, version := range []string{"535.183.01", "610.43.02", "580.159.04"} {
			c.ownHost(simulate.Options{GPUs: 2, Driver: version})
			s := c.start()
			checkRight(t, s)
			info := read(t, filepath.Join(c.root, "tmp/mountinfo"))
			if !strings.Contains(info, "libcuda.so."+version) {
				t.Errorf("%s: libcuda of this version is not mounted: %s", version, info)
			}
			for _, other := range []string{"535.183.01", "610.43.02", "580.159.04"} {
				if other != version && (strings.Contains(info, other) || strings.Contains(read(t, filepath.Join(c.root, "etc/ld.so.cache")), other)) {
					t.Errorf("%s: something of driver %s is mounted or in the loader cache", version, other)
				}
			}
			checkCacheEntries(t, c, info)
		}
	})
}

// checkCacheEntries fails for an entry of the container's loader cache that
// leads to an empty file, the place of a mount that is no longer made.
func checkCacheEntries(t *testing.T, c *container, mountinfo string) {
	t.Helper()
	for name := range strings.SplitSeq(read(t, filepath.Join(c.root, "etc/ld.so.cache")), "\x00") {
		if i := strings.Index(name, "/usr/lib/"); i >= 0 {
			name = name[i:]
		} else {
			continue
		}
		info, err := os.Stat(filepath.Join(c.root, name))
		if err == nil && info.Size() == 0 && !strings.Contains(mountinfo, " "+name+" ") {
			t.Errorf("the loader cache names %s, an empty file", name)
		}
	}
}

// TestGPUGone: a GPU that was there at the last start has gone.
func TestGPUGone(t *testing.T) {
	bothWays(t, func(t *testing.T, way string) {
		c := newContainer(t, way)
		c.ownHost(simulate.Options{GPUs: 2})
		c.env = []string{"PATH=/busybox", "NVIDIA_VISIBLE_DEVICES=1"}
		c.script = "[ -c /dev/nvidia1 ] && echo GPU1"
		if s := c.start(); s.err != nil || s.out != "GPU1\n" {
			t.Fatal(s)
		}
		time.Sleep(60 * time.Millisecond)
		if s := c.start(); s.err != nil || s.out != "GPU1\n" { // now from the kept facts, if there are any
			t.Fatal(s)
		}
		node := filepath.Join(c.host, "dev/nvidia1")
		must(t, os.Remove(node))
		if line := checkRefused(t, way, c.start()); !strings.Contains(line, "/dev/nvidia1") {
			t.Errorf("a node has gone: %s", line)
		}
		dirs, err := filepath.Glob(filepath.Join(c.host, "proc/driver/nvidia/gpus/*"))
		must(t, err)
		must(t, os.RemoveAll(dirs[1]))
		if line := checkRefused(t, way, c.start()); !strings.Contains(line, `there is no device "1"`) || !strings.Contains(line, "this host has 0") {
			t.Errorf("a GPU has gone: %s", line)
		}
		c.env[1] = "NVIDIA_VISIBLE_DEVICES=0"
		c.script = lookAround
		checkRight(t, c.start())
		must(t, os.RemoveAll(filepath.Join(c.host, "proc/driver")))
		if line := checkRefused(t, way, c.start()); !strings.Contains(line, "modprobe nvidia") {
			t.Errorf("the driver has gone: %s", line)
		}
	})
}

// TestNothingStays: 500 starts leave what one start leaves.
func TestNothingStays(t *testing.T) {
	bothWays(t, func(t *testing.T, way string) {
		starts := 500
		if testing.Short() {
			starts = 10
		}
		c := newContainer(t, way)
		c.script = strings.Split(lookAround, "find")[0] + ":"
		checkRight(t, c.start())
		time.Sleep(60 * time.Millisecond)
		checkRight(t, c.start())
		look := func() string {
			os.Remove(filepath.Join(c.dir, "debug"))
			var b strings.Builder
			out, err := exec.Command("find", c.dir, "-xdev", "-printf", "%p %y %s\n").Output()
			must(t, err)
			b.Write(out)
			groups, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/davit-security-%d*", os.Getpid()))
			return b.String() + mountinfo(t) + strings.Join(groups, "\n")
		}
		before := look()
		for range starts {
			if s := c.start(); s.err != nil {
				t.Fatal(s)
			}
		}
		if after := look(); after != before {
			t.Errorf("before:\n%s\nafter %d starts:\n%s", before, starts, after)
		}
	})
}
