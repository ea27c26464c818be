// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"davit/internal/cdi"
	"davit/internal/finding"
)

// ociHook is a file of a hooks.d folder.
type ociHook struct {
	Hook struct {
		Path string   `json:"path"`
		Args []string `json:"args"`
	} `json:"hook"`
	When struct {
		Always *bool `json:"always"`
	} `json:"when"`
}

var hookDirs = []string{"/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d", "/run/containers/oci/hooks.d"}

// gpuSpec is a CDI file that gives NVIDIA GPUs; "" if there is none.
func (e *exam) gpuSpec() string {
	for _, dir := range cdi.Folders {
		for _, n := range e.names(dir) {
			if (path.Ext(n) == ".yaml" || path.Ext(n) == ".json") && strings.Contains(e.text(dir+"/"+n), "nvidia.com/gpu") {
				return dir + "/" + n
			}
		}
	}
	return ""
}

func (e *exam) podman() {
	e.cdiGPU = e.gpuSpec()
	found := e.program("podman") != "" || e.output("podman", "--version") != ""
	hooks := e.hooks()
	if !found && (e.program("crio") != "" || len(hooks) == 0) {
		e.none("not found")
		return
	}
	e.engines = append(e.engines, "podman")
	version := e.version("podman", "", "")
	e.line("found")
	if version != "" {
		e.line("version %s", version)
	}
	if version != "" && older(version, "4.1") && e.cdiGPU != "" {
		e.add(finding.Finding{ID: "engine-too-old-for-cdi", Severity: finding.Error, Gate: "engine", Layer: "engine",
			Summary: "podman " + version + " knows no CDI: --device nvidia.com/gpu=all fails with \"stat nvidia.com/gpu=all\".", Why: "CDI came with podman 4.1.",
			Because: because("podman --version", version, e.cdiGPU, "exists"), Remediation: fix("none", "install podman 4.1 or newer, or use podman --runtime nvidia")})
	}
	for _, f := range []string{"/usr/share/containers/containers.conf", "/etc/containers/containers.conf"} {
		c := e.readTOML("podman", f)
		if c == nil {
			continue
		}
		for _, n := range keysOf(c.table("engine", "runtimes")) {
			if paths := c.list("engine", "runtimes", n); isNvidia(n, "") && len(paths) > 0 && !slices.ContainsFunc(paths, func(p string) bool { return e.program(p) != "" }) {
				e.runtimeProgram("podman", f, c.line("engine", "runtimes", n), n, paths[0])
			}
		}
	}
}

// hooks judges OCI hooks of NVIDIA's older packages.
func (e *exam) hooks() (list []string) {
	for _, dir := range hookDirs {
		for _, n := range e.names(dir) {
			name := dir + "/" + n
			var h ociHook
			text := e.text(name)
			if path.Ext(n) != ".json" || json.Unmarshal([]byte(text), &h) != nil || !strings.Contains(h.Hook.Path, "nvidia") {
				continue
			}
			list = append(list, name)
			always := ""
			if h.When.Always != nil && *h.When.Always {
				always = " It fires for every container (\"always\": true), also for those that want no GPU."
			}
			switch {
			case e.cdiGPU != "":
				e.add(finding.Finding{ID: "legacy-hook-beside-cdi", Severity: finding.Warning, Gate: "engine", Layer: "engine", File: name,
					Summary: fmt.Sprintf("Both the OCI hook %s and the CDI specification %s give containers the GPU: it is given twice.", name, e.cdiGPU),
					Why:     "The hook is left from an older package." + always, Because: because(name, h.Hook.Path, e.cdiGPU, "nvidia.com/gpu"),
					Remediation: fix("none", "remove the hook's file, or move it away; CDI is enough", "mv "+name+" /root/"+n+".off")})
			case e.programs && e.program(h.Hook.Path) == "":
				e.add(finding.Finding{ID: "hook-binary-missing", Severity: finding.Error, Gate: "engine", Layer: "engine", File: name,
					Summary: fmt.Sprintf("The OCI hook %s names the program %s, which does not exist: containers do not start.", name, h.Hook.Path), Why: "The hook is left from a package that was removed." + always,
					Because: because(name, h.Hook.Path), Remediation: fix("none", "remove the hook's file", "mv "+name+" /root/"+n+".off")})
			}
		}
	}
	return list
}

// crio judges CRI-O's files, which are merged in the order of their names.
func (e *exam) crio() {
	names := []string{"/etc/crio/crio.conf"}
	for _, dir := range []string{"/usr/lib/crio/crio.conf.d", "/etc/crio/crio.conf.d"} {
		for _, n := range e.names(dir) {
			names = append(names, dir+"/"+n)
		}
	}
	var files []*tomlFile
	for _, n := range names {
		if f := e.readTOML("crio", n); f != nil {
			files = append(files, f)
		}
	}
	if len(files) == 0 && e.cur.State != Error && e.program("crio") == "" {
		e.none("not found")
		return
	}
	e.engines = append(e.engines, "cri-o")
	e.line("found")
	defined := []string{"runc", "crun"}
	def, where, line := "", "", 0
	for _, f := range files {
		if d := f.str("crio", "runtime", "default_runtime"); d != "" {
			def, where, line = d, f.name, f.line("crio", "runtime", "default_runtime")
		}
		for _, n := range keysOf(f.table("crio", "runtime", "runtimes")) {
			defined = append(defined, n)
			if p := f.str("crio", "runtime", "runtimes", n, "runtime_path"); path.IsAbs(p) && !isNvidia(n, p) {
				e.lowLevelOf = append(e.lowLevelOf, p)
			}
			e.runtimeProgram("crio", f.name, f.line("crio", "runtime", "runtimes", n), n, f.str("crio", "runtime", "runtimes", n, "runtime_path"))
			if isNvidia(n, f.str("crio", "runtime", "runtimes", n, "runtime_path")) {
				e.legacy = append(e.legacy, "cri-o")
			}
		}
	}
	if def != "" && !slices.Contains(defined, def) {
		e.add(finding.Finding{ID: "default-runtime-undefined", Severity: finding.Error, Gate: "engine", Layer: "engine", File: where, Line: line,
			Summary: fmt.Sprintf("%s makes %q the default runtime, but no runtime of that name is defined.", where, def), Because: because(fmt.Sprintf("%s:%d", where, line), "default_runtime = "+def),
			Remediation: fix("restart", "define the runtime, or take the default away, and restart CRI-O", "systemctl restart crio")})
	}
}
