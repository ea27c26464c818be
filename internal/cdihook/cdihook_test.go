// SPDX-License-Identifier: Apache-2.0

package cdihook

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"davit/internal/loader"
	"davit/internal/nvidia"
	"davit/internal/rootfs"
)

var host = nvidia.Identity{Driver: "550.120", GPUs: []nvidia.IdentityGPU{
	{BusID: "0000:18:00.0", Minor: 0, UUID: "GPU-a", MIG: []string{"1/0", "2/0"}},
	{BusID: "0000:2a:00.0", Minor: 1},
}}

func TestArgsSurvive(t *testing.T) {
	for _, a := range []Args{{}, {Stamp: host, Libraries: "/usr/lib64", Libraries32: "/usr/lib", HostRoot: "/srv/host", StateDir: "/run/x"}} {
		args := a.Strings()
		if args[0] != Verb {
			t.Errorf("%v does not begin with %s", args, Verb)
		}
		got, err := ParseArgs(args[1:])
		if err != nil || !reflect.DeepEqual(got, a) {
			t.Errorf("%v became %+v, %v", args, got, err)
		}
	}
}

func TestParseArgsRefuses(t *testing.T) {
	for arg, want := range map[string]string{
		"--new=1":        `unknown flag "--new=1"`,
		"word":           `unexpected argument "word"`,
		"--driver":       "--driver wants a value",
		"--gpu=x":        "PCI-ADDRESS/MINOR",
		"--gpu=a/b":      "invalid syntax",
		"--mig=a/1/0":    "behind --gpu",
		"--gpu-x=a/b/c ": "unknown flag",
	} {
		if _, err := ParseArgs([]string{arg}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", arg, err, want)
		}
	}
}

func TestStale(t *testing.T) {
	clone := func(change func(*nvidia.Identity)) nvidia.Identity {
		id := nvidia.Identity{Driver: host.Driver, GPUs: slices.Clone(host.GPUs)}
		change(&id)
		return id
	}
	for _, c := range []struct {
		name, want string
		now        nvidia.Identity
	}{
		{"same", "", host},
		{"UUID known by now", "", clone(func(i *nvidia.Identity) { i.GPUs[1].UUID = "GPU-b" })},
		{"UUID unknown now", "", clone(func(i *nvidia.Identity) { i.GPUs[0].UUID = "" })},
		{"other card in the slot", "is another, GPU-c, now", clone(func(i *nvidia.Identity) { i.GPUs[0].UUID = "GPU-c" })},
		{"driver", "for driver 550.120, and this host has 560.1 now", clone(func(i *nvidia.Identity) { i.Driver = "560.1" })},
		{"no driver", "no driver is loaded", nvidia.Identity{}},
		{"MIG", "were 1/0 2/0 when it was written and are 1/0 now", clone(func(i *nvidia.Identity) { i.GPUs[0].MIG = []string{"1/0"} })},
		{"MIG off", "are none now", clone(func(i *nvidia.Identity) { i.GPUs[0].MIG = nil })},
		{"GPU gone", "the GPU 0000:2a:00.0 that it was written for is not", clone(func(i *nvidia.Identity) { i.GPUs = i.GPUs[:1] })},
		{"new GPU", "the GPU 0000:3a:00.0, which it does not know", clone(func(i *nvidia.Identity) {
			i.GPUs = append(i.GPUs, nvidia.IdentityGPU{BusID: "0000:3a:00.0", Minor: 2})
		})},
		{"minor", "was /dev/nvidia1 when it was written and is /dev/nvidia7 now", clone(func(i *nvidia.Identity) { i.GPUs[1].Minor = 7 })},
	} {
		if got := Stale(host, c.now); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// container makes a bundle with a root and gives its state.
func container(t *testing.T, mounts, devices string) (root, state string) {
	t.Helper()
	dir := t.TempDir()
	root = filepath.Join(dir, "rootfs")
	for _, d := range []string{"etc", "usr/lib64", "usr/lib/x86_64-linux-gnu", "dev"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	config := `{"root":{"path":"rootfs"},"mounts":[` + mounts + `],"linux":{"devices":[` + devices + `]}}`
	must(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600))
	text, err := json.Marshal(map[string]any{"ociVersion": "1.0.2", "id": "c", "status": "creating", "pid": 1, "bundle": dir})
	must(t, err)
	return root, string(text)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func old(state string, args ...string) ([]string, error) {
	return RunOld(args, strings.NewReader(state), nil)
}

func TestOldCalls(t *testing.T) {
	_, state := container(t, "", "")
	for _, c := range []struct {
		args, note, err string
	}{
		{"", "no hook named", ""},
		{"wonder", `unknown hook "wonder": nothing done`, ""},
		{"--debug noop", "", ""},
		{"noop --flag=1", "", `noop: unknown flag "--flag=1"`},
		{"--what noop", "", `unknown flag "--what"`},
		{"create-symlinks --folder /x", "", `create-symlinks: unknown flag "--folder"`},
		{"create-symlinks --link", "", "--link wants a value"},
		{"create-symlinks --link a", "", "want TARGET::LINK"},
		{"create-symlinks --link a::b", "", "want TARGET::LINK"},
		{"create-symlinks --link a::/", "", "want TARGET::LINK"},
		{"update-ldcache --folder /usr/lib64", "glibc", ""},
		{"enable-cuda-compat --host-driver-version=550.120", "", ""},
		{"update-application-profile", "", ""},
		{"disable-device-node-modification", "", ""},
		{"chmod --mode 755 --path /nothing", "", ""},
		{"chmod --mode x --path /nothing", "", "--mode"},
	} {
		notes, err := old(state, strings.Fields(c.args)...)
		all := strings.Join(notes, "\n")
		if !strings.Contains(all, c.note) || (c.note == "") != (all == "") || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: notes %q, error %v", c.args, all, err)
		}
	}
	for _, bad := range []string{"", "{}", `{"bundle":1}`, `{"bundle":"relative"}`, `{"bundle":"/nowhere"}`} {
		if _, err := old(bad, "create-symlinks", "--link", "a::/b"); err == nil {
			t.Errorf("state %q was taken", bad)
		}
	}
}

func TestCreateSymlinks(t *testing.T) {
	root, state := container(t, "", "")
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.MkdirAll(outside, 0o755))
	must(t, os.WriteFile(root+"/usr/lib64/libold.so", []byte("old"), 0o644))
	must(t, os.Symlink("libcuda.so.1", root+"/usr/lib64/libright.so"))
	must(t, os.MkdirAll(root+outside, 0o755)) // where those links lead inside the root
	must(t, os.Symlink(outside, root+"/abs"))
	must(t, os.Symlink("../../../../../../../../.."+outside, root+"/up"))
	must(t, os.Mkdir(root+"/usr/lib64/folder.so", 0o755))
	before, err := os.Lstat(root + "/usr/lib64/libright.so")
	must(t, err)
	_, err = old(state, "create-symlinks",
		"--link", "libcuda.so.1::/usr/lib64/libcuda.so", "--link=../libnvidia-allocator.so.1::/usr/lib64/gbm/nvidia-drm_gbm.so",
		"--link", "libcuda.so.1::/usr/lib64/libright.so", "--link", "libnew.so::/usr/lib64/libold.so",
		"--link", "x::/abs/in", "--link", "y::/up/too", "--link", "z::/../../escape")
	must(t, err)
	for link, want := range map[string]string{
		"/usr/lib64/libcuda.so": "libcuda.so.1", "/usr/lib64/gbm/nvidia-drm_gbm.so": "../libnvidia-allocator.so.1",
		"/usr/lib64/libold.so": "libnew.so", "/escape": "z", outside + "/in": "x", outside + "/too": "y",
	} {
		if got, err := os.Readlink(root + link); err != nil || got != want {
			t.Errorf("%s -> %q, %v; want %q", link, got, err, want)
		}
	}
	if after, err := os.Lstat(root + "/usr/lib64/libright.so"); err != nil || !os.SameFile(before, after) {
		t.Errorf("a link that was right was made again: %v", err)
	}
	if names, err := os.ReadDir(outside); err != nil || len(names) != 0 {
		t.Errorf("outside of the container: %v, %v", names, err)
	}
	if _, err := old(state, "create-symlinks", "--link", "a::/usr/lib64/folder.so"); err == nil {
		t.Error("a folder was replaced")
	}
	if names, _ := filepath.Glob(root + "/usr/lib64/.*"); len(names) != 0 {
		t.Errorf("left over: %v", names)
	}
}

// A link of the image into a volume must not make the hook change the volume.
func TestVolumesAreLeftAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs a mount")
	}
	root, state := container(t, "", "")
	volume := root + "/data"
	must(t, os.Mkdir(volume, 0o755))
	if err := unix.Mount("tmpfs", volume, "tmpfs", 0, ""); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(volume, 0)) })
	must(t, os.Symlink("/data", root+"/usr/lib64/v"))
	must(t, os.RemoveAll(root+"/etc"))
	must(t, os.Symlink("/data", root+"/etc"))
	must(t, os.WriteFile(volume+"/f", nil, 0o600))
	must(t, os.MkdirAll(volume+"/nvidia/nvidia-application-profiles-rc.d", 0o755))
	for _, args := range [][]string{
		{"create-symlinks", "--link", "a::/usr/lib64/v/a"},
		{"chmod", "--mode", "777", "--path", "/usr/lib64/v/f"},
	} {
		if _, err := old(state, args...); err == nil || !strings.Contains(err.Error(), "into a volume") {
			t.Errorf("%v: %v", args, err)
		}
	}
	c, err := Open(strings.NewReader(state))
	must(t, err)
	defer c.Close()
	if err := c.placeCache(); err == nil || !strings.Contains(err.Error(), "into a volume") {
		t.Errorf("cache: %v", err)
	}
	names, err := os.ReadDir(volume)
	must(t, err)
	if len(names) != 2 {
		t.Errorf("the volume holds %v", names)
	}
}

func TestApplicationProfile(t *testing.T) {
	root, state := container(t, "", `{"path":"/dev/nvidia0"},{"path":"/dev/nvidia3"},{"path":"/dev/nvidiactl"},{"path":"/dev/nvidia200"}`)
	_, err := old(state, "update-application-profile")
	must(t, err)
	text, err := os.ReadFile(root + profileFile)
	must(t, err)
	var v struct {
		Profiles []struct{ Settings []any }
	}
	if err := json.Unmarshal(text, &v); err != nil || v.Profiles[0].Settings[1] != 9.0 {
		t.Errorf("%s: %v", text, err)
	}
}

// elfNote is an ELF file with one section, a note.
func elfNote(section, vendor, json string) []byte {
	le := binary.LittleEndian
	var note []byte
	note = le.AppendUint32(note, uint32(len(vendor)+1))
	note = le.AppendUint32(note, uint32(len(json)))
	note = le.AppendUint32(note, 1)
	note = append(append(note, vendor...), 0)
	note = append(note, make([]byte, -len(note)&3)...)
	note = append(note, json...)
	texts := "\x00" + section + "\x00"
	head := make([]byte, 64)
	copy(head, "\x7fELF\x02\x01\x01")
	le.PutUint16(head[58:], 64)
	le.PutUint16(head[60:], 3)
	le.PutUint16(head[62:], 1)
	body := append(head, texts...)
	noteAt := len(body)
	body = append(body, note...)
	le.PutUint64(body[40:], uint64(len(body)))
	table := make([]byte, 3*64)
	le.PutUint64(table[64+24:], 64)
	le.PutUint64(table[64+32:], uint64(len(texts)))
	le.PutUint32(table[128:], 1)
	le.PutUint64(table[128+24:], uint64(noteAt))
	le.PutUint64(table[128+32:], uint64(len(note)))
	return append(body, table...)
}

func TestEnableCompat(t *testing.T) {
	const section, vendor = ".note.cuda.fwd_compatibility", "NVIDIA Corporation"
	for _, c := range []struct {
		name    string
		version string
		file    []byte
		args    []string
		use     bool
	}{
		{"newer branch", "560.35.05", nil, nil, true},
		{"same branch", "550.90.07", nil, nil, false},
		{"older", "535.1.1", nil, nil, false},
		{"note for this driver", "560.35.05", elfNote(section, vendor, `{"CUDA Version":"12.6","Driver":[535,550]}`), nil, true},
		{"note for others", "560.35.05", elfNote(section, vendor, `{"CUDA Version":"12.6","Driver":[470,535]}`), nil, false},
		{"note with an older CUDA", "560.35.05", elfNote(section, vendor, `{"CUDA Version":"12.2"}`), nil, false},
		{"note against the flag", "550.1", elfNote(section, vendor, `{"CUDA Version":"12.6"}`), []string{"--host-cuda-version=12.8"}, false},
		{"note of somebody else", "560.35.05", elfNote(section, "ACME", `{"CUDA Version":"12.2"}`), nil, true},
		{"other note", "560.35.05", elfNote(".note.x", vendor, `{"CUDA Version":"12.2"}`), nil, true},
		{"broken note", "560.35.05", elfNote(section, vendor, `{`), nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			root, state := container(t, "", "")
			dir := root + "/usr/local/cuda-12.6/compat"
			must(t, os.MkdirAll(dir, 0o755))
			must(t, os.Symlink("cuda-12.6", root+"/usr/local/cuda"))
			must(t, os.WriteFile(dir+"/libcuda.so."+c.version, c.file, 0o644))
			must(t, os.WriteFile(root+loader.CachePath, emptyCache, 0o644))
			args := append([]string{"enable-cuda-compat", "--host-driver-version=550.120"}, c.args...)
			_, err := old(state, args...)
			must(t, err)
			text, err := os.ReadFile(root + compatConf)
			if (err == nil) != c.use || c.use && string(text) != "/usr/local/cuda/compat\n" {
				t.Errorf("use %v, want %v: %q", err == nil, c.use, text)
			}
			// A newer driver takes the decision back.
			_, err = old(state, "enable-cuda-compat", "--host-driver-version=999.1", "--host-cuda-version=99.9")
			must(t, err)
			if _, err := os.Lstat(root + compatConf); err == nil {
				t.Error("the decision stayed")
			}
		})
	}
}

func TestEmptyCacheParses(t *testing.T) {
	c, err := loader.Parse(emptyCache)
	if err != nil || len(c.Entries) != 0 || len(emptyCache) != 48 {
		t.Errorf("%+v, %v, %d bytes", c, err, len(emptyCache))
	}
}

func TestDevicesAndMounts(t *testing.T) {
	_, state := container(t,
		`{"source":"/srv/libcuda.so.550.120","destination":"/usr/lib64/libcuda.so.1"},{"source":"/srv/libGLX_nvidia.so.550.120","destination":"/usr/lib64/libGLX_indirect.so.0"},
		 {"source":"/srv/libnew.so.550.120","destination":"/usr/lib64/libnew.so.2"},{"source":"/home/me/libfoo.so","destination":"/usr/lib64/libfoo.so"},
		 {"source":"/srv/libcuda.so.550.120","destination":"/usr/lib/libcuda.so.1"},{"source":"/srv/libvdpau_nvidia.so.550.120","destination":"/usr/lib64/vdpau/libvdpau_nvidia.so.1"}`,
		`{"path":"/dev/nvidia1","major":195,"minor":1},{"path":"/dev/nvidia-uvm","major":510,"minor":0}`)
	c, err := Open(strings.NewReader(state))
	must(t, err)
	defer c.Close()
	got := c.entries(Args{Stamp: host, Libraries: "/usr/lib64", Libraries32: "/usr/lib"})
	want := []loader.Entry{{Name: "libcuda.so.1", Path: "/usr/lib64/libcuda.so.1"}, {Name: "libGLX_indirect.so.0", Path: "/usr/lib64/libGLX_indirect.so.0"},
		{Name: "libnew.so.2", Path: "/usr/lib64/libnew.so.2"}, {Name: "libcuda.so.1", Path: "/usr/lib/libcuda.so.1", Flags: loader.FlagsI386}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("entries %+v", got)
	}
	if m := c.masks(host); len(m) != 1 || m[0].Path != "/proc/driver/nvidia/gpus/0000:18:00.0" {
		t.Errorf("masks %+v", m)
	}
	c.privileged = true
	if m := c.masks(host); len(m) != 0 {
		t.Errorf("masks of a privileged container %+v", m)
	}
	for text, bad := range map[string]bool{
		"Character devices:\n510 nvidia-uvm\n": false, "Character devices:\n509 nvidia-uvm\n": true,
		"Block devices:\n509 nvidia-uvm\n": false, "": false,
	} {
		dir := t.TempDir()
		must(t, os.MkdirAll(dir+"/proc", 0o755))
		must(t, os.WriteFile(dir+"/proc/devices", []byte(text), 0o644))
		root, err := rootfs.Open(dir)
		must(t, err)
		if err := c.checkNumbers(root); (err != nil) != bad {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"bundle":"/b"}`), []byte(`{"root":{"path":"r"},"mounts":[{"source":"a","destination":"b"}],"linux":{"devices":[{"path":"/dev/x","major":1}]}}`), elfNote(".note.cuda.fwd_compatibility", "NVIDIA Corporation", `{"Driver":[1]}`))
	f.Fuzz(func(t *testing.T, state, config, file []byte) {
		if b, err := bundleOf(state); err == nil && !filepath.IsAbs(b) {
			t.Errorf("bundle %q", b)
		}
		if c, err := parseConfig(config); err == nil {
			c.masks(host)
			c.entries(Args{Stamp: host, Libraries: "/usr/lib64"})
		}
		if data, ok := noteSection(strings.NewReader(string(file)), ".note.cuda.fwd_compatibility"); ok {
			parseCompatNote(data)
		}
		parseCompatNote(file)
		characterMajors(string(config))
	})
}
