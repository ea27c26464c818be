// SPDX-License-Identifier: Apache-2.0

package nvidia

import (
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"

	"davit/internal/rootfs"
)

// Options change where Read looks.
type Options struct {
	// DriverRoot is a folder of the host below which the driver's files lie:
	// nvidia-container-cli.root of config.toml. "" or "/" looks in the host
	// itself, then in a driver container's usual place.
	DriverRoot string
	// Arch is a GOARCH name, "" for this machine's.
	Arch string
}

// driverContainerRoot is where the GPU Operator's driver container shows its
// root file system to the host.
const driverContainerRoot = "/run/nvidia/driver"

// reader holds what the steps of Read share.
type reader struct {
	host   rootfs.Root // proc and sys
	dev    rootfs.Root // nodes
	driver rootfs.Root // libraries and programs
	facts  *Facts
	trail  *trail // nil if nobody wants it
}

// resolve finds a file or folder of the driver, and notes what it depends on.
func (rd *reader) resolve(p string) (string, error) {
	if rd.trail == nil {
		return rd.driver.Resolve(p)
	}
	real, err := rd.driver.ResolveVia(p, rd.trail.add)
	if err != nil {
		rd.trail.lost(err)
		return "", err
	}
	rd.trail.add(rd.driver.Host(real))
	return real, nil
}

// text reads a file of the kernel.
func (rd *reader) text(p string) (string, error) {
	data, err := rd.host.ReadFile(p)
	if rd.trail != nil {
		rd.trail.texts = append(rd.trail.texts, textStamp{rd.host.Host(p), readText(rd.host.Host(p))})
	}
	return string(data), err
}

// names lists a folder of the kernel.
func (rd *reader) names(p string) ([]rootfs.Entry, error) {
	entries, err := rd.host.ReadDir(p)
	if rd.trail != nil {
		rd.trail.lists = append(rd.trail.lists, textStamp{rd.host.Host(p), listNames(rd.host.Host(p))})
	}
	return entries, err
}

func (rd *reader) miss(what, why string) {
	rd.facts.Missing = append(rd.facts.Missing, Missing{what, why})
}

// Read reads the facts of a host. What is not there is no error but an entry
// in Missing; an error means that something that is there could not be read.
func Read(host rootfs.Root, o Options) (*Facts, error) { return read(host, o, nil) }

func read(host rootfs.Root, o Options, t *trail) (*Facts, error) {
	f := &Facts{Arch: o.Arch}
	if f.Arch == "" {
		f.Arch = runtime.GOARCH
	}
	rd := &reader{host: host, dev: host, driver: host, facts: f, trail: t}
	f.Driver.Root = "/"
	if host.Dir() != "/" {
		t.add(host.Host("/" + rootfs.NodesFile))
	}
	if text, err := rd.text("/proc/driver/nvidia/version"); err == nil {
		f.Driver.Version, f.Driver.Open = parseVersion(text)
	} else {
		rd.miss("/proc/driver/nvidia/version", "the kernel module nvidia is not loaded")
	}
	if err := rd.chooseRoot(o.DriverRoot); err != nil {
		return nil, err
	}
	f.Driver.CUDA = CUDAVersion(f.Driver.Version)
	for _, p := range []string{"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"} {
		if n := rd.node(p); n != nil {
			f.Control = append(f.Control, *n)
		}
	}
	var err error
	if f.GPUs, err = rd.readGPUs(); err != nil {
		return nil, err
	}
	rd.readSpecial()
	rd.readParams()
	rd.readPrograms()
	rd.readConfigs()
	rd.readSockets()
	return f, nil
}

// chooseRoot decides below which folder the driver's files lie, and reads its
// libraries.
func (rd *reader) chooseRoot(asked string) error {
	roots := []string{asked}
	if asked == "" || asked == "/" {
		roots = []string{"/", driverContainerRoot}
	}
	for _, dir := range roots {
		root := rd.host
		if dir != "/" {
			var err error
			if root, err = rd.host.Sub(dir); err != nil {
				rd.trail.lost(err)
				rd.miss(dir, "the driver's root is not there")
				continue
			}
		}
		rd.driver = root
		rd.facts.Files, rd.facts.Driver.LibDirs = nil, nil
		if err := rd.readLibraries(); err != nil {
			return err
		}
		if rd.facts.Driver.LibraryVersion == "" {
			continue
		}
		rd.facts.Driver.Root = dir
		if dir != "/" {
			rd.trail.add(root.Host("/dev/nvidiactl"))
			if root.Exists("/dev/nvidiactl") {
				rd.dev = root
			}
		}
		return nil
	}
	rd.miss("libcuda.so", "the driver's libraries are in none of the known folders below "+strings.Join(roots, " and "))
	return nil
}

// libDirs are the folders that drivers are installed to, most usual first.
func libDirs(arch string) []string {
	triple := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[arch]
	return []string{
		"/usr/lib/" + triple, "/usr/lib64", "/usr/local/nvidia/lib64", "/run/opengl-driver/lib",
		"/usr/lib/" + triple + "/nvidia/current", "/usr/lib/" + triple + "/nvidia",
		"/usr/lib/" + triple + "/vdpau", "/usr/lib64/vdpau", "/run/opengl-driver/lib/vdpau",
		"/usr/lib/nvidia/current", "/usr/lib/nvidia", "/usr/lib64/nvidia", "/usr/local/nvidia/lib",
		"/lib/" + triple, "/lib64", "/usr/lib", "/usr/local/lib", "/opt/nvidia/lib64",
		"/home/kubernetes/bin/nvidia/lib64", "/usr/lib/wsl/lib",
	}
}

// lib32Dirs are the folders of 32-bit libraries on a 64-bit host.
var lib32Dirs = []string{"/usr/lib/i386-linux-gnu", "/usr/lib32", "/usr/lib/i386-linux-gnu/nvidia/current", "/run/opengl-driver-32/lib"}

// candidate is a file that is a driver library by its name.
type candidate struct {
	dir  string // resolved folder inside the driver's root
	name string
	link bool
}

// readLibraries finds the folders with driver libraries, settles on a version
// and reads each library's SONAME.
func (rd *reader) readLibraries() error {
	var found []candidate
	seen := map[string]bool{}
	for _, dir := range append(libDirs(rd.facts.Arch), lib32Dirs...) {
		real, err := rd.resolve(dir)
		if err != nil || seen[real] {
			continue
		}
		seen[real] = true
		entries, err := rd.driver.ReadDir(real)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if driverFile(e.Name) {
				found = append(found, candidate{real, e.Name, e.Link})
			}
		}
	}
	version := rd.chooseVersion(found)
	if version == "" {
		return nil
	}
	rd.facts.Driver.LibraryVersion = version
	have := map[string]bool{}
	for _, c := range found {
		lib, _ := knownLibrary(baseName(c.name))
		suffix := c.name[len(lib.name)+len(".so."):]
		if suffix != version && (!slices.Contains(ownVersion, lib.name) || !ownVersioned(c, found, suffix)) {
			continue
		}
		if len(lib.caps) == 0 {
			continue
		}
		if err := rd.addLibrary(c, lib, have); err != nil {
			return err
		}
	}
	slices.SortFunc(rd.facts.Files, func(a, b File) int {
		if a.Bits != b.Bits {
			return b.Bits - a.Bits
		}
		return strings.Compare(a.Name, b.Name)
	})
	return nil
}

// driverFile is a quick look at a name: libNAME.so.SOMETHING of the driver.
func driverFile(name string) bool {
	if len(name) < 12 || !strings.HasPrefix(name, "lib") {
		return false
	}
	base, suffix, ok := strings.Cut(name, ".so.")
	if !ok || suffix == "" || suffix[0] < '0' || suffix[0] > '9' {
		return false
	}
	if strings.HasPrefix(base, "libnvidia-") {
		return true
	}
	_, known := knownLibrary(base)
	return known
}

// ownVersioned picks, of a library with a version number of its own, the file
// whose suffix is longest, for the others are links to it (libX.so.1 ->
// libX.so.1.1.2).
func ownVersioned(c candidate, all []candidate, suffix string) bool {
	base := baseName(c.name)
	for _, o := range all {
		if o.dir == c.dir && baseName(o.name) == base && len(o.name) > len(base)+len(".so.")+len(suffix) {
			return false
		}
	}
	return true
}

// chooseVersion takes the version of the loaded kernel module if libcuda of
// that version is there, else libcuda's newest.
func (rd *reader) chooseVersion(found []candidate) string {
	var versions []string
	for _, c := range found {
		if v, ok := strings.CutPrefix(c.name, "libcuda.so."); ok && isVersion(v) {
			if v == rd.facts.Driver.Version {
				return v
			}
			if v != "1.1" { // WSL's libcuda.so.1.1 is no driver version
				versions = append(versions, v)
			}
		}
	}
	if len(versions) == 0 {
		return ""
	}
	return slices.MaxFunc(versions, compareVersions)
}

// compareVersions compares number by number.
func compareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		var x, y string
		if i < len(as) {
			x = strings.TrimLeft(as[i], "0")
		}
		if i < len(bs) {
			y = strings.TrimLeft(bs[i], "0")
		}
		if c := len(x) - len(y); c != 0 {
			return c
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// machines gives, for a host's architecture, the ELF machines of its 64-bit
// and 32-bit libraries.
var machines = map[string]map[int]uint16{
	"amd64": {64: emAMD64, 32: emX86},
	"arm64": {64: emARM64, 32: emARM},
}

func (rd *reader) addLibrary(c candidate, lib library, have map[string]bool) error {
	p := c.dir + "/" + c.name
	if c.link {
		real, err := rd.resolve(p)
		if err != nil {
			rd.miss(p, "a link that leads nowhere")
			return nil
		}
		p = real
	}
	f, err := rd.driver.Open(p)
	if err != nil {
		return fmt.Errorf("read driver library: %w", err)
	}
	info, err := readELF(f)
	f.Close()
	if err != nil {
		if !errors.Is(err, errNotELF) {
			return fmt.Errorf("read driver library %s: %w", p, err)
		}
		rd.miss(p, err.Error()+"; it is left out")
		return nil
	}
	if want, ok := machines[rd.facts.Arch]; ok && want[info.bits] != info.machine {
		return nil // another architecture's, in a shared folder
	}
	if info.soname != "" && !ownSONAME(info.soname, lib.name) {
		rd.miss(p, fmt.Sprintf("it calls itself %q, which is no name of this library; it is left out", info.soname))
		return nil
	}
	file := File{Kind: Library, Host: rd.driver.Host(p), Name: c.name, SONAME: info.soname, Link: lib.link, Bits: info.bits, Caps: lib.caps}
	if file.SONAME == "" {
		file.SONAME = c.name
	}
	if lib.dir != "" {
		file.SONAME = lib.dir + "/" + file.SONAME
	}
	if info.bits == 32 {
		file.Caps = append([]string{Compat32}, lib.caps...)
	}
	key := fmt.Sprint(info.bits, file.SONAME)
	if have[key] {
		return nil
	}
	have[key] = true
	if !slices.Contains(rd.facts.Driver.LibDirs, c.dir) {
		if lib.name == "libcuda" && info.bits == 64 {
			rd.facts.Driver.LibDirs = append([]string{c.dir}, rd.facts.Driver.LibDirs...)
		} else {
			rd.facts.Driver.LibDirs = append(rd.facts.Driver.LibDirs, c.dir)
		}
	}
	rd.facts.Files = append(rd.facts.Files, file)
	return nil
}

func (rd *reader) readPrograms() {
	// The driver's own bin folder, beside its libraries, before the host's: what
	// lies in /usr/bin can be a script that calls the program by a path of the
	// host, which no container has.
	dirs := programDirs
	if libs := rd.facts.Driver.LibDirs; len(libs) > 0 {
		dirs = append([]string{path.Join(path.Dir(libs[0]), "bin")}, programDirs...)
	}
	for _, prog := range programs {
		found, script := "", ""
		for _, dir := range dirs {
			real, err := rd.resolve(dir + "/" + prog.name)
			if err != nil {
				continue
			}
			if rd.isELF(real) {
				found = real
				break
			}
			if script == "" {
				script = real
			}
		}
		if found == "" && script != "" {
			found = script
			rd.miss(prog.name, "only "+script+" was found, which is a script: what it calls may be missing in containers")
		}
		if found != "" {
			rd.facts.Files = append(rd.facts.Files, File{Kind: Program, Host: rd.driver.Host(found), Name: prog.name,
				Target: "/usr/bin/" + prog.name, Caps: prog.caps})
		} else if prog.name == "nvidia-smi" {
			rd.miss("nvidia-smi", "in none of "+strings.Join(programDirs[:4], ", ")+" …; it will be missing in containers")
		}
	}
}

// isELF says whether a file of the driver is a program, not a script.
func (rd *reader) isELF(p string) bool {
	f, err := rd.driver.Open(p)
	if err != nil {
		return false
	}
	defer f.Close()
	var magic [4]byte
	_, err = f.ReadAt(magic[:], 0)
	return err == nil && string(magic[:]) == "\x7fELF"
}

func (rd *reader) readConfigs() {
	for _, c := range configs {
		for _, dir := range c.dirs {
			if real, err := rd.resolve(dir + "/" + c.name); err == nil {
				rd.facts.Files = append(rd.facts.Files, File{Kind: Config, Host: rd.driver.Host(real), Name: path.Base(c.name), Target: c.target, Caps: c.caps})
				break
			}
		}
	}
}

func (rd *reader) readSockets() {
	for _, s := range sockets {
		for _, p := range s.paths {
			if real, err := rd.resolve(p); err == nil {
				rd.facts.Files = append(rd.facts.Files, File{Kind: Socket, Host: rd.driver.Host(real), Name: path.Base(p), Target: s.paths[0], Caps: s.caps})
				break
			}
		}
	}
}

// specialDirs are folders with nodes for special requests, and the beginnings
// of their names.
var specialDirs = []struct {
	dir      string
	prefixes []string
}{
	{"/dev", []string{"nvidia-fs", "nvidia-nvswitch", "gdrdrv"}},
	{"/dev/infiniband", []string{"uverbs", "rdma_cm"}},
	{"/dev/nvidia-caps-imex-channels", []string{"channel"}},
}

func (rd *reader) readSpecial() {
	for _, s := range specialDirs {
		rd.trail.add(rd.dev.Host(s.dir))
		entries, err := rd.dev.ReadDir(s.dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if slices.ContainsFunc(s.prefixes, func(p string) bool { return strings.HasPrefix(e.Name, p) }) {
				if n := rd.node(s.dir + "/" + e.Name); n != nil {
					rd.facts.Special = append(rd.facts.Special, *n)
				}
			}
		}
	}
	slices.SortFunc(rd.facts.Special, func(a, b Node) int { return strings.Compare(a.Path, b.Path) })
	for _, name := range []string{"config", "monitor"} {
		minor, ok := rd.capMinor("/proc/driver/nvidia/capabilities/mig/" + name)
		if !ok {
			continue
		}
		if n := rd.node(fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", minor)); n != nil {
			if rd.facts.MIGControl == nil {
				rd.facts.MIGControl = map[string]Node{}
			}
			rd.facts.MIGControl[name] = *n
		}
	}
}

func (rd *reader) readParams() {
	text, err := rd.text("/proc/driver/nvidia/params")
	if err != nil {
		return
	}
	rd.facts.Params = strings.Replace(text, "ModifyDeviceFiles: 1\n", "ModifyDeviceFiles: 0\n", 1)
}
