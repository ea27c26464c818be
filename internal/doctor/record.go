// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"davit/internal/nvidia"
	"davit/internal/rootfs"
)

// Record is a snapshot of what the examination reads, in the form of recorded
// hosts (testdata/hosts): a report is a test's host.
type Record struct {
	Host     RecordHost `json:"host"`
	Root     []Entry    `json:"root"`
	Commands []Command  `json:"commands,omitempty"`

	redactor *redactor
}

// RecordHost is what uname would say.
type RecordHost struct {
	Kernel string `json:"kernel"`
	Arch   string `json:"arch"`
}

// Entry is a file, folder, link or node.
type Entry struct {
	Path    string            `json:"path"`
	Kind    string            `json:"kind"`
	Mode    string            `json:"mode,omitempty"`
	UID     *uint32           `json:"uid,omitempty"`
	GID     *uint32           `json:"gid,omitempty"`
	Major   *uint32           `json:"major,omitempty"`
	Minor   *uint32           `json:"minor,omitempty"`
	Target  string            `json:"target,omitempty"`
	SONAME  string            `json:"soname,omitempty"`
	Content *string           `json:"content,omitempty"`
	Entries map[string]string `json:"entries,omitempty"`
}

// recorder collects entries; each path once.
type recorder struct {
	*redactor
	root rootfs.Root
	have map[string]bool
	out  []Entry
	refs []string // texts that may name further paths
	// known says that the paths being recorded are the driver's or the kernel's,
	// in which nothing is private; their words may then stand in texts too.
	known bool
}

// TakeRecord makes the snapshot of a host. UUIDs, names, addresses and
// whatever else is not on the list of known words are replaced.
func TakeRecord(root rootfs.Root, o Options) (*Record, error) {
	e := &exam{root: root, o: o, res: &Result{}}
	if err := e.context(); err != nil {
		return nil, err
	}
	r := &recorder{redactor: newRedactor(), root: root, have: map[string]bool{}}
	rec := &Record{Host: RecordHost{e.kernel, map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[e.facts.Arch]}}
	if rec.Host.Arch == "" {
		rec.Host.Arch = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	}
	for _, d := range e.pci {
		r.words(d.name)
	}
	for _, g := range e.facts.GPUs {
		r.words(g.Name)
	}
	r.known = true
	r.kernel(e)
	r.devices(e)
	r.driver(e)
	r.known = false
	r.configs(e)
	r.known = true
	r.programs()
	r.known = false
	r.references()
	for _, c := range e.commands {
		rec.Commands = append(rec.Commands, r.command(c))
	}
	slices.SortFunc(r.out, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	rec.Root, rec.redactor = r.out, r.redactor
	return rec, nil
}

// put adds an entry and the links on the way to it, which it resolves. It gives
// the path at the end of the links; "" if nothing is there.
func (r *recorder) put(p string, make func(real string) Entry) string {
	base := strings.TrimSuffix(r.root.Dir(), "/")
	var links []string
	real, err := r.root.ResolveVia(p, func(l string) { links = append(links, strings.TrimPrefix(l, base)) })
	for _, l := range links {
		target, rerr := r.root.Readlink(l)
		if rerr == nil && !r.have[l] {
			r.have[l] = true
			r.out = append(r.out, Entry{Path: r.path(l), Kind: "symlink", Target: r.path(target)})
		}
	}
	if err != nil || real == "/" || r.have[real] {
		return real
	}
	r.have[real] = true
	entry := make(real)
	entry.Path = r.path(real)
	r.out = append(r.out, entry)
	return real
}

// path redacts a path.
func (r *recorder) path(p string) string {
	if !r.known {
		return r.text(p)
	}
	r.words(p)
	return p
}

// words lets the words of a text that is not private stand everywhere.
func (r *recorder) words(text string) {
	for _, w := range wordPattern.FindAllString(text, -1) {
		r.allow[strings.ToLower(w)] = true
	}
}

func (r *recorder) mode(real string) string {
	info, err := r.root.Stat(real)
	if err != nil {
		return ""
	}
	return "0" + strconv.FormatUint(uint64(info.Mode().Perm()), 8)
}

// raw records a file whose text is known to hold nothing private.
func (r *recorder) raw(p, text string) {
	r.put(p, func(real string) Entry { return Entry{Kind: "file", Mode: r.mode(real), Content: &text} })
}

// file records a file with its text redacted.
func (r *recorder) file(p string) {
	data, err := r.root.ReadFile(p)
	if err != nil || len(data) > 1<<20 {
		return
	}
	r.refs = append(r.refs, string(data))
	r.raw(p, r.text(string(data)))
}

// exists records that something is there, and what kind it is.
func (r *recorder) exists(p string) {
	r.put(p, func(real string) Entry {
		info, err := r.root.Stat(real)
		empty := ""
		switch {
		case err != nil:
			return r.node(real)
		case info.IsDir():
			return Entry{Kind: "dir", Mode: r.mode(real)}
		case info.Mode()&fs.ModeSocket != 0:
			return Entry{Kind: "socket", Mode: r.mode(real)}
		case info.Mode()&fs.ModeDevice != 0:
			return r.node(real)
		case info.Mode()&0o111 != 0:
			return Entry{Kind: "program", Mode: r.mode(real)}
		}
		return Entry{Kind: "file", Mode: r.mode(real), Content: &empty}
	})
}

func (r *recorder) node(real string) Entry {
	n, err := r.root.Node(real)
	if err != nil {
		empty := ""
		return Entry{Kind: "file", Content: &empty}
	}
	kind := "char"
	if n.Block {
		kind = "block"
	}
	return Entry{Kind: kind, Mode: "0" + strconv.FormatUint(uint64(n.Mode), 8), Major: &n.Major, Minor: &n.Minor, UID: &n.UID, GID: &n.GID}
}

// lines keeps those that a check would read.
func lines(text string, keep func(string) bool) string {
	var b strings.Builder
	for l := range strings.Lines(text) {
		if keep(l) {
			b.WriteString(l)
		}
	}
	return b.String()
}

func about(words ...string) func(string) bool {
	return func(l string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(l, w) })
	}
}

var parentheses = regexp.MustCompile(`\([^)]*\)`)

// kernel records what the kernel tells of itself and the driver.
func (r *recorder) kernel(e *exam) {
	if e.kernel != "" && r.root.Exists("/proc/sys/kernel/osrelease") {
		r.raw("/proc/sys/kernel/osrelease", e.kernel+"\n")
	}
	for _, p := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		if t := e.text(p); t != "" {
			r.raw(p, lines(t+"\n", func(l string) bool {
				return slices.ContainsFunc([]string{"ID=", "ID_LIKE=", "VERSION_ID=", "PRETTY_NAME="}, func(k string) bool { return strings.HasPrefix(l, k) })
			}))
		}
	}
	if data, err := r.root.ReadFile("/proc/driver/nvidia/version"); err == nil {
		r.raw("/proc/driver/nvidia/version", parentheses.ReplaceAllString(string(data), "()"))
	}
	for _, p := range []string{"/proc/driver/nvidia/params", "/proc/devices", "/sys/module/nvidia/version", "/sys/fs/cgroup/cgroup.controllers", "/sys/fs/selinux/enforce", "/sys/fs/selinux/booleans/container_use_devices"} {
		if data, err := r.root.ReadFile(p); err == nil {
			r.raw(p, r.uuid(lines(string(data), func(l string) bool { return !strings.Contains(l, "RegistryDwords") })))
		}
	}
	if r.root.Exists("/proc/modules") {
		r.raw("/proc/modules", lines(e.text("/proc/modules")+"\n", about("nvidia", "nouveau", "vfio")))
	}
	if m := lines(e.text("/proc/mounts")+"\n", func(l string) bool {
		f := strings.Fields(l)
		return len(f) > 3 && (f[1] == "/proc" || f[1] == "/usr" || f[1] == "/opt" || f[1] == "/" || strings.HasPrefix(f[1], "/usr/"))
	}); m != "" {
		r.raw("/proc/mounts", r.text(m))
	}
	if pkgs := lines(e.text("/var/run/reboot-required.pkgs")+"\n", about("nvidia")); pkgs != "" {
		r.raw("/var/run/reboot-required.pkgs", pkgs)
	}
	for _, n := range e.names("/sys/firmware/efi/efivars") {
		if strings.HasPrefix(n, "SecureBoot-") && e.secureBoot() {
			r.raw("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", "\x06\x00\x00\x00\x01")
		}
	}
	r.tree(e, "/proc/driver/nvidia/gpus", func(p, text string) string {
		return r.uuid(lines(text, about("Model:", "GPU UUID:", "Bus Location:", "Bus Type:", "Device Minor:", "GPU Excluded:", "GPU Firmware:")))
	}, "information")
	same := func(_, text string) string { return text }
	r.tree(e, "/proc/driver/nvidia/capabilities", same, "access", "config", "monitor")
	r.tree(e, "/proc/driver/nvidia-caps", same)
	r.exists("/sys/bus/pci/devices")
	for _, d := range e.pci {
		at := "/sys/bus/pci/devices/" + d.address
		for _, n := range []string{"vendor", "device", "class", "numa_node"} {
			if t := e.text(at + "/" + n); t != "" {
				r.raw(at+"/"+n, t+"\n")
			}
		}
		for _, n := range e.names(at + "/drm") {
			r.exists(at + "/drm/" + n)
		}
		if target, err := r.root.Readlink(at + "/driver"); err == nil && !r.have[at+"/driver"] {
			r.have[at+"/driver"] = true
			r.out = append(r.out, Entry{Path: at + "/driver", Kind: "symlink", Target: "../../drivers/" + path.Base(target)})
			r.exists("/sys/bus/pci/drivers/" + path.Base(target))
		}
	}
}

func (r *recorder) uuid(text string) string {
	for _, u := range uuidPattern.FindAllString(text, -1) {
		text = strings.ReplaceAll(text, u, r.text(u))
	}
	return text
}

// tree records the files below a folder of the kernel, or those of some names.
func (r *recorder) tree(e *exam, dir string, clean func(p, text string) string, only ...string) {
	info, err := r.root.Stat(dir)
	if err != nil || !info.IsDir() || strings.Count(dir, "/") > 12 {
		return
	}
	r.exists(dir)
	for _, n := range e.names(dir) {
		p := dir + "/" + n
		if info, err := r.root.Stat(p); err == nil && info.IsDir() {
			r.tree(e, p, clean, only...)
			continue
		}
		if len(only) > 0 && !slices.Contains(only, n) {
			continue
		}
		if data, err := r.root.ReadFile(p); err == nil {
			r.raw(p, clean(p, string(data)))
		}
	}
}

// devices records the nodes.
func (r *recorder) devices(e *exam) {
	majors := []string{"195"}
	for name, n := range e.majors {
		if strings.HasPrefix(name, "nvidia") {
			majors = append(majors, strconv.Itoa(n))
		}
	}
	for dir, prefix := range map[string]string{"/dev": "nvidia", "/dev/nvidia-caps": "", "/dev/nvidia-caps-imex-channels": "", "/dev/dri": ""} {
		for _, n := range e.names(dir) {
			if strings.HasPrefix(n, prefix) && n != "by-path" {
				r.exists(dir + "/" + n)
				if node, err := r.root.Node(dir + "/" + n); err == nil {
					majors = append(majors, strconv.Itoa(int(node.Major)))
				}
			}
		}
	}
	r.exists("/dev/char")
	r.exists("/dev/dxg")
	for _, n := range e.names("/dev/char") {
		if major, _, _ := strings.Cut(n, ":"); slices.Contains(majors, major) {
			p := "/dev/char/" + n
			if target, err := r.root.Readlink(p); err == nil && !r.have[p] {
				r.have[p] = true
				r.out = append(r.out, Entry{Path: p, Kind: "symlink", Target: target})
			}
		}
	}
	if t := e.text("/etc/group"); t != "" {
		r.raw("/etc/group", r.text(lines(t+"\n", about("video:", "render:", "root:"))))
	}
}

// driver records the driver's files, and other versions of them.
func (r *recorder) driver(e *exam) {
	base := strings.TrimSuffix(r.root.Dir(), "/")
	for _, f := range e.facts.Files {
		r.library(strings.TrimPrefix(f.Host, base))
	}
	dirs := append(slices.Clone(e.facts.Driver.LibDirs), libFolders...)
	dirs = append(dirs, "/usr/lib/wsl/lib", "/run/opengl-driver/lib")
	for _, d := range slices.Clone(dirs) {
		if e.facts.Driver.Root != "/" && e.facts.Driver.Root != "" {
			dirs = append(dirs, e.facts.Driver.Root+d)
		}
	}
	for _, d := range dirs {
		for _, n := range e.names(d) {
			name, _, _ := strings.Cut(n, ".so")
			if strings.HasPrefix(n, "lib") && strings.Contains(n, ".so") && (nvidia.IsDriverLibrary(n) || strings.HasPrefix(name, "libnvidia-") || strings.HasPrefix(name, "libcuda")) {
				r.library(d + "/" + n)
			}
		}
	}
	for _, base := range []string{"/lib/modules", "/usr/lib/modules"} {
		for _, k := range e.names(base) {
			e.kernel = k // of this examination alone
			here, _ := e.moduleFiles()
			for _, m := range here {
				r.raw(m, "")
			}
		}
	}
	if data, err := r.root.ReadFile("/etc/ld.so.cache"); err == nil {
		_, cached := (&exam{root: r.root}).cacheEntries()
		entries := map[string]string{}
		for _, c := range cached {
			if entries[c.Name] == "" {
				entries[c.Name] = c.Path
			}
			r.library(c.Path)
		}
		if len(data) > 0 && len(entries) > 0 {
			r.put("/etc/ld.so.cache", func(string) Entry { return Entry{Kind: "ldcache", Entries: entries} })
		}
	}
}

func (r *recorder) library(p string) {
	r.put(p, func(real string) Entry {
		f, err := r.root.Open(real)
		if err != nil {
			empty := ""
			return Entry{Kind: "file", Mode: r.mode(real), Content: &empty}
		}
		defer f.Close()
		so, err := nvidia.ReadSharedObject(f)
		if err != nil || !strings.Contains(path.Base(real), ".so") {
			empty := ""
			if info, serr := r.root.Stat(real); serr == nil && info.Mode()&0o111 != 0 {
				return Entry{Kind: "program", Mode: r.mode(real)}
			}
			return Entry{Kind: "file", Mode: r.mode(real), Content: &empty}
		}
		return Entry{Kind: "lib", Mode: r.mode(real), SONAME: so.SONAME}
	})
}

// command redacts a program's answer: of docker info only what the checks ask.
func (r *recorder) command(c Command) Command {
	out := c.Stdout
	if len(c.Argv) > 1 && path.Base(c.Argv[0]) == "docker" && c.Argv[1] == "info" {
		keys := []string{"Server Version", "Cgroup Driver", "Cgroup Version", "Runtimes", "Default Runtime", "Operating System", "Docker Root Dir"}
		short := ""
		for _, k := range keys {
			if v := field(out, k); v != "" {
				short += k + ": " + v + "\n"
			}
		}
		out = short
	}
	argv := make([]string, len(c.Argv))
	for i, a := range c.Argv {
		argv[i] = path.Base(a)
		if i > 0 {
			argv[i] = r.text(a)
		}
	}
	return Command{argv, r.text(out)}
}

// ErrNoReport says that a text is neither a report nor a recorded host.
var ErrNoReport = errors.New("neither a report of davit nor a recorded host")

const (
	reportBegin = `<script type="application/json" id="davit-report">`
	reportEnd   = `</script>`
)

// Recording takes the recorded host out of a report, or out of a recording
// itself, for simulate.Unpack. The text may be anybody's.
func Recording(text []byte) ([]byte, error) {
	if _, rest, ok := bytes.Cut(text, []byte(reportBegin)); ok {
		data, _, ok := bytes.Cut(rest, []byte(reportEnd))
		if !ok {
			return nil, ErrNoReport
		}
		text = data
	}
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		var doc struct {
			Recording json.RawMessage `json:"recording"`
		}
		if err := json.Unmarshal(text, &doc); err != nil || len(doc.Recording) == 0 {
			return nil, ErrNoReport
		}
		return doc.Recording, nil
	}
	if !bytes.Contains(text, []byte("root:")) {
		return nil, ErrNoReport
	}
	return text, nil
}
