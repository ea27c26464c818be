// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"

	"davit/internal/loader"
	"davit/internal/nvidia"
	"davit/internal/plan"

	"golang.org/x/sys/unix"
)

// hostCache is a real loader cache, this machine's.
func hostCache(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile("/etc/ld.so.cache")
	if err != nil {
		t.Skipf("this test needs the machine's own loader cache: %v", err)
	}
	return data
}

// fullEdits asks for one of everything.
func fullEdits(t *testing.T, b *bundle) {
	t.Helper()
	given, _ := testNodes(t)
	node := given
	node.Path, node.Mode, node.GID = "/dev/davit0", 0o660, 44
	deep := given
	deep.Path = "/dev/davit-caps/cap1"
	src := filepath.Join(b.dir, "driver")
	write(t, filepath.Join(src, "libdavit.so.1"), "library\n")
	write(t, filepath.Join(src, "firmware/gsp.bin"), "firmware\n")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(src, "socket")}))
	b.job.Edits = plan.Edits{
		Devices: []plan.Device{node, deep},
		Mounts: []plan.Mount{
			{Source: src + "/libdavit.so.1", Target: "/usr/lib/x86_64-linux-gnu/libdavit.so.1"},
			{Source: src + "/libdavit.so.1", Target: "/usr/lib/x86_64-linux-gnu/libdavit.so"},
			{Source: src + "/firmware", Target: "/lib/firmware/davit", Folder: true},
			{Source: src + "/socket", Target: "/run/davit/socket", Writable: true},
		},
		Masks: []plan.Mask{{Path: "/proc/fs"}, {Path: "/proc/version"}, {Path: "/proc/nothing/there"}},
		Cache: []loader.Entry{{Name: "libdavit.so.1", Path: "/usr/lib/x86_64-linux-gnu/libdavit.so.1"}},
		GIDs:  []uint32{44},
	}
	b.job.Params, b.job.ParamsPath = "ModifyDeviceFiles: 0\n", "/proc/cmdline"
	must(t, os.WriteFile(filepath.Join(b.root, "etc/ld.so.cache"), hostCache(t), 0o600))
}

const fullScript = `
l=/usr/lib/x86_64-linux-gnu
echo "lib $(cat $l/libdavit.so.1) $(cat $l/libdavit.so) firmware $(cat /lib/firmware/davit/gsp.bin)"
echo "node $(stat -c '%F %t:%T %a %u %g' /dev/davit0) $(stat -c %a /dev/davit-caps /dev/davit-caps/cap1)"
(: </dev/davit0) && echo opens
(: <>/dev/davit-caps/cap1) && echo opens deep
mknod /dev/other c $1 $2 && (: </dev/other) && echo OTHER OPENS
(echo x >$l/libdavit.so.1) && echo WRITTEN
(echo x >/lib/firmware/davit/new) && echo WRITTEN
(echo x >/proc/cmdline) && echo WRITTEN
mount -o remount,bind,rw $l/libdavit.so.1 && echo REMOUNTED
echo "params $(cat /proc/cmdline) masks [$(ls /proc/fs)] [$(cat /proc/version)]"
[ -S /run/davit/socket ] && echo socket
echo "cache $(stat -c %a /etc/ld.so.cache)"
while read -r _ _ _ _ at flags _; do case $at in */davit*|*libdavit*|/proc/fs|/proc/version|/proc/cmdline) echo "mount $at $flags";; esac; done </proc/self/mountinfo
`

// TestContainerEdits applies one of everything and looks at it from inside.
func TestContainerEdits(t *testing.T) {
	runtimes(t, func(t *testing.T, runtime string) {
		for _, forceBind := range []bool{false, true} {
			t.Run(fmt.Sprintf("bind=%v", forceBind), func(t *testing.T) {
				b := newBundle(t)
				fullEdits(t, b)
				b.job.ForceBind = forceBind
				given, refused := testNodes(t)
				b.script = fmt.Sprintf("set -- %d %d\n", refused.Major, refused.Minor) + fullScript
				out, err := b.run(t, runtime)
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				for _, want := range []string{
					"lib library library firmware firmware\n",
					fmt.Sprintf("node character special file %x:%x 660 0 44 755\n666\n", given.Major, given.Minor),
					"opens\n", "opens deep\n", "/dev/other: Operation not permitted\n",
					"libdavit.so.1: Read-only file system\n", "firmware/davit/new: Read-only file system\n", "/proc/cmdline: Read-only file system\n",
					"params ModifyDeviceFiles: 0 masks [] []\n", "socket\n", "cache 644\n",
					"mount /usr/lib/x86_64-linux-gnu/libdavit.so.1 ro,nosuid,nodev", "mount /usr/lib/x86_64-linux-gnu/libdavit.so ro,nosuid,nodev",
					"mount /lib/firmware/davit ro,nosuid,nodev", "mount /run/davit/socket rw,nosuid,nodev",
					"mount /proc/fs ro,nosuid,nodev,noexec", "mount /proc/version ro,nosuid,noexec", "mount /proc/cmdline ro,nosuid,nodev,noexec",
				} {
					if !strings.Contains(out, want) {
						t.Errorf("missing %q", want)
					}
				}
				for _, bad := range []string{"OTHER OPENS", "WRITTEN", "REMOUNTED"} {
					if strings.Contains(out, bad) {
						t.Errorf("found %s", bad)
					}
				}
				if t.Failed() {
					t.Log(out)
				}
				want, err := loader.Merge(hostCache(t), goruntime.GOARCH, b.job.Edits.Cache, nil)
				must(t, err)
				if got, err := os.ReadFile(b.root + "/etc/ld.so.cache"); err != nil || string(got) != string(want) {
					t.Errorf("the loader cache is not the merged one: %v", err)
				}
				notes, err := os.ReadFile(b.job.NotesFile)
				if err != nil || !strings.Contains(string(notes), "groups [44]") {
					t.Errorf("notes %q, %v", notes, err)
				}
				if files, _ := filepath.Glob(b.job.StateDir + "/*"); len(files) != 1 {
					t.Errorf("state files %v, want the params copy alone", files)
				}
				// The same root once more, as docker restarts a container.
				if again, err := b.run(t, runtime); err != nil || sorted(again) != sorted(out) {
					t.Errorf("second start: %v\n%s", err, again)
				}
			})
		}
	})
}

// sorted forgets the order of lines, that of mounts for one.
func sorted(s string) string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestContainerReadOnly starts with a root that is read-only for the runtime,
// and with one whose file system is.
func TestContainerReadOnly(t *testing.T) {
	runtimes(t, func(t *testing.T, runtime string) {
		b := newBundle(t)
		fullEdits(t, b)
		b.readOnly = true
		b.script = "cat /usr/lib/x86_64-linux-gnu/libdavit.so; : </dev/davit0 && echo opens; (echo >/etc/x) || :"
		out, err := b.run(t, runtime)
		if err != nil || !strings.Contains(out, "library\n") || !strings.Contains(out, "opens\n") || !strings.Contains(out, "Read-only file system") {
			t.Errorf("--read-only: %v\n%s", err, out)
		}
		for _, forceBind := range []bool{false, true} {
			b = newBundle(t)
			// A file system of its own: crun's bind mount of the root forgets a mere mount flag.
			must(t, unix.Mount("tmpfs", b.root, "tmpfs", 0, "mode=755"))
			makeRoot(t, b.root)
			fullEdits(t, b)
			b.job.ForceBind = forceBind
			write(t, b.root+"/usr/lib/libdavit.so.1", "stale\n")
			b.job.Edits.Mounts = b.job.Edits.Mounts[:1]
			b.script = "cat /usr/lib/libdavit.so.1; grep -q libdavit.so.1 /etc/ld.so.cache && echo cached; (echo x >/etc/ld.so.cache) || :"
			must(t, unix.Mount("", b.root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
			out, err = b.run(t, runtime)
			if err == nil || !strings.Contains(out, "mount libdavit.so.1 onto /usr/lib/x86_64-linux-gnu/libdavit.so.1: read-only file system; ") {
				t.Errorf("no place to mount onto: %v\n%s", err, out)
			}
			b.job.Edits.Mounts[0].Target = "/usr/lib/libdavit.so.1"
			out, err = b.run(t, runtime)
			if err != nil || !strings.Contains(out, "library\n") || !strings.Contains(out, "cached\n") || !strings.Contains(out, "/etc/ld.so.cache: Read-only file system") {
				t.Errorf("read-only file system: %v\n%s", err, out)
			}
			if got, err := os.ReadFile(b.root + "/etc/ld.so.cache"); err != nil || string(got) != string(hostCache(t)) {
				t.Errorf("the image's cache was changed (%v)", err)
			}
			must(t, unix.Unmount(b.root, 0))
		}
	})
}

// TestContainerUserNS binds the nodes.
func TestContainerUserNS(t *testing.T) {
	runtimes(t, func(t *testing.T, runtime string) {
		for _, forceBind := range []bool{false, true} {
			b := newBundle(t)
			for d := b.dir; d != "/"; d = filepath.Dir(d) {
				must(t, os.Chmod(d, os.FileMode(0o755)|stickyOf(t, d)))
			}
			given, refused := testNodes(t)
			mode := modeOf(t, given.Host)
			must(t, filepath.Walk(b.root, func(p string, _ os.FileInfo, err error) error {
				must(t, err)
				return os.Lchown(p, 100000, 100000)
			}))
			// Its root cannot write here without CAP_DAC_OVERRIDE.
			must(t, os.Chown(b.root+"/usr/lib", 100005, 100005))
			node := given
			node.Path = "/dev/davit0"
			b.userNS, b.job.ForceBind = true, forceBind
			src := filepath.Join(b.dir, "lib")
			write(t, src, "library\n")
			b.job.Edits = plan.Edits{Devices: []plan.Device{node}, Mounts: []plan.Mount{{Source: src, Target: "/usr/lib/new/libdavit.so.1"}}}
			b.script = fmt.Sprintf("cat /usr/lib/new/libdavit.so.1; stat -c '%%F %%t:%%T %%a' /dev/davit0; grep ' /dev/davit0 ' /proc/self/mountinfo; chmod 777 /dev/davit0; mknod /dev/x c %d %d", refused.Major, refused.Minor)
			out, err := b.run(t, runtime)
			if err != nil && !strings.Contains(out, "library") {
				if p := newBundle(t); func() bool { p.userNS = true; p.script = "true"; _, e := p.run(t, runtime); return e != nil }() {
					t.Skipf("%s cannot start a container with a user namespace here", runtime)
				}
			}
			for _, want := range []string{"library\n", fmt.Sprintf("character special file %x:%x %o\n", given.Major, given.Minor, mode), " /dev/davit0 ro,nosuid,noexec"} {
				if !strings.Contains(out, want) {
					t.Errorf("bind=%v: missing %q in\n%s", forceBind, want, out)
				}
			}
			if modeOf(t, given.Host) != mode {
				t.Error("the host's node was changed")
			}
		}
	})
}

func modeOf(t *testing.T, p string) os.FileMode {
	t.Helper()
	info, err := os.Stat(p)
	must(t, err)
	return info.Mode().Perm()
}

func stickyOf(t *testing.T, p string) os.FileMode {
	t.Helper()
	info, err := os.Stat(p)
	must(t, err)
	return info.Mode()&os.ModeSticky | info.Mode().Perm()&0o022
}

// TestContainerFails: a failure leaves no container, and one line.
func TestContainerFails(t *testing.T) {
	runtimes(t, func(t *testing.T, runtime string) {
		given, _ := testNodes(t)
		given.Path = "/dev/davit0"
		for _, test := range []struct {
			name string
			make func(b *bundle)
			want string
		}{
			{"source gone", func(b *bundle) { b.job.Edits.Mounts[0].Source += ".gone" },
				"libdavit.so.1.gone of the host: no such file or directory; the driver or its devices changed meanwhile, start the container again"},
			{"source a folder", func(b *bundle) { b.job.Edits.Mounts[0].Source = "/etc" },
				"mount /etc of the host: it is not a plain file; "},
			{"source a device", func(b *bundle) { b.job.Edits.Mounts[0].Source = "/dev/null" },
				"mount /dev/null of the host: it is not a plain file; "},
			{"library folder leads to /proc", func(b *bundle) { link(t, "/proc", b.root+"/usr/lib/x86_64-linux-gnu") },
				"mount libdavit.so.1 onto /usr/lib/x86_64-linux-gnu/libdavit.so.1: a link of the image leads into a file system of the kernel (/proc, /sys); "},
			{"library is a link to /proc/version", func(b *bundle) { link(t, "/proc/version", b.root+"/usr/lib/x86_64-linux-gnu/libdavit.so.1") },
				"a link of the image leads into a file system of the kernel"},
			{"firmware leads to the root", func(b *bundle) { link(t, "/", b.root+"/lib/firmware/davit") },
				"mount firmware onto /lib/firmware/davit: a link of the image leads to its root; "},
			{"target is a folder", func(b *bundle) { write(t, b.root+"/usr/lib/x86_64-linux-gnu/libdavit.so.1/x", "") },
				"mount libdavit.so.1 onto /usr/lib/x86_64-linux-gnu/libdavit.so.1: the image has a folder there; "},
			{"folder is a file", func(b *bundle) { write(t, b.root+"/usr/lib/x86_64-linux-gnu", "") },
				"mount libdavit.so.1 onto /usr/lib/x86_64-linux-gnu/libdavit.so.1: not a directory; "},
			{"target is a FIFO", func(b *bundle) {
				write(t, b.root+"/usr/lib/x86_64-linux-gnu/x", "")
				must(t, unix.Mkfifo(b.root+"/usr/lib/x86_64-linux-gnu/libdavit.so.1", 0o600))
			}, "the image has something there that is no plain file; "},
			{"links in a ring", func(b *bundle) {
				link(t, "ring2", b.root+"/usr/lib/x86_64-linux-gnu")
				link(t, "x86_64-linux-gnu", b.root+"/usr/lib/ring2")
			}, "mount libdavit.so.1 onto /usr/lib/x86_64-linux-gnu/libdavit.so.1: too many levels of symbolic links; "},
			{"another root", func(b *bundle) { b.job.Root = b.dir + "/nowhere" }, "find the container's root "},
		} {
			b := newBundle(t)
			src := filepath.Join(b.dir, "driver")
			write(t, src+"/libdavit.so.1", "library\n")
			write(t, src+"/firmware/x", "")
			b.job.Edits = plan.Edits{Devices: []plan.Device{given}, Mounts: []plan.Mount{
				{Source: src + "/libdavit.so.1", Target: "/usr/lib/x86_64-linux-gnu/libdavit.so.1"},
				{Source: src + "/firmware", Target: "/lib/firmware/davit", Folder: true}}}
			b.script = "echo STARTED"
			test.make(b)
			out, err := b.run(t, runtime)
			if err == nil || strings.Contains(out, "STARTED") || !strings.Contains(out, test.want) {
				t.Errorf("%s: err %v\n%s", test.name, err, out)
			}
			for _, top := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/devices"} {
				if _, err := os.Stat(top + b.cgroup()); err == nil {
					t.Errorf("%s: %s is still there", test.name, top+b.cgroup())
				}
			}
		}
	})
}

func link(t *testing.T, to, at string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(at), 0o755))
	must(t, os.Symlink(to, at))
}

// TestContainerHostDev: with -v /dev:/dev nothing of the host is changed.
func TestContainerHostDev(t *testing.T) {
	runtimes(t, func(t *testing.T, runtime string) {
		given, _ := testNodes(t)
		var gone plan.Device
		gone.Node = nvidia.Node{Path: "/dev/davit-not-there", Major: given.Major, Minor: given.Minor, Mode: 0o666}
		kept := given
		kept.Path = given.Host
		b := newBundle(t)
		b.mounts = []map[string]any{{"destination": "/dev", "type": "bind", "source": "/dev", "options": []string{"bind", "rw"}}}
		b.script = ": <" + kept.Path + " && echo opens"
		b.job.Edits.Devices = []plan.Device{kept}
		mode := modeOf(t, given.Host)
		if out, err := b.run(t, runtime); err != nil || out != "opens\n" {
			t.Errorf("%v %s", err, out)
		}
		b.job.Edits.Devices = []plan.Device{kept, gone}
		if out, err := b.run(t, runtime); err == nil || !strings.Contains(out, "make the node /dev/davit-not-there") {
			t.Errorf("%v %s", err, out)
		}
		gone.Path = "/dev/davit-no-folder/x"
		b.job.Edits.Devices = []plan.Device{gone}
		if out, err := b.run(t, runtime); err == nil || !strings.Contains(out, "the container has the host's own /dev") {
			t.Errorf("%v %s", err, out)
		}
		for _, p := range []string{"/dev/davit-not-there", "/dev/davit-no-folder"} {
			if _, err := os.Lstat(p); err == nil {
				t.Errorf("%s was made on the host", p)
			}
		}
		if modeOf(t, given.Host) != mode {
			t.Error("the host's node was changed")
		}
	})
}
