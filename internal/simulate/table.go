// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"bytes"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// The simulated libraries and programs, built by stub/build.sh from the sources
// that lie beside them.
//
//go:embed stub/amd64 stub/arm64
var stubs embed.FS

func (m machine) stub(name string) ([]byte, error) {
	return stubs.ReadFile("stub/" + m.goarch + "/" + name)
}

// tableMagic marks the place in libcuda and libnvidia-ml where the host's table
// goes. It and the structures are those of stub/sim.h.
const (
	tableMagic   = "DAVIT SIMULATED HOST TABLE 1"
	tableVersion = 1
)

type table struct {
	Magic   [32]byte
	Version uint32
	GPUs    uint32
	CUDA    uint32
	_       uint32
	Driver  [64]byte
	GPU     [MaxGPUs]tableGPU
}

type tableGPU struct {
	Name                [96]byte
	UUID                [48]byte
	Raw                 [16]byte
	Bus                 [32]byte
	Node                [64]byte
	Minor               uint32
	Domain, PCIBus, Dev uint32
	PCIID, Subsystem    uint32
	Major, MinorCC      uint32
	Memory              uint64
}

// hostTable is the table of a host, as the libraries read it.
func (p *plan) hostTable() ([]byte, error) {
	t := table{Version: tableVersion, GPUs: uint32(len(p.host.GPUs)), CUDA: uint32(p.cuda)}
	copy(t.Magic[:], tableMagic)
	copy(t.Driver[:len(t.Driver)-1], p.Driver)
	for i, g := range p.host.GPUs {
		e := &t.GPU[i]
		copy(e.Name[:len(e.Name)-1], g.Name)
		copy(e.UUID[:len(e.UUID)-1], g.UUID)
		raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimPrefix(g.UUID, "GPU-"), "-", ""))
		if err != nil {
			return nil, fmt.Errorf("UUID %s: %w", g.UUID, err)
		}
		copy(e.Raw[:], raw)
		copy(e.Bus[:len(e.Bus)-1], g.BusID)
		copy(e.Node[:len(e.Node)-1], g.Node)
		e.Minor = uint32(g.Minor)
		e.Domain, e.PCIBus = uint32(g.domain), uint32(g.bus)
		e.PCIID = uint32(g.model.pciID)<<16 | 0x10de
		e.Subsystem = uint32(g.model.subsystem)<<16 | 0x10de
		e.Major, e.MinorCC = uint32(g.model.major), uint32(g.model.minor)
		e.Memory = g.MemoryMiB << 20
	}
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, t); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// patch puts a host's table into a library.
func patch(library, table []byte) ([]byte, error) {
	magic := make([]byte, 32)
	copy(magic, tableMagic)
	at := bytes.Index(library, magic)
	if at < 0 || bytes.Contains(library[at+1:], magic) || at+len(table) > len(library) {
		return nil, fmt.Errorf("the built library has no place for a host's table: run stub/build.sh")
	}
	if v := binary.LittleEndian.Uint32(library[at+32:]); v != tableVersion {
		return nil, fmt.Errorf("the built library has table version %d, not %d: run stub/build.sh", v, tableVersion)
	}
	out := bytes.Clone(library)
	copy(out[at:], table)
	return out, nil
}
