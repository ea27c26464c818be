// SPDX-License-Identifier: Apache-2.0

package nvidia

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// errNotELF says that a file is no ELF object for little-endian machines.
var errNotELF = errors.New("not an ELF shared object")

// elfInfo is what an ELF file says about itself.
type elfInfo struct {
	bits    int
	machine uint16
	soname  string
}

// ELF machine numbers (elf.h).
const (
	emX86   = 3
	emARM   = 40
	emAMD64 = 62
	emARM64 = 183
)

// maxDynamic bounds what is read of a dynamic section; drivers have < 1 KiB.
const maxDynamic = 64 << 10

// readELF reads class, machine and SONAME of a shared object by a handful of
// reads, trusting no number in the file.
func readELF(r io.ReaderAt) (elfInfo, error) {
	var head [4096]byte
	n, err := r.ReadAt(head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return elfInfo{}, err
	}
	b := head[:n]
	if len(b) < 64 || !bytes.HasPrefix(b, []byte("\x7fELF")) || b[5] != 1 {
		return elfInfo{}, errNotELF
	}
	le := binary.LittleEndian
	info := elfInfo{machine: le.Uint16(b[18:])}
	var phoff uint64
	var phsize, phnum int
	switch b[4] {
	case 1:
		info.bits = 32
		phoff, phsize, phnum = uint64(le.Uint32(b[28:])), int(le.Uint16(b[42:])), int(le.Uint16(b[44:]))
	case 2:
		info.bits = 64
		phoff, phsize, phnum = le.Uint64(b[32:]), int(le.Uint16(b[54:])), int(le.Uint16(b[56:]))
	default:
		return elfInfo{}, errNotELF
	}
	if want := map[int]int{32: 32, 64: 56}[info.bits]; phsize != want || phnum == 0 || phnum > 256 {
		return elfInfo{}, fmt.Errorf("%w: bad program headers", errNotELF)
	}
	ph := make([]byte, phsize*phnum)
	if phoff+uint64(len(ph)) <= uint64(len(b)) && phoff < uint64(len(b)) {
		copy(ph, b[phoff:])
	} else if _, err := r.ReadAt(ph, int64(phoff&(1<<62-1))); err != nil {
		return elfInfo{}, fmt.Errorf("%w: program headers cut short", errNotELF)
	}
	return info, info.findSONAME(r, ph, phsize)
}

// segment is a program header, as far as it is needed.
type segment struct {
	kind                uint32
	off, vaddr, filesiz uint64
}

func (info *elfInfo) segments(ph []byte, size int) []segment {
	le := binary.LittleEndian
	var list []segment
	for ; len(ph) >= size; ph = ph[size:] {
		if info.bits == 64 {
			list = append(list, segment{le.Uint32(ph), le.Uint64(ph[8:]), le.Uint64(ph[16:]), le.Uint64(ph[32:])})
		} else {
			list = append(list, segment{le.Uint32(ph), uint64(le.Uint32(ph[4:])), uint64(le.Uint32(ph[8:])), uint64(le.Uint32(ph[16:]))})
		}
	}
	return list
}

// findSONAME walks the dynamic section: PT_DYNAMIC, DT_STRTAB, DT_SONAME.
func (info *elfInfo) findSONAME(r io.ReaderAt, ph []byte, phsize int) error {
	const ptLoad, ptDynamic, dtStrtab, dtSONAME = 1, 2, 5, 14
	le := binary.LittleEndian
	segs := info.segments(ph, phsize)
	var dyn segment
	for _, s := range segs {
		if s.kind == ptDynamic {
			dyn = s
		}
	}
	if dyn.filesiz == 0 || dyn.filesiz > maxDynamic || dyn.off > 1<<40 {
		return nil // a program, or a library without a name of its own
	}
	d := make([]byte, dyn.filesiz)
	if _, err := r.ReadAt(d, int64(dyn.off)); err != nil {
		return fmt.Errorf("%w: dynamic section cut short", errNotELF)
	}
	var strtab, soname uint64
	found := false
	step := info.bits / 4
entries:
	for ; len(d) >= step; d = d[step:] {
		var tag, val uint64
		if info.bits == 64 {
			tag, val = le.Uint64(d), le.Uint64(d[8:])
		} else {
			tag, val = uint64(le.Uint32(d)), uint64(le.Uint32(d[4:]))
		}
		switch tag {
		case 0:
			break entries
		case dtStrtab:
			strtab = val
		case dtSONAME:
			soname, found = val, true
		}
	}
	if !found {
		return nil
	}
	for _, s := range segs {
		if s.kind != ptLoad || strtab < s.vaddr || strtab-s.vaddr >= s.filesiz || soname > 1<<30 || s.off > 1<<40 {
			continue
		}
		var name [256]byte
		n, _ := r.ReadAt(name[:], int64(s.off+strtab-s.vaddr+soname))
		end := bytes.IndexByte(name[:n], 0)
		if end <= 0 {
			return fmt.Errorf("%w: SONAME is not a string", errNotELF)
		}
		if bytes.IndexByte(name[:end], '/') >= 0 {
			return fmt.Errorf("%w: SONAME %q has a slash", errNotELF, name[:end])
		}
		info.soname = string(name[:end])
		return nil
	}
	return fmt.Errorf("%w: string table lies outside the file", errNotELF)
}

// ownSONAME says whether a library of this name, up to ".so", may call itself
// so. The SONAME becomes the name of a mount in containers: a damaged or
// hostile one must not lie over another library or elsewhere.
func ownSONAME(soname, name string) bool {
	for _, r := range soname {
		if !(r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r == '.' || r == '_' || r == '-' || r == '+') {
			return false
		}
	}
	// A library newer than the table may have a SONAME that its file has not.
	return baseName(soname) == name || strings.HasPrefix(soname, "libnvidia")
}
