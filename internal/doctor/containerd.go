// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"davit/internal/finding"
)

// The names of containerd's CRI plugin by the version of its file.
const (
	criV1 = "cri"
	criV2 = "io.containerd.grpc.v1.cri"
	criV3 = "io.containerd.cri.v1.runtime"
)

var criNames = []string{criV1, criV2, criV3}

// pluginOf is the plugin that a file of some version may configure.
func pluginOf(version int64) string {
	switch {
	case version >= 3:
		return criV3
	case version == 2:
		return criV2
	}
	return criV1
}

func (f *tomlFile) version() int64 {
	v, _ := f.get("version").(int64)
	return v
}

// handler is a runtime of containerd's CRI plugin.
type handler struct {
	file         *tomlFile
	plugin, name string
	table        map[string]any
}

func (h handler) path(more ...string) []string {
	return append([]string{"plugins", h.plugin, "containerd", "runtimes", h.name}, more...)
}

func (h handler) binary() string {
	for _, key := range []string{"BinaryName", "Runtime"} {
		if s := h.file.str(h.path("options", key)...); s != "" {
			return s
		}
	}
	return h.file.str(h.path("runtime_engine")...)
}

func (h handler) nvidia() bool { return isNvidia(h.name, h.binary()) }

// systemd is SystemdCgroup, and where it stands or would stand.
func (h handler) systemd() (on bool, line int) {
	on, _ = h.file.get(h.path("options", "SystemdCgroup")...).(bool)
	if h.file.get(h.path("options", "SystemdCgroup")...) != nil {
		return on, h.file.line(h.path("options", "SystemdCgroup")...)
	}
	if h.file.get(h.path("options")...) != nil {
		return on, h.file.line(h.path("options")...)
	}
	return on, h.file.line(h.path()...)
}

// handlers are all runtimes of a file, below any plugin's name.
func (f *tomlFile) handlers() (list []handler) {
	for _, plugin := range criNames {
		table := f.table("plugins", plugin, "containerd", "runtimes")
		for _, name := range keysOf(table) {
			t, _ := table[name].(map[string]any)
			list = append(list, handler{f, plugin, name, t})
		}
	}
	return list
}

// configInvalid are the findings of files that are no TOML.
var configInvalid = map[string]string{"containerd": "containerd-config-invalid", "crio": "crio-config-invalid", "podman": "podman-config-invalid", "toolkit": "toolkit-config-invalid"}

// readTOML reads a file; what is wrong with it is told as a finding.
func (e *exam) readTOML(engine, name string) *tomlFile {
	text, err := e.root.ReadFile(name)
	if err != nil {
		return nil
	}
	f, err := parseTOML(name, text)
	var at *tomlError
	if errors.As(err, &at) {
		bad := ""
		if lines := strings.Split(string(text), "\n"); at.line <= len(lines) && at.line > 0 {
			bad = strings.TrimSpace(lines[at.line-1])
		}
		e.add(finding.Finding{ID: configInvalid[engine], Severity: finding.Error, Gate: "engine", Layer: "engine", File: name, Line: at.line,
			Summary: fmt.Sprintf("%s is no valid TOML at line %d, column %d: %s.", name, at.line, at.column, at.msg), Because: because(fmt.Sprintf("%s:%d:%d", name, at.line, at.column), bad),
			Why: engine + " does not start with it.", Remediation: fix("restart", fmt.Sprintf("mend line %d by hand, then restart %s", at.line, engine), "systemctl restart "+engine)})
	}
	return f
}

const containerdFile = "/etc/containerd/config.toml"

// containerd judges the containerd of packages; k3s and its like have their own.
func (e *exam) containerd() {
	e.containerdMain = e.mainFile()
	exists := e.root.Exists(e.containerdMain)
	binary := e.program("containerd") != ""
	if own := e.ownContainerd(); own != "" && !binary {
		e.none("not found; " + own + " brings its own")
		return
	}
	if !exists && !binary {
		e.none("not found")
		return
	}
	e.engines = append(e.engines, "containerd")
	e.line("found")
	version := e.version("containerd", "", "")
	if version != "" {
		e.line("version %s", version)
	}
	var main *tomlFile
	if exists {
		if main = e.readTOML("containerd", e.containerdMain); main == nil {
			return
		}
	}
	e.otherMain(main)
	files := e.imports(main, version)
	for _, f := range files {
		if f == main || f.get("version") != nil {
			e.ignoredTables(f)
		}
		if version != "" && older(version, "2.0") && f.version() >= 3 {
			e.add(finding.Finding{ID: "containerd-config-too-new", Severity: finding.Error, Gate: "engine", Layer: "engine", File: f.name, Line: f.line("version"),
				Summary: fmt.Sprintf("%s has version = %d, and containerd %s reads version 2 at most: it does not start.", f.name, f.version(), version), Because: because(fmt.Sprintf("%s:%d", f.name, f.line("version")), fmt.Sprintf("version = %d", f.version()), "containerd --version", version),
				Remediation: fix("restart", "write the file for version 2 (tables below io.containerd.grpc.v1.cri), and restart containerd", "systemctl restart containerd")})
		}
	}
	e.notImported(main, files, version)
	e.merged(main, files)
}

// mainFile is the file that containerd's unit names, or the usual one.
func (e *exam) mainFile() string {
	for _, p := range []string{"/etc/systemd/system/containerd.service", "/usr/lib/systemd/system/containerd.service", "/lib/systemd/system/containerd.service"} {
		for line := range strings.Lines(e.text(p)) {
			rest, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart=")
			words := strings.Fields(strings.ReplaceAll(rest, "=", " "))
			for i, w := range words {
				if ok && (w == "--config" || w == "-c") && i+1 < len(words) && path.IsAbs(words[i+1]) {
					return words[i+1]
				}
			}
		}
	}
	return containerdFile
}

// otherMain tells that the runtime stands in a file that is not read.
func (e *exam) otherMain(main *tomlFile) {
	if e.containerdMain == containerdFile {
		return
	}
	text, err := e.root.ReadFile(containerdFile)
	if err != nil || main != nil && slices.ContainsFunc(main.handlers(), handler.nvidia) {
		return
	}
	f, err := parseTOML(containerdFile, text)
	if err != nil || !slices.ContainsFunc(f.handlers(), handler.nvidia) {
		return
	}
	e.add(finding.Finding{ID: "containerd-reads-another-file", Severity: finding.Error, Gate: "engine", Layer: "engine", File: containerdFile,
		Summary: fmt.Sprintf("The runtime is defined in %s, and containerd reads %s (so its unit says).", containerdFile, e.containerdMain), Because: because("containerd.service", "--config "+e.containerdMain),
		Remediation: fix("restart", "put the table into "+e.containerdMain+", and restart containerd", "systemctl restart containerd")})
}

// imports reads the files that the main one takes in.
func (e *exam) imports(main *tomlFile, version string) (files []*tomlFile) {
	if main != nil {
		files = append(files, main)
	}
	for _, p := range e.importPatterns(main, version) {
		for _, n := range e.names(path.Dir(p)) {
			if ok, _ := path.Match(path.Base(p), n); ok {
				if f := e.readTOML("containerd", path.Dir(p)+"/"+n); f != nil {
					files = append(files, f)
				}
			}
		}
	}
	return files
}

func (e *exam) importPatterns(main *tomlFile, version string) (list []string) {
	if main == nil {
		if version == "" || !older(version, "2.2") {
			return []string{"/etc/containerd/conf.d/*.toml"} // built into containerd since 2.2
		}
		return nil
	}
	for _, p := range main.list("imports") {
		if !path.IsAbs(p) {
			p = path.Join(path.Dir(main.name), p)
		}
		list = append(list, p)
	}
	return list
}

// ignoredTables finds runtimes under a name that the file's version does not have.
func (e *exam) ignoredTables(f *tomlFile) {
	want := pluginOf(f.version())
	for _, h := range f.handlers() {
		if h.plugin == want || !h.nvidia() || f.table("plugins", want, "containerd", "runtimes", h.name) != nil {
			continue
		}
		if f.version() == 2 && h.plugin == criV1 {
			continue // containerd 1.x takes the short name too
		}
		said := fmt.Sprintf("version = %d", f.version())
		if f.get("version") == nil {
			said = "no version, which means version 1"
		}
		line := f.line(h.path()...)
		e.add(finding.Finding{ID: "containerd-table-ignored", Severity: finding.Error, Gate: "engine", Layer: "engine", File: f.name, Line: line,
			Summary: fmt.Sprintf("containerd ignores the runtime %q at %s:%d: it stands under %q, and a file with %s is read under %q.", h.name, f.name, line, h.plugin, said, want),
			Why:     fmt.Sprintf("The plugin's name changed with the version of the file; pods that want the runtime get: no runtime for %q is configured.", h.name),
			Because: because(f.name, said, fmt.Sprintf("%s:%d", f.name, line), tableName(h.path())), Confirm: []string{"containerd config dump | grep -A3 'runtimes." + h.name + "'"},
			Remediation: fix("restart", fmt.Sprintf("move the table to [plugins.%q.containerd.runtimes.%s], with its options, and restart containerd", want, h.name), "systemctl restart containerd")})
		return
	}
}

func tableName(path []string) string {
	var parts []string
	for _, p := range path {
		if strings.Contains(p, ".") {
			p = `"` + p + `"`
		}
		parts = append(parts, p)
	}
	return "[" + strings.Join(parts, ".") + "]"
}

// notImported finds files that define the runtime and that nothing reads.
func (e *exam) notImported(main *tomlFile, files []*tomlFile, version string) {
	if e.containerdMain != containerdFile {
		return
	}
	read := map[string]bool{containerdFile: true}
	for _, f := range files {
		read[f.name] = true
	}
	patterns := e.importPatterns(main, version)
	for _, dir := range e.names("/etc/containerd") {
		for _, n := range e.names("/etc/containerd/" + dir) {
			name := "/etc/containerd/" + dir + "/" + n
			if read[name] || path.Ext(n) != ".toml" {
				continue
			}
			text, err := e.root.ReadFile(name)
			if err != nil {
				continue
			}
			f, err := parseTOML(name, text)
			if err != nil || !slices.ContainsFunc(f.handlers(), handler.nvidia) {
				continue
			}
			said := "there is no line imports"
			if len(patterns) > 0 {
				said = "imports reads " + strings.Join(patterns, ", ")
			}
			where := containerdFile
			line := 0
			if main != nil {
				line = main.lines["imports"]
			}
			rem := fix("restart", fmt.Sprintf("extend imports in %s by %q, and restart containerd", containerdFile, "/etc/containerd/"+dir+"/*.toml"), "systemctl restart containerd")
			if len(patterns) > 0 {
				rem = fix("restart", fmt.Sprintf("move the file to %s, or extend imports by %q, and restart containerd", path.Dir(patterns[0]), "/etc/containerd/"+dir+"/*.toml"),
					"mv "+name+" "+path.Dir(patterns[0])+"/", "systemctl restart containerd")
			}
			e.add(finding.Finding{ID: "containerd-drop-in-not-imported", Severity: finding.Error, Gate: "engine", Layer: "engine", File: name,
				Summary: fmt.Sprintf("containerd never sees %s, which defines the runtime: %s in %s.", name, said, where),
				Why:     "A drop-in counts only if imports of the main file names it.", Because: because(fmt.Sprintf("%s:%d", containerdFile, line), said, name, "exists"),
				Confirm: []string{"containerd config dump | grep nvidia"}, Remediation: rem})
			return
		}
	}
}

// merged judges all files together.
func (e *exam) merged(main *tomlFile, files []*tomlFile) {
	var live []handler
	for _, f := range files {
		want := pluginOf(f.version())
		for _, h := range f.handlers() {
			if h.plugin == want || f != main || f.version() == 2 && h.plugin == criV1 {
				live = append(live, h)
			}
		}
	}
	e.entries("containerd", live)
	e.cgroups("containerd", live)
	for _, f := range files {
		for _, plugin := range criNames {
			def := f.str("plugins", plugin, "containerd", "default_runtime_name")
			if def == "" || def == "runc" || slices.ContainsFunc(live, func(h handler) bool { return h.name == def }) || e.cur.State == Error {
				continue
			}
			line := f.line("plugins", plugin, "containerd", "default_runtime_name")
			e.add(finding.Finding{ID: "default-runtime-undefined", Severity: finding.Error, Gate: "engine", Layer: "engine", File: f.name, Line: line,
				Summary: fmt.Sprintf("%s makes %q the default runtime, but no runtime of that name is defined.", f.name, def), Because: because(fmt.Sprintf("%s:%d", f.name, line), "default_runtime_name = "+def),
				Remediation: fix("restart", "define the runtime, or take the default away", "davit setup containerd", "systemctl restart containerd")})
		}
		if slices.ContainsFunc(f.list("disabled_plugins"), func(p string) bool { return p == "cri" || strings.HasSuffix(p, ".cri") }) && e.isNode() {
			line := f.line("disabled_plugins")
			e.add(finding.Finding{ID: "containerd-cri-disabled", Severity: finding.Error, Gate: "engine", Layer: "engine", File: f.name, Line: line,
				Summary: fmt.Sprintf("%s:%d switches containerd's CRI plugin off, and a kubelet is on this host: no pod starts.", f.name, line), Why: "Docker's package of containerd ships with this line.",
				Because: because(fmt.Sprintf("%s:%d", f.name, line), "disabled_plugins: cri"), Remediation: fix("restart", "take cri out of disabled_plugins, and restart containerd", "systemctl restart containerd")})
		}
	}
	for _, h := range live {
		if h.nvidia() {
			e.legacy = append(e.legacy, "containerd")
			if on, _ := h.systemd(); on {
				e.systemd["containerd"] = h.file.name + ": SystemdCgroup = true"
			}
			break
		}
	}
	e.cdiSwitch(files, live)
	if e.isNode() && e.cur.State == OK && !slices.ContainsFunc(live, handler.nvidia) {
		e.note("no runtime nvidia is defined; pods get GPUs by CDI alone, or by runtimes that an operator brings")
	}
}

// cdiSwitch tells that containerd 1.7 does not read the specifications.
func (e *exam) cdiSwitch(files []*tomlFile, live []handler) {
	gpu := e.gpuSpec()
	if gpu == "" || !e.isNode() || slices.ContainsFunc(live, handler.nvidia) {
		return
	}
	set, on, where, line := false, false, containerdFile, 0
	for _, f := range files {
		for _, plugin := range criNames {
			if v, ok := f.get("plugins", plugin, "enable_cdi").(bool); ok {
				set, on, where, line = true, v, f.name, f.line("plugins", plugin, "enable_cdi")
			}
		}
	}
	version := e.version("containerd", "", "")
	if on || !set && (version == "" || !older(version, "2.0")) {
		return
	}
	e.add(finding.Finding{ID: "engine-cdi-disabled", Severity: finding.Error, Gate: "engine", Layer: "engine", File: where, Line: line,
		Summary: fmt.Sprintf("There is a CDI specification (%s), and containerd does not read it: enable_cdi is not on.", gpu), Because: because(where, "enable_cdi is off", gpu, "nvidia.com/gpu"),
		Why: "containerd 1.7 has CDI behind this switch, 2.0 has it on.", Remediation: fix("restart", "set enable_cdi = true in the CRI plugin's table, and restart containerd", "systemctl restart containerd")})
}

// entries judges each runtime by itself.
func (e *exam) entries(engine string, live []handler) {
	for _, h := range live {
		line := h.file.line(h.path()...)
		program := h.binary()
		if h.nvidia() && h.name != "nvidia-legacy" && program == "" && h.file.str(h.path("runtime_path")...) == "" {
			e.add(finding.Finding{ID: "containerd-runtime-entry-incomplete", Severity: finding.Error, Gate: "engine", Layer: "engine", File: h.file.name, Line: line,
				Summary:     fmt.Sprintf("The runtime %q at %s:%d names no program: options.BinaryName is missing, so that plain runc runs.", h.name, h.file.name, line),
				Because:     because(fmt.Sprintf("%s:%d", h.file.name, line), tableName(h.path())),
				Remediation: fix("restart", fmt.Sprintf("add %s with BinaryName = \"/usr/bin/nvidia-container-runtime\", and restart %s", tableName(h.path("options")), engine), "systemctl restart "+engine)})
			continue
		}
		if h.nvidia() && h.file.str(h.path("runtime_type")...) == "" {
			e.add(finding.Finding{ID: "containerd-runtime-entry-incomplete", Severity: finding.Error, Gate: "engine", Layer: "engine", File: h.file.name, Line: line,
				Summary: fmt.Sprintf("The runtime %q at %s:%d has no runtime_type: containerd cannot start it.", h.name, h.file.name, line), Because: because(fmt.Sprintf("%s:%d", h.file.name, line), tableName(h.path())),
				Remediation: fix("restart", `add runtime_type = "io.containerd.runc.v2", and restart `+engine, "systemctl restart "+engine)})
			continue
		}
		e.runtimeProgram(engine, h.file.name, line, h.name, program)
	}
}

// cgroups compares the cgroup drivers of the runtimes, and of the kubelet.
func (e *exam) cgroups(engine string, live []handler) {
	kubelet := ""
	for line := range strings.Lines(e.text("/var/lib/kubelet/config.yaml")) {
		if v, ok := strings.CutPrefix(line, "cgroupDriver:"); ok {
			kubelet = strings.Trim(strings.TrimSpace(v), `"'`)
		}
	}
	var base *handler
	for i, h := range live {
		// Only what is said counts: distributions leave it out and mean another default.
		if h.name == "runc" && !h.nvidia() && h.file.get(h.path("options", "SystemdCgroup")...) != nil {
			base = &live[i]
		}
	}
	for _, h := range live {
		if !h.nvidia() {
			continue
		}
		on, line := h.systemd()
		want, source := on, ""
		switch {
		case base != nil:
			want, _ = base.systemd()
			_, at := base.systemd()
			source = fmt.Sprintf("runc has SystemdCgroup = %t (%s:%d)", want, base.file.name, at)
		case kubelet != "":
			want, source = kubelet == "systemd", "the kubelet has cgroupDriver: "+kubelet
		}
		if on == want || source == "" {
			continue
		}
		e.add(finding.Finding{ID: "cgroup-driver-differs-between-runtimes", Severity: finding.Error, Gate: "engine", Layer: "engine", File: h.file.name, Line: line,
			Summary: fmt.Sprintf("The runtime %q has SystemdCgroup = %t, but %s: pods of the two are in different cgroup trees, and the kubelet kills and restarts them.", h.name, on, source),
			Why:     "A new runtime inherits none of runc's options.", Because: because(fmt.Sprintf("%s:%d", h.file.name, line), tableName(h.path("options"))+fmt.Sprintf(": SystemdCgroup is %t", on)),
			Remediation: fix("restart", fmt.Sprintf("set SystemdCgroup = %t for %q as well (%s), and restart %s", want, h.name, tableName(h.path("options")), engine), "systemctl restart "+engine)})
		return
	}
}

// isNode says whether this is a Kubernetes node.
func (e *exam) isNode() bool {
	return e.program("kubelet") != "" || e.root.Exists("/var/lib/kubelet") || e.root.Exists("/etc/kubernetes/kubelet.conf") || e.root.Exists("/etc/systemd/system/kubelet.service")
}
