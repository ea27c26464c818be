// SPDX-License-Identifier: Apache-2.0

package cdihook

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"davit/internal/jsonedit"
	"davit/internal/loader"
	"davit/internal/nvidia"
)

// maxNames bounds how many names of a folder are looked at.
const maxNames = 1 << 16

// compatConf tells update-ldcache, a later process, what enable-cuda-compat
// decided; and the image's own ldconfig, if it is ever run. NVIDIA's hook makes
// one with a new name at each start.
const compatConf = "/etc/ld.so.conf.d/00-compat-davit.conf"

// updateCache puts the driver's libraries in the folders into the loader cache,
// by their SONAMEs, for which it makes links where they are missing: what
// ldconfig would do, without running it. All other entries stay. Libraries for
// forward compatibility come first, if enable-cuda-compat decided so.
func updateCache(c *call, in *Container) error {
	image := loader.Inspect(in.Root, runtime.GOARCH)
	if image.Libc != loader.Glibc {
		c.note("nothing done: the image's C library is %s, and NVIDIA's libraries need glibc", image.Libc)
		return nil
	}
	folders := c.lists["--folder"]
	compat := ""
	if text, err := in.Root.ReadFile(compatConf, 4096); err == nil {
		if dir := strings.TrimSpace(string(text)); path.IsAbs(dir) && !strings.ContainsAny(dir, "\n\x00") {
			compat = path.Clean(dir)
			folders = append([]string{compat}, folders...)
		}
	}
	var add []loader.Entry
	searched := true
	for _, dir := range folders {
		dir = path.Clean("/" + dir)
		found := in.libraries(dir, dir != compat)
		if len(found) > 0 && dir != image.Dir && dir != image.Dir32 {
			searched = false
		}
		add = append(add, found...)
	}
	if len(add) == 0 {
		return nil
	}
	notes, err := in.mergeCache(add, image.Cache, searched, "", c.leftover)
	for _, n := range notes {
		c.note("%s", n)
	}
	return err
}

// libraries finds the driver's libraries in a folder of the container.
func (c *Container) libraries(dir string, mayLink bool) (add []loader.Entry) {
	f, err := c.Root.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil
	}
	names, err := f.Readdirnames(maxNames)
	f.Close()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	slices.Sort(names)
	for _, name := range names {
		if !strings.Contains(name, ".so") || !nvidia.IsDriverLibrary(name) && name != "libGLX_indirect.so.0" && !c.mountedLibrary(dir, name) {
			continue
		}
		so, ok := c.sharedObject(dir + "/" + name)
		if !ok || so.SONAME == "" || strings.ContainsAny(so.SONAME, "/\x00") || len(so.SONAME) > 255 {
			continue
		}
		flags := uint32(0)
		if so.Bits == 32 {
			flags = loader.FlagsI386
		}
		if so.SONAME != name && mayLink && !slices.Contains(names, so.SONAME) {
			// Two files of one SONAME: the first in the alphabet, as good as any.
			if c.link(name, dir+"/"+so.SONAME) == nil {
				names = append(names, so.SONAME)
			}
		}
		if slices.Contains(names, so.SONAME) {
			add = append(add, loader.Entry{Name: so.SONAME, Path: dir + "/" + so.SONAME, Flags: flags})
		}
		if strings.HasSuffix(name, ".so") || name == "libGLX_indirect.so.0" {
			add = append(add, loader.Entry{Name: name, Path: dir + "/" + name, Flags: flags})
		}
	}
	return add
}

// mountedLibrary says whether a file of the container is mounted by itself.
func (c *Container) mountedLibrary(dir, name string) bool {
	return slices.ContainsFunc(c.mounts, func(b bind) bool { return b.target == dir+"/"+name })
}

func (c *Container) sharedObject(p string) (nvidia.SharedObject, bool) {
	f, ok := c.regular(p)
	if !ok {
		return nvidia.SharedObject{}, false
	}
	defer f.Close()
	so, err := nvidia.ReadSharedObject(f)
	return so, err == nil
}

// regular opens a plain file of the container for reading.
func (c *Container) regular(p string) (*os.File, bool) {
	f, err := c.Root.Open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, false
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, false
	}
	return f, true
}

// enableCompat decides whether the image's libraries for forward compatibility
// come before the driver's. It looks for one libcuda in their folder. If that
// says in a note which CUDA version it brings and for which drivers it is, the
// note decides; else it must be of a newer driver branch than the host's.
func enableCompat(c *call, in *Container) error {
	dir := path.Clean("/" + c.one("--cuda-compat-container-root", "/usr/local/cuda/compat"))
	driver := c.one("--host-driver-version", "")
	if driver == "" {
		host, err := openHost("")
		if err != nil {
			return err
		}
		id, err := nvidia.ReadIdentity(host)
		if err != nil {
			return err
		}
		driver = id.Driver
	}
	use := false
	if version, ok := in.compatLibrary(dir); ok {
		use = major(version) > major(driver)
		if n, ok := in.compatNote(dir + "/libcuda.so." + version); ok {
			if cuda := c.one("--host-cuda-version", nvidia.CUDAVersion(driver)); n.cuda != "" && cuda != "" {
				use = versionLess(cuda, n.cuda)
			}
			if len(n.drivers) > 0 && !slices.Contains(n.drivers, int64(major(driver))) {
				use = false
			}
		}
	}
	if _, err := in.Root.Stat(loader.CachePath); err != nil {
		use = false // without a cache there is no search order to change
	}
	if !use {
		return in.remove(compatConf)
	}
	return in.write(compatConf, []byte(dir+"\n"))
}

// remove takes away a file that davit made.
func (c *Container) remove(p string) error {
	dir, err := c.Root.Open(path.Dir(p), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil
	}
	defer dir.Close()
	err = unix.Unlinkat(int(dir.Fd()), path.Base(p), 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EROFS) {
		return nil
	}
	return err
}

// compatLibrary finds the version of the one libcuda.so.X.Y in a folder.
func (c *Container) compatLibrary(dir string) (version string, ok bool) {
	f, err := c.Root.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return "", false
	}
	defer f.Close()
	names, _ := f.Readdirnames(maxNames)
	for _, n := range names {
		if v, is := strings.CutPrefix(n, "libcuda.so."); is && strings.Contains(v, ".") {
			if version != "" {
				return "", false
			}
			version = v
		}
	}
	return version, version != ""
}

func major(version string) int {
	first, _, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(first)
	if err != nil {
		return 0
	}
	return n
}

// versionLess compares number by number.
func versionLess(a, b string) bool {
	for a != "" || b != "" {
		x, ra, _ := strings.Cut(a, ".")
		y, rb, _ := strings.Cut(b, ".")
		m, _ := strconv.Atoi(x)
		n, _ := strconv.Atoi(y)
		if m != n {
			return m < n
		}
		a, b = ra, rb
	}
	return false
}

// compatNote is what a forward-compatible libcuda says of itself.
type compatNote struct {
	cuda    string
	drivers []int64 // branches it is for; none: all
}

func (c *Container) compatNote(p string) (compatNote, bool) {
	f, ok := c.regular(p)
	if !ok {
		return compatNote{}, false
	}
	defer f.Close()
	data, ok := noteSection(f, ".note.cuda.fwd_compatibility")
	if !ok {
		return compatNote{}, false
	}
	return parseCompatNote(data)
}

// parseCompatNote reads an ELF note (elf.h, Elf64_Nhdr) of NVIDIA whose content
// is JSON: {"CUDA Version": "12.4", "Driver": [470, 535]}.
func parseCompatNote(data []byte) (n compatNote, ok bool) {
	if len(data) < 12 {
		return n, false
	}
	le := binary.LittleEndian
	name, desc := uint64(le.Uint32(data)), uint64(le.Uint32(data[4:]))
	from := 12 + (name+3)&^3
	if from+desc > uint64(len(data)) || strings.TrimRight(string(data[12:12+name]), "\x00") != "NVIDIA Corporation" {
		return n, false
	}
	doc, err := jsonedit.Parse([]byte(strings.Trim(string(data[from:from+desc]), "\x00")))
	if err != nil {
		return n, false
	}
	if v, ok := doc.Get("CUDA Version"); ok {
		n.cuda, _ = v.String()
	}
	if v, ok := doc.Get("Driver"); ok {
		for _, e := range v.Elems() {
			if d, err := e.Int(); err == nil {
				n.drivers = append(n.drivers, d)
			}
		}
	}
	return n, true
}

// maxSection bounds a section that is read.
const maxSection = 64 << 10

// noteSection reads a section of a 64-bit ELF file by its name, trusting no
// number in the file.
func noteSection(r io.ReaderAt, name string) ([]byte, bool) {
	var head [64]byte
	if _, err := r.ReadAt(head[:], 0); err != nil || string(head[:6]) != "\x7fELF\x02\x01" {
		return nil, false
	}
	le := binary.LittleEndian
	at, size := int64(le.Uint64(head[40:])), int(le.Uint16(head[58:]))
	count, strs := int(le.Uint16(head[60:])), int(le.Uint16(head[62:]))
	if size != 64 || count == 0 || strs >= count || at <= 0 {
		return nil, false
	}
	table := make([]byte, count*size) // at most 4 MiB
	if _, err := r.ReadAt(table, at); err != nil {
		return nil, false
	}
	section := func(i int) ([]byte, bool) {
		s := table[i*size:]
		from, length := int64(le.Uint64(s[24:])), le.Uint64(s[32:])
		if from < 0 || length > maxSection {
			return nil, false
		}
		data := make([]byte, length)
		_, err := r.ReadAt(data, from)
		return data, err == nil || errors.Is(err, io.EOF)
	}
	texts, ok := section(strs)
	if !ok {
		return nil, false
	}
	for i := range count {
		n := uint64(le.Uint32(table[i*size:]))
		if n >= uint64(len(texts)) {
			continue
		}
		if text, _, found := strings.Cut(string(texts[n:]), "\x00"); found && text == name {
			return section(i)
		}
	}
	return nil, false
}
