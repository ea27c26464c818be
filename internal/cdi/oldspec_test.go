// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tags.cncf.io/container-device-interface/specs-go"

	"davit/internal/loader"
	"davit/internal/simulate"
)

// oldSpec is one as NVIDIA's toolkit writes it: libraries at the host's paths
// with their versions in the name, and a hook for all else.
func oldSpec(t *testing.T, r real, hook string, prefix ...string) string {
	t.Helper()
	const lib = "/usr/lib64"
	s := &specs.Spec{Version: "0.5.0", Kind: "nvidia.com/gpu"}
	e := &s.ContainerEdits
	for _, n := range []string{"nvidiactl", "nvidia-uvm"} {
		e.DeviceNodes = append(e.DeviceNodes, &specs.DeviceNode{Path: "/dev/" + n, HostPath: r.host.Dir + "/dev/" + n})
	}
	for _, l := range []string{"libcuda", "libnvidia-ml", "libnvidia-cfg"} {
		file := lib + "/" + l + ".so." + r.host.Driver
		e.Mounts = append(e.Mounts, &specs.Mount{HostPath: r.host.Dir + file, ContainerPath: file, Options: []string{"ro", "nosuid", "nodev", "rbind", "rprivate"}})
	}
	e.Mounts = append(e.Mounts, &specs.Mount{HostPath: r.host.Dir + "/usr/bin/nvidia-smi", ContainerPath: "/usr/bin/nvidia-smi", Options: []string{"ro", "bind"}})
	for _, args := range [][]string{
		{"create-symlinks", "--link", "libcuda.so.1::" + lib + "/libcuda.so"},
		{"enable-cuda-compat", "--host-driver-version=" + r.host.Driver},
		{"update-ldcache", "--folder", lib},
		{"disable-device-node-modification"},
		{"update-application-profile"},
		{"of-next-year", "--x"},
	} {
		e.Hooks = append(e.Hooks, &specs.Hook{HookName: "createContainer", Path: hook, Args: append(slices.Clone(prefix), args...), Env: []string{"NVIDIA_CTK_DEBUG=false"}})
	}
	s.Devices = []specs.Device{{Name: "0", ContainerEdits: specs.ContainerEdits{DeviceNodes: []*specs.DeviceNode{{Path: "/dev/nvidia0", HostPath: r.host.Dir + "/dev/nvidia0"}}}}}
	text, err := Marshal(s, "json")
	must(t, err)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "nvidia.json"), text, 0o644))
	return dir
}

// TestContainerOldSpec runs specs on disk that call the hooks of NVIDIA's
// toolkit by either name.
func TestContainerOldSpec(t *testing.T) {
	runtimes(t, simulate.Options{GPUs: 1, Model: "T4", Driver: "550.120", Layout: "rhel"}, func(t *testing.T, r real) {
		bin := t.TempDir()
		for _, n := range []string{"nvidia-cdi-hook", "nvidia-ctk"} {
			must(t, os.Symlink(r.hook, filepath.Join(bin, n)))
		}
		for _, c := range []struct {
			name, root string
			dir        string
		}{
			{"hook", "cached", oldSpec(t, r, bin+"/nvidia-cdi-hook", "nvidia-cdi-hook")},
			{"hook without a cache", "debian", oldSpec(t, r, bin+"/nvidia-cdi-hook", "nvidia-cdi-hook")},
			{"ctk", "cached", oldSpec(t, r, bin+"/nvidia-ctk", "nvidia-ctk", "hook")},
		} {
			t.Run(c.name, func(t *testing.T) {
				root := makeRoot(t, c.root)
				for range 2 {
					out, err := r.start(t, root, []string{c.dir}, []string{"nvidia.com/gpu=0"}, "nvidia-smi -L; ls /usr/lib64; ls /etc/nvidia/*; grep -c libcuda.so.1 /etc/ld.so.cache")
					want := r.listed(0) + "ld-linux-x86-64.so.2\nlibcuda.so\nlibcuda.so.1\nlibcuda.so.550.120\nlibnvidia-cfg.so.1\nlibnvidia-cfg.so.550.120\nlibnvidia-ml.so.1\nlibnvidia-ml.so.550.120\n10-container.conf\n"
					i := strings.Index(out, "GPU 0")
					if err != nil || i < 0 || !strings.HasPrefix(out[i:], want) || strings.HasSuffix(out, "\n0\n") {
						t.Fatalf("%v\n%s\nwant\n%s", err, out, want)
					}
				}
			})
		}
		t.Run("forward compatibility", func(t *testing.T) {
			root := makeRoot(t, "cached")
			compat := root + "/usr/local/cuda/compat"
			must(t, os.MkdirAll(compat, 0o755))
			data, err := os.ReadFile(r.host.Dir + "/usr/lib64/libcuda.so.550.120")
			must(t, err)
			must(t, os.WriteFile(compat+"/libcuda.so.560.35.05", data, 0o755))
			must(t, os.Symlink("libcuda.so.560.35.05", compat+"/libcuda.so.1"))
			out, err := r.start(t, root, []string{oldSpec(t, r, bin+"/nvidia-cdi-hook", "nvidia-cdi-hook")}, []string{"nvidia.com/gpu=0"}, "nvidia-smi -L")
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			text, err := os.ReadFile(root + loader.CachePath)
			must(t, err)
			cache, err := loader.Parse(text)
			must(t, err)
			var order []string
			for _, e := range cache.Entries {
				if e.Name == "libcuda.so.1" {
					order = append(order, e.Path)
				}
			}
			if !slices.Equal(order, []string{"/usr/local/cuda/compat/libcuda.so.1", "/usr/lib64/libcuda.so.1"}) {
				t.Errorf("search order %v", order)
			}
		})
	})
}
