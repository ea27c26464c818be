// SPDX-License-Identifier: Apache-2.0

package security

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"davit/internal/simulate"

	"golang.org/x/sys/unix"
)

// hostileCaches are loader caches that an image may bring. Those that davit
// cannot use stay as they are, byte for byte.
var hostileCaches = []struct {
	name string
	data func(t *testing.T) []byte
	used bool
}{
	{"empty", func(*testing.T) []byte { return nil }, false},
	{"magic alone", func(*testing.T) []byte { return []byte("glibc-ld.so.cache1.1") }, false},
	{"text", func(*testing.T) []byte { return []byte("\x1b[2Jnot a cache\n") }, false},
	{"cut in the entries", func(t *testing.T) []byte { return imageCache(t)[:60] }, false},
	{"cut in the strings", func(t *testing.T) []byte { c := imageCache(t); return c[:len(c)-9] }, false},
	{"count of 4 billion", func(t *testing.T) []byte { return number(imageCache(t), 20, 0xffffffff) }, false},
	{"count that overflows", func(t *testing.T) []byte { return number(imageCache(t), 20, 0x0aaaaaab) }, false},
	{"name outside", func(t *testing.T) []byte { return number(imageCache(t), 52, 0x7fffffff) }, false},
	{"name wraps", func(t *testing.T) []byte { return number(imageCache(t), 52, 0xfffffff0) }, false},
	{"extension outside", func(t *testing.T) []byte { return number(imageCache(t), 32, 0xfffffff0) }, false},
	{"extension on the header", func(t *testing.T) []byte { return number(imageCache(t), 32, 4) }, false},
	{"old with count of 4 billion", func(*testing.T) []byte {
		return append([]byte("ld.so-1.7.0\x00\xff\xff\xff\xff"), make([]byte, 64)...)
	}, false},
	{"endless string", func(t *testing.T) []byte { return append(imageCache(t)[:48+72], bytes.Repeat([]byte("a"), 1<<20)...) }, false},
	{"paths with dots", func(*testing.T) []byte {
		return loaderCache("/usr/lib/../../../../canary/libnvidia-ml.so.1", "/../../canary/libcuda.so.1", "canary/libc.so.6")
	}, true},
	{"driver libraries elsewhere", func(*testing.T) []byte {
		return loaderCache("/evil/libnvidia-ml.so.1", "/evil/libcuda.so.1", "/evil/libcuda.so")
	}, true},
}

func number(data []byte, at int, n uint32) []byte {
	binary.LittleEndian.PutUint32(data[at:], n)
	return data
}

// TestHostileCaches: the container starts right whatever its cache is.
func TestHostileCaches(t *testing.T) {
	bothWays(t, func(t *testing.T, way string) {
		for _, test := range hostileCaches {
			t.Run(test.name, func(t *testing.T) {
				c := newContainer(t, way)
				k := newCanary(t, c.dir)
				file := filepath.Join(c.root, "etc/ld.so.cache")
				data := test.data(t)
				must(t, os.WriteFile(file, data, 0o644))
				checkRight(t, c.start())
				got := read(t, file)
				if !test.used && got != string(data) {
					t.Errorf("a cache that cannot be used was changed")
				}
				if test.used && (!strings.Contains(got, "/usr/lib/x86_64-linux-gnu/libcuda.so.1") || strings.Index(got, "/usr/lib/x86_64-linux-gnu/libcuda.so.1") > strings.Index(got, "libcuda.so.1\x00")) {
					t.Errorf("the driver's libcuda is not the first in the cache: %q", got)
				}
				k.check()
			})
		}
		t.Run("sparse GiB", func(t *testing.T) {
			c := newContainer(t, way)
			must(t, os.Truncate(filepath.Join(c.root, "etc/ld.so.cache"), 1<<30))
			c.script = strings.Split(lookAround, "find")[0]
			checkRight(t, c.start())
		})
	})
}

// damage changes a driver library of the host.
var damage = []struct {
	name   string
	change func(t *testing.T, data []byte) []byte
}{
	{"empty", func(*testing.T, []byte) []byte { return nil }},
	{"text", func(*testing.T, []byte) []byte { return []byte("GROUP ( /etc/passwd )\n") }},
	{"header alone", func(_ *testing.T, b []byte) []byte { return b[:64] }},
	{"half", func(_ *testing.T, b []byte) []byte { return b[:len(b)/2] }},
	{"program headers outside", func(_ *testing.T, b []byte) []byte {
		binary.LittleEndian.PutUint64(b[32:], 1<<63-8)
		return b
	}},
	{"65535 program headers", func(_ *testing.T, b []byte) []byte {
		binary.LittleEndian.PutUint16(b[56:], 0xffff)
		return b
	}},
	{"SONAME with a path", func(t *testing.T, b []byte) []byte { return soname(t, b, "../../etc/x.") }},
	{"SONAME with letters for terminals", func(t *testing.T, b []byte) []byte { return soname(t, b, "\x1b[2J\nlibcu.1") }},
	{"SONAME of libc", func(t *testing.T, b []byte) []byte { return soname(t, b, "libc.so.6") }},
	{"no SONAME", func(t *testing.T, b []byte) []byte { return soname(t, b, "") }},
	{"SONAME dots", func(t *testing.T, b []byte) []byte { return soname(t, b, "..") }},
}

// soname writes over a library's name of 12 letters, libcuda.so.1.
func soname(t *testing.T, data []byte, name string) []byte {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(data))
	must(t, err)
	names, err := f.DynString(elf.DT_SONAME)
	must(t, err)
	old := []byte(names[0] + "\x00")
	if len(name) > len(names[0]) {
		t.Fatalf("%q is longer than %q", name, names[0])
	}
	return bytes.ReplaceAll(data, old, append([]byte(name), make([]byte, len(old)-len(name))...))
}

// TestHostileDriver: a driver library of the host that is damaged, or names
// itself so that it would be mounted elsewhere.
func TestHostileDriver(t *testing.T) {
	bothWays(t, func(t *testing.T, way string) {
		for _, test := range damage {
			t.Run(test.name, func(t *testing.T) {
				c := newContainer(t, way)
				c.ownHost(simulate.Options{GPUs: 1})
				file := filepath.Join(c.host, "usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04")
				data, err := os.ReadFile(file)
				if err != nil {
					t.Skip("the libraries of this machine's simulated host are elsewhere")
				}
				must(t, os.WriteFile(file, test.change(t, data), 0o644))
				c.script = "echo UP; cut -d' ' -f5 /proc/self/mountinfo; cat /usr/lib/x86_64-linux-gnu/libc.so.6"
				must(t, os.Symlink("busybox", filepath.Join(c.root, "busybox/cut")))
				s := c.start()
				if s.err != nil {
					t.Log(checkRefused(t, way, s))
					return
				}
				for line := range strings.Lines(s.out) {
					if at := strings.TrimSpace(line); strings.HasPrefix(at, "/") && !allowedMount(at) {
						t.Errorf("mounted at %s", at)
					}
				}
				if !strings.HasSuffix(s.out, "image\n") {
					t.Errorf("the image's libc was mounted over: %s", s)
				}
			})
		}
	})
}

func allowedMount(at string) bool {
	if at == "/" {
		return true
	}
	for _, dir := range []string{"/proc", "/dev", "/usr/lib/x86_64-linux-gnu/lib", "/usr/bin/nvidia-", "/usr/share/", "/etc/OpenCL/vendors/", "/run/nvidia-", "/etc/ld.so.cache"} {
		if strings.HasPrefix(at, dir) {
			return !strings.Contains(at, "libc.so")
		}
	}
	return false
}

// bait is files of an image that NVIDIA's toolkit reads, mounts, follows or
// runs, and davit must not. Each is watched.
var bait = []struct {
	name string
	set  func(t *testing.T, c *container, canary string) (watched []string)
}{
	{"CUDA compat folder, links in it", func(t *testing.T, c *container, canary string) []string {
		dir := filepath.Join(c.root, "usr/local/cuda/compat")
		must(t, os.MkdirAll(dir, 0o755))
		for _, n := range []string{"libcuda.so.999.99.99", "libcuda.so.1", "libnvidia-ptxjitcompiler.so.999.99.99"} {
			must(t, os.Symlink(filepath.Join(canary, "libcuda.so.1"), filepath.Join(dir, n)))
		}
		return []string{dir}
	}},
	{"CUDA compat folder, a link itself", func(t *testing.T, c *container, canary string) []string {
		dir := filepath.Join(c.root, "usr/local/cuda")
		must(t, os.MkdirAll(dir, 0o755))
		must(t, os.Symlink(canary, filepath.Join(dir, "compat")))
		return []string{dir}
	}},
	{"CUDA compat folder, a library that is a folder", func(t *testing.T, c *container, canary string) []string {
		dir := filepath.Join(c.root, "usr/local/cuda/compat")
		must(t, os.MkdirAll(filepath.Join(dir, "libcuda.so.999.99.99/x"), 0o755))
		write(t, filepath.Join(dir, "libcuda.so.999"), "evil\n")
		return []string{dir, filepath.Join(dir, "libcuda.so.999")}
	}},
	{"firmware", func(t *testing.T, c *container, canary string) []string {
		must(t, os.MkdirAll(filepath.Join(c.root, "lib"), 0o755))
		must(t, os.Symlink("/", filepath.Join(c.root, "lib/firmware")))
		must(t, os.MkdirAll(filepath.Join(c.root, "usr/lib"), 0o755))
		must(t, os.Symlink(canary+"/firmware", filepath.Join(c.root, "usr/lib/firmware")))
		return nil
	}},
	{"ldconfig", func(t *testing.T, c *container, canary string) []string {
		var list []string
		for _, p := range []string{"sbin/ldconfig", "sbin/ldconfig.real", "usr/sbin/ldconfig", "usr/sbin/ldconfig.real"} {
			p = filepath.Join(c.root, p)
			write(t, p, "#!/busybox/sh\necho EVIL >"+canary+"/mark\necho EVIL >/mark\n")
			must(t, os.Chmod(p, 0o755))
			list = append(list, p)
		}
		write(t, filepath.Join(c.root, "etc/ld.so.conf"), "include "+canary+"/*.conf\n"+canary+"\n")
		must(t, os.Symlink(canary, filepath.Join(c.root, "etc/ld.so.conf.d")))
		return append(list, filepath.Join(c.root, "etc/ld.so.conf"))
	}},
	{"links to be written through", func(t *testing.T, c *container, canary string) []string {
		lib := filepath.Join(c.root, "usr/lib/x86_64-linux-gnu")
		for _, n := range []string{"libcuda.so", "libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-opticalflow.so"} {
			must(t, os.Symlink(canary+"/new-"+n, filepath.Join(lib, n)))
		}
		must(t, os.Symlink(canary+"/new-smi", filepath.Join(c.root, "usr/bin/nvidia-smi")))
		return nil
	}},
	{"nvidia-smi and the runtime", func(t *testing.T, c *container, canary string) []string {
		for _, n := range []string{"runc", "nvidia-modprobe", "nvidia-container-cli", "nvidia-ctk"} {
			p := filepath.Join(c.root, "usr/bin", n)
			write(t, p, "#!/busybox/sh\necho EVIL >/mark\n")
			must(t, os.Chmod(p, 0o755))
		}
		return []string{filepath.Join(c.root, "usr/bin/runc"), filepath.Join(c.root, "usr/bin/nvidia-modprobe"), filepath.Join(c.root, "usr/bin/nvidia-container-cli")}
	}},
	{"host's driver files in the image", func(t *testing.T, c *container, canary string) []string {
		dir := filepath.Join(c.root, "proc/driver/nvidia")
		write(t, filepath.Join(dir, "version"), "NVRM version: NVIDIA UNIX x86_64 Kernel Module  1.2.3\n")
		write(t, filepath.Join(c.root, "dev/nvidia0"), "no node\n")
		must(t, os.Symlink(canary, filepath.Join(dir, "gpus")))
		return []string{dir, filepath.Join(dir, "version")}
	}},
}

// TestBait: nothing of the image but names and its loader cache is looked at.
func TestBait(t *testing.T) {
	bothWays(t, func(t *testing.T, way string) {
		for _, test := range bait {
			t.Run(test.name, func(t *testing.T) {
				c := newContainer(t, way)
				k := newCanary(t, c.dir)
				watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
				must(t, err)
				defer unix.Close(watch)
				names := map[int]string{}
				for _, p := range test.set(t, c, k.dir) {
					n, err := unix.InotifyAddWatch(watch, p, unix.IN_ALL_EVENTS)
					must(t, err)
					names[n] = p
				}
				c.script = strings.Split(lookAround, "find")[0] + "[ ! -e /mark ] || echo EVIL; cat /proc/self/mountinfo"
				s := c.start()
				checkRight(t, s)
				checkSources(t, c, s.out)
				for _, e := range events(t, watch) {
					t.Errorf("the image's file was looked at: %s", e.in(names))
				}
				k.check()
			})
		}
	})
}

// checkSources fails unless all that is mounted in a container, as its
// mountinfo says, is the driver's or davit's own.
func checkSources(t *testing.T, c *container, out string) {
	t.Helper()
	if strings.Contains(out, "EVIL") {
		t.Errorf("a program of the image ran: %s", out)
	}
	seen := 0
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 7 || f[4] == "/" || f[4] == "/dev" || strings.HasPrefix(f[4], "/proc") {
			continue
		}
		seen++
		ours := strings.Contains(f[3], "/host/") || strings.Contains(f[3], "/state/") || strings.HasSuffix(f[3], "/"+shimName)
		if !ours || strings.Contains(f[3], "/bundle/") || strings.Contains(f[3], "/canary") {
			t.Errorf("mounted from elsewhere than the host's driver: %s", line)
		}
	}
	if seen == 0 {
		t.Errorf("nothing is mounted: %s", out)
	}
}
