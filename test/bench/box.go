// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"davit/internal/loader"
	"davit/internal/simulate"
)

// box is the workplace: a tmpfs with hosts, images, programs and bundles.
type box struct {
	settings
	dir    string
	env    []string // of every program
	low    []lowRuntime
	hosts  map[int]simulate.Host // by number of GPUs
	notes  []string
	serial int
}

// lowRuntime is runc or crun.
type lowRuntime struct {
	name, path, version string
	root                string // its state
	cgroups             bool   // name the container's cgroup
}

func (b *box) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

func newBox(s settings, dir string) (*box, error) {
	b := &box{settings: s, dir: dir, hosts: map[int]simulate.Host{}}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	// All in memory: the disk is not what is measured.
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		return nil, fmt.Errorf("mount a tmpfs: %w", err)
	}
	if err := onlyOneCgroup(b.path("cgroup")); err != nil {
		return nil, err
	}
	// What a low-level runtime leaves behind is this process's child, and its
	// end is seen at once.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	for _, d := range []string{"bin", "state", "bundles", "images", "conf"} {
		if err := os.MkdirAll(b.path(d), 0o755); err != nil {
			return nil, err
		}
	}
	b.env = []string{"PATH=" + b.path("bin") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	if s.runtimes != "" {
		b.env = append(b.env, "LD_LIBRARY_PATH="+filepath.Join(s.runtimes, "lib"))
	}
	for to, from := range map[string]string{"davit": "davit", "davit-runtime": "davit-runtime",
		"nvidia-container-runtime": "davit-runtime", "nvidia-container-runtime-hook": "davit-runtime",
		"floor-shim": "floor", "floor-hook": "floor"} {
		data, err := os.ReadFile(filepath.Join(s.bin, from))
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(b.path("bin", to), data, 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(b.path("bin", "end"), endProgram(), 0o755); err != nil {
		return nil, err
	}
	for _, gpus := range []int{8, 16} {
		h, err := simulate.Make(b.path(fmt.Sprintf("host%d", gpus)), simulate.Options{GPUs: gpus, CacheEntries: 1500})
		if err != nil {
			return nil, err
		}
		for _, n := range h.Notes {
			b.note("the simulated host: " + n)
		}
		b.hosts[gpus] = h
	}
	for _, entries := range []int{0, 30, 1500, 5000} {
		if err := b.image(entries); err != nil {
			return nil, err
		}
	}
	return b, b.findRuntimes()
}

func (b *box) note(text string) {
	for _, n := range b.notes {
		if n == text {
			return
		}
	}
	b.notes = append(b.notes, text)
}

// close ends what is left; the tmpfs goes with the namespace.
func (b *box) close() {
	for _, rt := range b.low {
		ids, _ := os.ReadDir(rt.root)
		for _, id := range ids {
			_ = b.command(rt.path, "--root", rt.root, "delete", "--force", id.Name()).Run()
		}
	}
}

// onlyOneCgroup hides the second kind of cgroups on machines that have both,
// which crun refuses.
func onlyOneCgroup(tmp string) error {
	const at = "/sys/fs/cgroup"
	var fs unix.Statfs_t
	if unix.Statfs(at, &fs) != nil || fs.Type != unix.TMPFS_MAGIC {
		return nil
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", tmp, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	list, err := os.ReadDir(at)
	if err != nil {
		return err
	}
	for _, e := range list {
		from, to := filepath.Join(at, e.Name()), filepath.Join(tmp, e.Name())
		if link, err := os.Readlink(from); err == nil {
			_ = os.Symlink(link, to)
			continue
		}
		if unix.Statfs(from, &fs) != nil || fs.Type != unix.CGROUP_SUPER_MAGIC {
			continue
		}
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", from, err)
		}
	}
	return unix.Mount(tmp, at, "", unix.MS_MOVE, "")
}

// endProgram is a static program that ends at once, in two system calls: it
// stands for the container's program, so that this is not what is measured.
func endProgram() []byte {
	const header, at = 64 + 56, 0x400000
	machine, code := elf.EM_X86_64, []byte{0xb8, 0x3c, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05} // exit(0)
	if runtime.GOARCH == "arm64" {
		machine, code = elf.EM_AARCH64, []byte{0, 0, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 0x01, 0, 0, 0xd4}
	}
	var out bytes.Buffer
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1, Entry: at + header, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	size := uint64(header + len(code))
	// Writing to memory does not fail.
	_ = binary.Write(&out, binary.LittleEndian, h)
	_ = binary.Write(&out, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: at, Paddr: at, Filesz: size, Memsz: size, Align: 0x10000})
	return append(out.Bytes(), code...)
}

// image makes a root file system as davit sees a Debian: names of a libc, a
// loader cache with so many entries (0: none), and a program that ends.
func (b *box) image(entries int) error {
	root := b.path("images", fmt.Sprint(entries))
	triplet := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	lib := "usr/lib/" + triplet
	for _, d := range []string{"usr/bin", "usr/lib64", lib, "etc", "proc", "dev", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	files := map[string][]byte{lib + "/libc.so.6": nil, "usr/lib64/ld-linux-x86-64.so.2": nil, "usr/bin/end": endProgram(),
		"etc/passwd": []byte("root:x:0:0:root:/root:/bin/sh\n")}
	if entries > 0 {
		var add []loader.Entry
		for i := range entries {
			name := fmt.Sprintf("lib%s%d.so.%d", strings.Repeat(string(rune('a'+i%26)), 1+i%7), i, i%9)
			add = append(add, loader.Entry{Name: name, Path: "/lib/" + triplet + "/" + name})
		}
		empty := make([]byte, 48)
		copy(empty, "glibc-ld.so.cache1.1")
		empty[28] = 2
		cache, err := loader.Merge(empty, runtime.GOARCH, add, nil)
		if err != nil {
			return err
		}
		files["etc/ld.so.cache"] = cache
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(root, name), data, 0o755); err != nil {
			return err
		}
	}
	for _, l := range []string{"bin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+l, filepath.Join(root, l)); err != nil {
			return err
		}
	}
	return nil
}

// findRuntimes takes those that start a container here.
func (b *box) findRuntimes() error {
	for _, name := range []string{"runc", "crun"} {
		p := filepath.Join(b.runtimes, "bin", name)
		if b.runtimes == "" {
			var err error
			if p, err = exec.LookPath(name); err != nil {
				b.note(name + " is not here")
				continue
			}
		}
		rt := lowRuntime{name: name, path: p, root: b.path("state", name), cgroups: true}
		out, err := b.command(p, "--version").CombinedOutput()
		if err != nil {
			b.note(fmt.Sprintf("%s does not run: %v %s", name, err, out))
			continue
		}
		rt.version, _, _ = strings.Cut(string(out), "\n")
		plain := variant{name: "plain"}
		if _, err = b.life(rt, plain); err != nil {
			rt.cgroups = false
			if _, err2 := b.life(rt, plain); err2 != nil {
				b.note(fmt.Sprintf("%s starts no container here: %v", name, err))
				continue
			}
			b.note(name + " cannot make a cgroup of its own here: " + err.Error())
		}
		b.low = append(b.low, rt)
	}
	if len(b.low) == 0 {
		return fmt.Errorf("no runtime starts a container here: %s", strings.Join(b.notes, "; "))
	}
	return nil
}

func (b *box) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = b.env
	return cmd
}

// machine is the head of a report: without it figures mean nothing.
func (b *box) machine() []string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	cpu := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				cpu = strings.TrimSpace(v)
				break
			}
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(load), " ")
	head := []string{
		fmt.Sprintf("machine: %d × %s, Linux %s, load %s at the start", runtime.NumCPU(), cpu, unix.ByteSliceToString(u.Release[:]), first),
		"date: " + time.Now().UTC().Format("2006-01-02 15:04") + " UTC, " + fmt.Sprintf("%d rounds", b.rounds),
	}
	if b.commit != "" {
		head = append(head, "commit: "+b.commit)
	}
	for _, rt := range b.low {
		head = append(head, "runtime: "+rt.version)
	}
	return head
}
