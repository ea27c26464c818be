// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// gpu is one of the host's, as the kernel tells it.
type gpu struct {
	index int
	name  string
	uuid  string
	bus   string
	minor int
	node  string // MAJOR:MINOR of its node
}

// host is the truth that containers are compared with. It is read here without
// davit's code.
type host struct {
	root   string // "/" or the simulated host
	sim    bool
	driver string
	gpus   []gpu
	smi    string            // what nvidia-smi -L says on the host
	inodes map[uint64]string // of the driver's libcuda files
}

func readHost(s settings) (*host, error) {
	h := &host{root: "/", inodes: map[uint64]string{}}
	if s.hostRoot != "" {
		h.sim = true
		abs, err := filepath.Abs(s.hostRoot)
		if err != nil {
			return nil, err
		}
		h.root = abs
	}
	version, err := os.ReadFile(filepath.Join(h.root, "proc/driver/nvidia/version"))
	if err != nil {
		return nil, err
	}
	for _, w := range strings.Fields(string(version)) {
		if strings.Count(w, ".") >= 1 && w[0] >= '0' && w[0] <= '9' {
			h.driver = w
			break
		}
	}
	if err := h.readGPUs(); err != nil {
		return nil, err
	}
	h.readLibraries()
	if h.sim {
		for _, g := range h.gpus {
			h.smi += fmt.Sprintf("GPU %d: %s (UUID: %s)\n", g.index, g.name, g.uuid)
		}
		return h, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, hostProgram("nvidia-smi"), "-L").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("nvidia-smi -L: %w: %s", err, out)
	}
	h.smi = string(out)
	return h, nil
}

// hostProgram finds a driver's program.
func hostProgram(name string) string {
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	return "/usr/local/nvidia/bin/" + name
}

func (h *host) readGPUs() error {
	files, _ := filepath.Glob(filepath.Join(h.root, "proc/driver/nvidia/gpus/*/information"))
	sort.Strings(files) // NVML counts in the order of bus ids
	if len(files) == 0 {
		return errors.New("no GPU in /proc/driver/nvidia/gpus")
	}
	for i, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		g := gpu{index: i, bus: filepath.Base(filepath.Dir(f))}
		for line := range strings.Lines(string(text)) {
			key, val, _ := strings.Cut(line, ":")
			val = strings.TrimSpace(val)
			switch strings.TrimSpace(key) {
			case "Model":
				g.name = val
			case "GPU UUID":
				g.uuid = val
			case "Device Minor":
				g.minor, _ = strconv.Atoi(val)
			}
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(h.root, "dev", "nvidia"+strconv.Itoa(g.minor)), &st); err == nil {
			g.node = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		h.gpus = append(h.gpus, g)
	}
	return nil
}

// driverFolders are where the libraries of a driver may lie on a host.
var driverFolders = []string{"usr/local/nvidia/lib64", "usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib/x86_64-linux-gnu/nvidia/current",
	"run/opengl-driver/lib", "run/nvidia/driver/usr/lib/x86_64-linux-gnu"}

// readLibraries remembers the inodes of the host's libcuda, as /proc shows
// them: a bind mount has the inode of its source, so a process's maps tell
// whose file it loaded.
func (h *host) readLibraries() {
	for _, dir := range driverFolders {
		found, _ := filepath.Glob(filepath.Join(h.root, dir, "libcuda.so.*.*"))
		for _, n := range found {
			if ino, err := mappedInode(n); err == nil {
				h.inodes[ino] = n
			}
		}
	}
}

// mappedInode is a file's inode as /proc/self/maps tells it, which on some file
// systems is not what stat tells.
func mappedInode(file string) (uint64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	text, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Munmap(text) }()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if f := strings.Fields(line); len(f) == 6 && filepath.Base(f[5]) == filepath.Base(file) {
			return strconv.ParseUint(f[4], 10, 64)
		}
	}
	return 0, errors.New("not in /proc/self/maps")
}

// list is what nvidia-smi -L must print in a container that has these GPUs:
// it counts the visible ones from 0.
func (h *host) list(indices ...int) string {
	if len(indices) == len(h.gpus) {
		return h.smi // the host's own lines, MIG devices included
	}
	var b strings.Builder
	for k, i := range indices {
		fmt.Fprintf(&b, "GPU %d: %s (UUID: %s)\n", k, h.gpus[i].name, h.gpus[i].uuid)
	}
	return b.String()
}

func (h *host) all() []int {
	var list []int
	for i := range h.gpus {
		list = append(list, i)
	}
	return list
}
