// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// uevent is what the kernel tells of a device or module.
type uevent struct {
	action, devpath, subsystem string
	driver, devname, pciID     string
}

// parseUevent reads a message such as "add@/module/nvidia\0ACTION=add\0…".
// Messages of udev itself, which begin otherwise, are none.
func parseUevent(message []byte) (e uevent, ok bool) {
	head, rest, _ := bytes.Cut(message, []byte{0})
	action, devpath, ok := strings.Cut(string(head), "@")
	if !ok || action == "" || !strings.HasPrefix(devpath, "/") {
		return uevent{}, false
	}
	e = uevent{action: action, devpath: devpath}
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte{0})
		key, value, _ := strings.Cut(string(line), "=")
		switch key {
		case "SUBSYSTEM":
			e.subsystem = value
		case "DRIVER":
			e.driver = value
		case "DEVNAME":
			e.devname = value
		case "PCI_ID":
			e.pciID = value
		}
	}
	return e, true
}

// concerns says whether an event can change what davit keeps: NVIDIA's modules
// and drivers, cards of the vendor, and nodes for displays.
func (e uevent) concerns() bool {
	switch e.subsystem {
	case "module", "drivers":
		return strings.HasPrefix(path.Base(e.devpath), "nvidia")
	case "pci":
		return e.driver == "nvidia" || strings.HasPrefix(strings.ToUpper(e.pciID), "10DE:")
	case "drm":
		return true
	}
	return strings.HasPrefix(strings.TrimPrefix(e.devname, "/dev/"), "nvidia")
}

// openUevents opens a socket to which the kernel sends its events.
func openUevents() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return -1, fmt.Errorf("open a netlink socket: %w", err)
	}
	// Group 1 is the kernel's own, 2 udev's.
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen to the kernel's events: %w", err)
	}
	return fd, nil
}

// readUevents reads all events that wait, and says whether one concerns
// davit. Messages that another process sent are dropped; lost ones count.
func readUevents(fd int, buf []byte) (concerns bool, err error) {
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return concerns, nil
		case errors.Is(err, unix.ENOBUFS):
			concerns = true
			continue
		case err != nil:
			return concerns, fmt.Errorf("read the kernel's events: %w", err)
		}
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			continue
		}
		if e, ok := parseUevent(buf[:n]); ok && e.concerns() {
			concerns = true
		}
	}
}
