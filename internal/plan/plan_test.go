// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"davit/internal/loader"
	"davit/internal/nvidia"
	"davit/internal/request"
)

func node(p string, major, minor uint32) nvidia.Node {
	return nvidia.Node{Path: p, Host: p, Major: major, Minor: minor, Mode: 0o666}
}

// host is a host with n GPUs; those named in mig have two MIG devices each.
func host(n int, mig ...int) *nvidia.Facts {
	f := &nvidia.Facts{Arch: "amd64", Driver: nvidia.Driver{Version: "550.120", LibraryVersion: "550.120", CUDA: "12.4", Root: "/"},
		Params: "ModifyDeviceFiles: 0\n"}
	for i, p := range []string{"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"} {
		f.Control = append(f.Control, node(p, 195, uint32(200+i)))
	}
	for i := range n {
		nd := node(fmt.Sprintf("/dev/nvidia%d", i), 195, uint32(i))
		g := nvidia.GPU{Index: i, UUID: fmt.Sprintf("GPU-%08d-0000-4000-8000-00000000000%d", 1000+i*11, i), Name: "NVIDIA RTX A4000", Brand: "nvidiartx",
			Arch: "8.6", BusID: fmt.Sprintf("0000:%02x:00.0", i+1), Minor: i, Node: &nd,
			DRM: []nvidia.Node{node(fmt.Sprintf("/dev/dri/renderD%d", 128+i), 226, uint32(128+i))}}
		if slices.Contains(mig, i) {
			g.MIGEnabled = true
			for k := range 2 {
				g.MIG = append(g.MIG, nvidia.MIG{Index: k, GI: k + 1, CI: 0, Caps: []nvidia.Node{
					node(fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", 100*i+10*k+1), 510, uint32(100*i+10*k+1)),
					node(fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", 100*i+10*k+2), 510, uint32(100*i+10*k+2))}})
			}
		}
		f.GPUs = append(f.GPUs, g)
	}
	lib := func(name, soname, link string, caps ...string) {
		f.Files = append(f.Files, nvidia.File{Kind: nvidia.Library, Host: "/usr/lib64/" + name + ".so.550.120", Name: name + ".so.550.120", SONAME: soname, Link: link, Bits: 64, Caps: caps})
	}
	lib("libcuda", "libcuda.so.1", "libcuda.so", "compute", "video")
	lib("libnvidia-ml", "libnvidia-ml.so.1", "", "utility")
	lib("libnvidia-encode", "libnvidia-encode.so.1", "", "video")
	lib("libGLX_nvidia", "libGLX_nvidia.so.0", "libGLX_indirect.so.0", "graphics")
	lib("libnvidia-allocator", "libnvidia-allocator.so.1", "", "compute", "graphics")
	lib("libnvidia-ngx", "libnvidia-ngx.so.1", "", "ngx")
	lib("libnvidia-future", "libnvidia-future.so.1", "", nvidia.Every)
	f.Files = append(f.Files,
		nvidia.File{Kind: nvidia.Library, Host: "/usr/lib/libcuda.so.550.120", Name: "libcuda.so.550.120", SONAME: "libcuda.so.1", Bits: 32, Caps: []string{"compat32", "compute"}},
		nvidia.File{Kind: nvidia.Program, Host: "/usr/bin/nvidia-smi", Name: "nvidia-smi", Target: "/usr/bin/nvidia-smi", Caps: []string{"utility"}},
		nvidia.File{Kind: nvidia.Socket, Host: "/run/nvidia-persistenced/socket", Name: "socket", Target: "/run/nvidia-persistenced/socket", Caps: []string{"utility"}})
	return f
}

var debian = loader.Layout{Libc: loader.Glibc, Dir: "/usr/lib/x86_64-linux-gnu", Cache: true}

func ask(devices string) request.Request {
	r, err := request.Read(request.Container{Env: []string{"NVIDIA_VISIBLE_DEVICES=" + devices}}, request.Policy{})
	if err != nil {
		panic(err)
	}
	return r
}

// got is the container's view of a plan: "0 2" GPUs, or the error.
func got(p *Plan, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	if p.Untouched {
		return "untouched"
	}
	var s []string
	for _, g := range p.GPUs {
		s = append(s, fmt.Sprint(g.Index))
	}
	for _, m := range p.MIG {
		s = append(s, fmt.Sprintf("mig%d", m.Caps[0].Minor))
	}
	return strings.Join(s, " ")
}

func TestWhichGPUs(t *testing.T) {
	plain, mixed := host(3), host(3, 1)
	same := host(2)
	same.GPUs[1].UUID = "GPU-00001000-ffff-4000-8000-000000000009"
	exist := "; this host has 0 (GPU-00001000-0000-4000-8000-000000000000), 1 (GPU-00001011-0000-4000-8000-000000000001), 2 (GPU-00001022-0000-4000-8000-000000000002)"
	src := func(v string) string { return "error: NVIDIA_VISIBLE_DEVICES=" + v + " in the container's environment" }
	for _, tt := range []struct {
		name  string
		facts *nvidia.Facts
		value string
		want  string
	}{
		{"all", plain, "all", "0 1 2"},
		{"an index", plain, "1", "1"},
		{"the host's order, whatever was asked", plain, "2,0", "0 2"},
		{"the same twice is one", plain, "0,0", "0"},
		{"the same under two names is one", plain, "0,GPU-00001000-0000-4000-8000-000000000000", "0"},
		{"a UUID", plain, "GPU-00001011-0000-4000-8000-000000000001", "1"},
		{"a UUID in other case", plain, "gpu-00001011-0000-4000-8000-000000000001", "1"},
		{"the beginning of a UUID", plain, "GPU-00001022", "2"},
		{"a beginning without GPU-", plain, "00001022", "error"},
		{"the beginning of two UUIDs", same, "GPU-00001000", src("GPU-00001000") + `: device "GPU-00001000" is the beginning of several: GPU-00001000-0000-4000-8000-000000000000, GPU-00001000-ffff-4000-8000-000000000009`},
		{"a PCI address", plain, "0000:02:00.0", "1"},
		{"a PCI address as nvidia-smi prints it", plain, "00000000:02:00.0", "1"},
		{"a PCI address without domain", plain, "02:00.0", "1"},
		{"gpuN", plain, "gpu1", "1"},
		{"none", plain, "none", ""},
		{"void", plain, "void", "untouched"},
		{"an index that is not there", plain, "3", src("3") + `: there is no device "3"` + exist},
		{"one that is there and one that is not", plain, "0,9", src("0,9") + `: there is no device "9"` + exist},
		{"a UUID that is not there", plain, "GPU-9999", src("GPU-9999") + `: there is no device "GPU-9999"` + exist},
		{"a PCI address that is not there", plain, "0000:99:00.0", src("0000:99:00.0") + `: there is no device "0000:99:00.0"` + exist},
		{"all with MIG", mixed, "all", "0 1 2 mig101 mig111"},
		{"a card in MIG mode brings its MIG devices", mixed, "1", "1 mig101 mig111"},
		{"one MIG device", mixed, "1:1", "1 mig111"},
		{"a MIG device and another card", mixed, "1:0,2", "1 2 mig101"},
		{"a MIG device in the old form", mixed, "MIG-GPU-00001011-0000-4000-8000-000000000001/2/0", "1 mig111"},
		{"a MIG device that is not there", mixed, "1:2", "error"},
		{"MIG of a card without", plain, "0:0", "error"},
		{"a host without any GPU", host(0), "all", src("all") + ", but the driver 550.120 shows no GPU on this host: see nvidia-smi -L and dmesg there"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Make(tt.facts, ask(tt.value), debian, Options{})
			g := got(p, err)
			if tt.want == "error" && strings.HasPrefix(g, "error: ") {
				return
			}
			if g != tt.want {
				t.Errorf("got  %s\nwant %s", g, tt.want)
			}
		})
	}
}

func targets(p *Plan) string {
	var s []string
	for _, m := range p.Edits.Mounts {
		s = append(s, m.Target)
	}
	return strings.Join(s, " ")
}

func devices(p *Plan) string {
	var s []string
	for _, d := range p.Edits.Devices {
		s = append(s, strings.TrimPrefix(d.Path, "/dev/"))
	}
	return strings.Join(s, " ")
}

func TestCapabilitiesChooseFilesAndNodes(t *testing.T) {
	const dir = "/usr/lib/x86_64-linux-gnu/"
	for _, tt := range []struct{ caps, mounts, nodes string }{
		{"utility", dir + "libnvidia-ml.so.1 /usr/bin/nvidia-smi /run/nvidia-persistenced/socket", "nvidiactl nvidia0"},
		{"compute", dir + "libcuda.so.1 " + dir + "libcuda.so " + dir + "libnvidia-allocator.so.1", "nvidiactl nvidia-uvm nvidia-uvm-tools nvidia0"},
		{"video", dir + "libcuda.so.1 " + dir + "libcuda.so " + dir + "libnvidia-encode.so.1", "nvidiactl nvidia-uvm nvidia0"},
		{"graphics", dir + "libGLX_nvidia.so.0 " + dir + "libGLX_indirect.so.0 " + dir + "libnvidia-allocator.so.1 " + dir + "gbm/nvidia-drm_gbm.so", "nvidiactl nvidia-modeset nvidia0 dri/renderD128"},
		{"ngx", dir + "libnvidia-ngx.so.1", "nvidiactl nvidia0"},
	} {
		t.Run(tt.caps, func(t *testing.T) {
			r := ask("0")
			r.Capabilities = []string{tt.caps}
			p, err := Make(host(2), r, debian, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if g := targets(p); g != tt.mounts {
				t.Errorf("mounts\ngot  %s\nwant %s", g, tt.mounts)
			}
			if g := devices(p); g != tt.nodes {
				t.Errorf("nodes\ngot  %s\nwant %s", g, tt.nodes)
			}
		})
	}
}

func TestLibrariesOfThe32BitSetNeedAnImageThatCanRunThem(t *testing.T) {
	r := ask("0")
	r.Capabilities = []string{"compat32", "compute"}
	image := debian
	for dir32, want := range map[string]bool{"": false, "/usr/lib/i386-linux-gnu": true} {
		image.Dir32 = dir32
		p, err := Make(host(1), r, image, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if g := strings.Contains(targets(p), "/usr/lib/i386-linux-gnu/libcuda.so.1"); g != want {
			t.Errorf("folder %q: 32-bit libcuda mounted: %v", dir32, g)
		}
	}
}

func TestUnknownLibrariesComeWithEverything(t *testing.T) {
	r := ask("all")
	r.Capabilities = []string{"compute", "display", "graphics", "ngx", "utility", "video"}
	p, err := Make(host(1), r, debian, Options{})
	if err != nil || !strings.Contains(targets(p), "libnvidia-future.so.1") {
		t.Errorf("a library of a newer driver is missing: %v %v", targets(p), err)
	}
}

func TestCacheEntriesOnlyWhereTheImageHasACache(t *testing.T) {
	r := ask("0")
	p, _ := Make(host(1), r, debian, Options{})
	want := []loader.Entry{{Name: "libcuda.so.1", Path: debian.Dir + "/libcuda.so.1"}, {Name: "libcuda.so", Path: debian.Dir + "/libcuda.so"}}
	for _, w := range want {
		if !slices.ContainsFunc(p.Edits.Cache, func(e loader.Entry) bool { return e.Name == w.Name && e.Path == w.Path }) {
			t.Errorf("no cache entry %v in %v", w, p.Edits.Cache)
		}
	}
	image := debian
	image.Cache = false
	if p, _ = Make(host(1), r, image, Options{}); len(p.Edits.Cache) != 0 {
		t.Errorf("cache entries for an image without a cache: %v", p.Edits.Cache)
	}
}

func TestOtherGPUsAreHidden(t *testing.T) {
	p, _ := Make(host(3), ask("1"), debian, Options{})
	var masks []string
	for _, m := range p.Edits.Masks {
		masks = append(masks, m.Path)
	}
	if g, want := strings.Join(masks, " "), "/proc/driver/nvidia/gpus/0000:01:00.0 /proc/driver/nvidia/gpus/0000:03:00.0"; g != want {
		t.Errorf("got %s, want %s", g, want)
	}
	if p, _ = Make(host(3), ask("1"), debian, Options{Privileged: true}); len(p.Edits.Masks) != 0 {
		t.Error("a privileged container, which sees all nodes, got masks")
	}
}

func TestNoneGivesFilesAndControlNodesWithoutAGPU(t *testing.T) {
	p, err := Make(host(2), ask("none"), debian, Options{})
	if err != nil || devices(p) != "nvidiactl nvidia-uvm nvidia-uvm-tools" || !strings.Contains(targets(p), "libcuda.so.1") {
		t.Errorf("got %v %v %v", devices(p), targets(p), err)
	}
	if len(p.Edits.Masks) != 2 {
		t.Errorf("%d GPUs are hidden, want both", len(p.Edits.Masks))
	}
	p, err = Make(&nvidia.Facts{}, ask("none"), debian, Options{})
	if err != nil || !p.Untouched {
		t.Errorf("none on a host without a driver: %+v, %v", p, err)
	}
}

func TestImagesWithoutGlibcGetANoteInThePlaceOfNvidiaSMI(t *testing.T) {
	for libc, word := range map[loader.Libc]string{loader.Musl: "musl", loader.None: "no dynamic loader"} {
		p, err := Make(host(1), ask("all"), loader.Layout{Libc: libc, Dir: "/usr/lib"}, Options{NoteProgram: "/usr/bin/davit-runtime"})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(p.Edits.Mounts, func(m Mount) bool { return m.Target == "/usr/bin/nvidia-smi" })
		if i < 0 || p.Edits.Mounts[i].Source != "/usr/bin/davit-runtime" {
			t.Errorf("%s: no note program", libc)
		}
		if !strings.Contains(strings.Join(p.Notes, " "), word) {
			t.Errorf("%s: notes do not say %q: %v", libc, word, p.Notes)
		}
		if !strings.Contains(targets(p), "/usr/lib/libcuda.so.1") || !strings.Contains(devices(p), "nvidia0") {
			t.Errorf("%s: files or nodes are missing", libc)
		}
	}
}

func TestRefusals(t *testing.T) {
	change := func(f func(*nvidia.Facts)) *nvidia.Facts { h := host(2); f(h); return h }
	for _, tt := range []struct {
		name  string
		facts *nvidia.Facts
		id    string
		words []string
	}{
		{"no driver at all", &nvidia.Facts{}, "driver-not-loaded", []string{"no NVIDIA driver is loaded", "modprobe nvidia"}},
		{"libraries without a module", change(func(f *nvidia.Facts) { f.Driver.Version = "" }), "driver-not-loaded", []string{"550.120", "modprobe nvidia"}},
		{"a module without libraries", change(func(f *nvidia.Facts) { f.Driver.LibraryVersion = "" }), "driver-libraries-not-found", []string{"libcuda.so.550.120"}},
		{"two versions", change(func(f *nvidia.Facts) { f.Driver.Version = "550.107.02" }), "driver-library-mismatch", []string{"550.107.02", "550.120", "reboot"}},
		{"no uvm node", change(func(f *nvidia.Facts) {
			f.Control = slices.DeleteFunc(f.Control, func(n nvidia.Node) bool { return n.Path == "/dev/nvidia-uvm" })
		}), "uvm-not-loaded", []string{"modprobe nvidia-uvm"}},
		{"no control node", change(func(f *nvidia.Facts) { f.Control = nil }), "device-nodes-missing", []string{"/dev/nvidiactl"}},
		{"a GPU without its node", change(func(f *nvidia.Facts) { f.GPUs[1].Node = nil }), "device-nodes-missing", []string{"/dev/nvidia1", "nvidia-modprobe -c 1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Make(tt.facts, ask("all"), debian, Options{})
			var r *Refusal
			if !errors.As(err, &r) || p != nil {
				t.Fatalf("got %v, %v", p, err)
			}
			if r.ID != tt.id {
				t.Errorf("id %s, want %s", r.ID, tt.id)
			}
			for _, w := range append(tt.words, "NVIDIA_VISIBLE_DEVICES=all") {
				if !strings.Contains(r.Text, w) {
					t.Errorf("%q does not say %q", r.Text, w)
				}
			}
			if strings.Contains(r.Text, "\n") {
				t.Errorf("more than one line: %q", r.Text)
			}
		})
	}
}

func TestRequirementsAreCheckedForTheChosenGPUs(t *testing.T) {
	r := ask("0")
	r.Requirements = []request.Requirement{{Variable: "NVIDIA_REQUIRE_CUDA", Expression: "cuda>=12.8"}}
	_, err := Make(host(2), r, debian, Options{})
	var unmet *request.Unmet
	if !errors.As(err, &unmet) || unmet.Have != "12.4" {
		t.Fatalf("got %v", err)
	}
	r.Requirements[0].Expression = "cuda>=12.4 brand=tesla"
	if _, err := Make(host(2), r, debian, Options{}); err != nil {
		t.Errorf("a requirement that is met: %v", err)
	}
}

func TestSpecialRequests(t *testing.T) {
	f := host(1)
	f.Special = []nvidia.Node{node("/dev/nvidia-caps-imex-channels/channel0", 242, 0), node("/dev/infiniband/uverbs0", 231, 192), node("/dev/gdrdrv", 240, 0)}
	r := ask("0")
	r.IMEX, r.Features = []int{0}, []string{"mofed", "gds"}
	p, err := Make(f, r, debian, Options{})
	if err != nil || !strings.HasSuffix(devices(p), "nvidia0 nvidia-caps-imex-channels/channel0 infiniband/uverbs0") {
		t.Errorf("got %v, %v", devices(p), err)
	}
	if !slices.ContainsFunc(p.Left, func(l Left) bool { return strings.HasPrefix(l.What, "/dev/nvidia-fs") }) {
		t.Error("the missing GPUDirect Storage nodes are not named")
	}
	r.IMEX = []int{7}
	if _, err := Make(f, r, debian, Options{}); err == nil || !strings.Contains(err.Error(), "it has channel0") {
		t.Errorf("a channel that is not there: %v", err)
	}
}

func TestGroupsOfNodesThatOthersCannotOpen(t *testing.T) {
	f := host(1)
	f.GPUs[0].Node.Mode, f.GPUs[0].Node.GID = 0o660, 44
	p, _ := Make(f, ask("0"), debian, Options{})
	if len(p.Edits.GIDs) != 1 || p.Edits.GIDs[0] != 44 {
		t.Errorf("got groups %v, want 44", p.Edits.GIDs)
	}
}
