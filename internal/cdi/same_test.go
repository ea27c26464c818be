// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runtimespec "github.com/opencontainers/runtime-spec/specs-go"
	upstream "tags.cncf.io/container-device-interface/pkg/cdi"

	"davit/internal/nvidia"
	"davit/internal/oci"
	"davit/internal/plan"
	"davit/internal/request"
	"davit/internal/simulate"
)

// TestSameAsTheShim gives one container its GPUs by the runtime shim and by a
// CDI spec, and compares nodes, rules of the device cgroup, and mounts.
func TestSameAsTheShim(t *testing.T) {
	for _, layout := range simulate.Layouts() {
		for _, device := range []string{"all", "1", "none"} {
			t.Run(layout+"-"+device, func(t *testing.T) {
				f, root := factsOf(t, simulate.Options{GPUs: 2, Model: "T4", Driver: "550.120", Layout: layout, Persistenced: true})
				if _, err := os.Stat(root.Dir() + "/dev/nvidiactl"); err != nil {
					t.Skip("the library wants real device nodes, which need root")
				}
				caps := []string{nvidia.Compute, nvidia.Utility}
				o := Options{HostRoot: root.Dir(), Layout: HostLayout(root, "amd64"), Capabilities: caps}
				p, err := plan.Make(f, request.Request{Asked: true, All: device == "all", None: device == "none", Devices: only(device), Capabilities: caps}, o.Layout, plan.Options{})
				must(t, err)
				before, err := json.Marshal(config("/r", "x"))
				must(t, err)
				doc, err := oci.Parse(before)
				must(t, err)
				text, err := doc.Render(p.Edits)
				must(t, err)
				var shim runtimespec.Spec
				must(t, json.Unmarshal(text, &shim))

				spec, err := Render(f, o)
				must(t, err)
				if text, err = Marshal(spec, "yaml"); err != nil {
					t.Fatal(err)
				}
				dir := t.TempDir()
				must(t, os.WriteFile(filepath.Join(dir, "nvidia.yaml"), text, 0o644))
				cache, err := upstream.NewCache(upstream.WithSpecDirs(dir), upstream.WithAutoRefresh(false))
				must(t, err)
				cdi := config("/r", "x")
				if _, err := cache.InjectDevices(cdi, "nvidia.com/gpu="+device); err != nil {
					t.Fatal(err)
				}
				if a, b := sight(&shim), sight(cdi); a != b {
					t.Errorf("the shim gives\n%s\nCDI gives\n%s", a, b)
				}
			})
		}
	}
}

func only(device string) []string {
	if device == "all" || device == "none" {
		return nil
	}
	return []string{device}
}

// sight is all of a container's configuration that the two must agree on, a
// line each, sorted.
func sight(s *runtimespec.Spec) string {
	var lines []string
	for _, d := range s.Linux.Devices {
		lines = append(lines, fmt.Sprintf("node %s %s %d:%d %o", d.Path, d.Type, d.Major, d.Minor, *d.FileMode))
	}
	for _, r := range s.Linux.Resources.Devices {
		if r.Allow {
			lines = append(lines, fmt.Sprintf("rule %s %d:%d %s", r.Type, *r.Major, *r.Minor, r.Access))
		}
	}
	for _, m := range s.Mounts {
		if m.Source != "proc" && m.Source != "tmpfs" {
			lines = append(lines, fmt.Sprintf("mount %s %s %v", m.Destination, m.Source, m.Options))
		}
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "\n")
}
