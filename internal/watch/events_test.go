// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"encoding/binary"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseUevent(t *testing.T) {
	for _, c := range []struct {
		name, message string
		want          uevent
		ok, concerns  bool
	}{
		{"module", "add@/module/nvidia|ACTION=add|DEVPATH=/module/nvidia|SUBSYSTEM=module|SEQNUM=4711|",
			uevent{action: "add", devpath: "/module/nvidia", subsystem: "module"}, true, true},
		{"module of another", "remove@/module/nvme|ACTION=remove|SUBSYSTEM=module|",
			uevent{action: "remove", devpath: "/module/nvme", subsystem: "module"}, true, false},
		{"open module", "add@/module/nvidia_uvm|SUBSYSTEM=module|",
			uevent{action: "add", devpath: "/module/nvidia_uvm", subsystem: "module"}, true, true},
		{"driver", "add@/bus/pci/drivers/nvidia|SUBSYSTEM=drivers|",
			uevent{action: "add", devpath: "/bus/pci/drivers/nvidia", subsystem: "drivers"}, true, true},
		{"card bound", "bind@/devices/pci0000:00/0000:00:06.0|ACTION=bind|SUBSYSTEM=pci|DRIVER=nvidia|PCI_CLASS=30200|PCI_ID=10DE:2330|",
			uevent{action: "bind", devpath: "/devices/pci0000:00/0000:00:06.0", subsystem: "pci", driver: "nvidia", pciID: "10DE:2330"}, true, true},
		{"card gone", "remove@/devices/pci0000:00/0000:00:06.0|SUBSYSTEM=pci|PCI_ID=10de:2330",
			uevent{action: "remove", devpath: "/devices/pci0000:00/0000:00:06.0", subsystem: "pci", pciID: "10de:2330"}, true, true},
		{"network card", "add@/devices/pci0000:00/0000:00:03.0|SUBSYSTEM=pci|DRIVER=virtio-pci|PCI_ID=1AF4:1041|",
			uevent{action: "add", devpath: "/devices/pci0000:00/0000:00:03.0", subsystem: "pci", driver: "virtio-pci", pciID: "1AF4:1041"}, true, false},
		{"display", "add@/devices/pci0000:00/0000:00:06.0/drm/card1|SUBSYSTEM=drm|DEVNAME=dri/card1|",
			uevent{action: "add", devpath: "/devices/pci0000:00/0000:00:06.0/drm/card1", subsystem: "drm", devname: "dri/card1"}, true, true},
		{"class device", "add@/devices/virtual/nvidia-fs|SUBSYSTEM=nvidia-fs|DEVNAME=/dev/nvidia-fs0|",
			uevent{action: "add", devpath: "/devices/virtual/nvidia-fs", subsystem: "nvidia-fs", devname: "/dev/nvidia-fs0"}, true, true},
		{"no variables", "change@/devices/x", uevent{action: "change", devpath: "/devices/x"}, true, false},
		{"udev's own", "libudev|\xfe\xed\xca\xfe|", uevent{}, false, false},
		{"empty", "", uevent{}, false, false},
		{"no path", "add@|SUBSYSTEM=module|", uevent{}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := parseUevent([]byte(strings.ReplaceAll(c.message, "|", "\x00")))
			if got != c.want || ok != c.ok || got.concerns() != c.concerns {
				t.Errorf("got %+v %v, concerns %v", got, ok, got.concerns())
			}
		})
	}
}

func FuzzParseUevent(f *testing.F) {
	f.Add([]byte("add@/module/nvidia\x00ACTION=add\x00DEVPATH=/module/nvidia\x00SUBSYSTEM=module\x00SEQNUM=4711\x00"))
	f.Add([]byte("bind@/devices/pci\x00SUBSYSTEM=pci\x00DRIVER=nvidia\x00PCI_ID=10DE:2330\x00"))
	f.Add([]byte("libudev\x00\xfe\xed\xca\xfe"))
	f.Fuzz(func(t *testing.T, message []byte) {
		e, ok := parseUevent(message)
		if ok && (e.action == "" || !strings.HasPrefix(e.devpath, "/")) || !ok && e != (uevent{}) {
			t.Errorf("%+v %v", e, ok)
		}
		if strings.ContainsRune(e.subsystem+e.driver+e.devname+e.pciID+e.action+e.devpath, 0) {
			t.Errorf("a zero in %+v", e)
		}
		if e.concerns() && !ok {
			t.Errorf("no event concerns: %q", message)
		}
	})
}

// raw is an event as the kernel gives it.
func raw(wd int32, mask uint32, name string) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(wd))
	b = binary.NativeEndian.AppendUint32(b, mask)
	b = binary.NativeEndian.AppendUint32(b, 0)
	size := 0
	if name != "" {
		size = (len(name) + 16) / 16 * 16
	}
	b = binary.NativeEndian.AppendUint32(b, uint32(size))
	return append(append(b, name...), make([]byte, size-len(name))...)
}

func TestParseInotify(t *testing.T) {
	b := append(raw(1, unix.IN_CREATE, "nvidia0"), raw(-1, unix.IN_Q_OVERFLOW, "")...)
	want := []inotifyEvent{{1, unix.IN_CREATE, "nvidia0"}, {-1, unix.IN_Q_OVERFLOW, ""}}
	if got := parseInotify(b); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	if got := parseInotify(b[:20]); got != nil {
		t.Errorf("of half an event: %v", got)
	}
}

func FuzzParseInotify(f *testing.F) {
	f.Add(append(raw(1, unix.IN_CREATE, "nvidia0"), raw(-1, unix.IN_Q_OVERFLOW, "")...))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		for _, e := range parseInotify(b) {
			n += unix.SizeofInotifyEvent + len(e.name)
		}
		if n > len(b) {
			t.Errorf("%d bytes of %d", n, len(b))
		}
	})
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name            string
		e               inotifyEvent
		changed, closed bool
	}{
		{"of interest", inotifyEvent{1, unix.IN_CREATE, "nvidia0"}, true, false},
		{"of none", inotifyEvent{1, unix.IN_CREATE, "tty1"}, false, false},
		{"temporary", inotifyEvent{1, unix.IN_CREATE, ".nvidia0.davit"}, false, false},
		{"hidden and asked for", inotifyEvent{1, unix.IN_CREATE, ".driver-ctr-ready"}, true, false},
		{"folder gone", inotifyEvent{1, unix.IN_DELETE_SELF, ""}, true, false},
		{"folder's mode", inotifyEvent{1, unix.IN_ATTRIB, ""}, false, false},
		{"unmounted", inotifyEvent{1, unix.IN_UNMOUNT, ""}, true, false},
		{"forgotten", inotifyEvent{1, unix.IN_IGNORED, ""}, true, false},
		{"control node let go", inotifyEvent{2, unix.IN_CLOSE_WRITE, ""}, false, true},
		{"control node's mode", inotifyEvent{2, unix.IN_ATTRIB, ""}, true, false},
		{"of a watch that is no more", inotifyEvent{3, unix.IN_CREATE, "nvidia0"}, false, false},
		{"too many", inotifyEvent{-1, unix.IN_Q_OVERFLOW, ""}, true, false},
	} {
		w := &watches{fd: -1, names: map[int][]string{1: {"nvidia*", "*.davit", ".driver-ctr-ready"}, 2: nil}}
		if changed, closed := w.judge(c.e); changed != c.changed || closed != c.closed {
			t.Errorf("%s: changed %v, closed %v", c.name, changed, closed)
		}
	}
}

// TestUeventsOfThisMachine asks the kernel to tell of /dev/null.
func TestUeventsOfThisMachine(t *testing.T) {
	fd, err := openUevents()
	if err != nil {
		t.Skip(err)
	}
	defer unix.Close(fd)
	if err := os.WriteFile("/sys/devices/virtual/mem/null/uevent", []byte("change"), 0); err != nil {
		t.Skip(err)
	}
	want := uevent{action: "change", devpath: "/devices/virtual/mem/null", subsystem: "mem", devname: "null"}
	buf := make([]byte, 16<<10)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			continue
		}
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			t.Errorf("a message from %+v", from)
		}
		if e, ok := parseUevent(buf[:n]); ok && e == want {
			return
		}
	}
	t.Error("the kernel did not tell of it")
}
