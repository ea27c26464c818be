// SPDX-License-Identifier: Apache-2.0

package nvidia

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"davit/internal/rootfs"
)

// Identity is what a file written for a host depends on: its driver, its cards
// and their MIG devices. Node numbers are no part of it, because files need not
// hold them.
type Identity struct {
	Driver string        `json:"driver"` // "" if none is loaded
	GPUs   []IdentityGPU `json:"gpus"`   // in PCI order
}

// IdentityGPU is a card as Identity knows it.
type IdentityGPU struct {
	BusID string `json:"bus_id"`
	Minor int    `json:"minor"`
	UUID  string `json:"uuid,omitempty"` // "" until a first client has initialised the card
	// MIG are its MIG devices, as GPU instance/compute instance, sorted.
	MIG []string `json:"mig,omitempty"`
}

// Identity is that of the host which the facts are of.
func (f *Facts) Identity() Identity {
	id := Identity{Driver: f.Driver.Version}
	for _, g := range f.GPUs {
		i := IdentityGPU{BusID: g.BusID, Minor: g.Minor, UUID: g.UUID}
		for _, m := range g.MIG {
			i.MIG = append(i.MIG, fmt.Sprintf("%d/%d", m.GI, m.CI))
		}
		slices.Sort(i.MIG)
		id.GPUs = append(id.GPUs, i)
	}
	return id
}

// ReadIdentity reads it from a host by one small file, and one or two reads
// for each card. What it reads is all below /proc/driver/nvidia.
func ReadIdentity(host rootfs.Root) (Identity, error) {
	var id Identity
	text, err := host.ReadFile("/proc/driver/nvidia/version")
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	} else if err != nil {
		return id, err
	}
	id.Driver, _ = parseVersion(string(text))
	rd := &reader{host: host, facts: &Facts{}}
	const dir = "/proc/driver/nvidia/gpus"
	entries, err := host.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	} else if err != nil {
		return id, err
	}
	for _, e := range entries {
		text, err := host.ReadFile(dir + "/" + e.Name + "/information")
		if err != nil {
			continue // as Read does: a card that cannot be read is none
		}
		g, excluded, err := parseInformation(string(text))
		if err != nil {
			return id, fmt.Errorf("%s/%s/information: %w", dir, e.Name, err)
		}
		if excluded {
			continue
		}
		if g.BusID == "" {
			g.BusID = e.Name
		}
		id.GPUs = append(id.GPUs, IdentityGPU{BusID: g.BusID, Minor: g.Minor, UUID: g.UUID, MIG: rd.migNames(g.Minor)})
	}
	slices.SortFunc(id.GPUs, func(a, b IdentityGPU) int { return strings.Compare(a.BusID, b.BusID) })
	return id, nil
}

// migNames lists the MIG devices of a card.
func (rd *reader) migNames(minor int) (names []string) {
	dir := "/proc/driver/nvidia/capabilities/gpu" + strconv.Itoa(minor) + "/mig"
	gis, err := rd.host.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, gi := range numbered(gis, "gi") {
		cis, err := rd.host.ReadDir(dir + "/gi" + strconv.Itoa(gi))
		if err != nil {
			continue
		}
		for _, ci := range numbered(cis, "ci") {
			names = append(names, fmt.Sprintf("%d/%d", gi, ci))
		}
	}
	slices.Sort(names)
	return names
}

// SharedObject is what an ELF file says about itself.
type SharedObject struct {
	SONAME string // "" if it has none
	Bits   int    // 64 or 32
}

// ReadSharedObject reads a shared object's name by a handful of reads, trusting
// no number in the file. The file may be anybody's.
func ReadSharedObject(r io.ReaderAt) (SharedObject, error) {
	info, err := readELF(r)
	return SharedObject{info.soname, info.bits}, err
}
