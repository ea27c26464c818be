// SPDX-License-Identifier: Apache-2.0

package live

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"unsafe"

	"davit/internal/plan"

	"golang.org/x/sys/unix"
)

// On cgroup2 a group's devices are decided by programs of type
// BPF_PROG_TYPE_CGROUP_DEVICE attached to it and to the groups above it; an
// access needs the consent of all. allowV2 replaces each program attached to
// the container's group by itself with a piece in front that consents to the
// given numbers at once. Nothing in the old program moves relative to the
// rest of it, so no jump changes. A group without programs refuses nothing.
//
// The kernel's own words for what is here: bpf(2), include/uapi/linux/bpf.h.

// insn is one instruction, struct bpf_insn. dst is the low half of regs on
// little-endian machines, the only ones that this program is built for.
type insn struct {
	op   uint8
	regs uint8
	off  int16
	imm  int32
}

// The instructions' operation codes (class, size or operation, mode or source).
const (
	opLoadWord = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W   // dst = *(u32 *)(src + off)
	opAnd32    = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K   // dst = (u32)dst & imm
	opMove     = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K // dst = imm
	opJumpNot  = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K   // if dst != imm goto +off
	opExit     = unix.BPF_JMP | unix.BPF_EXIT
	opCall     = unix.BPF_JMP | unix.BPF_CALL
	opLoad64   = unix.BPF_LD | unix.BPF_IMM | unix.BPF_DW // two instructions long
)

// struct bpf_cgroup_dev_ctx, the argument of a device program: access_type
// (access in the upper 16 bits, type in the lower), major, minor.
const (
	ctxAccessType = 0
	ctxMajor      = 4
	ctxMinor      = 8

	devChar   = 2 // BPF_DEVCG_DEV_CHAR
	accRead   = 2 // BPF_DEVCG_ACC_READ
	accWrite  = 4 // BPF_DEVCG_ACC_WRITE
	accShift  = 16
	attachDev = unix.BPF_CGROUP_DEVICE
	maxProgs  = 64 // BPF_CGROUP_MAX_PROGS
)

// prologue consents to reading and writing the devices and falls through to
// what follows for all else, mknod included. It leaves r1, the argument, as it
// was; r2 to r4 hold nothing that a program may read at its start.
func prologue(devices []plan.Device) []insn {
	reg := func(dst, src uint8) uint8 { return dst | src<<4 }
	const perDevice = 4
	p := []insn{
		{op: opLoadWord, regs: reg(2, 1), off: ctxAccessType},
		{op: opLoadWord, regs: reg(3, 1), off: ctxMajor},
		{op: opLoadWord, regs: reg(4, 1), off: ctxMinor},
		// With the read and write bits cleared, only a character device and no mknod is left as this number.
		{op: opAnd32, regs: reg(2, 0), imm: ^int32((accRead | accWrite) << accShift)},
		{op: opJumpNot, regs: reg(2, 0), imm: devChar, off: int16(perDevice * len(devices))},
	}
	for _, d := range devices {
		p = append(p,
			insn{op: opJumpNot, regs: reg(3, 0), imm: int32(d.Major), off: 3},
			insn{op: opJumpNot, regs: reg(4, 0), imm: int32(d.Minor), off: 2},
			insn{op: opMove, regs: reg(0, 0), imm: 1},
			insn{op: opExit},
		)
	}
	return p
}

// errNotCopyable says that a program cannot be loaded again from what the
// kernel shows of it.
var errNotCopyable = errors.New("it calls functions or uses maps")

// copyable checks that the instructions the kernel gave back mean the same
// when loaded again.
func copyable(prog []insn) error {
	if len(prog) == 0 {
		return errors.New("the kernel does not show it")
	}
	for i := 0; i < len(prog); i++ {
		in := prog[i]
		if in.regs&0xf > 10 || in.regs>>4 > 10 {
			return errors.New("net.core.bpf_jit_harden=2 hides its constants, set it to 1")
		}
		switch {
		case in.op == opCall, in.op == opLoad64 && in.regs>>4 != 0:
			return errNotCopyable
		case in.op == opLoad64:
			i++
		}
	}
	return nil
}

// program is one attached program.
type program struct {
	fd    int
	insns []insn
	gpl   bool
}

// swap is the replacement of one program by another in a group.
type swap struct{ old, now int }

// allowV2 changes the programs attached to the group at dir. After an error
// all are as before.
func allowV2(dir string, devices []plan.Device, shared bool) (err error) {
	group, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open the control group %s: %w", dir, cause(err))
	}
	defer group.Close()
	ids, flags, err := queryProgs(group)
	if err != nil {
		return fmt.Errorf("ask for the device filters of %s: %w; %s", dir, err, hint(err))
	}
	if len(ids) == 0 {
		return nil
	}
	if shared {
		return errSharedGroup(dir)
	}
	var swaps []swap
	defer func() {
		for _, s := range slices.Backward(swaps) {
			if err != nil && s.now >= 0 {
				_ = replaceProg(group, s.now, s.old, flags)
			}
		}
		for _, s := range swaps {
			unix.Close(s.old)
			if s.now >= 0 {
				unix.Close(s.now)
			}
		}
	}()
	for _, id := range ids {
		p, err := openProg(id)
		if err != nil {
			return fmt.Errorf("read the device filter of %s (bpf program %d): %w; %s", dir, id, err, hint(err))
		}
		swaps = append(swaps, swap{old: p.fd, now: -1})
		if err := copyable(p.insns); err != nil {
			return fmt.Errorf("change the device filter of %s (bpf program %d): %w; or let the runtime do it (--runtime=nvidia, or CDI)", dir, id, err)
		}
		now, err := loadProg(append(prologue(devices), p.insns...), p.gpl)
		if err != nil {
			return fmt.Errorf("load the device filter of %s with the GPU's devices added: %w; let the runtime do it (--runtime=nvidia, or CDI)", dir, err)
		}
		if err := replaceProg(group, p.fd, now, flags); err != nil {
			unix.Close(now)
			return fmt.Errorf("replace the device filter of %s (bpf program %d): %w; let the runtime do it (--runtime=nvidia, or CDI)", dir, id, err)
		}
		swaps[len(swaps)-1].now = now
	}
	return nil
}

// bpf is bpf(2). What attr points to must be pinned.
func bpf(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	for try := 0; ; try++ {
		r, _, e := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
		if e == 0 {
			return int(r), nil
		}
		// BPF_PROG_LOAD when a signal comes.
		if (e != unix.EINTR && e != unix.EAGAIN) || try == 64 {
			return -1, e
		}
	}
}

// queryAttr is the part of union bpf_attr for BPF_PROG_QUERY, all of it: newer
// kernels fill revision without looking at the size that they are given.
type queryAttr struct {
	targetFd    uint32
	attachType  uint32
	queryFlags  uint32 // 0: of this group, not of those above
	attachFlags uint32 // given back: how they are attached
	progIDs     uint64
	progCnt     uint32
	_           uint32
	_           [3]uint64 // prog_attach_flags, link_ids, link_attach_flags
	revision    uint64
}

// queryProgs lists the device programs attached to a group itself.
func queryProgs(group *os.File) ([]uint32, uint32, error) {
	ids := make([]uint32, maxProgs)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&ids[0])
	a := queryAttr{targetFd: uint32(group.Fd()), attachType: attachDev, progIDs: uint64(uintptr(unsafe.Pointer(&ids[0]))), progCnt: maxProgs}
	if _, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&a), unsafe.Sizeof(a)); err != nil {
		return nil, 0, err
	}
	return ids[:min(a.progCnt, maxProgs)], a.attachFlags, nil
}

// progInfo is the beginning of struct bpf_prog_info.
type progInfo struct {
	kind, id        uint32
	tag             [8]byte
	jitedLen        uint32
	xlatedLen       uint32
	jited           uint64
	xlated          uint64
	loadTime        uint64
	createdBy       uint32
	nrMaps          uint32
	maps            uint64
	name            [16]byte
	ifindex         uint32
	bits            uint32 // bit 0: gpl_compatible
	netnsDev, netns uint64
}

// openProg opens a program by its id and reads its instructions.
func openProg(id uint32) (program, error) {
	var open struct{ id, nextID, flags uint32 }
	open.id = id
	fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&open), unsafe.Sizeof(open))
	if err != nil {
		return program{}, err
	}
	p := program{fd: fd}
	var pin runtime.Pinner
	defer pin.Unpin()
	info := new(progInfo)
	pin.Pin(info)
	if err := readInfo(fd, info); err != nil {
		unix.Close(fd)
		return program{}, err
	}
	if n := info.xlatedLen / uint32(unsafe.Sizeof(insn{})); n > 0 {
		p.insns = make([]insn, n)
		pin.Pin(&p.insns[0])
		*info = progInfo{xlatedLen: info.xlatedLen, xlated: uint64(uintptr(unsafe.Pointer(&p.insns[0])))}
		if err := readInfo(fd, info); err != nil {
			unix.Close(fd)
			return program{}, err
		}
		if info.xlated == 0 { // withheld
			p.insns = nil
		}
	}
	p.gpl = info.bits&1 != 0
	return p, nil
}

func readInfo(fd int, info *progInfo) error {
	a := struct {
		fd, size uint32
		info     uint64
	}{uint32(fd), uint32(unsafe.Sizeof(*info)), uint64(uintptr(unsafe.Pointer(info)))}
	_, err := bpf(unix.BPF_OBJ_GET_INFO_BY_FD, unsafe.Pointer(&a), unsafe.Sizeof(a))
	return err
}

// loadAttr is the part of union bpf_attr for BPF_PROG_LOAD.
type loadAttr struct {
	progType    uint32
	insnCnt     uint32
	insns       uint64
	license     uint64
	logLevel    uint32
	logSize     uint32
	logBuf      uint64
	kernVersion uint32
	progFlags   uint32
	name        [16]byte
}

// loadProg loads a device program.
func loadProg(prog []insn, gpl bool) (int, error) {
	license := []byte("Apache-2.0\x00")
	if gpl {
		license = []byte("GPL\x00") // as the program that this is a copy of says
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&prog[0])
	pin.Pin(&license[0])
	a := loadAttr{progType: unix.BPF_PROG_TYPE_CGROUP_DEVICE, insnCnt: uint32(len(prog)),
		insns: uint64(uintptr(unsafe.Pointer(&prog[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&a), unsafe.Sizeof(a))
	if errors.Is(err, unix.EPERM) {
		// Kernels before 5.11 count programs as locked memory.
		_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
		fd, err = bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&a), unsafe.Sizeof(a))
	}
	return fd, err
}

// attachAttr is the part of union bpf_attr for BPF_PROG_ATTACH and DETACH.
type attachAttr struct {
	targetFd     uint32
	attachBpfFd  uint32
	attachType   uint32
	attachFlags  uint32
	replaceBpfFd uint32
}

// replaceProg puts now in old's place. At no moment is the group without a
// filter: with one program to a group attaching replaces, with several
// BPF_F_REPLACE does; kernels before 5.6 attach the new one first.
func replaceProg(group *os.File, old, now int, flags uint32) error {
	a := attachAttr{targetFd: uint32(group.Fd()), attachBpfFd: uint32(now), attachType: attachDev, attachFlags: flags}
	if flags&unix.BPF_F_ALLOW_MULTI == 0 {
		_, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&a), unsafe.Sizeof(a))
		return err
	}
	a.attachFlags |= unix.BPF_F_REPLACE
	a.replaceBpfFd = uint32(old)
	_, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&a), unsafe.Sizeof(a))
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	a.attachFlags, a.replaceBpfFd = flags, 0
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&a), unsafe.Sizeof(a)); err != nil {
		return err
	}
	d := attachAttr{targetFd: a.targetFd, attachBpfFd: uint32(old), attachType: attachDev}
	if _, err := bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&d), unsafe.Sizeof(d)); err != nil {
		d.attachBpfFd = uint32(now)
		_, _ = bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&d), unsafe.Sizeof(d))
		return err
	}
	return nil
}
