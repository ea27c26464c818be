// SPDX-License-Identifier: Apache-2.0

// Package doctor examines a host, from its hardware to its container engines,
// and says what keeps containers from getting its GPUs. It reads files below a
// root folder, runs nothing and changes nothing; a cause is told once, and what
// only follows from it is not told at all.
package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"davit/internal/finding"
	"davit/internal/nvidia"
	"davit/internal/rootfs"
)

// State is how an area is.
type State string

// The states. Skipped areas were not reached, because of what an earlier one
// found; an area that this host does not have is None.
const (
	OK      State = "ok"
	Warning State = "warning"
	Error   State = "error"
	Skipped State = "skipped"
	None    State = "none"
)

// Area is one part of a host.
type Area struct {
	Name  string `json:"name"` // hardware, module, nodes …
	State State  `json:"state"`
	// Line is what was found, in a few words.
	Line string `json:"line"`
	// Findings are the problems, worst first.
	Findings []finding.Finding `json:"findings,omitempty"`
	// Notes are worth knowing and no problem.
	Notes []string `json:"notes,omitempty"`
}

// Result is what Examine found.
type Result struct {
	Areas []Area `json:"areas"`
	// Overridden are the facts that were given instead of detected.
	Overridden map[string]string `json:"overridden,omitempty"`
	// Facts are those of the driver.
	Facts *nvidia.Facts `json:"-"`
	// Links are missing below /dev/char: name to target. They are the one thing
	// that can be mended without risk.
	Links map[string]string `json:"-"`
}

// Findings are those of all areas, in the order of the examination.
func (r *Result) Findings() []finding.Finding {
	list := []finding.Finding{}
	for _, a := range r.Areas {
		list = append(list, a.Findings...)
	}
	return list
}

// Worst is the state of the worst area: OK, Warning or Error.
func (r *Result) Worst() State {
	worst := OK
	for _, a := range r.Areas {
		if a.State == Error || a.State == Warning && worst == OK {
			worst = a.State
		}
	}
	return worst
}

// Options change what Examine takes for granted.
type Options struct {
	// DriverRoot is nvidia-container-cli.root of config.toml.
	DriverRoot string
	// Set overrides detected facts; Settable lists their names.
	Set map[string]string
	// ConfigError is what davit's own reader says of config.toml, if anything.
	ConfigError error
	// Commands are answers of programs beside those that a recorded host holds.
	Commands []Command
}

// Settable are the facts that Options.Set may override.
var Settable = []string{"driver.version", "driver.open", "driver.library-version", "kernel", "os", "os-version", "cgroup-driver", "docker.version", "podman.version", "containerd.version"}

// Command is the answer of a program. Examine runs none: they are recorded, or
// given by who calls it.
type Command struct {
	Argv   []string `json:"argv"`
	Stdout string   `json:"stdout"`
}

// Asked are the programs whose answers tell more than files: versions, and
// which daemon a client talks to.
var Asked = [][]string{{"docker", "info"}, {"podman", "--version"}, {"containerd", "--version"}, {"nv-fabricmanager", "--version"}, {"systemctl", "is-active", "nvidia-fabricmanager"}}

// exam is one examination.
type exam struct {
	root  rootfs.Root
	o     Options
	facts *nvidia.Facts
	res   *Result
	cur   *Area

	whole    bool // the folder is a host, and not a few files of one
	programs bool // it has programs, so that a missing one is missing
	kernel   string
	os       map[string]string // of os-release
	modules  map[string]bool
	majors   map[string]int
	commands []Command
	pci      []pciDevice
	wsl      bool

	driverBad bool // what needs a working driver need not be judged
	engines   []string
	rootless  bool // a docker of a user
	// containerdMain is the file that containerd reads first.
	containerdMain string
	// lowLevelOf are low-level runtimes that engines name by their paths.
	lowLevelOf []string
	// legacy are engines that give devices by a hook or runtime, behind
	// systemd's back; systemd says whether their cgroups are systemd's.
	legacy  []string
	systemd map[string]string // engine to evidence
	cdiGPU  string            // a spec file that defines nvidia.com/gpu
}

// Examine examines a host. An error means that it could not be examined; what
// is wrong with the host is in the result.
func Examine(root rootfs.Root, o Options) (*Result, error) {
	for name := range o.Set {
		if !slices.Contains(Settable, name) {
			return nil, fmt.Errorf("%q is no fact that can be set: known are %s", name, strings.Join(Settable, ", "))
		}
	}
	e := &exam{root: root, o: o, systemd: map[string]string{}, res: &Result{Overridden: o.Set}}
	if err := e.context(); err != nil {
		return nil, err
	}
	for _, a := range []struct {
		name  string
		check func()
	}{
		{"hardware", e.hardware}, {"kernel module", e.module}, {"device nodes", e.nodes}, {"libraries", e.libraries},
		{"tools", e.tools}, {"docker", e.docker}, {"containerd", e.containerd}, {"k3s", e.k3s}, {"podman", e.podman}, {"cri-o", e.crio},
		{"config.toml", e.toolkit}, {"cdi", e.cdi}, {"kubelet", e.kubelet}, {"security", e.security},
		{"reload", e.reload}, {"fabric", e.fabric}, {"mig", e.mig}, {"jetson", e.jetson}, {"packages", e.repositories},
	} {
		e.res.Areas = append(e.res.Areas, Area{Name: a.name, State: OK})
		e.cur = &e.res.Areas[len(e.res.Areas)-1]
		a.check()
		if e.cur.Line == "" && len(e.cur.Findings) > 0 {
			e.cur.Line = strings.ReplaceAll(e.cur.Findings[0].ID, "-", " ")
		}
		slices.SortStableFunc(e.cur.Findings, func(a, b finding.Finding) int { return rank(a.Severity) - rank(b.Severity) })
	}
	e.res.Facts = e.facts
	return e.res, nil
}

func rank(s finding.Severity) int {
	return slices.Index([]finding.Severity{finding.Error, finding.Warning, finding.Info, finding.OK}, s)
}

// context reads what several checks ask for.
func (e *exam) context() error {
	r := e.root
	var recorded struct{ Arch, Kernel string }
	if text, err := r.ReadFile("/.davit-host.json"); err == nil && r.Dir() != "/" {
		_ = json.Unmarshal(text, &recorded) // a folder without it is a host too
	}
	if text, err := r.ReadFile("/.davit-commands.json"); err == nil && r.Dir() != "/" {
		_ = json.Unmarshal(text, &e.commands)
	}
	e.commands = append(e.commands, e.o.Commands...)
	arch := map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[recorded.Arch]
	if arch == "" {
		arch = runtime.GOARCH
	}
	facts, err := nvidia.Read(r, nvidia.Options{DriverRoot: e.o.DriverRoot, Arch: arch})
	if err != nil {
		return err
	}
	e.facts = facts
	e.kernel = e.text("/proc/sys/kernel/osrelease")
	if e.kernel == "" {
		e.kernel = recorded.Kernel
	}
	e.os = shellVars(e.text("/etc/os-release"))
	if len(e.os) == 0 {
		e.os = shellVars(e.text("/usr/lib/os-release"))
	}
	e.modules = map[string]bool{}
	for line := range strings.Lines(e.text("/proc/modules")) {
		name, _, _ := strings.Cut(line, " ")
		e.modules[name] = true
	}
	e.majors = parseMajors(e.text("/proc/devices"))
	e.whole = r.Exists("/proc/devices") || r.Exists("/proc/modules") || r.Exists("/proc/driver/nvidia") || r.Exists("/sys/bus/pci/devices")
	e.programs = r.Exists("/usr/bin") || r.Exists("/bin")
	e.wsl = r.Exists("/dev/dxg") || strings.Contains(strings.ToLower(e.kernel), "microsoft")
	e.override()
	e.pci = e.readPCI()
	return nil
}

func (e *exam) override() {
	for name, value := range e.o.Set {
		switch name {
		case "driver.version":
			e.facts.Driver.Version, e.facts.Driver.CUDA = value, nvidia.CUDAVersion(value)
		case "driver.open":
			e.facts.Driver.Open = value == "true" || value == "yes"
		case "driver.library-version":
			e.facts.Driver.LibraryVersion = value
		case "kernel":
			e.kernel = value
		case "os":
			e.os["ID"] = value
		case "os-version":
			e.os["VERSION_ID"] = value
		}
	}
}

// text is a small file's text, trimmed; "" if it cannot be read.
func (e *exam) text(p string) string {
	data, err := e.root.ReadFile(p)
	if err != nil || len(data) > 8<<20 {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// names lists a folder, sorted; nil if it is not there.
func (e *exam) names(dir string) []string {
	entries, err := e.root.ReadDir(dir)
	if err != nil {
		return nil
	}
	var list []string
	for _, entry := range entries {
		list = append(list, entry.Name)
	}
	slices.Sort(list)
	return list
}

// binDirs are where services look for programs.
var binDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// program finds a program by its name or path; "" if it is not there.
func (e *exam) program(name string) string {
	if path.IsAbs(name) {
		if e.root.Exists(name) {
			return name
		}
		return ""
	}
	for _, dir := range binDirs {
		if p := dir + "/" + name; e.root.Exists(p) {
			return p
		}
	}
	return ""
}

// output is the recorded answer of a program.
func (e *exam) output(words ...string) string {
	for _, c := range e.commands {
		if len(c.Argv) > 0 && len(c.Argv) >= len(words) {
			argv := append([]string{path.Base(c.Argv[0])}, c.Argv[1:]...)
			if slices.Equal(argv[:len(words)], words) {
				return c.Stdout
			}
		}
	}
	return ""
}

// add tells a finding of the area that is examined.
func (e *exam) add(f finding.Finding) {
	if f.Docs == "" {
		f.Docs = "docs/findings/" + f.ID + ".md"
	}
	if f.Layer == "" {
		f.Layer = "host"
	}
	switch {
	case f.Severity == finding.Error:
		e.cur.State = Error
	case f.Severity == finding.Warning && e.cur.State != Error:
		e.cur.State = Warning
	}
	e.cur.Findings = append(e.cur.Findings, f)
}

func (e *exam) note(format string, args ...any) {
	e.cur.Notes = append(e.cur.Notes, fmt.Sprintf(format, args...))
}

func (e *exam) line(format string, args ...any) { e.cur.Line = fmt.Sprintf(format, args...) }

// none says that this host does not have the area.
func (e *exam) none(line string) { e.cur.State, e.cur.Line = None, line }

// skip says that an earlier finding decides.
func (e *exam) skip(line string) { e.cur.State, e.cur.Line = Skipped, line }

// because is evidence: source and value, in turn.
func because(pairs ...string) (list []finding.Evidence) {
	for i := 0; i+1 < len(pairs); i += 2 {
		list = append(list, finding.Evidence{Source: pairs[i], Value: pairs[i+1]})
	}
	return list
}

// fix is how to mend something on the host.
func fix(risk, text string, commands ...string) *finding.Remediation {
	return &finding.Remediation{Text: text, Commands: commands, Risk: risk, Where: "host"}
}

// shellVars reads lines such as ID=ubuntu and VERSION_ID="24.04".
func shellVars(text string) map[string]string {
	vars := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			vars[key] = strings.Trim(value, `"'`)
		}
	}
	return vars
}

// parseMajors reads /proc/devices' character devices.
func parseMajors(text string) map[string]int {
	majors := map[string]int{}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "Block") {
			break
		}
		f := strings.Fields(line)
		if len(f) != 2 {
			continue
		}
		if n, err := strconv.Atoi(f[0]); err == nil {
			majors[f[1]] = n
		}
	}
	return majors
}

func notThere(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// field is a value of lines such as "Cgroup Driver: systemd", or of the same
// answer as JSON, which writes CgroupDriver.
func field(text, key string) string {
	if strings.HasPrefix(strings.TrimSpace(text), "{") {
		var all map[string]any
		if json.Unmarshal([]byte(text), &all) != nil {
			return ""
		}
		switch v := all[strings.ReplaceAll(key, " ", "")].(type) {
		case string:
			return v
		case map[string]any: // Runtimes
			return strings.Join(keysOf(v), " ")
		}
		return ""
	}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(strings.TrimSpace(k), key) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// firstVersion is the first thing in a text that looks like 5.3.1.
func firstVersion(text string) string {
	for _, w := range strings.FieldsFunc(text, func(r rune) bool { return !(r >= '0' && r <= '9' || r == '.') }) {
		if strings.Contains(strings.Trim(w, "."), ".") {
			return strings.Trim(w, ".")
		}
	}
	return ""
}

// numbers are a version's parts, at least two.
func numbers(version string) [3]int {
	var n [3]int
	for i, p := range strings.SplitN(version, ".", 4) {
		if i < 3 {
			n[i], _ = strconv.Atoi(p)
		}
	}
	return n
}

// older says whether version a is before b.
func older(a, b string) bool {
	x, y := numbers(a), numbers(b)
	for i := range x {
		if x[i] != y[i] {
			return x[i] < y[i]
		}
	}
	return false
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
