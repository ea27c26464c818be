// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// elfKind is a kind of shared object that can be made.
type elfKind struct {
	machine elf.Machine
	class   elf.Class
}

// The kinds of libraries that NVIDIA ships for a host.
var (
	elfAMD64 = elfKind{elf.EM_X86_64, elf.ELFCLASS64}
	elfARM64 = elfKind{elf.EM_AARCH64, elf.ELFCLASS64}
	elf386   = elfKind{elf.EM_386, elf.ELFCLASS32}
	elfARM   = elfKind{elf.EM_ARM, elf.ELFCLASS32}
)

// sharedObject makes a valid, empty shared object with a SONAME: a real
// dynamic loader loads it, and readers find the name by program headers and by
// section headers. It exports nothing.
func sharedObject(kind elfKind, soname string) []byte {
	if kind.class == elf.ELFCLASS32 {
		return sharedObject32(kind, soname)
	}
	return sharedObject64(kind, soname)
}

// Both builders lay the file out in the same way: header, program headers,
// hash table, symbols, strings, dynamic section; all of it is one writable
// segment, because older loaders write into the dynamic section. Then, not
// loaded, the section names and headers.
//
// The alignment is the largest page of any of the machines.
const (
	elfAlign   = 0x10000
	shNames    = "\x00.hash\x00.dynsym\x00.dynstr\x00.dynamic\x00.shstrtab\x00"
	nameHash   = 1
	nameDynsym = nameHash + 6
	nameDynstr = nameDynsym + 8
	nameDyn    = nameDynstr + 8
	nameStrtab = nameDyn + 9
)

func align(n, to uint64) uint64 { return (n + to - 1) &^ (to - 1) }

func elfIdent(class elf.Class) (id [elf.EI_NIDENT]byte) {
	copy(id[:], elf.ELFMAG)
	id[elf.EI_CLASS] = byte(class)
	id[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	id[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	return id
}

// put writes fixed-size values at an offset of the file. Writing to memory
// fails for values without a fixed size alone.
func put(file []byte, off uint64, values ...any) {
	var b bytes.Buffer
	for _, v := range values {
		_ = binary.Write(&b, binary.LittleEndian, v)
	}
	copy(file[off:], b.Bytes())
}

// hashTable has one bucket and one symbol, the empty one.
var hashTable = []uint32{1, 1, 0, 0}

func sharedObject64(kind elfKind, soname string) []byte {
	const ehsize, phsize, shsize, symsize, dynsize = 64, 56, 64, 24, 16
	strs := "\x00" + soname + "\x00"
	hash := uint64(ehsize + 3*phsize)
	sym := hash + 16
	str := sym + symsize
	dyn := align(str+uint64(len(strs)), 8)
	tags := []elf.Dyn64{
		{Tag: int64(elf.DT_SONAME), Val: 1},
		{Tag: int64(elf.DT_HASH), Val: hash},
		{Tag: int64(elf.DT_STRTAB), Val: str},
		{Tag: int64(elf.DT_SYMTAB), Val: sym},
		{Tag: int64(elf.DT_STRSZ), Val: uint64(len(strs))},
		{Tag: int64(elf.DT_SYMENT), Val: symsize},
		{Tag: int64(elf.DT_NULL)},
	}
	dynlen := uint64(len(tags)) * dynsize
	end := dyn + dynlen
	names := end
	sections := align(names+uint64(len(shNames)), 8)
	file := make([]byte, sections+6*shsize)

	put(file, 0, elf.Header64{Ident: elfIdent(kind.class), Type: uint16(elf.ET_DYN), Machine: uint16(kind.machine),
		Version: 1, Phoff: ehsize, Shoff: sections, Ehsize: ehsize, Phentsize: phsize, Phnum: 3,
		Shentsize: shsize, Shnum: 6, Shstrndx: 5})
	rw := uint32(elf.PF_R | elf.PF_W)
	put(file, ehsize,
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: rw, Filesz: end, Memsz: end, Align: elfAlign},
		elf.Prog64{Type: uint32(elf.PT_DYNAMIC), Flags: rw, Off: dyn, Vaddr: dyn, Paddr: dyn, Filesz: dynlen, Memsz: dynlen, Align: 8},
		// Without it a loader takes the stack to be executable, and new ones refuse.
		elf.Prog64{Type: uint32(elf.PT_GNU_STACK), Flags: rw, Align: 16})
	put(file, hash, hashTable)
	copy(file[str:], strs)
	put(file, dyn, tags)
	copy(file[names:], shNames)
	alloc := uint64(elf.SHF_ALLOC)
	put(file, sections, elf.Section64{},
		elf.Section64{Name: nameHash, Type: uint32(elf.SHT_HASH), Flags: alloc, Addr: hash, Off: hash, Size: 16, Link: 2, Addralign: 4, Entsize: 4},
		elf.Section64{Name: nameDynsym, Type: uint32(elf.SHT_DYNSYM), Flags: alloc, Addr: sym, Off: sym, Size: symsize, Link: 3, Info: 1, Addralign: 8, Entsize: symsize},
		elf.Section64{Name: nameDynstr, Type: uint32(elf.SHT_STRTAB), Flags: alloc, Addr: str, Off: str, Size: uint64(len(strs)), Addralign: 1},
		elf.Section64{Name: nameDyn, Type: uint32(elf.SHT_DYNAMIC), Flags: alloc | uint64(elf.SHF_WRITE), Addr: dyn, Off: dyn, Size: dynlen, Link: 3, Addralign: 8, Entsize: dynsize},
		elf.Section64{Name: nameStrtab, Type: uint32(elf.SHT_STRTAB), Off: names, Size: uint64(len(shNames)), Addralign: 1})
	return file
}

func sharedObject32(kind elfKind, soname string) []byte {
	const ehsize, phsize, shsize, symsize, dynsize = 52, 32, 40, 16, 8
	// ldconfig knows a 32-bit library of glibc by what it needs.
	strs := "\x00" + soname + "\x00libc.so.6\x00"
	hash := uint32(ehsize + 3*phsize)
	sym := hash + 16
	str := sym + symsize
	dyn := uint32(align(uint64(str)+uint64(len(strs)), 4))
	tags := []elf.Dyn32{
		{Tag: int32(elf.DT_NEEDED), Val: uint32(len(soname)) + 2},
		{Tag: int32(elf.DT_SONAME), Val: 1},
		{Tag: int32(elf.DT_HASH), Val: hash},
		{Tag: int32(elf.DT_STRTAB), Val: str},
		{Tag: int32(elf.DT_SYMTAB), Val: sym},
		{Tag: int32(elf.DT_STRSZ), Val: uint32(len(strs))},
		{Tag: int32(elf.DT_SYMENT), Val: symsize},
		{Tag: int32(elf.DT_NULL)},
	}
	dynlen := uint32(len(tags)) * dynsize
	end := dyn + dynlen
	names := end
	sections := uint32(align(uint64(names)+uint64(len(shNames)), 4))
	file := make([]byte, sections+6*shsize)

	flags := uint32(0)
	if kind.machine == elf.EM_ARM {
		flags = 0x5000400 // EABI5, hard float: loaders check it
	}
	put(file, 0, elf.Header32{Ident: elfIdent(kind.class), Type: uint16(elf.ET_DYN), Machine: uint16(kind.machine),
		Version: 1, Phoff: ehsize, Shoff: sections, Flags: flags, Ehsize: ehsize, Phentsize: phsize, Phnum: 3,
		Shentsize: shsize, Shnum: 6, Shstrndx: 5})
	rw := uint32(elf.PF_R | elf.PF_W)
	put(file, ehsize,
		elf.Prog32{Type: uint32(elf.PT_LOAD), Flags: rw, Filesz: end, Memsz: end, Align: elfAlign},
		elf.Prog32{Type: uint32(elf.PT_DYNAMIC), Flags: rw, Off: dyn, Vaddr: dyn, Paddr: dyn, Filesz: dynlen, Memsz: dynlen, Align: 4},
		elf.Prog32{Type: uint32(elf.PT_GNU_STACK), Flags: rw, Align: 16})
	put(file, uint64(hash), hashTable)
	copy(file[str:], strs)
	put(file, uint64(dyn), tags)
	copy(file[names:], shNames)
	alloc := uint32(elf.SHF_ALLOC)
	put(file, uint64(sections), elf.Section32{},
		elf.Section32{Name: nameHash, Type: uint32(elf.SHT_HASH), Flags: alloc, Addr: hash, Off: hash, Size: 16, Link: 2, Addralign: 4, Entsize: 4},
		elf.Section32{Name: nameDynsym, Type: uint32(elf.SHT_DYNSYM), Flags: alloc, Addr: sym, Off: sym, Size: symsize, Link: 3, Info: 1, Addralign: 4, Entsize: symsize},
		elf.Section32{Name: nameDynstr, Type: uint32(elf.SHT_STRTAB), Flags: alloc, Addr: str, Off: str, Size: uint32(len(strs)), Addralign: 1},
		elf.Section32{Name: nameDyn, Type: uint32(elf.SHT_DYNAMIC), Flags: alloc | uint32(elf.SHF_WRITE), Addr: dyn, Off: dyn, Size: dynlen, Link: 3, Addralign: 4, Entsize: dynsize},
		elf.Section32{Name: nameStrtab, Type: uint32(elf.SHT_STRTAB), Off: names, Size: uint32(len(shNames)), Addralign: 1})
	return file
}
