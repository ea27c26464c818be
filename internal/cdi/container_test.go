// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	oci "github.com/opencontainers/runtime-spec/specs-go"
	upstream "tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/specs-go"

	"davit/internal/loader"
	"davit/internal/nvidia"
	"davit/internal/rootfs"
	"davit/internal/simulate"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// built is the folder of the davit-runtime that the tests share.
var built string

// buildRuntime builds davit-runtime once for all tests.
var buildRuntime = sync.OnceValues(func() (string, error) {
	var err error
	if built, err = os.MkdirTemp("", "davit-cdi-test-"); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", built, "davit/cmd/davit-runtime")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return filepath.Join(built, "davit-runtime"), nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

// real is a simulated host and a low-level runtime to start containers with.
type real struct {
	name string // of the runtime
	host simulate.Host
	hook string
}

// runtimes runs a test with each runtime that starts containers here.
func runtimes(t *testing.T, o simulate.Options, f func(t *testing.T, r real)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("starting containers needs root")
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("the root file systems are laid out for amd64")
	}
	if _, err := os.Stat("/usr/lib/x86_64-linux-gnu/libc.so.6"); err != nil {
		t.Skip("the root file systems are made of a Debian machine's libc")
	}
	hook, err := buildRuntime()
	must(t, err)
	o.Arch = "amd64"
	host, err := simulate.Make(filepath.Join(t.TempDir(), "host"), o)
	must(t, err)
	if len(host.Notes) > 0 {
		t.Skipf("the nodes here are not such as to test with: %s", host.Notes)
	}
	for _, name := range []string{"runc", "crun"} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(name); err != nil {
				t.Skip(err)
			}
			r := real{name: name, host: host, hook: hook}
			if out, err := r.start(t, makeRoot(t, "debian"), nil, nil, "echo fine"); err != nil || out != "fine\n" {
				t.Skipf("%s cannot start a plain container here: %v %s", name, err, out)
			}
			f(t, r)
		})
	}
}

// makeRoot makes a root file system of this machine's libc and shell. Its
// loader is Debian's, which searches Debian's folders and /usr/lib by itself.
// A "cached" root has its libraries elsewhere and all of them in a cache.
func makeRoot(t *testing.T, kind string) string {
	t.Helper()
	root := t.TempDir()
	must(t, os.Chmod(root, 0o755))
	lib := "usr/lib/x86_64-linux-gnu"
	for _, d := range []string{"usr/bin", "usr/lib64", lib, "usr/lib", "etc", "proc", "dev", "sys", "tmp"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	for _, l := range []string{"bin", "lib", "lib64"} {
		must(t, os.Symlink("usr/"+l, filepath.Join(root, l)))
	}
	copied := map[string]bool{}
	var add func(from, to string)
	add = func(from, to string) {
		if copied[to] {
			return
		}
		copied[to] = true
		data, err := os.ReadFile(from)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(root, to), data, 0o755))
		f, err := elf.Open(from)
		if err != nil {
			return
		}
		defer f.Close()
		needed, _ := f.ImportedLibraries()
		for _, n := range needed {
			if n != "ld-linux-x86-64.so.2" {
				add("/usr/lib/x86_64-linux-gnu/"+n, lib+"/"+n)
			}
		}
	}
	for _, p := range []string{"sh", "cat", "ls", "grep", "stat"} {
		from, err := exec.LookPath(p)
		must(t, err)
		add(from, "usr/bin/"+p)
	}
	for _, l := range []string{"libdl.so.2", "libpthread.so.0", "librt.so.1", "libm.so.6"} {
		if _, err := os.Stat("/usr/lib/x86_64-linux-gnu/" + l); err == nil {
			add("/usr/lib/x86_64-linux-gnu/"+l, lib+"/"+l)
		}
	}
	add("/lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2")
	if kind == "cached" {
		out, err := exec.Command("/sbin/ldconfig", "-r", root).CombinedOutput()
		if err != nil {
			t.Skipf("ldconfig: %v %s", err, out)
		}
	}
	return root
}

// write puts the host's spec, changed by edit, into a folder of its own.
func (r real) write(t *testing.T, o Options, edit func(*specs.Spec)) string {
	t.Helper()
	root, err := rootfs.Open(r.host.Dir)
	must(t, err)
	facts, err := nvidia.Read(root, nvidia.Options{})
	must(t, err)
	o.HostRoot, o.HookPath, o.StateDir = r.host.Dir, r.hook, t.TempDir()
	o.Layout = HostLayout(root, "amd64")
	spec, err := Render(facts, o)
	must(t, err)
	if edit != nil {
		edit(spec)
	}
	text, err := Marshal(spec, "yaml")
	must(t, err)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "nvidia.yaml"), text, 0o644))
	return dir
}

// config is a plain container's.
func config(root, script string) *oci.Spec {
	caps := []string{"CAP_CHOWN"}
	return &oci.Spec{
		Version: "1.0.2",
		Root:    &oci.Root{Path: root},
		Process: &oci.Process{
			Cwd: "/", Env: []string{"PATH=/usr/bin", "NVIDIA_VISIBLE_DEVICES=all"},
			Args:         []string{"/bin/sh", "-c", "exec 2>&1\n" + script},
			Capabilities: &oci.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []oci.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
		},
		Linux: &oci.Linux{
			Namespaces: []oci.LinuxNamespace{{Type: oci.PIDNamespace}, {Type: oci.MountNamespace}, {Type: oci.IPCNamespace}},
			Resources:  &oci.LinuxResources{Devices: []oci.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
}

// start applies devices to a container by the CDI project's own library, as
// engines do, and runs it.
func (r real) start(t *testing.T, root string, dirs, devices []string, script string, more ...func(*oci.Spec)) (string, error) {
	t.Helper()
	spec := config(root, script)
	for _, m := range more {
		m(spec)
	}
	if len(devices) > 0 {
		cache, err := upstream.NewCache(upstream.WithSpecDirs(dirs...), upstream.WithAutoRefresh(false))
		must(t, err)
		for file, errs := range cache.GetErrors() {
			t.Fatalf("%s: %v", file, errs)
		}
		if _, err := cache.InjectDevices(spec, devices...); err != nil {
			return "", err
		}
	}
	bundle := t.TempDir()
	text, err := json.Marshal(spec)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o644))
	open(t, bundle)
	open(t, filepath.Dir(bundle))
	// crun refuses hybrid cgroup hierarchies.
	// In a user namespace nodes are bound, by their usual path, so /dev has them.
	const hide = `! mountpoint -q /sys/fs/cgroup/unified || { umount /sys/fs/cgroup/unified; mount -t tmpfs tmpfs /sys/fs/cgroup/unified; }
mount -t tmpfs -o mode=755 tmpfs /mnt
cp -a "$1"/dev/. /mnt
for n in null zero full random urandom tty; do cp -a /dev/$n /mnt; done
mount --move /mnt /dev
shift
exec "$@"`
	args := []string{"--mount", "--propagation", "private", "sh", "-ec", hide, "sh", r.host.Dir, r.name, "--root", filepath.Join(bundle, "run"),
		"run", "--bundle", bundle, "davit-cdi-" + strings.ReplaceAll(bundle[1:], "/", "-")}
	out, err := exec.Command("unshare", args...).CombinedOutput()
	return string(out), err
}

func (r real) listed(gpus ...int) string {
	text := ""
	for as, i := range gpus {
		text += fmt.Sprintf("GPU %d: %s (UUID: %s)\n", as, r.host.GPUs[i].Name, r.host.GPUs[i].UUID)
	}
	return text
}

// TestContainers shows the same spec to images of the host's own family and of
// another one.
func TestContainers(t *testing.T) {
	for _, layout := range []string{"debian", "rhel"} {
		t.Run(layout, func(t *testing.T) {
			runtimes(t, simulate.Options{GPUs: 2, Model: "H100,T4", Driver: "550.120", Layout: layout}, func(t *testing.T, r real) {
				dir := r.write(t, Options{}, nil)
				bare := r.write(t, Options{NoHooks: true}, nil)
				for _, c := range []struct {
					name, root, dir string
					devices         []string
					want            string
				}{
					{"all", "cached", dir, []string{"all"}, r.listed(0, 1)},
					{"all without a cache", "debian", dir, []string{"all"}, r.listed(0, 1)},
					{"index", "cached", dir, []string{"1"}, r.listed(1)},
					{"gpuN", "debian", dir, []string{"gpu0"}, r.listed(0)},
					{"UUID", "cached", dir, []string{r.host.GPUs[1].UUID}, r.listed(1)},
					{"two", "cached", dir, []string{"1", "0"}, r.listed(0, 1)},
					{"one twice", "cached", dir, []string{"1", "gpu1"}, r.listed(1)},
					{"none", "cached", dir, []string{"none"}, "No devices were found\n"},
					{"no hooks", "debian", bare, []string{"all"}, r.listed(0, 1)},
				} {
					t.Run(c.name, func(t *testing.T) {
						for i, d := range c.devices {
							c.devices[i] = "nvidia.com/gpu=" + d
						}
						out, err := r.start(t, makeRoot(t, c.root), []string{c.dir}, c.devices, "nvidia-smi -L; exit 0")
						if layout == "rhel" && c.dir == bare {
							// Debian's loader does not look in /usr/lib64: what the hook is for.
							if err != nil || strings.Contains(out, "GPU 0") {
								t.Errorf("without the hook: %v\n%s", err, out)
							}
							return
						}
						if err != nil || out != c.want {
							t.Errorf("%v\n%s\nwant\n%s", err, out, c.want)
						}
					})
				}
			})
		})
	}
}

// TestContainerSees looks at a container from inside, with what the other ways
// give too.
func TestContainerSees(t *testing.T) {
	runtimes(t, simulate.Options{GPUs: 2, Model: "T4", Driver: "550.120", Layout: "rhel"}, func(t *testing.T, r real) {
		dir := r.write(t, Options{Capabilities: []string{nvidia.Compute, nvidia.Utility}}, nil)
		root := makeRoot(t, "cached")
		before, err := os.ReadFile(root + loader.CachePath)
		must(t, err)
		const script = `echo "env $NVIDIA_VISIBLE_DEVICES $PATH"
ls /dev | grep nvidia | while read n; do stat -c "%n %a %u %g" /dev/$n; done
(: </dev/nvidia1) && echo opens; ls /usr/lib64
(echo x >/usr/lib64/libcuda.so.1) || echo refused`
		run := func() string {
			out, err := r.start(t, root, []string{dir}, []string{"nvidia.com/gpu=1"}, script, func(s *oci.Spec) { s.Process.User.UID, s.Process.User.GID = 65534, 65534 })
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			return out
		}
		out := run()
		for _, want := range []string{"env void /usr/bin\n", "/dev/nvidia1 666 65534 65534\n", "/dev/nvidiactl 666 ", "opens\n", "libcuda.so.1\n", "libnvidia-ml.so.1\n", "refused\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q", want)
			}
		}
		for _, bad := range []string{"/dev/nvidia0", "nvidia-modeset", "libnvidia-glcore", "libcuda.so.550.120", "libnvidia-ml.so.550.120"} {
			if strings.Contains(out, bad) {
				t.Errorf("found %q", bad)
			}
		}
		after, err := os.ReadFile(root + loader.CachePath)
		must(t, err)
		old, err := loader.Parse(before)
		must(t, err)
		now, err := loader.Parse(after)
		must(t, err)
		for _, e := range old.Entries {
			if !slices.Contains(now.Entries, e) {
				t.Errorf("the image's entry %v is gone", e)
			}
		}
		if !slices.ContainsFunc(now.Entries, func(e loader.Entry) bool { return e.Name == "libcuda.so.1" && e.Path == "/usr/lib64/libcuda.so.1" }) {
			t.Errorf("no entry for libcuda.so.1")
		}
		// The same root again, as engines restart containers: nothing piles up.
		if again := run(); again != out {
			t.Errorf("second start:\n%s", again)
		}
		if again, err := os.ReadFile(root + loader.CachePath); err != nil || string(again) != string(after) {
			t.Errorf("the cache changed at the second start: %v", err)
		}
		if t.Failed() {
			t.Log(out)
		}
	})
}

// TestContainerRefused starts with specs that do not fit the host.
func TestContainerRefused(t *testing.T) {
	runtimes(t, simulate.Options{GPUs: 2, Model: "T4", Driver: "550.120"}, func(t *testing.T, r real) {
		for _, c := range []struct {
			name string
			edit func(args []string)
			want string
		}{
			{"driver", func(a []string) { replace(a, "--driver=550.120", "--driver=550.107.02") },
				"the CDI spec is stale: it was written for driver 550.107.02, and this host has 550.120 now; write it again"},
			{"GPU gone", func(a []string) { replace(a, "0000:2a:00.0", "0000:ff:00.0") }, "the GPU 0000:ff:00.0 that it was written for is not on this host now"},
			{"minor", func(a []string) { replace(a, "0000:2a:00.0/1", "0000:2a:00.0/3") }, "was /dev/nvidia3 when it was written and is /dev/nvidia1 now"},
			{"flag", func(a []string) { replace(a, "--libraries", "--libs") }, "unknown flag"},
		} {
			t.Run(c.name, func(t *testing.T) {
				dir := r.write(t, Options{}, func(s *specs.Spec) { c.edit(s.ContainerEdits.Hooks[0].Args) })
				out, err := r.start(t, makeRoot(t, "debian"), []string{dir}, []string{"nvidia.com/gpu=all"}, "echo STARTED")
				if err == nil || strings.Contains(out, "STARTED") || !strings.Contains(out, "davit: ") || !strings.Contains(out, c.want) {
					t.Errorf("%v\n%s\nwant %s", err, out, c.want)
				}
			})
		}
		t.Run("number", func(t *testing.T) {
			dir := r.write(t, Options{}, func(s *specs.Spec) {
				for _, n := range s.ContainerEdits.DeviceNodes {
					if n.Path == "/dev/nvidia-uvm" {
						n.Type, n.Major, n.Minor = "c", 1, 3
					}
				}
			})
			out, err := r.start(t, makeRoot(t, "debian"), []string{dir}, []string{"nvidia.com/gpu=all"}, "echo STARTED")
			if err == nil || !strings.Contains(out, "was given /dev/nvidia-uvm as device 1:3, and the kernel's nvidia-uvm is ") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	})
}

func replace(args []string, old, now string) {
	for i := range args {
		args[i] = strings.Replace(args[i], old, now, 1)
	}
}

// TestContainerUserNS starts as engines with a user namespace do: the hook runs
// in it and may write nowhere on the host.
func TestContainerUserNS(t *testing.T) {
	runtimes(t, simulate.Options{GPUs: 2, Model: "T4", Driver: "550.120", Layout: "rhel"}, func(t *testing.T, r real) {
		dir := r.write(t, Options{}, nil)
		root := makeRoot(t, "cached")
		for d := root; d != "/"; d = filepath.Dir(d) {
			open(t, d)
		}
		for d := filepath.Dir(r.host.Dir); d != "/"; d = filepath.Dir(d) {
			open(t, d)
		}
		open(t, filepath.Dir(r.hook))
		must(t, filepath.Walk(root, func(p string, _ os.FileInfo, err error) error {
			must(t, err)
			return os.Lchown(p, 100000, 100000)
		}))
		out, err := r.start(t, root, []string{dir}, []string{"nvidia.com/gpu=1"}, "nvidia-smi -L", func(s *oci.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, oci.LinuxNamespace{Type: oci.UserNamespace})
			s.Linux.UIDMappings = []oci.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
		})
		if err != nil || out != r.listed(1) {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// open lets everybody pass through a folder.
func open(t *testing.T, dir string) {
	t.Helper()
	info, err := os.Stat(dir)
	must(t, err)
	if info.Mode().Perm()&0o055 != 0o055 {
		must(t, os.Chmod(dir, info.Mode()|0o055))
	}
}
