// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"davit/internal/engine"
	"davit/internal/finding"
	"davit/internal/jsonedit"
)

// dockerFile is a daemon.json that could be read.
type dockerFile struct {
	engine.DockerConfig
	doc *jsonedit.Doc // nil if it is not there or wrong
}

func (d dockerFile) text(key ...string) string {
	if d.doc == nil {
		return ""
	}
	v, ok := d.doc.Get(key...)
	if !ok {
		return ""
	}
	s, _ := v.String()
	return s
}

func (d dockerFile) has(key ...string) bool {
	if d.doc == nil {
		return false
	}
	_, ok := d.doc.Get(key...)
	return ok
}

func (d dockerFile) on(key ...string) bool {
	if d.doc == nil {
		return false
	}
	v, ok := d.doc.Get(key...)
	b, err := v.Bool()
	return ok && err == nil && b
}

// runtimes are the names that the file defines, and their programs.
func (d dockerFile) runtimes() (names []string, paths map[string]string) {
	paths = map[string]string{}
	if d.doc == nil {
		return nil, paths
	}
	v, ok := d.doc.Get("runtimes")
	if !ok {
		return nil, paths
	}
	for _, m := range v.Members() {
		names = append(names, m.Key)
		paths[m.Key] = d.text("runtimes", m.Key, "path")
	}
	return names, paths
}

func isNvidia(name, program string) bool {
	return strings.HasPrefix(name, "nvidia") || strings.HasPrefix(path.Base(program), "nvidia-container-runtime") || strings.HasPrefix(path.Base(program), "davit")
}

// docker judges each docker daemon of the host.
func (e *exam) docker() {
	configs, err := engine.FindDocker(e.root)
	if err != nil {
		e.add(finding.Finding{ID: "could-not-examine", Severity: finding.Warning, Gate: "engine", Layer: "engine", Summary: "Docker's configuration could not be read: " + err.Error()})
		return
	}
	info := e.output("docker", "info")
	snap := len(configs) > 1 && configs[1].Kind == engine.DockerSnap || e.root.Exists("/snap/bin/docker") || e.root.Exists("/var/snap/docker") || e.root.Exists("/run/snap.docker") || strings.HasPrefix(field(info, "Docker Root Dir"), "/var/snap/")
	system := configs[0].Exists || e.program("dockerd") != "" || e.root.Exists("/usr/bin/docker") || e.root.Exists("/run/docker.sock") || e.root.Exists("/var/run/docker.sock")
	rootless := slices.ContainsFunc(configs, func(c engine.DockerConfig) bool { return c.Kind == engine.DockerRootless })
	e.rootless = rootless
	if e.dockerIsPodman() {
		e.none("docker is podman under another name")
		return
	}
	if !system && !snap && !rootless && info == "" {
		e.none("not found")
		return
	}
	e.engines = append(e.engines, "docker")
	e.line("found")
	if v := e.version("docker", info, "Server Version"); v != "" {
		e.line("version %s", v)
	}
	if (strings.Contains(field(info, "Operating System"), "Docker Desktop") || e.desktopContext()) && !e.wsl {
		e.add(finding.Finding{ID: "docker-desktop-has-no-gpu", Severity: finding.Error, Gate: "engine", Layer: "engine",
			Summary: "The docker that answers is Docker Desktop: on Linux it runs in a virtual machine that cannot have the host's GPU.",
			Because: because("docker info", "Docker Desktop"), Avoid: "No setting in /etc/docker/daemon.json reaches that engine.",
			Remediation: fix("restart", "use docker-ce beside it, by its context", "docker context use default")})
		return
	}
	if snap {
		e.dockerSnap(system, info)
	}
	var files []dockerFile
	for _, c := range configs {
		d := dockerFile{DockerConfig: c}
		if c.Exists {
			d.doc = e.daemonJSON(c)
		}
		files = append(files, d)
	}
	for _, d := range files {
		if d.doc != nil {
			e.daemonKeys(d)
		}
	}
	e.dockerFlags(files[0])
	e.dockerGPU(files, info, system && !snap, rootless)
	e.dockerCgroup(files[0], info)
}

// desktopContext says whether the client talks to Docker Desktop.
func (e *exam) desktopContext() bool {
	for line := range strings.Lines(e.output("docker", "context")) {
		f := strings.Fields(line)
		if len(f) > 0 && (strings.HasPrefix(f[0], "desktop-linux") && (len(f) == 1 || f[1] == "*" || strings.HasSuffix(f[0], "*"))) {
			return true
		}
	}
	return strings.Contains(e.text("/root/.docker/config.json"), `"currentContext": "desktop-linux"`)
}

func (e *exam) dockerIsPodman() bool {
	for _, p := range []string{"/usr/bin/docker", "/usr/local/bin/docker"} {
		if target, err := e.root.Readlink(p); err == nil && strings.HasPrefix(path.Base(target), "podman") {
			return true
		}
		if info, err := e.root.Stat(p); err == nil && info.Size() < 4096 && strings.Contains(e.text(p), "podman") {
			return true
		}
	}
	return false
}

func (e *exam) version(engine, info, key string) string {
	if v := e.o.Set[engine+".version"]; v != "" {
		return v
	}
	if v := field(info, key); v != "" {
		return v
	}
	return firstVersion(e.output(engine, "--version"))
}

func (e *exam) dockerSnap(system bool, info string) {
	f := finding.Finding{ID: "docker-from-snap", Severity: finding.Warning, Gate: "engine", Layer: "engine",
		Summary: "Docker is installed from the snap: it sees the host through a confined view, and reads /var/snap/docker/current/config/daemon.json, not /etc/docker/daemon.json.",
		Because: because("/var/snap/docker", "exists"), Why: "The snap has its own configuration and its own copy of the GPU tools; instructions for docker-ce do not reach it.",
		Remediation: fix("data", "use docker-ce instead; images and volumes of the snap do not move by themselves", "snap remove docker", "apt-get install docker.io || apt-get install docker-ce")}
	if system && e.program("dockerd") != "" {
		f.Summary = "Two dockers are installed, from the snap and from packages; which one answers depends on the socket and the PATH."
	}
	if e.wsl {
		f.Why += " In WSL its confinement hides /usr/lib/wsl, where the driver is (libdxcore.so not found)."
	}
	if d := field(info, "Docker Root Dir"); d != "" {
		f.Because = append(f.Because, because("docker info", "Docker Root Dir: "+d)...)
	}
	e.add(f)
}

// daemonJSON parses a file and tells where it is wrong.
func (e *exam) daemonJSON(c engine.DockerConfig) *jsonedit.Doc {
	if len(strings.TrimSpace(string(c.Data))) == 0 {
		return nil
	}
	bad := func(line, column int, msg string) {
		text := ""
		if lines := strings.Split(string(c.Data), "\n"); line > 0 && line <= len(lines) {
			text = strings.TrimSpace(lines[line-1])
		}
		e.add(finding.Finding{ID: "daemon-json-invalid", Severity: finding.Error, Gate: "engine", Layer: "engine", File: c.File, Line: line,
			Summary: fmt.Sprintf("%s is invalid at line %d, column %d: %s.", c.File, line, column, msg),
			Why:     "dockerd does not start with it, or goes on without it until it is restarted.",
			Because: because(fmt.Sprintf("%s:%d:%d", c.File, line, column), text), Confirm: []string{"dockerd --validate --config-file " + c.File},
			Remediation: fix("restart", fmt.Sprintf("mend the syntax at line %d by hand (davit changes nothing in a file that it cannot read), then restart docker", line), "systemctl restart docker")})
	}
	doc, err := jsonedit.Parse(c.Data)
	if err != nil {
		var at *jsonedit.SyntaxError
		if errors.As(err, &at) {
			bad(e.strayBrace(c.Data, at))
		}
		return nil
	}
	if doc.Root().Kind() != jsonedit.Object {
		line, column := doc.Root().Position()
		bad(line, column, "the file should hold an object")
		return nil
	}
	return doc
}

// strayBrace words a syntax error: what follows a whole object comes mostly
// from a brace too early, which is where a person must look.
func (e *exam) strayBrace(text []byte, at *jsonedit.SyntaxError) (line, column int, msg string) {
	before := strings.TrimRight(string(text[:min(at.Offset, len(text))]), " \t\r\n,")
	if _, err := jsonedit.Parse([]byte(before)); err == nil && strings.HasSuffix(before, "}") && strings.HasPrefix(strings.TrimSpace(before), "{") {
		line = strings.Count(before, "\n") + 1
		column = len(before) - strings.LastIndexByte(before, '\n') - 1
		return line, column, `this brace "}" closes the object too early, and what follows belongs to nothing`
	}
	return at.Line, at.Column, at.Msg
}

// daemonKeys judges what a valid file says.
func (e *exam) daemonKeys(d dockerFile) {
	if v, ok := d.doc.Get("runtimes"); ok && v.Kind() != jsonedit.Object && v.Kind() != jsonedit.Null {
		line, column := v.Position()
		e.add(finding.Finding{ID: "daemon-json-invalid", Severity: finding.Error, Gate: "engine", Layer: "engine", File: d.File, Line: line,
			Summary: fmt.Sprintf("%s, line %d, column %d: \"runtimes\" should be an object, but is %s.", d.File, line, column, v.Kind()), Remediation: fix("restart", "mend it by hand, then restart docker", "systemctl restart docker")})
		return
	}
	seen := map[string]int{}
	for _, m := range d.doc.Root().Members() {
		line, _ := m.Value.Position()
		if first, twice := seen[m.Key]; twice {
			e.add(finding.Finding{ID: "daemon-json-duplicate-key", Severity: finding.Warning, Gate: "engine", Layer: "engine", File: d.File, Line: line,
				Summary: fmt.Sprintf("%s has %q twice, at lines %d and %d: docker heeds the later alone.", d.File, m.Key, first, line), Because: because(fmt.Sprintf("%s:%d", d.File, first), m.Key, fmt.Sprintf("%s:%d", d.File, line), m.Key),
				Remediation: fix("restart", "put what both hold into one, and restart docker", "systemctl restart docker")})
		}
		seen[m.Key] = line
	}
	names, paths := d.runtimes()
	if def := d.text("default-runtime"); def != "" && def != "runc" && !strings.HasPrefix(def, "io.containerd.") && !slices.Contains(names, def) {
		v, _ := d.doc.Get("default-runtime")
		line, _ := v.Position()
		e.add(finding.Finding{ID: "default-runtime-undefined", Severity: finding.Error, Gate: "engine", Layer: "engine", File: d.File, Line: line,
			Summary:     fmt.Sprintf("%s makes %q the default runtime, but defines no runtime of that name.", d.File, def),
			Why:         "Docker then does not start, or refuses containers with \"unknown or invalid runtime name\".",
			Because:     because(fmt.Sprintf("%s:%d", d.File, line), fmt.Sprintf("default-runtime: %s; runtimes: %s", def, strings.Join(append(names, "runc"), ", "))),
			Remediation: fix("restart", "define the runtime beside it, or take the default away", "davit setup docker", "systemctl restart docker")})
	}
	for _, n := range names {
		e.runtimeProgram("docker", d.File, func() int { v, _ := d.doc.Get("runtimes", n); line, _ := v.Position(); return line }(), n, paths[n])
	}
}

// runtimeProgram judges the program that a runtime's entry names.
func (e *exam) runtimeProgram(engine, file string, line int, name, program string) {
	if program == "" || !e.programs || !isNvidia(name, program) {
		return // what other runtimes lack is no matter of GPUs
	}
	f := finding.Finding{Severity: finding.Error, Gate: "engine", Layer: "engine", File: file, Line: line, Because: because(fmt.Sprintf("%s:%d", file, line), name+": "+program)}
	at := e.program(program)
	restart := "systemctl restart " + engine
	if at == "" {
		f.ID, f.Summary = "runtime-binary-missing", fmt.Sprintf("%s's runtime %q is the program %s, which does not exist.", engine, name, program)
		f.Why = "The entry is left from a package that was removed or moved."
		f.Remediation = fix("restart", "install it (davit answers to this name), or take the entry away", "davit setup "+map[bool]string{true: "containerd", false: engine}[engine == "k3s" || engine == "rke2"], restart)
		e.add(f)
		return
	}
	if info, err := e.root.Stat(at); err == nil && (info.Mode()&0o111 == 0 || info.IsDir()) {
		f.ID, f.Summary = "runtime-binary-not-executable", fmt.Sprintf("%s's runtime %q is %s, which cannot be executed (mode %04o).", engine, name, at, info.Mode().Perm())
		f.Remediation = fix("none", "make it executable", "chmod 755 "+at)
		e.add(f)
		return
	}
	if mount := e.noexec(at); mount != "" {
		f.ID, f.Summary = "runtime-binary-not-executable", fmt.Sprintf("%s's runtime %q is %s, on a file system that is mounted noexec (%s).", engine, name, at, mount)
		f.Because = append(f.Because, because("/proc/mounts", mount+" noexec")...)
		f.Remediation = fix("none", "put the program elsewhere, or mount without noexec", "mount -o remount,exec "+mount)
		e.add(f)
	}
}

// noexec is the mount point of a path if programs may not be run there.
func (e *exam) noexec(p string) string {
	best, no := "", false
	for line := range strings.Lines(e.text("/proc/mounts")) {
		f := strings.Fields(line)
		if len(f) < 4 || len(f[1]) < len(best) || f[1] != "/" && p != f[1] && !strings.HasPrefix(p, f[1]+"/") {
			continue
		}
		best, no = f[1], slices.Contains(strings.Split(f[3], ","), "noexec")
	}
	if no {
		return best
	}
	return ""
}

// dockerFlags finds settings that stand in the unit and in the file: dockerd
// then does not start.
func (e *exam) dockerFlags(d dockerFile) {
	for _, dir := range []string{"/etc/systemd/system/docker.service.d", "/usr/lib/systemd/system/docker.service.d", "/run/systemd/system/docker.service.d"} {
		for _, n := range e.names(dir) {
			for line := range strings.Lines(e.text(dir + "/" + n)) {
				for flag, key := range map[string]string{"--add-runtime": "runtimes", "--default-runtime": "default-runtime"} {
					if strings.HasPrefix(strings.TrimSpace(line), "ExecStart=") && strings.Contains(line, flag) && d.has(key) {
						e.add(finding.Finding{ID: "docker-flag-and-file-conflict", Severity: finding.Error, Gate: "engine", Layer: "engine", File: dir + "/" + n,
							Summary:     fmt.Sprintf("dockerd is told %s in its unit and %q in %s: it refuses to start with both.", flag, key, d.File),
							Because:     because(dir+"/"+n, strings.TrimSpace(line), d.File, key),
							Remediation: fix("restart", "take the flag out of the unit", "systemctl edit docker", "systemctl daemon-reload", "systemctl restart docker")})
						return
					}
				}
			}
		}
	}
}

// dockerGPU judges whether any way leads from docker to the GPU.
func (e *exam) dockerGPU(files []dockerFile, info string, system, rootless bool) {
	var named, broken bool
	for _, d := range files {
		if d.Exists && d.doc == nil && len(strings.TrimSpace(string(d.Data))) > 0 {
			broken = true
		}
		names, paths := d.runtimes()
		for _, n := range names {
			named = named || isNvidia(n, paths[n])
		}
	}
	running := strings.Fields(field(info, "Runtimes"))
	if named && len(running) > 0 && !slices.ContainsFunc(running, func(n string) bool { return strings.HasPrefix(n, "nvidia") }) && !broken {
		e.add(finding.Finding{ID: "engine-not-restarted", Severity: finding.Error, Gate: "engine", Layer: "engine",
			Summary:     "daemon.json defines the runtime nvidia, but the docker that runs does not know it.",
			Why:         "It was not restarted since, or another docker answers (context, snap, rootless).",
			Because:     because(files[0].File, "runtimes: nvidia", "docker info", "Runtimes: "+strings.Join(running, " ")),
			Remediation: fix("restart", "restart docker", "systemctl restart docker", "docker info | grep Runtimes")})
		return
	}
	hook := e.program("nvidia-container-runtime-hook") != "" || e.program("nvidia-container-toolkit") != ""
	if named && system {
		e.legacy = append(e.legacy, "docker")
	}
	cdi := files[0].on("features", "cdi") || !older(e.version("docker", info, "Server Version"), "28.2") && e.version("docker", info, "Server Version") != ""
	if rootless && !broken {
		e.dockerRootless(files)
	}
	version := e.version("docker", info, "Server Version")
	if gpu := e.gpuSpec(); gpu != "" && !named && !broken && version != "" && (files[0].has("features", "cdi") && !files[0].on("features", "cdi") || !older(version, "25.0") && older(version, "28.2") && !files[0].on("features", "cdi")) {
		e.add(finding.Finding{ID: "engine-cdi-disabled", Severity: finding.Warning, Gate: "engine", Layer: "engine", File: files[0].File,
			Summary: fmt.Sprintf("There is a CDI specification (%s), and docker %s does not read it: features.cdi is not on.", gpu, version), Because: because(files[0].File, "no features.cdi", gpu, "nvidia.com/gpu"),
			Why: "Docker 25 to 28.1 has CDI behind this switch; without it --device nvidia.com/gpu=all is taken for a path.", Remediation: fix("restart", `set "features": {"cdi": true}, and restart docker`, "davit setup docker --cdi", "systemctl restart docker")})
		return
	}
	if named || hook || broken || e.cur.State == Error || !e.programs || e.facts.Driver.Version == "" || e.driverBad {
		return
	}
	if cdi && e.root.Exists("/etc/cdi") {
		return
	}
	e.add(finding.Finding{ID: "engine-has-no-gpu-driver", Severity: finding.Error, Gate: "engine", Layer: "engine",
		Summary:     "Docker is here and so is the GPU, but nothing brings them together: docker run --gpus says \"could not select device driver\".",
		Why:         "Docker itself knows no GPU; a runtime, a hook or CDI must be set up once.",
		Because:     because("nvidia-container-runtime-hook", "not on the PATH", files[0].File, "no runtime nvidia, no features.cdi"),
		Remediation: fix("restart", "set docker up, and restart it", "davit setup docker", "systemctl restart docker")})
}

func (e *exam) dockerRootless(files []dockerFile) {
	systemHas := false
	for _, d := range files {
		names, paths := d.runtimes()
		has := slices.ContainsFunc(names, func(n string) bool { return isNvidia(n, paths[n]) })
		if d.Kind == engine.DockerSystem {
			systemHas = has
		} else if d.Kind == engine.DockerRootless && systemHas && !has && !d.on("features", "cdi") {
			e.add(finding.Finding{ID: "rootless-engine-reads-other-config", Severity: finding.Warning, Gate: "engine", Layer: "engine", File: d.File,
				Summary: fmt.Sprintf("The rootless docker of user %s reads %s, which has no runtime nvidia; /etc/docker/daemon.json has one and does not count for it.", d.User, d.File),
				Because: because(d.File, "no runtime nvidia"), Remediation: fix("restart", "set that file up, and restart the user's docker", "davit setup docker", "systemctl --user restart docker")})
		}
	}
}

// dockerCgroup notes whether docker's cgroups are systemd's.
func (e *exam) dockerCgroup(d dockerFile, info string) {
	driver := field(info, "Cgroup Driver")
	source := "docker info"
	if v, ok := e.o.Set["cgroup-driver"]; ok {
		driver, source = v, "set"
	}
	if d.doc != nil && driver == "" {
		if v, ok := d.doc.Get("exec-opts"); ok {
			for _, x := range v.Elems() {
				if s, _ := x.String(); strings.HasPrefix(s, "native.cgroupdriver=") {
					driver, source = strings.TrimPrefix(s, "native.cgroupdriver="), d.File
				}
			}
		}
	}
	if driver == "" && e.root.Exists("/sys/fs/cgroup/cgroup.controllers") && (e.root.Exists("/run/systemd/system") || e.root.Exists("/usr/lib/systemd/systemd")) {
		driver, source = "systemd", "docker's default with cgroup v2 and systemd"
	}
	if driver == "systemd" {
		e.systemd["docker"] = source + ": cgroup driver systemd"
	}
}
