// SPDX-License-Identifier: Apache-2.0

package nvidia

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"davit/internal/rootfs"
)

// readGPUs reads /proc/driver/nvidia/gpus/BUSID/information of each card.
func (rd *reader) readGPUs() ([]GPU, error) {
	dir := "/proc/driver/nvidia/gpus"
	entries, err := rd.names(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	gpus := make([]GPU, 0, len(entries))
	for _, e := range entries {
		text, err := rd.text(dir + "/" + e.Name + "/information")
		if err != nil {
			rd.miss(dir+"/"+e.Name, "the GPU's entry could not be read: "+err.Error())
			continue
		}
		g, excluded, err := parseInformation(text)
		if err != nil {
			return nil, fmt.Errorf("%s/%s/information: %w", dir, e.Name, err)
		}
		if excluded {
			rd.miss("GPU "+e.Name, "excluded by the driver's option NVreg_ExcludedGpus")
			continue
		}
		if g.BusID == "" {
			g.BusID = e.Name
		}
		rd.completeGPU(&g, e.Name)
		gpus = append(gpus, g)
	}
	// The management library counts cards in PCI order (nvml.h, nvmlDeviceGetHandleByIndex).
	slices.SortFunc(gpus, func(a, b GPU) int { return strings.Compare(a.BusID, b.BusID) })
	for i := range gpus {
		gpus[i].Index = i
	}
	return gpus, nil
}

// parseInformation reads lines such as
//
//	Model: 		 NVIDIA H100 80GB HBM3
//	GPU UUID: 	 GPU-ba16d649-0d6a-3673-86a3-54e9c7a06d13
//	Bus Location: 	 0000:00:06.0
//	Device Minor: 	 0
//	GPU Excluded:	 No
func parseInformation(text string) (g GPU, excluded bool, err error) {
	g.Minor = -1
	for line := range strings.Lines(text) {
		key, val, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		val = strings.TrimSpace(val)
		switch strings.TrimSpace(key) {
		case "Model":
			g.Name = val
		case "GPU UUID":
			// "GPU-????????-…" until a first client has initialised the card.
			if !strings.Contains(val, "?") {
				g.UUID = val
			}
		case "Bus Location":
			g.BusID = strings.ToLower(val)
		case "Device Minor":
			if g.Minor, err = strconv.Atoi(val); err != nil || g.Minor < 0 {
				return g, false, fmt.Errorf("device minor %q is not a number", val)
			}
		case "GPU Excluded":
			excluded = val == "Yes"
		}
	}
	if g.Minor < 0 {
		return g, excluded, errors.New("no line \"Device Minor\"")
	}
	g.Brand = brandOf(g.Name)
	return g, excluded, nil
}

// completeGPU adds what sysfs, /dev and the capability tree say.
func (rd *reader) completeGPU(g *GPU, bdf string) {
	sys := "/sys/bus/pci/devices/" + bdf
	if id, err := rd.host.ReadFile(sys + "/device"); err == nil {
		g.PCIID = strings.TrimPrefix(strings.TrimSpace(string(id)), "0x")
		g.Arch = archOf(g.PCIID)
	}
	minor := strconv.Itoa(g.Minor)
	g.Node = rd.node("/dev/nvidia" + minor)
	if g.Node == nil {
		rd.miss("/dev/nvidia"+minor, "the node of GPU "+bdf+" does not exist; nvidia-modprobe -c "+minor+" makes it")
	}
	if entries, err := rd.names(sys + "/drm"); err == nil {
		for _, e := range entries {
			if strings.HasPrefix(e.Name, "card") || strings.HasPrefix(e.Name, "renderD") {
				if n := rd.node("/dev/dri/" + e.Name); n != nil {
					g.DRM = append(g.DRM, *n)
				}
			}
		}
		slices.SortFunc(g.DRM, func(a, b Node) int { return strings.Compare(a.Path, b.Path) })
	}
	rd.readMIG(g)
}

// readMIG reads /proc/driver/nvidia/capabilities/gpuN/mig/giX/ciY, which hold
// the numbers of the nodes below /dev/nvidia-caps.
func (rd *reader) readMIG(g *GPU) {
	dir := "/proc/driver/nvidia/capabilities/gpu" + strconv.Itoa(g.Minor) + "/mig"
	gis, err := rd.names(dir)
	if err != nil {
		return
	}
	for _, gi := range numbered(gis, "gi") {
		giDir := dir + "/gi" + strconv.Itoa(gi)
		entries, err := rd.names(giDir)
		if err != nil {
			continue
		}
		for _, ci := range numbered(entries, "ci") {
			m := MIG{Index: len(g.MIG), GI: gi, CI: ci}
			for _, access := range []string{giDir + "/access", giDir + "/ci" + strconv.Itoa(ci) + "/access"} {
				minor, ok := rd.capMinor(access)
				if !ok {
					continue
				}
				if n := rd.node("/dev/nvidia-caps/nvidia-cap" + strconv.Itoa(minor)); n != nil {
					m.Caps = append(m.Caps, *n)
				}
			}
			if len(m.Caps) < 2 {
				rd.miss(fmt.Sprintf("MIG device %d:%d", g.Index, m.Index), "its nodes in /dev/nvidia-caps do not exist")
			}
			g.MIG = append(g.MIG, m)
		}
	}
	g.MIGEnabled = len(g.MIG) > 0
}

// capMinor reads "DeviceFileMinor: 3" from a capability's access file.
func (rd *reader) capMinor(file string) (int, bool) {
	text, err := rd.host.ReadFile(file)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "DeviceFileMinor:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(v))
			return n, err == nil
		}
	}
	return 0, false
}

// numbered picks the entries PREFIXn and gives their numbers in order.
func numbered(entries []rootfs.Entry, prefix string) []int {
	var list []int
	for _, e := range entries {
		if s, ok := strings.CutPrefix(e.Name, prefix); ok {
			if n, err := strconv.Atoi(s); err == nil && n >= 0 {
				list = append(list, n)
			}
		}
	}
	slices.Sort(list)
	return list
}

// node reads a device node of the host; nil if there is none.
func (rd *reader) node(p string) *Node {
	rd.trail.add(rd.dev.Host(p))
	n, err := rd.dev.Node(p)
	if err != nil {
		return nil
	}
	return &Node{Path: path.Clean(p), Host: rd.dev.Host(p), Major: n.Major, Minor: n.Minor,
		Mode: uint32(n.Mode), UID: n.UID, GID: n.GID}
}
