// SPDX-License-Identifier: Apache-2.0

package live

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"davit/internal/loader"
	"davit/internal/plan"

	"golang.org/x/sys/unix"
)

// container is a process in a mount namespace of its own in which root is
// mounted onto itself: what a hook finds, without a runtime.
type container struct {
	pid int
	cmd *exec.Cmd
}

func newContainer(t *testing.T, root, propagation string) *container {
	t.Helper()
	needRoot(t)
	cmd := exec.Command("unshare", "--mount", "--propagation", propagation, "sh", "-c",
		`mount --bind "$0" "$0" && mount --make-private "$0" && { [ ! -d "$0/dev" ] || [ -L "$0/dev" ] || mount -t tmpfs tmpfs "$0/dev"; } && echo up && exec sleep 600`, root)
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	c := &container{pid: cmd.Process.Pid, cmd: cmd}
	t.Cleanup(c.stop)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "up\n" {
		t.Fatalf("container: %q %v", line, err)
	}
	return c
}

func (c *container) stop() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// mounts lists the mount points of the container's namespace.
func (c *container) mounts(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", c.pid))
	must(t, err)
	var points []string
	for line := range strings.Lines(string(text)) {
		points = append(points, strings.Fields(line)[4])
	}
	return points
}

// listing describes a folder so that any change shows: names, kinds, sizes,
// modes, owners, change times, content.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(p, &st))
		fmt.Fprintln(&b, p, st.Mode, st.Ino, st.Nlink, st.Uid, st.Gid, st.Size, st.Mtim, st.Ctim)
		return nil
	}))
	return b.String()
}

// attackEdits touches each kind of place in a container.
func attackEdits(t *testing.T) plan.Edits {
	t.Helper()
	src := t.TempDir()
	write(t, src+"/libdavit.so.1", "library\n")
	write(t, src+"/firmware/gsp.bin", "firmware\n")
	var d, deep plan.Device
	d.Path, d.Host, d.Major, d.Minor, d.Mode = "/dev/davit0", "/dev/null", 1, 3, 0o666
	deep = d
	deep.Path = "/dev/davit-caps/cap1"
	return plan.Edits{
		Devices: []plan.Device{d, deep},
		Mounts: []plan.Mount{
			{Source: src + "/libdavit.so.1", Target: "/usr/lib/libdavit.so.1"},
			{Source: src + "/firmware", Target: "/usr/lib/firmware/davit", Folder: true},
		},
		Masks: []plan.Mask{{Path: "/usr/lib/hide"}, {Path: "/etc/hide"}},
		Cache: []loader.Entry{{Name: "libdavit.so.1", Path: "/usr/lib/libdavit.so.1"}},
	}
}

// outside is a folder of the host that looks like a root, beside the container's.
func outside(t *testing.T, dir string) string {
	t.Helper()
	o := filepath.Join(dir, "outside")
	for _, f := range []string{"ld.so.cache", "libdavit.so.1", "hide", "davit0"} {
		write(t, filepath.Join(o, f), "host\n")
	}
	must(t, os.WriteFile(o+"/ld.so.cache", hostCache(t), 0o644))
	for _, d := range []string{"firmware/davit", "davit-caps"} {
		must(t, os.MkdirAll(filepath.Join(o, d), 0o755))
	}
	return o
}

// checkOutside fails if the host's folder changed or a mount lies outside the root.
func checkOutside(t *testing.T, c *container, root, out, before string, points []string) {
	t.Helper()
	if after := listing(t, out); after != before {
		t.Errorf("the host's folder changed\nbefore:\n%s\nafter:\n%s", before, after)
	}
	known := map[string]int{}
	for _, p := range points {
		known[p]++
	}
	for _, p := range c.mounts(t) {
		if known[p]--; known[p] < 0 && !strings.HasPrefix(p, root+"/") {
			t.Errorf("mounted at %s, outside of the root", p)
		}
	}
}

// hostMountsOf is hostMounts as far as the test's folder has to do with it; the
// machine may be doing other things.
func hostMountsOf(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(hostMounts(t)) {
		if strings.Contains(line, filepath.Dir(dir)) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// TestLinks: links of the image to the host's folder end inside the root.
func TestLinks(t *testing.T) {
	needRoot(t)
	for _, name := range []string{"usr/lib", "usr", "etc", "dev", "etc/ld.so.cache", "usr/lib/libdavit.so.1",
		"usr/lib/firmware", "usr/lib/firmware/davit", "usr/lib/hide"} {
		for _, absolute := range []bool{true, false} {
			for _, forceBind := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s absolute=%v bind=%v", name, absolute, forceBind), func(t *testing.T) {
					dir := t.TempDir()
					root, out := filepath.Join(dir, "rootfs"), outside(t, dir)
					for _, d := range []string{"usr/lib", "etc", "dev"} {
						must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
					}
					must(t, os.WriteFile(root+"/etc/ld.so.cache", hostCache(t), 0o644))
					at := filepath.Join(root, name)
					target := out
					if strings.Contains(filepath.Base(name), ".") || strings.HasSuffix(name, "hide") {
						target = filepath.Join(out, filepath.Base(name))
					}
					if !absolute {
						target = strings.Repeat("../", 30) + target[1:]
					}
					must(t, os.RemoveAll(at))
					link(t, target, at)
					c := newContainer(t, root, "slave")
					before, host, points := listing(t, out), hostMountsOf(t, dir), c.mounts(t)
					_, err := Apply(Target{Pid: c.pid, RootPath: root}, attackEdits(t), Options{StateDir: t.TempDir(), ForceBind: forceBind, NoCgroups: true})
					checkOutside(t, c, root, out, before, points)
					if hostMountsOf(t, dir) != host {
						t.Error("the host's mounts changed")
					}
					// A link that dangles inside the root is no place for a library; it may be refused, in one line.
					if err != nil && (strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), out)) {
						t.Errorf("not a line about the container: %v", err)
					}
					t.Log(err)
				})
			}
		}
	}
}

// TestLinksInside: links that stay inside are followed.
func TestLinksInside(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "rootfs")
	must(t, os.MkdirAll(root+"/usr/lib64", 0o755))
	must(t, os.MkdirAll(root+"/dev", 0o755))
	link(t, "/usr/lib64", root+"/usr/lib")
	write(t, root+"/usr/lib64/libdavit.so.470", "stale\n")
	link(t, "libdavit.so.470", root+"/usr/lib64/libdavit.so.1")
	c := newContainer(t, root, "slave")
	_, err := Apply(Target{Pid: c.pid, RootPath: root}, attackEdits(t), Options{StateDir: t.TempDir(), NoCgroups: true})
	must(t, err)
	if got, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s/usr/lib64/libdavit.so.1", c.pid, root)); err != nil || string(got) != "library\n" {
		t.Errorf("%q %v", got, err)
	}
}

// TestCacheOdd: what is no loader cache is left alone, said, and never waited for.
func TestCacheOdd(t *testing.T) {
	needRoot(t)
	for name, make := range map[string]func(t *testing.T, p string){
		"FIFO":   func(t *testing.T, p string) { must(t, unix.Mkfifo(p, 0o644)) },
		"device": func(t *testing.T, p string) { must(t, unix.Mknod(p, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5)))) },
		"folder": func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o755)) },
		"huge": func(t *testing.T, p string) {
			write(t, p, "")
			must(t, os.Truncate(p, 1<<40))
		},
		"rubbish": func(t *testing.T, p string) { write(t, p, "ld.so-1.7.0 and no more") },
		"empty":   func(t *testing.T, p string) { write(t, p, "") },
		"ring":    func(t *testing.T, p string) { link(t, "ld.so.cache", p) },
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "rootfs")
			for _, d := range []string{"usr/lib", "etc", "dev"} {
				must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
			}
			make(t, root+"/etc/ld.so.cache")
			c := newContainer(t, root, "slave")
			var before, after unix.Stat_t
			must(t, unix.Lstat(root+"/etc/ld.so.cache", &before))
			start := time.Now()
			notes, err := Apply(Target{Pid: c.pid, RootPath: root}, attackEdits(t), Options{StateDir: t.TempDir(), NoCgroups: true})
			if err != nil || len(notes) != 1 || !strings.Contains(notes[0], "/etc/ld.so.cache is left alone: ") {
				t.Errorf("%q %v", notes, err)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("took %v", d)
			}
			must(t, unix.Lstat(root+"/etc/ld.so.cache", &after))
			if before.Ino != after.Ino || before.Mtim != after.Mtim {
				t.Error("it was changed")
			}
		})
	}
}

// TestSharedVolume: nothing is mounted on a volume whose mounts reach the host.
func TestSharedVolume(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	root, volume := filepath.Join(dir, "rootfs"), filepath.Join(dir, "volume")
	for _, d := range []string{root + "/usr/lib", root + "/dev", volume} {
		must(t, os.MkdirAll(d, 0o755))
	}
	must(t, unix.Mount(volume, volume, "", unix.MS_BIND, ""))
	defer func() { must(t, unix.Unmount(volume, unix.MNT_DETACH)) }()
	must(t, unix.Mount("", volume, "", unix.MS_SHARED, ""))
	c := newContainer(t, root, "unchanged")
	nsenter := exec.Command("nsenter", "-m", "-t", fmt.Sprint(c.pid), "mount", "--bind", volume, root+"/usr/lib")
	if out, err := nsenter.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	host := hostMountsOf(t, dir)
	for _, forceBind := range []bool{false, true} {
		_, err := Apply(Target{Pid: c.pid, RootPath: root}, attackEdits(t), Options{StateDir: t.TempDir(), NoCgroups: true, ForceBind: forceBind})
		if err == nil || !strings.Contains(err.Error(), "mount libdavit.so.1 onto /usr/lib/libdavit.so.1: it is on a volume that is shared with the host") {
			t.Error(err)
		}
		if after := hostMountsOf(t, dir); after != host {
			t.Errorf("the host's mounts changed\n%s\n%s", host, after)
		}
	}
}

// TestPrivateMounts: sources that are shared on the host give private mounts.
func TestPrivateMounts(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	root := filepath.Join(dir, "rootfs")
	must(t, os.MkdirAll(root+"/usr/lib", 0o755))
	must(t, os.MkdirAll(root+"/dev", 0o755))
	src := filepath.Join(dir, "src")
	write(t, src+"/firmware/x", "")
	must(t, unix.Mount(src, src, "", unix.MS_BIND, ""))
	defer func() { must(t, unix.Unmount(src, unix.MNT_DETACH)) }()
	must(t, unix.Mount("", src, "", unix.MS_SHARED, ""))
	for _, forceBind := range []bool{false, true} {
		c := newContainer(t, root, "slave")
		_, err := Apply(Target{Pid: c.pid, RootPath: root}, plan.Edits{Mounts: []plan.Mount{{Source: src + "/firmware", Target: "/usr/lib/fw", Folder: true}}},
			Options{StateDir: t.TempDir(), NoCgroups: true, ForceBind: forceBind})
		must(t, err)
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", c.pid))
		must(t, err)
		found := false
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, " "+root+"/usr/lib/fw ") {
				found = true
				if !strings.Contains(line, " ro,nosuid,nodev") || strings.Contains(line, "shared:") || strings.Contains(line, "master:") {
					t.Errorf("bind=%v: %s", forceBind, line)
				}
			}
		}
		if !found {
			t.Errorf("bind=%v: not mounted", forceBind)
		}
	}
}

// TestRace swaps folders and files of the container for links to the host
// while edits are made, as fast as it can.
func TestRace(t *testing.T) {
	needRoot(t)
	rounds := 200
	if testing.Short() {
		rounds = 20
	}
	for _, forceBind := range []bool{false, true} {
		for _, name := range []string{"usr/lib", "etc", "usr/lib/libdavit.so.1", "usr/lib/firmware", "dev/davit-caps", "usr/lib/hide"} {
			t.Run(fmt.Sprintf("%s bind=%v", name, forceBind), func(t *testing.T) { race(t, name, forceBind, rounds) })
		}
	}
}

func race(t *testing.T, name string, forceBind bool, rounds int) {
	dir := t.TempDir()
	root, out := filepath.Join(dir, "rootfs"), outside(t, dir)
	for _, d := range []string{"usr/lib/firmware/davit", "usr/lib/hide", "etc", "dev"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	write(t, root+"/usr/lib/libdavit.so.1", "")
	must(t, os.WriteFile(root+"/etc/ld.so.cache", hostCache(t), 0o644))
	edits := attackEdits(t)
	host := hostMountsOf(t, dir)
	var c *container
	var points []string
	before := listing(t, out)
	errs := map[string]int{}
	stop := make(chan struct{})
	swapping := make(chan struct{})
	began := false
	swaps := 0
	state := t.TempDir()
	begin := func() {
		began = true
		view := root
		if strings.HasPrefix(name, "dev/") { // in a tmpfs of the container alone
			view = fmt.Sprintf("/proc/%d/root%s", c.pid, root)
		}
		at, spare := filepath.Join(view, name), filepath.Join(view, filepath.Dir(name), "spare")
		os.MkdirAll(at, 0o755)
		target := out
		if b := filepath.Base(name); b == "libdavit.so.1" || b == "hide" || b == "firmware" {
			target = filepath.Join(out, b)
		}
		os.Remove(spare)
		must(t, os.Symlink(target, spare))
		go func() {
			defer close(swapping)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if unix.Renameat2(unix.AT_FDCWD, at, unix.AT_FDCWD, spare, unix.RENAME_EXCHANGE) == nil {
					swaps++
				}
			}
		}()
	}
	c = newContainer(t, root, "slave")
	points = c.mounts(t)
	for i := range rounds {
		if i%20 == 19 && !strings.HasPrefix(name, "dev/") {
			checkOutside(t, c, root, out, before, points)
			c.stop()
			c = newContainer(t, root, "slave")
			points = c.mounts(t)
		}
		if !began {
			begin()
		}
		_, err := Apply(Target{Pid: c.pid, RootPath: root}, edits, Options{StateDir: state, ForceBind: forceBind, NoCgroups: true})
		if err != nil {
			errs[err.Error()]++
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), out) {
				t.Errorf("not a line about the container: %v", err)
			}
		}
	}
	close(stop)
	<-swapping
	checkOutside(t, c, root, out, before, points)
	if hostMountsOf(t, dir) != host {
		t.Error("the host's mounts changed")
	}
	t.Logf("%d swaps, %d applies, errors %v", swaps, rounds, errs)
	if swaps < rounds {
		t.Errorf("only %d swaps: the race was not tried", swaps)
	}
}

// TestBindRaced: the old way changes no flags of a mount that is not its own.
func TestBindRaced(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	write(t, dir+"/source", "library\n")
	write(t, dir+"/a", "")
	must(t, os.Mkdir(dir+"/b", 0o755))
	must(t, onSpareThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir+"/b", "tmpfs", 0, ""); err != nil {
			return err
		}
		bind := true
		s := &source{path: dir + "/source", attr: unix.MOUNT_ATTR_RDONLY}
		defer s.close()
		if err := s.open(&bind); err != nil {
			return err
		}
		at, err := openPath(dir+"/a", 0)
		if err != nil {
			return err
		}
		defer at.Close()
		if err := s.attach(at, func() (*os.File, error) { return openPath(dir+"/b", 0) }); !errors.Is(err, errRaced) {
			return fmt.Errorf("not noticed: %v", err)
		}
		return os.WriteFile(dir+"/b/x", nil, 0o600)
	}))
}
