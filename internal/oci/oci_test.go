// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"davit/internal/nvidia"
	"davit/internal/plan"
)

var edits = plan.Edits{
	Devices: []plan.Device{{Node: nvidia.Node{Path: "/dev/nvidia0", Major: 195, Minor: 0, Mode: 0o666, UID: 1, GID: 2}}},
	Mounts: []plan.Mount{
		{Source: "/usr/lib64/libcuda.so.550.120", Target: "/usr/lib/libcuda.so.1"},
		{Source: "/run/nvidia-persistenced/socket", Target: "/run/nvidia-persistenced/socket", Writable: true},
	},
	Masks: []plan.Mask{{Path: "/proc/driver/nvidia/gpus/0000:02:00.0"}},
	GIDs:  []uint32{44},
}

// What docker writes, with things no specification knows, is changed where it
// must be and nowhere else.
func TestRenderKeepsAllElseByteForByte(t *testing.T) {
	text := `{ "ociVersion":"1.2.0" ,"x-vendor":{"b":1,"a":[1, 2,{"é":"\u00e9"}]},
 "process":{"user":{"uid":0,"gid":0,"additionalGids":[10]},"env":["A=1"],"x":1e400},
 "mounts":[ {"destination":"/proc"} ],
 "hooks":{"prestart":[{"path":"/usr/bin/nvidia-container-runtime-hook","args":["nvidia-container-runtime-hook","prestart"]},{"path":"/proc/1/exe"}]},
 "linux":{"devices":[],"maskedPaths":["/proc/kcore"],"resources":{"devices":[{"allow":false,"access":"rwm"}],"x":0.10}}}`
	s, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Render(edits)
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(out, &spec); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(spec.Mounts) != 3 || spec.Mounts[1].Destination != "/usr/lib/libcuda.so.1" || spec.Mounts[1].Options[0] != "ro" || spec.Mounts[2].Options[0] == "ro" {
		t.Errorf("mounts %+v", spec.Mounts)
	}
	if d := spec.Linux.Devices; len(d) != 1 || d[0].Path != "/dev/nvidia0" || d[0].Major != 195 || *d[0].FileMode != 0o666 || *d[0].UID != 1 || *d[0].GID != 2 {
		t.Errorf("devices %+v", d)
	}
	if r := spec.Linux.Resources.Devices; len(r) != 2 || !r[1].Allow || *r[1].Major != 195 || *r[1].Minor != 0 || r[1].Access != "rwm" {
		t.Errorf("rules %+v", r)
	}
	if m := spec.Linux.MaskedPaths; len(m) != 2 || m[1] != "/proc/driver/nvidia/gpus/0000:02:00.0" {
		t.Errorf("masked %v", m)
	}
	if g := spec.Process.User.AdditionalGids; len(g) != 2 || g[1] != 44 {
		t.Errorf("groups %v", g)
	}
	//lint:ignore SA1019 docker uses prestart
	if h := spec.Hooks.Prestart; len(h) != 1 || h[0].Path != "/proc/1/exe" {
		t.Errorf("hooks %+v", h)
	}
	for _, keep := range []string{`{ "ociVersion":"1.2.0" ,"x-vendor":{"b":1,"a":[1, 2,{"é":"\u00e9"}]},`, `"x":1e400`, `"x":0.10`, `[ {"destination":"/proc"}`} {
		if !strings.Contains(string(out), keep) {
			t.Errorf("%s is gone from\n%s", keep, out)
		}
	}
}

func TestRenderTwiceChangesNodesOnlyOnce(t *testing.T) {
	s, err := Parse([]byte(`{"linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195,"minor":0}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Render(plan.Edits{Devices: edits.Devices})
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(out), `"/dev/nvidia0"`); n != 1 {
		t.Errorf("the node is there %d times: %s", n, out)
	}
	if !strings.Contains(string(out), `"allow":true`) {
		t.Errorf("no rule of the device cgroup: %s", out)
	}
}

func TestRenderMakesWhatIsMissing(t *testing.T) {
	for _, text := range []string{`{}`, `{"linux":null,"mounts":null,"process":{"user":null}}`} {
		s, err := Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		out, err := s.Render(edits)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		var spec specs.Spec
		if err := json.Unmarshal(out, &spec); err != nil || len(spec.Mounts) != 2 || len(spec.Linux.Resources.Devices) != 1 {
			t.Errorf("%s became %s, %v", text, out, err)
		}
	}
}

func TestParseReadsWhatCanHoldARequest(t *testing.T) {
	s, err := Parse([]byte(`{"root":{"path":"rootfs","readonly":true},"process":{"env":["A=\u0062","B"],"capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_ADMIN"]}},
		"mounts":[{"source":"/dev/null","destination":"/var/run/nvidia-container-devices/all"}],"annotations":{"cdi.k8s.io/x":"nvidia.com/gpu=0","n":1},
		"linux":{"namespaces":[{"type":"mount"},{"type":"user"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	c := s.Container
	if !s.Readonly || !s.UserNS || !c.Privileged || c.Env[0] != "A=b" || c.Env[1] != "B" || c.Mounts[0].Target != "/var/run/nvidia-container-devices/all" || c.Annotations["cdi.k8s.io/x"] != "nvidia.com/gpu=0" {
		t.Errorf("got %+v", s)
	}
	if p := s.RootPath("/bundle"); p != "/bundle/rootfs" {
		t.Errorf("root %s", p)
	}
	s.Root = "/abs"
	if p := s.RootPath("/bundle"); p != "/abs" {
		t.Errorf("root %s", p)
	}
}

func TestMayAsk(t *testing.T) {
	for text, want := range map[string]bool{
		`{"process":{"env":["PATH=/bin"]}}`:                                  false,
		`{"process":{"env":["NVIDIA_VISIBLE_DEVICES=void"]}}`:                true,
		`{"process":{"env":["CUDA_VERSION=8"]}}`:                             true,
		`{"annotations":{"cdi.k8s.io/a":"nvidia.com\/gpu=all"}}`:             true,
		`{"mounts":[{"destination":"/var/run/nvidia-container-devices/0"}]}`: true,
		`{"process":{"env":["DOCKER_RESOURCE_GPU=0"]}}`:                      true,
	} {
		if got := MayAsk([]byte(text), []string{"DOCKER_RESOURCE_GPU"}); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func FuzzRender(f *testing.F) {
	f.Add(`{"linux":{"devices":[]},"mounts":[],"hooks":{"prestart":[{"path":"/nvidia-container-toolkit"}]}}`)
	f.Add(`{"a":1,"a":{"b":[]}}`)
	if data, err := os.ReadFile("testdata/config.json"); err == nil {
		f.Add(string(data))
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse([]byte(text))
		if err != nil {
			return
		}
		out, err := s.Render(edits)
		if err == nil && !json.Valid(out) {
			t.Errorf("%q became invalid: %q", text, out)
		}
	})
}
