// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	upstream "tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/specs-go"

	"davit/internal/cdihook"
	"davit/internal/finding"
	"davit/internal/loader"
	"davit/internal/nvidia"
	"davit/internal/plan"
	"davit/internal/rootfs"
	"davit/internal/simulate"
)

var update = flag.Bool("update", false, "write the golden files again")

// factsOf reads a simulated host.
func factsOf(t *testing.T, o simulate.Options) (*nvidia.Facts, rootfs.Root) {
	t.Helper()
	o.Arch = "amd64"
	dir := filepath.Join(t.TempDir(), "host")
	_, err := simulate.Make(dir, o)
	must(t, err)
	root, err := rootfs.Open(dir)
	must(t, err)
	f, err := nvidia.Read(root, nvidia.Options{Arch: "amd64"})
	must(t, err)
	return f, root
}

// accepted checks a spec as engines do.
func accepted(t *testing.T, text []byte) *upstream.Spec {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nvidia.yaml")
	must(t, os.WriteFile(file, text, 0o644))
	s, err := upstream.ReadSpec(file, 0)
	if err != nil {
		t.Fatalf("the CDI project's library refuses the spec: %v\n%s", err, text)
	}
	return s
}

func TestGoldenSpecs(t *testing.T) {
	for _, layout := range simulate.Layouts() {
		t.Run(layout, func(t *testing.T) {
			f, root := factsOf(t, simulate.Options{GPUs: 2, Model: "H100,T4", Driver: "550.120", Layout: layout, DRM: true, Persistenced: true, SideTable: true, Compat32: true})
			o := Options{HostRoot: root.Dir(), Layout: HostLayout(root, "amd64")}
			if layout != "debian" {
				o.Capabilities = []string{nvidia.Compute, nvidia.Utility}
			}
			spec, err := Render(f, o)
			must(t, err)
			text, err := Marshal(spec, "yaml")
			must(t, err)
			accepted(t, text)
			if c := Check("x", text); len(c.Findings) > 0 || len(c.Against(root, f.Identity())) > 0 && o.NoHooks {
				t.Errorf("findings about the own spec: %+v", c.Findings)
			}
			got := strings.ReplaceAll(string(text), root.Dir(), "/HOST")
			golden := filepath.Join("testdata/golden", layout+".yaml")
			if *update {
				must(t, os.WriteFile(golden, []byte(got), 0o644))
			}
			want, err := os.ReadFile(golden)
			must(t, err)
			if got != string(want) {
				t.Errorf("%s differs; run with -update and look at the difference", golden)
			}
		})
	}
}

// migFacts is a host with one card in MIG mode and one not.
func migFacts() *nvidia.Facts {
	node := func(p string, major, minor uint32) nvidia.Node {
		return nvidia.Node{Path: p, Host: p, Major: major, Minor: minor, Mode: 0o666}
	}
	n0, n1 := node("/dev/nvidia0", 195, 0), node("/dev/nvidia1", 195, 1)
	mig := func(i, gi, ci int, uuid string) nvidia.MIG {
		return nvidia.MIG{Index: i, GI: gi, CI: ci, UUID: uuid, Caps: []nvidia.Node{
			{Path: fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", 3+gi*9), Host: fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", 3+gi*9), Major: 511, Minor: uint32(3 + gi*9), Mode: 0o444},
			{Path: fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", 4+gi*9), Host: fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", 4+gi*9), Major: 511, Minor: uint32(4 + gi*9), Mode: 0o444},
		}}
	}
	return &nvidia.Facts{Arch: "amd64", Driver: nvidia.Driver{Version: "550.120", LibraryVersion: "550.120", CUDA: "12.4"},
		Control: []nvidia.Node{node("/dev/nvidiactl", 195, 255), node("/dev/nvidia-uvm", 510, 0)},
		GPUs: []nvidia.GPU{
			{Index: 0, UUID: "GPU-a", BusID: "0000:18:00.0", Node: &n0, MIGEnabled: true, MIG: []nvidia.MIG{mig(0, 1, 0, "MIG-x"), mig(1, 2, 0, "")}},
			{Index: 1, UUID: "GPU-b", BusID: "0000:2a:00.0", Minor: 1, Node: &n1},
		}}
}

func names(s *specs.Spec) (list []string) {
	for _, d := range s.Devices {
		list = append(list, d.Name)
	}
	return list
}

func nodes(t *testing.T, s *specs.Spec, name string) (list []string) {
	t.Helper()
	for _, d := range s.Devices {
		if d.Name == name {
			for _, n := range d.ContainerEdits.DeviceNodes {
				list = append(list, n.Path)
			}
			return list
		}
	}
	t.Errorf("no device %q", name)
	return nil
}

func TestRenderOptions(t *testing.T) {
	layout := loader.Layout{Libc: loader.Glibc, Dir: "/usr/lib64", Cache: true}
	for _, c := range []struct {
		name, version string
		o             Options
		names         string
	}{
		{"usual", "0.5.0", Options{}, "0 gpu0 GPU-a 0:0 mig0:0 MIG-x 0:1 mig0:1 1 gpu1 GPU-b all none"},
		{"letters only", "0.3.0", Options{Names: []string{"type-index", "uuid"}}, ""},
		{"pci", "0.5.0", Options{Names: []string{"pci"}}, "0000:18:00.0 0000:2a:00.0 all none"},
		{"builds", "0.6.0", Options{AutoAllow: true}, ""},
		{"no hooks", "0.5.0", Options{NoHooks: true}, ""},
		{"own kind", "0.5.0", Options{Vendor: "acme.org", Class: "accelerator"}, ""},
		{"class with a dot", "0.6.0", Options{Class: "gpu.x"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Layout = layout
			if c.name == "letters only" {
				// MIG devices' names begin with letters too.
				c.o.Names = []string{"type-index", "uuid"}
			}
			s, err := Render(migFacts(), c.o)
			must(t, err)
			if s.Version != c.version {
				t.Errorf("version %s, want %s", s.Version, c.version)
			}
			if got := strings.Join(names(s), " "); c.names != "" && got != c.names {
				t.Errorf("names %s\nwant %s", got, c.names)
			}
			if n := len(s.ContainerEdits.Hooks); n > 1 || (n == 0) != c.o.NoHooks {
				t.Errorf("%d hooks", n)
			}
			text, err := Marshal(s, "json")
			must(t, err)
			accepted(t, text)
			if f := Check("x", text).Findings; errorCount(f) > 0 {
				t.Errorf("%+v", f)
			}
		})
	}
	for _, o := range []Options{{Names: []string{"name"}}, {Vendor: "-x"}, {Class: "a/b"}} {
		if _, err := Render(migFacts(), o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

func errorCount(list []finding.Finding) (n int) {
	for _, f := range list {
		if f.Severity == finding.Error {
			n++
		}
	}
	return n
}

// Each device of the spec gives the nodes that the same plan gives elsewhere.
func TestDevicesGiveThePlansNodes(t *testing.T) {
	s, err := Render(migFacts(), Options{Layout: loader.Layout{Libc: loader.Glibc, Dir: "/usr/lib64"}})
	must(t, err)
	for name, want := range map[string]string{
		"0":    "/dev/nvidia0 /dev/nvidia-caps/nvidia-cap12 /dev/nvidia-caps/nvidia-cap13 /dev/nvidia-caps/nvidia-cap21 /dev/nvidia-caps/nvidia-cap22",
		"0:1":  "/dev/nvidia0 /dev/nvidia-caps/nvidia-cap21 /dev/nvidia-caps/nvidia-cap22",
		"gpu1": "/dev/nvidia1", "GPU-b": "/dev/nvidia1", "none": "",
		"all": "/dev/nvidia0 /dev/nvidia1 /dev/nvidia-caps/nvidia-cap12 /dev/nvidia-caps/nvidia-cap13 /dev/nvidia-caps/nvidia-cap21 /dev/nvidia-caps/nvidia-cap22",
	} {
		if got := strings.Join(nodes(t, s, name), " "); got != want {
			t.Errorf("%s: %s\nwant %s", name, got, want)
		}
	}
	a, err := cdihook.ParseArgs(s.ContainerEdits.Hooks[0].Args[2:])
	if err != nil || cdihook.Stale(a.Stamp, migFacts().Identity()) != "" {
		t.Errorf("stamp %+v, %v", a.Stamp, err)
	}
}

func TestRenderRefuses(t *testing.T) {
	for name, change := range map[string]func(*nvidia.Facts){
		"driver-not-loaded":       func(f *nvidia.Facts) { f.Driver = nvidia.Driver{} },
		"driver-library-mismatch": func(f *nvidia.Facts) { f.Driver.LibraryVersion = "535.1" },
		"device-nodes-missing":    func(f *nvidia.Facts) { f.GPUs[1].Node = nil },
	} {
		f := migFacts()
		change(f)
		_, err := Render(f, Options{})
		var r *plan.Refusal
		if !errors.As(err, &r) || r.ID != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A host whose GPUs are all gone still has a spec: the driver without a GPU.
	f := migFacts()
	f.GPUs = nil
	s, err := Render(f, Options{})
	if err != nil || strings.Join(names(s), " ") != "none" {
		t.Errorf("%v, %v", s, err)
	}
}

func TestHostLayout(t *testing.T) {
	for text, want := range map[string]string{
		"ID=ubuntu\n": "/usr/lib/x86_64-linux-gnu", "ID=x\nID_LIKE=\"rhel fedora\"\n": "/usr/lib64", "ID='fedora'": "/usr/lib64",
		"ID=arch\n": "/usr/lib", "ID=nixos\n": "/usr/lib/x86_64-linux-gnu", "": "/usr/lib/x86_64-linux-gnu",
	} {
		dir := t.TempDir()
		must(t, os.MkdirAll(dir+"/etc", 0o755))
		must(t, os.WriteFile(dir+"/etc/os-release", []byte(text), 0o644))
		root, err := rootfs.Open(dir)
		must(t, err)
		if l := HostLayout(root, "amd64"); l.Dir != want || !l.Cache {
			t.Errorf("%q: %+v", text, l)
		}
	}
	// The host's own libc is a better witness.
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/usr/lib64", 0o755))
	must(t, os.WriteFile(dir+"/usr/lib64/libc.so.6", nil, 0o755))
	root, err := rootfs.Open(dir)
	must(t, err)
	if l := HostLayout(root, "amd64"); l.Dir != "/usr/lib64" {
		t.Errorf("%+v", l)
	}
}

func TestParseCapabilities(t *testing.T) {
	for text, want := range map[string]string{
		"compute": "compute", "utility,compute": "compute utility", "all": "compat32 compute display graphics ngx utility video", "": "compute utility", "display": "display graphics",
	} {
		got, err := ParseCapabilities(text)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if _, err := ParseCapabilities("comput"); err == nil || !strings.HasPrefix(err.Error(), `"comput" is no driver capability`) {
		t.Errorf("%v", err)
	}
}

func TestWriteOnlyIfChanged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cdi", "nvidia.yaml")
	for i, want := range []bool{true, false, true} {
		changed, err := Write(file, fmt.Appendf(nil, "text %d", i/2))
		if err != nil || changed != want {
			t.Errorf("%d: %v, %v", i, changed, err)
		}
	}
	names, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(names) != 1 {
		t.Errorf("%v, %v", names, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestTransform(t *testing.T) {
	const text = `cdiVersion: 0.3.0
kind: nvidia.com/gpu
devices:
- name: gpu0
  containerEdits:
    deviceNodes: [{path: /run/driver/dev/nvidia0}, {path: /dev/x, hostPath: /run/driver/dev/x}, {path: /run/driverx/y}, null]
containerEdits:
  mounts: [{hostPath: /run/driver/usr/lib/a, containerPath: /usr/lib/a}]
  hooks: [{hookName: createContainer, path: /run/driver/usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, create-symlinks, --link, "a::/usr/lib/b", --folder=/usr/lib/c, --folder, /usr/lib]}]
`
	s, err := Parse([]byte(text))
	must(t, err)
	must(t, Transform(s, "/run/driver", "/", false))
	e, n := s.ContainerEdits, s.Devices[0].ContainerEdits.DeviceNodes
	if len(n) != 3 || n[0].Path != "/run/driver/dev/nvidia0" || n[0].HostPath != "/dev/nvidia0" || n[1].HostPath != "" || n[2].HostPath != "" ||
		e.Mounts[0].HostPath != "/usr/lib/a" || e.Hooks[0].Path != "/usr/bin/nvidia-cdi-hook" || s.Version != "0.5.0" {
		t.Errorf("%+v %+v %+v", *n[0], *n[1], s)
	}
	must(t, Transform(s, "/usr/lib", "/usr/lib64", true))
	if got := strings.Join(e.Hooks[0].Args[3:], " "); e.Mounts[0].ContainerPath != "/usr/lib64/a" || e.Mounts[0].HostPath != "/usr/lib/a" || got != "a::/usr/lib64/b --folder=/usr/lib64/c --folder /usr/lib64" {
		t.Errorf("%+v %s", e.Mounts[0], got)
	}
	must(t, Transform(s, "/", "/host", false))
	if e.Mounts[0].HostPath != "/host/usr/lib/a" {
		t.Errorf("%+v", e.Mounts[0])
	}
}

func ids(list []finding.Finding) (out []string) {
	for _, f := range list {
		out = append(out, string(f.Severity)+" "+f.ID)
	}
	slices.Sort(out)
	return out
}
