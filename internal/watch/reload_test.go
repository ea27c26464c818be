// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"davit/internal/loader"
	"davit/internal/nvidia"
	"davit/internal/oci"
	"davit/internal/plan"
	"davit/internal/request"
	"davit/internal/simulate"
)

// rule is a rule of linux.resources.devices in a config.json.
type rule struct {
	Allow        bool
	Type, Access string
	Major, Minor *int64
}

func rulesOf(t *testing.T, config []byte) []rule {
	t.Helper()
	var c struct {
		Linux struct{ Resources struct{ Devices []rule } }
	}
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatal(err)
	}
	return c.Linux.Resources.Devices
}

// deviceGroup is a group of the device controller of cgroup version 1.
type deviceGroup struct {
	t   *testing.T
	dir string
}

func newDeviceGroup(t *testing.T) deviceGroup {
	t.Helper()
	g := deviceGroup{t, fmt.Sprintf("/sys/fs/cgroup/devices/davit-reload-%d", os.Getpid())}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.Skip("this test needs the device controller of cgroup version 1: " + err.Error())
	}
	t.Cleanup(func() {
		var err error
		for range 100 {
			if err = os.Remove(g.dir); err == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Error(err)
	})
	return g
}

// reset does what runc and systemd do when a container is made, and systemd
// again at each reload: nothing is allowed but what the rules say. runc names a
// device to systemd by its link in links, and leaves out what has none; links
// is "" where it writes the rules itself.
func (g deviceGroup) reset(rules []rule, links string) {
	g.t.Helper()
	g.write("devices.deny", "a")
	for _, r := range rules {
		if !r.Allow || r.Major == nil || r.Minor == nil {
			continue
		}
		number := fmt.Sprintf("%d:%d", *r.Major, *r.Minor)
		if links != "" {
			if _, err := os.Stat(filepath.Join(links, number)); err != nil {
				continue
			}
		}
		g.write("devices.allow", fmt.Sprintf("%s %s %s", r.Type, number, r.Access))
	}
}

func (g deviceGroup) write(file, text string) {
	g.t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, file), []byte(text), 0); err != nil {
		g.t.Fatal(err)
	}
}

// opens says whether a process of the group may open a node.
func (g deviceGroup) opens(node string) bool {
	g.t.Helper()
	out, err := exec.Command("sh", "-c", fmt.Sprintf("echo $$ >%s/cgroup.procs && exec 3<>%s", g.dir, node)).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "Operation not permitted") {
		g.t.Fatalf("%v: %s", err, out)
	}
	return err == nil
}

// TestReload: what systemctl daemon-reload does to a container's GPU on the
// ways that davit gives it.
func TestReload(t *testing.T) {
	h := &gpuHost{t: t, dir: t.TempDir()}
	h.o = Options{Spec: h.path("/etc/cdi/nvidia.yaml")}
	made, err := simulate.Make(h.dir, simulate.Options{GPUs: 1})
	h.must(err)
	for _, n := range made.Notes {
		if strings.Contains(n, "cannot") {
			t.Skip(n)
		}
	}
	g := newDeviceGroup(t)
	facts, err := nvidia.Read(h.root(), nvidia.Options{})
	h.must(err)

	const engines = `{"ociVersion": "1.0.2", "process": {"env": ["NVIDIA_VISIBLE_DEVICES=all"]}, "root": {"path": "rootfs"}, "mounts": [],
		"linux": {"resources": {"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]}}}`
	spec, err := oci.Parse([]byte(engines))
	h.must(err)
	req, err := request.Read(spec.Container, request.Policy{AcceptEnv: "always"})
	h.must(err)
	p, err := plan.Make(facts, req, loader.Layout{Libc: loader.Glibc, Dir: "/usr/lib/x86_64-linux-gnu"}, plan.Options{})
	h.must(err)
	shims, err := spec.Render(p.Edits)
	h.must(err)
	gpu := facts.GPUs[0].Node

	for _, way := range []struct {
		name   string
		config []byte
		hook   bool // a hook adds the GPU when the group is made
		watch  bool // davit watch has made the links
		system bool // the cgroup driver is systemd
		kept   bool
	}{
		{"shim, systemd, links", shims, false, true, true, true},
		{"shim, systemd, no links", shims, false, false, true, false},
		{"shim, cgroupfs", shims, false, false, false, true},
		{"hook, systemd, links", []byte(engines), true, true, true, false},
	} {
		t.Run(way.name, func(t *testing.T) {
			h.must(os.RemoveAll(h.path("/dev/char")))
			if way.watch {
				h.reconcile()
			}
			g.reset(rulesOf(t, way.config), "")
			if way.hook {
				g.write("devices.allow", fmt.Sprintf("c %d:%d rw", gpu.Major, gpu.Minor))
			}
			if !g.opens(gpu.Host) {
				t.Fatal("the GPU does not open at the start")
			}
			if way.system {
				g.reset(rulesOf(t, way.config), h.path("/dev/char"))
			}
			if kept := g.opens(gpu.Host); kept != way.kept {
				t.Errorf("the GPU opens after a reload: %v", kept)
			}
		})
	}
}
