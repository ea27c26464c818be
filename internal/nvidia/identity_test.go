// SPDX-License-Identifier: Apache-2.0

package nvidia

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"davit/internal/rootfs"
)

// writeTree makes files in a folder and opens it as a host.
func writeTree(t *testing.T, files map[string]string) rootfs.Root {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// The cheap way must see the same host as Read does.
func TestIdentityIsThatOfTheFacts(t *testing.T) {
	const gpu = "Model: \t T4\nGPU UUID: \t %U\nBus Location: \t %B\nDevice Minor: \t %M\nGPU Excluded:\t %X\n"
	card := func(uuid, bus, minor, excluded string) string {
		return strings.NewReplacer("%U", uuid, "%B", bus, "%M", minor, "%X", excluded).Replace(gpu)
	}
	files := map[string]string{
		"proc/driver/nvidia/version":                                     "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.120  Fri Sep 13 10:10:01 UTC 2024\n",
		"proc/driver/nvidia/gpus/0000:2a:00.0/information":               card("GPU-????????-????", "0000:2A:00.0", "0", "No"),
		"proc/driver/nvidia/gpus/0000:18:00.0/information":               card("GPU-a", "0000:18:00.0", "1", "No"),
		"proc/driver/nvidia/gpus/0000:3a:00.0/information":               card("GPU-c", "0000:3a:00.0", "2", "Yes"),
		"proc/driver/nvidia/capabilities/gpu1/mig/gi11/ci0/access":       "DeviceFileMinor: 5\n",
		"proc/driver/nvidia/capabilities/gpu1/mig/gi2/ci0/access":        "DeviceFileMinor: 3\n",
		"proc/driver/nvidia/capabilities/gpu1/mig/gi2/ci1/access":        "DeviceFileMinor: 4\n",
		"proc/driver/nvidia/capabilities/gpu0/mig/something-else/access": "",
	}
	root := writeTree(t, files)
	got, err := ReadIdentity(root)
	if err != nil {
		t.Fatal(err)
	}
	want := Identity{Driver: "550.120", GPUs: []IdentityGPU{
		{BusID: "0000:18:00.0", Minor: 1, UUID: "GPU-a", MIG: []string{"11/0", "2/0", "2/1"}},
		{BusID: "0000:2a:00.0", Minor: 0},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	facts, err := Read(root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if id := facts.Identity(); !reflect.DeepEqual(id, got) {
		t.Errorf("facts say %+v", id)
	}
	for name, files := range map[string]map[string]string{
		"no driver":         {"proc/x": ""},
		"driver, no folder": {"proc/driver/nvidia/version": files["proc/driver/nvidia/version"]},
	} {
		id, err := ReadIdentity(writeTree(t, files))
		if err != nil || len(id.GPUs) != 0 || (id.Driver == "") != (name == "no driver") {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
	files["proc/driver/nvidia/gpus/0000:18:00.0/information"] = "Device Minor: x\n"
	if _, err := ReadIdentity(writeTree(t, files)); err == nil {
		t.Error("a minor that is no number was taken")
	}
}
