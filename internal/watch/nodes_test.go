// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"davit/internal/rootfs"
	"davit/internal/simulate"
)

const devicesOfAHost = `Character devices:
  1 mem
195 nvidia
195 nvidia-modeset
195 nvidiactl
234 nvidia-caps
 235 nvidia-uvm
x bad
7000 far

Block devices:
236 nvidia-uvm
`

func TestCharMajors(t *testing.T) {
	want := map[string][]uint32{"mem": {1}, "nvidia": {195}, "nvidia-modeset": {195}, "nvidiactl": {195}, "nvidia-caps": {234}, "nvidia-uvm": {235}}
	if got := charMajors(devicesOfAHost); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
}

func FuzzProcFiles(f *testing.F) {
	f.Add(devicesOfAHost)
	f.Add("DeviceFileMinor: 3\nDeviceFileMode: 292\n")
	f.Fuzz(func(t *testing.T, text string) {
		for name, list := range charMajors(text) {
			if name == "" || len(list) == 0 {
				t.Errorf("%q %v", name, list)
			}
		}
		field(text, "DeviceFileMinor")
	})
}

// servedBy is a host with a driver in /proc alone.
func servedBy(t *testing.T, devices string) *gpuHost {
	h := newHost(t, simulate.Options{GPUs: 2, Driver: oldDriver})
	h.must(os.RemoveAll(h.path("/dev")))
	h.must(os.Remove(h.path("/" + rootfs.NodesFile)))
	h.write("/proc/devices", devices)
	h.write("/proc/driver/nvidia/capabilities/gpu0/mig/gi1/access", "DeviceFileMinor: 21\nDeviceFileMode: 292\n")
	h.write("/proc/driver/nvidia/capabilities/gpu0/mig/gi1/ci0/access", "DeviceFileMinor: 22\nDeviceFileMode: 292\n")
	h.edit("/proc/driver/nvidia/params", "DeviceFileGID: 0", "DeviceFileGID: 44")
	h.edit("/proc/driver/nvidia/params", "DeviceFileMode: 438", "DeviceFileMode: 432") // 0660
	return h
}

func TestServedNodes(t *testing.T) {
	h := servedBy(t, devicesOfAHost)
	list, err := servedNodes(h.root())
	h.must(err)
	w := func(p string, major, minor, mode uint32, gid int) wanted {
		return wanted{p, []uint32{major}, minor, mode, 0, gid}
	}
	want := []wanted{
		{"/dev/nvidiactl", []uint32{195, 195}, 255, 0o660, 0, 44},
		{"/dev/nvidia-modeset", []uint32{195, 195}, 254, 0o660, 0, 44},
		w("/dev/nvidia-uvm", 235, 0, 0o660, 44),
		w("/dev/nvidia-uvm-tools", 235, 1, 0o660, 44),
		w("/dev/nvidia0", 195, 0, 0o660, 44),
		w("/dev/nvidia1", 195, 1, 0o660, 44),
		w("/dev/nvidia-caps/nvidia-cap1", 234, 1, 0o400, 0),
		w("/dev/nvidia-caps/nvidia-cap2", 234, 2, 0o444, 0),
		w("/dev/nvidia-caps/nvidia-cap21", 234, 21, 0o444, 0),
		w("/dev/nvidia-caps/nvidia-cap22", 234, 22, 0o444, 0),
	}
	if !reflect.DeepEqual(list, want) {
		t.Errorf("got  %v\nwant %v", list, want)
	}

	// An older driver without uvm and modeset loaded.
	h.write("/proc/devices", "Character devices:\n195 nvidia-frontend\n")
	h.must(os.RemoveAll(h.path("/sys/module/nvidia_modeset")))
	list, err = servedNodes(h.root())
	h.must(err)
	var paths []string
	for _, w := range list {
		paths = append(paths, w.path)
	}
	if got := strings.Join(paths, " "); got != "/dev/nvidiactl /dev/nvidia0 /dev/nvidia1" {
		t.Errorf("got %s", got)
	}

	h.must(os.Remove(h.path("/proc/driver/nvidia/version")))
	if list, err := servedNodes(h.root()); err != nil || list != nil {
		t.Errorf("without a driver: %v, %v", list, err)
	}
}

func TestMakeNodes(t *testing.T) {
	h := servedBy(t, devicesOfAHost)
	h.o.Nodes = true
	if err := unix.Mknod(h.path("/node"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err != nil {
		t.Skip("device nodes cannot be made here: " + err.Error())
	}
	got := h.reconcile()
	want := []string{"/dev/nvidiactl: made as 195:255", "/dev/nvidia-modeset: made as 195:254", "/dev/nvidia-uvm: made as 235:0", "/dev/nvidia-uvm-tools: made as 235:1",
		"/dev/nvidia0: made as 195:0", "/dev/nvidia1: made as 195:1", "/dev/nvidia-caps/nvidia-cap1: made as 234:1"}
	if len(got) < len(want) || !reflect.DeepEqual(got[:len(want)], want) {
		t.Fatalf("changes: %q", got)
	}
	if !strings.HasPrefix(got[len(got)-1], "/etc/cdi/nvidia.yaml: written for driver 550.107.02, 2 GPUs, 1 MIG device") {
		t.Errorf("no spec: %q", got)
	}
	var st unix.Stat_t
	h.must(unix.Stat(h.path("/dev/nvidia-uvm"), &st))
	if st.Mode != unix.S_IFCHR|0o660 || st.Gid != 44 || st.Rdev != unix.Mkdev(235, 0) {
		t.Errorf("mode %o, group %d, number %x", st.Mode, st.Gid, st.Rdev)
	}
	if again := h.reconcile(); len(again) != 0 {
		t.Errorf("a second time: %q", again)
	}

	// The module was loaded anew and has another number; a node is gone; a file
	// stands in the place of a third.
	h.edit("/proc/devices", "235 nvidia-uvm", "237 nvidia-uvm")
	h.must(os.Remove(h.path("/dev/nvidia1")))
	h.must(os.Remove(h.path("/dev/nvidia-uvm-tools")))
	h.write("/dev/nvidia-uvm-tools", "no node")
	r, err := Reconcile(h.root(), h.o)
	if err == nil || !strings.Contains(err.Error(), "nvidia-uvm-tools: not a device node: left as it is") {
		t.Errorf("error: %v", err)
	}
	got = h.lines(r.Changes)
	want = []string{"/dev/nvidia-uvm: made as 237:0, was 235:0", "/dev/nvidia1: made as 195:1",
		"/dev/char/235:0: removed: ../nvidia-uvm is 237:0 now", "/dev/char/235:1: removed: ../nvidia-uvm-tools is gone", "/dev/char/237:0: linked to ../nvidia-uvm", "/etc/cdi/nvidia.yaml: written for driver 550.107.02, 2 GPUs, 1 MIG device"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestNodesStayWithoutTheFlag: without Nodes none is made.
func TestNodesStayWithoutTheFlag(t *testing.T) {
	h := servedBy(t, devicesOfAHost)
	r, err := Reconcile(h.root(), h.o)
	if err != nil || len(r.Changes) != 0 || r.Refused == "" {
		t.Errorf("%q, %v, refused %q", r.Changes, err, r.Refused)
	}
	if _, err := os.Lstat(h.path("/dev")); err == nil {
		t.Error("/dev was made")
	}
}
