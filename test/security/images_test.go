// SPDX-License-Identifier: Apache-2.0

package security

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// places are all that davit reads, makes or mounts onto in an image, and the
// folders above them.
var places = []string{
	"/usr", "/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu/libcuda.so.1", "/usr/lib/x86_64-linux-gnu/libc.so.6",
	"/lib64", "/lib", "/usr/lib64", "/etc", "/etc/ld.so.cache", "/dev", "/dev/nvidia0", "/usr/bin", "/usr/bin/nvidia-smi",
	"/run", "/run/nvidia-persistenced", "/etc/vulkan", "/usr/share",
}

// traps are what an image can have in a place. canary is the folder outside.
var traps = []struct {
	name string
	set  func(t *testing.T, c *container, canary, p string)
	long bool // not in short mode
}{
	{"absolute link", func(t *testing.T, c *container, canary, p string) { must(t, os.Symlink(canary, p)) }, false},
	{"absolute link to the file", func(t *testing.T, c *container, canary, p string) {
		must(t, os.Symlink(filepath.Join(canary, filepath.Base(p)), p))
	}, true},
	{"dots", func(t *testing.T, c *container, canary, p string) {
		must(t, os.Symlink(strings.Repeat("../", 30)+canary[1:], p))
	}, false},
	{"dots from the bundle", func(t *testing.T, c *container, canary, p string) {
		// The exact number of steps out of the root, no more.
		depth := strings.Count(strings.TrimPrefix(p, c.root), "/")
		must(t, os.Symlink(strings.Repeat("../", depth-1)+"../../canary", p))
	}, true},
	{"link to the root", func(t *testing.T, c *container, canary, p string) { must(t, os.Symlink("/", p)) }, true},
	{"link through proc", func(t *testing.T, c *container, canary, p string) {
		must(t, os.Symlink("/proc/self/root"+canary, p))
	}, true},
	{"link through the working folder", func(t *testing.T, c *container, canary, p string) {
		must(t, os.Symlink("/proc/self/cwd/../canary", p))
	}, true},
	{"link to a folder of the same name inside", func(t *testing.T, c *container, canary, p string) {
		must(t, os.MkdirAll(filepath.Join(c.root, canary), 0o755))
		must(t, os.Symlink(canary, p))
	}, true},
	{"dangling", func(t *testing.T, c *container, canary, p string) {
		must(t, os.Symlink(filepath.Join(canary, "new/file"), p))
	}, true},
	{"loop", func(t *testing.T, c *container, canary, p string) { must(t, os.Symlink(filepath.Base(p), p)) }, true},
	{"FIFO", func(t *testing.T, c *container, canary, p string) { must(t, unix.Mkfifo(p, 0o644)) }, false},
	{"device", func(t *testing.T, c *container, canary, p string) {
		must(t, unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))) // zero
	}, true},
	{"socket", func(t *testing.T, c *container, canary, p string) { must(t, unix.Mknod(p, unix.S_IFSOCK|0o666, 0)) }, true},
	{"file", func(t *testing.T, c *container, canary, p string) { write(t, p, "file\n") }, true},
	{"folder", func(t *testing.T, c *container, canary, p string) { must(t, os.MkdirAll(p, 0o755)) }, true},
}

// TestImages starts containers of images with a trap in each place.
func TestImages(t *testing.T) {
	bothWays(t, func(t *testing.T, way string) {
		for _, place := range places {
			for _, trap := range traps {
				if trap.long && testing.Short() {
					continue
				}
				t.Run(strings.ReplaceAll(strings.Trim(place, "/"), "/", "_")+"/"+trap.name, func(t *testing.T) {
					c := newContainer(t, way)
					k := newCanary(t, c.dir)
					p := filepath.Join(c.root, place)
					must(t, os.RemoveAll(p))
					must(t, os.MkdirAll(filepath.Dir(p), 0o755))
					trap.set(t, c, k.dir, p)
					k.restart()
					if place == "/dev" && plainStarts(c) && listing(t, k.dir) != k.before {
						t.Skip("runc itself, without any GPU, follows a link at /dev out of this image")
					}
					k.restart()
					checkTrapped(t, c, c.start())
					k.check()
				})
			}
		}
	})
}

// checkTrapped accepts a container that runs right, and one line of refusal.
// An image that runc cannot start even without GPU is nobody's fault.
func checkTrapped(t *testing.T, c *container, s started) {
	t.Helper()
	if strings.Contains(s.out, "CANARY") || strings.Contains(s.out, "/canary") {
		t.Errorf("the container sees the host's files: %s", s)
	}
	if s.err == nil {
		checkRight(t, s)
		return
	}
	if !strings.Contains(s.errs, "davit: ") && !plainStarts(c) {
		return
	}
	line := checkRefused(t, c.way, s)
	t.Logf("refused: %s", line)
}

// plainStarts says whether runc starts the image without any GPU.
func plainStarts(c *container) bool {
	plain := *c
	plain.way, plain.env = "plain", []string{"PATH=/busybox"}
	plain.script = "echo UP"
	plain.writeConfig()
	return strings.Contains(plain.launch("runc").out, "UP")
}
