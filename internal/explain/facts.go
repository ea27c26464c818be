// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"davit/internal/knowledge"
)

// A run is a command line in the log that started a container.
type run struct {
	fact
	engine     string // docker, podman, nerdctl
	image      string
	user       string
	mounts     []string
	requested  bool // it asks for a GPU
	runtime    bool // it asks by --runtime alone
	afterImage bool // it would, but behind the image's name, where the program gets it
	command    string
	corrected  string // the same with a GPU
}

// Options of docker run and its kin that take no value.
var switches = []string{"--rm", "-i", "-t", "-d", "-it", "-ti", "-dit", "-itd", "-id", "-td", "-P", "-q", "--interactive", "--tty", "--detach",
	"--privileged", "--init", "--read-only", "--publish-all", "--quiet", "--no-healthcheck", "--oom-kill-disable", "--sig-proxy", "--replace", "--systemd", "--no-hosts", "--tls-verify"}

func (l *Log) takeRun(f fact, w *window) {
	text := w.text
	for _, next := range w.following(20) {
		if !strings.HasSuffix(text, `\`) {
			break
		}
		text = strings.TrimSuffix(text, `\`) + " " + next
	}
	at, word := -1, ""
	for _, e := range []string{"docker run", "docker container run", "docker create", "podman run", "podman create", "nerdctl run"} {
		if i := strings.Index(text, e+" "); i >= 0 && (at < 0 || i < at) {
			at, word = i, e
		}
	}
	if at < 0 {
		return
	}
	r := run{fact: f, engine: strings.Fields(word)[0]}
	command := strings.Join(strings.Fields(text[at:]), " ")
	if i := strings.Index(command, " && "); i > 0 {
		command = command[:i]
	}
	words := strings.Fields(strings.NewReplacer(`"`, "", "'", "").Replace(command[len(word):]))
	for i := 0; i < len(words); i++ {
		option, value, hasValue := strings.Cut(words[i], "=")
		if !strings.HasPrefix(option, "-") || r.image != "" {
			switch {
			case r.image == "":
				r.image = words[i]
			case option == "--gpus" || option == "--runtime" && strings.Contains(words[i], "nvidia"):
				r.afterImage = true
			}
			continue
		}
		if !hasValue && !slices.Contains(switches, option) && i+1 < len(words) {
			i++
			value = words[i]
		}
		switch option {
		case "--gpus":
			r.requested = true
		case "--runtime":
			if strings.Contains(value, "nvidia") {
				r.runtime = !r.requested
				r.requested = true
			}
		case "--device":
			r.requested = r.requested || strings.Contains(value, "nvidia")
		case "-v", "--volume", "--mount":
			r.mounts = append(r.mounts, value)
		case "-u", "--user":
			r.user = value
		}
	}
	if r.image == "" {
		return
	}
	ask := " --gpus all"
	if r.engine == "podman" {
		ask = " --device nvidia.com/gpu=all"
	}
	r.command = word + command[len(word):]
	r.corrected = word + ask + command[len(word):]
	if len(l.runs) >= 64 {
		l.runs = append(l.runs[:8:8], l.runs[16:]...)
	}
	l.runs = append(l.runs, r)
}

// A view is what is known from where one hit stands.
type view struct {
	l       *Log
	hit     *hit
	derived map[string]fact
	used    []string
}

func (v *view) fact(name string) (fact, bool) {
	if value, ok := v.hit.vars[name]; ok {
		return fact{value: value}, true
	}
	if f, ok := v.derived[name]; ok {
		return f, true
	}
	if list := v.l.facts[name]; len(list) > 0 {
		return list[0], true
	}
	if f, ok := v.l.flags[name]; ok {
		return f, true
	}
	if list := v.l.facts["host-"+name]; len(list) > 0 {
		return list[0], true
	}
	return fact{}, false
}

// value gives a fact for a text, and remembers that it was used. A name that
// ends in * stands for all values of it.
func (v *view) value(name string) (string, bool) {
	if all, ok := strings.CutSuffix(name, "*"); ok {
		var values []string
		for _, f := range v.l.facts[all] {
			values = append(values, f.value)
		}
		name = all
		if len(values) > 1 {
			v.used = append(v.used, name)
			return strings.Join(values[:min(len(values), 4)], " or "), true
		}
	}
	f, ok := v.fact(name)
	if ok {
		v.used = append(v.used, name)
	}
	return f.value, ok
}

func (v *view) holds(name string) bool {
	if not, ok := strings.CutPrefix(name, "!"); ok {
		_, ok := v.fact(not)
		return !ok
	}
	_, ok := v.fact(name)
	return ok
}

func (v *view) get(name string) string {
	f, _ := v.fact(name)
	return f.value
}

func (v *view) derive(name, value string, from fact) {
	if value != "" {
		from.value = value
		v.derived[name] = from
	}
}

// look makes the view of a hit: facts of the log, of the command that led to
// it, and what follows from versions.
func (l *Log) look(h *hit) *view {
	v := &view{l: l, hit: h, derived: map[string]fact{}}
	v.deriveRun()
	v.deriveShapes()
	v.deriveVersions()
	v.deriveLibraries()
	v.deriveGPU()
	return v
}

func (v *view) deriveRun() {
	var last *run
	for i := range v.l.runs {
		r := &v.l.runs[i]
		if r.order <= v.hit.order || last == nil && r.file != v.hit.file {
			last = r
		}
	}
	if last == nil {
		return
	}
	r := last
	v.derive("run", r.command, r.fact)
	v.derive("engine", r.engine, r.fact)
	v.derive("run-"+r.engine, "1", r.fact)
	v.derive("image", r.image, r.fact)
	v.derive("run-user", r.user, r.fact)
	v.derive("corrected", r.corrected, r.fact)
	if fixed := commaInGPUs.ReplaceAllString(r.command, `--gpus '"device=$1"'`); fixed != r.command {
		v.derive("requoted", fixed, r.fact)
	}
	image := strings.ToLower(r.image)
	if strings.Contains(image, "alpine") {
		v.derive("alpine", "1", r.fact)
	}
	if _, tag, ok := strings.Cut(image, "nvidia/cuda:"); ok {
		version, _, _ := strings.Cut(tag, "-")
		v.derive("image-cuda", version, r.fact)
	}
	if strings.Contains(image, "l4t") {
		v.derive("tegra", "1", r.fact)
	}
	if r.runtime && !strings.Contains(r.command, "NVIDIA_VISIBLE_DEVICES") && !strings.Contains(r.command, "--gpus") && !bringsVariable(image) {
		v.derive("runtime-alone", "1", r.fact)
		v.derive("with-variable", strings.Replace(r.command, " run ", " run -e NVIDIA_VISIBLE_DEVICES=all ", 1), r.fact)
	}
	switch {
	case r.requested:
		v.derive("requested", "1", r.fact)
	case r.afterImage:
		v.derive("gpus-after-image", "1", r.fact)
		v.derive("no-request", "1", r.fact)
	case !v.holds("default-runtime-nvidia"):
		v.derive("no-request", "1", r.fact)
	}
	for _, m := range r.mounts {
		for _, part := range strings.FieldsFunc(m, func(r rune) bool { return r == ':' || r == ',' || r == '=' }) {
			if p := strings.TrimRight(part, "/"); p == "/run" || p == "/var/run" {
				v.derive("mounts-run", m, r.fact)
			}
		}
	}
}

// bringsVariable: images known to set NVIDIA_VISIBLE_DEVICES themselves.
func bringsVariable(image string) bool {
	for _, w := range []string{"nvidia", "nvcr.io", "cuda", "pytorch", "tensorflow", "l4t"} {
		if strings.Contains(image, w) {
			return true
		}
	}
	return false
}

var commaInGPUs = regexp.MustCompile(`--gpus[ =]['"]*device=([\w,:-]+,[\w,:-]+)['"]*`)

func major(version string) string {
	m, _, _ := strings.Cut(version, ".")
	return m
}

func (v *view) deriveVersions() {
	branches := v.l.branches
	d, ok := v.fact("driver")
	if ok {
		native := knowledge.CUDAOfDriver(branches, d.value)
		v.derive("native", native, d)
		if !v.holds("have") {
			v.derive("have", native, d)
		}
		v.derive("driver-branch", major(d.value), d)
	}
	if k, ok := v.fact("kernel-driver"); ok {
		v.derive("kernel-native", knowledge.CUDAOfDriver(branches, k.value), k)
	}
	if n := v.get("found-number"); len(n) >= 4 { // 11040 is CUDA 11.4
		v.derive("have", fmt.Sprintf("%s.%c", n[:2], n[len(n)-2]), fact{})
	}
	need, have := v.get("need"), v.get("have")
	if need == "" {
		return
	}
	if b := knowledge.BranchForCUDA(branches, need); b > 0 {
		v.derive("need-branch", fmt.Sprint(b), fact{})
	}
	v.derive("need-major", major(need), fact{})
	if have == "" {
		return
	}
	floor := knowledge.MinorFloor(major(need))
	switch {
	case knowledge.CompareVersions(have, need) >= 0:
		v.derive("new-enough", "1", fact{})
	case major(have) == major(need) && floor != "" && (!ok || knowledge.CompareVersions(d.value, floor) >= 0):
		v.derive("minor-ok", "1", fact{})
	default:
		v.derive("minor-no", "1", fact{})
	}
}

// soname gives the major versions of CUDA that a library's name stands for.
func soname(lib, version string) string {
	n := major(version)
	switch lib {
	case "libcufft", "libcurand":
		if lib == "libcufft" {
			return map[string]string{"10": "11", "11": "12", "12": "13"}[n]
		}
		return ""
	case "libcusolver":
		return map[string]string{"10": "10", "11": "11 or 12", "12": "13"}[n]
	case "libcusparse":
		return map[string]string{"10": "10", "11": "11", "12": "12 or 13"}[n]
	case "libnvjitlink":
		return n
	}
	if n == "9" || n == "10" || n == "8" {
		return version
	}
	return n
}

func (v *view) deriveLibraries() {
	lib, version, ok := strings.Cut(v.get("lib"), ".so.")
	if ok {
		lib = strings.ToLower(lib[strings.LastIndexByte(lib, '/')+1:])
		if want := soname(lib, version); want != "" && !strings.HasPrefix(lib, "libcudnn") {
			v.derive("want-cuda", want, fact{})
		}
		v.derive("lib-major", major(version), fact{})
	}
	var have fact
	for _, name := range []string{"have-cudart", "have-cublas", "nvcc", "cuda-folder", "image-cuda"} {
		if f, ok := v.fact(name); ok {
			have = f
			break
		}
	}
	if have.value == "" {
		return
	}
	v.derive("have-cuda", have.value, have)
	if want := v.get("want-cuda"); want != "" && !strings.Contains(want, major(have.value)) {
		v.derive("cuda-differs", "1", have)
	}
}

func (v *view) deriveGPU() {
	for _, f := range v.l.facts["gpu"] {
		name := strings.ToLower(f.value)
		if strings.Contains(name, "geforce") || strings.Contains(name, "titan") || strings.Contains(name, "rtx 30") || strings.Contains(name, "rtx 40") {
			v.derive("geforce", f.value, f)
		}
	}
	sm := v.get("sm")
	sm = strings.TrimLeft(strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(sm, "sm_"), "compute_"), ".", ""), "_")
	if sm != "" {
		v.derive("sm-name", "sm_"+sm, fact{})
		if n := strings.TrimRight(sm, "af"); len(n) >= 3 {
			v.derive("sm-new", "1", fact{})
			cuda := map[string]string{"100": "12.8", "101": "12.8", "120": "12.8", "103": "12.9", "121": "12.9", "110": "13.0"}[n]
			v.derive("sm-cuda", cuda, fact{})
			v.derive("sm-index", "cu"+strings.ReplaceAll(cuda, ".", ""), fact{})
		} else if len(n) == 2 && n < "75" {
			v.derive("sm-old", "1", fact{})
		}
	}
	if caps, ok := v.fact("capabilities"); ok {
		for _, c := range []string{"video", "graphics", "display", "utility", "compute"} {
			if strings.Contains(caps.value, c) || strings.Contains(caps.value, "all") {
				v.derive(c+"-set", "1", caps)
			} else {
				v.derive(c+"-unset", "1", caps)
			}
		}
	}
	if x, ok := v.l.xids[v.hit.vars["xid"]]; ok {
		v.derive("xid-name", x.Name, fact{})
		v.derive("xid-meaning", x.Meaning, fact{})
		v.derive("xid-do", x.Do, fact{})
		if x.ByProgram {
			v.derive("xid-program", "1", fact{})
		}
	}
}

// deriveShapes looks at the form of what was asked for or named.
func (v *view) deriveShapes() {
	has := func(name, key string, ok bool) {
		if v.get(key) != "" && ok {
			v.derive(name, "1", fact{})
		}
	}
	asked := v.get("asked")
	has("asked-cdi", "asked", asked == "cdi")
	has("asked-mig", "asked", strings.HasPrefix(strings.ToUpper(asked), "MIG-GPU-"))
	has("asked-list", "asked", strings.Contains(asked, "/nvidia-container-devices"))
	has("asked-word", "asked", asked == "false" || asked == "true" || asked == "none" || asked == "no")
	if asked != "" && strings.Trim(asked, "0123456789") == "" {
		v.derive("asked-index", asked, fact{})
	}
	has("lib-dxcore", "lib", strings.Contains(v.get("lib"), "dxcore"))
	has("lib-cudart", "lib", strings.Contains(v.get("lib"), "cudart"))
	has("errno-nosys", "errno", strings.Contains(v.get("errno"), "not implemented"))
	has("ldconfig-real", "ldconfig", strings.HasSuffix(v.get("ldconfig"), ".real"))
	path, file := v.get("path"), v.get("file")
	has("path-uvm", "path", strings.Contains(path, "nvidia-uvm"))
	has("path-dri", "path", strings.Contains(path, "/dri/"))
	has("path-aarch64", "path", strings.Contains(path, "aarch64"))
	has("file-toolkit", "file", !strings.HasPrefix(file, "libcuda.") && !strings.HasPrefix(file, "libnvidia"))
	device := v.get("device")
	has("device-runtime", "device", strings.HasPrefix(device, "runtime.nvidia.com"))
	has("device-management", "device", strings.HasPrefix(device, "management.nvidia.com"))
	has("device-dra", "device", strings.HasPrefix(device, "k8s.gpu.nvidia.com"))
	has("device-mig", "device", strings.Contains(device, "=MIG-"))
	_, name, _ := strings.Cut(device, "=")
	if names := v.l.facts["cdi-names"]; name != "" && len(names) > 0 &&
		!slices.ContainsFunc(names, func(f fact) bool { return f.value == name }) {
		v.derive("cdi-name-absent", name, names[0])
	}
	has("mig-two", "mig", len(v.l.facts["mig"]) > 1)
	has("field-hostpath", "field", v.get("field") == "hostPath")
	has("text-unsupported", "text", strings.Contains(v.get("text"), "unsupported device"))
	majors, node := v.get("uvm-major"), v.get("uvm-node-major")
	has("uvm-drift", "uvm-major", node != "" && node != majors)
	if lib, d := v.get("nvml-version"), v.get("driver"); lib != "" && d != "" && !strings.HasPrefix(d, lib) && !strings.HasPrefix(lib, d) {
		v.derive("versions-differ", "1", fact{})
	}
}
