// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// number is a character device's.
type number struct{ major, minor uint32 }

// nodeWanted is a node that a host should have.
type nodeWanted struct {
	path string
	mode uint32
	// driver is the name in /proc/devices whose number it has.
	driver string
	// real is the number it has on a true host; zero minors and majors that
	// differ from host to host are examples.
	real number
}

// harmless are devices of this machine that a container may open without
// effect and that container runtimes do not allow by default, so that whether a
// program can open the node depends on the device cgroup alone: unused virtual
// consoles and their memory, the loop driver's control, the kernel log, FUSE,
// and the processors' identification. 10:200 (tun) is not among them: older
// versions of runc allow it to everybody.
func harmless() []number {
	var list []number
	for n := uint32(63); n >= 8; n-- {
		list = append(list, number{4, n})
	}
	for n := uint32(0); n < 64; n++ {
		list = append(list, number{7, n})
	}
	list = append(list, number{10, 237}, number{1, 11}, number{10, 229})
	for n := uint32(0); n < 16; n++ {
		list = append(list, number{203, n})
	}
	return list
}

// errNoNodes says that nodes cannot be made here at all.
var errNoNodes = errors.New("device nodes cannot be made here")

// probe gives the first of the harmless devices that this machine has, at most
// want, by opening them. errNoNodes: nodes cannot be made.
func probe(want int, dirs ...string) ([]number, error) {
	made := false
	for _, base := range dirs {
		dir, err := os.MkdirTemp(base, ".davit-nodes-")
		if err != nil {
			continue
		}
		found, ok := probeIn(dir, want)
		os.RemoveAll(dir)
		if len(found) > 0 {
			return found, nil
		}
		made = made || ok
	}
	if !made {
		return nil, errNoNodes
	}
	return nil, nil
}

// probeIn reports also whether nodes can be made, even if none opens, which on
// a file system mounted nodev is so.
func probeIn(dir string, want int) (found []number, made bool) {
	p := filepath.Join(dir, "node")
	for _, n := range harmless() {
		if len(found) == want {
			break
		}
		if err := unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(n.major, n.minor))); err != nil {
			return found, made
		}
		made = true
		fd, err := unix.Open(p, unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
			found = append(found, n)
		}
		if os.Remove(p) != nil || errors.Is(err, unix.EACCES) && len(found) == 0 {
			return found, made // nodev: no other will open either
		}
	}
	return found, made
}

// assign gives each node a number, those of GPUs first and each its own. Where
// there are too few, nodes that all GPUs share get the same, then GPUs do.
func assign(nodes []nodeWanted, free []number) (given []number, notes []string) {
	given = make([]number, len(nodes))
	if len(free) == 0 {
		// /dev/null: opens everywhere, so that nothing is hidden by it.
		for i := range given {
			given[i] = number{1, 3}
		}
		return given, []string{"this machine has no device to stand behind the nodes: all are /dev/null (1:3), and the device cgroup cannot be tested"}
	}
	var cards, others []int
	for i, n := range nodes {
		if n.driver == driverGPU {
			cards = append(cards, i)
		} else {
			others = append(others, i)
		}
	}
	if len(free) >= len(nodes) {
		for k, i := range append(cards, others...) {
			given[i] = free[k]
		}
		return given, nil
	}
	// One number at least for the others, if the cards leave it.
	own := min(len(cards), max(len(free)-1, 1))
	rest := free[own:]
	if len(rest) == 0 {
		rest = free[:1]
	}
	for k, i := range cards {
		given[i] = free[k%own]
	}
	for k, i := range others {
		given[i] = rest[min(k, len(rest)-1)]
	}
	notes = append(notes, fmt.Sprintf("this machine has %d devices to stand behind %d nodes: control nodes share numbers", len(free), len(nodes)))
	if own < len(cards) {
		notes = append(notes, fmt.Sprintf("%d GPUs share %d device numbers: a container that may open one may open another", len(cards), own))
	}
	return given, notes
}

// addNodes puts the nodes into the tree, with numbers of this machine where
// nodes can be made, otherwise in the side table with those of a true host. It
// gives what /proc/devices must list: name and major, in the order of nodes.
func (t *tree) addNodes(nodes []nodeWanted, sideTable bool, near string) (majors []deviceMajor, notes []string) {
	given := make([]number, len(nodes))
	for i, n := range nodes {
		given[i] = n.real
	}
	if !sideTable {
		free, err := probe(len(nodes), os.TempDir(), near, "/var/tmp", "/run")
		if errors.Is(err, errNoNodes) {
			sideTable = true
			notes = append(notes, "device nodes cannot be made without privileges: they are listed in a file of the host, and no container can open them")
		} else {
			given, notes = assign(nodes, free)
		}
	}
	t.sideTable = sideTable
	seen := map[deviceMajor]bool{}
	for i, n := range nodes {
		t.char(n.path, given[i].major, given[i].minor, fs.FileMode(n.mode))
		m := deviceMajor{given[i].major, n.driver}
		if !seen[m] {
			seen[m] = true
			majors = append(majors, m)
		}
	}
	return majors, notes
}

// deviceMajor is a line of /proc/devices.
type deviceMajor struct {
	major  uint32
	driver string
}

// procDevices is /proc/devices: the usual lines and the driver's, by number.
//
// On a true host the driver's own majors stand there (195 and two or three
// that change with each start); here those of the devices behind the nodes do,
// so that who compares a node's major with the list finds them agree. The same
// major may stand there with several names and, if the nodes have devices of
// several drivers behind them, a name with several majors.
func procDevices(majors []deviceMajor) string {
	usual := []deviceMajor{{1, "mem"}, {4, "tty"}, {5, "/dev/tty"}, {5, "/dev/console"}, {5, "/dev/ptmx"}, {7, "vcs"},
		{10, "misc"}, {13, "input"}, {128, "ptm"}, {136, "pts"}, {203, "cpu/cpuid"}, {226, driverDRM}}
	all := slices.Clone(usual)
	for _, d := range majors {
		if !slices.Contains(all, d) {
			all = append(all, d)
		}
	}
	slices.SortStableFunc(all, func(a, b deviceMajor) int { return int(a.major) - int(b.major) })
	var b strings.Builder
	b.WriteString("Character devices:\n")
	for _, d := range all {
		fmt.Fprintf(&b, "%3d %s\n", d.major, d.driver)
	}
	b.WriteString("\nBlock devices:\n  7 loop\n  8 sd\n259 blkext\n")
	return b.String()
}
