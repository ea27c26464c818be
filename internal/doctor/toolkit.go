// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"davit/internal/engine"
	"davit/internal/finding"
)

const toolkitFile = "/etc/nvidia-container-runtime/config.toml"

// toolkit judges config.toml, which davit and NVIDIA's toolkit share.
func (e *exam) toolkit() {
	if !e.root.Exists(toolkitFile) {
		e.none("none, defaults hold")
		return
	}
	f := e.readTOML("toolkit", toolkitFile)
	if f == nil {
		return
	}
	e.line("%s", toolkitFile)
	if e.o.ConfigError != nil {
		e.add(finding.Finding{ID: "toolkit-config-invalid", Severity: finding.Error, Gate: "engine", Layer: "engine", File: f.name,
			Summary: "davit cannot use its configuration: " + strings.TrimSuffix(e.o.ConfigError.Error(), ".") + ".", Why: "No container with a GPU starts with it.", Because: because(f.name, e.o.ConfigError.Error()),
			Remediation: fix("none", "mend the value; docs/configuration.md lists what it may be")})
	}
	e.ldconfig(f)
	e.modeAndRoot(f)
	if f.get("nvidia-container-cli", "no-cgroups") == true {
		e.noCgroups(f)
	} else {
		e.rootlessCgroups(f)
	}
	if list := f.list("nvidia-container-runtime", "runtimes"); len(list) > 0 && e.programs && len(e.engines) > 0 {
		if !slices.ContainsFunc(list, func(r string) bool { return e.program(r) != "" }) {
			e.lowLevel(f, list)
		}
	}
	if f.get("disable-require") == true {
		e.note("disable-require = true: an image's demands on the driver are not asked")
	}
}

// lowLevel tells where the low-level runtime is, if not on the PATH.
func (e *exam) lowLevel(f *tomlFile, list []string) {
	var there []string
	for _, p := range append([]string{"/var/lib/k0s/bin/runc", "/usr/libexec/crio/runc", "/usr/libexec/crio/crun", "/snap/microk8s/current/bin/runc", "/var/lib/rancher/k3s/data/current/bin/runc",
		"/var/lib/rancher/rke2/bin/runc", "/opt/rke2/bin/runc", "/usr/lib/cri-o-runc/sbin/runc"}, e.lowLevelOf...) {
		if e.program(p) != "" && !slices.Contains(there, p) {
			there = append(there, p)
		}
	}
	for _, n := range []string{"runc", "crun"} {
		if p := e.program(n); p != "" {
			there = append(there, p)
		}
	}
	if len(there) == 0 {
		e.note("none of the low-level runtimes of %s is on the PATH: %s", f.name, strings.Join(list, ", "))
		return
	}
	line := f.line("nvidia-container-runtime", "runtimes")
	e.add(finding.Finding{ID: "low-level-runtime-not-found", Severity: finding.Error, Gate: "engine", Layer: "engine", File: f.name, Line: line,
		Summary: fmt.Sprintf("None of the low-level runtimes of %s:%d is on the PATH (%s); this host's is %s: \"no runtime binary found from candidate list\".", f.name, line, strings.Join(list, ", "), there[0]),
		Because: because(fmt.Sprintf("%s:%d", f.name, line), "runtimes = "+strings.Join(list, ", "), there[0], "exists"), Why: "nvidia-container-runtime looks for the low-level runtime by these names.",
		Remediation: fix("none", fmt.Sprintf("name it by its absolute path: runtimes = [%q]", there[0]))})
}

// ldconfig judges the path of the program that renews a loader's cache.
func (e *exam) ldconfig(f *tomlFile) {
	value := f.str("nvidia-container-cli", "ldconfig")
	if value == "" {
		return
	}
	line := f.line("nvidia-container-cli", "ldconfig")
	at := strings.HasPrefix(value, "@")
	p := strings.TrimPrefix(value, "@")
	right := "@/sbin/ldconfig"
	if e.program("/sbin/ldconfig.real") != "" || e.program("/usr/sbin/ldconfig.real") != "" || e.family() == "debian" && e.os["ID"] != "debian" && e.program("/sbin/ldconfig") == "" && e.program("/usr/sbin/ldconfig") == "" {
		right = "@/sbin/ldconfig.real"
	}
	missing := e.programs || e.root.Exists("/usr/sbin") || e.root.Exists("/sbin")
	missing = missing && path.IsAbs(p) && !e.root.Exists(p)
	// Without programs to look at, the distribution's name decides.
	if !e.programs && !e.root.Exists("/usr/sbin") && len(e.os) > 0 && strings.HasSuffix(p, "ldconfig.real") && e.family() != "debian" {
		missing = true
	}
	if !missing && at {
		return
	}
	finds := finding.Finding{ID: "ldconfig-path-wrong", Severity: finding.Error, Gate: "engine", Layer: "engine", File: f.name, Line: line, Because: because(fmt.Sprintf("%s:%d", f.name, line), "ldconfig = "+value)}
	var wrong []string
	if missing {
		whose := ""
		if strings.HasSuffix(p, ".real") {
			whose = "; it belongs to Ubuntu and what derives from it"
		}
		wrong = append(wrong, fmt.Sprintf("%s does not exist on this host%s", p, whose))
		finds.Because = append(finds.Because, because(p, "does not exist")...)
	}
	if !at {
		wrong = append(wrong, "without a leading @ the program is taken from inside the container, and a program of the image runs with the hook's rights (a security hole)")
	}
	finds.Summary = fmt.Sprintf("The ldconfig path %q at %s:%d is wrong: %s.", value, f.name, line, strings.Join(wrong, "; and "))
	finds.Why = "The file was copied from another distribution, or written by hand."
	if !missing {
		finds.Why = "The @ says that the path is one of the host."
	}
	finds.Remediation = fix("none", fmt.Sprintf("set ldconfig = %q", right), fmt.Sprintf(`sed -i 's|^\( *ldconfig *= *\).*|\1"%s"|' %s`, right, f.name))
	e.add(finds)
}

func (e *exam) modeAndRoot(f *tomlFile) {
	mode := f.str("nvidia-container-runtime", "mode")
	if mode != "" && !slices.Contains([]string{"auto", "legacy", "cdi", "jit-cdi", "csv"}, mode) {
		line := f.line("nvidia-container-runtime", "mode")
		e.add(finding.Finding{ID: "toolkit-mode-unknown", Severity: finding.Error, Gate: "engine", Layer: "engine", File: f.name, Line: line,
			Summary: fmt.Sprintf("%s:%d has the unknown mode %q.", f.name, line, mode), Because: because(fmt.Sprintf("%s:%d", f.name, line), "mode = "+mode), Remediation: fix("none", `set mode = "auto"`)})
	}
	if mode == "cdi" || mode == "jit-cdi" {
		e.legacy = nil // devices are in the container's own configuration
	}
	root := f.str("nvidia-container-cli", "root")
	if root == "" || root == "/" || !e.whole {
		return
	}
	line := f.line("nvidia-container-cli", "root")
	has := false
	if sub, err := e.root.Sub(root); err == nil {
		for _, d := range libFolders {
			entries, _ := sub.ReadDir(d)
			for _, n := range entries {
				has = has || strings.HasPrefix(n.Name, "libcuda.so") || strings.HasPrefix(n.Name, "libnvidia-ml.so")
			}
		}
	}
	if !has {
		e.add(finding.Finding{ID: "driver-root-missing", Severity: finding.Error, Gate: "engine", Layer: "engine", File: f.name, Line: line,
			Summary: fmt.Sprintf("%s:%d says that the driver lies below %s, where there is none.", f.name, line, root), Because: because(fmt.Sprintf("%s:%d", f.name, line), "root = "+root, root, "no libcuda.so"),
			Why: "A driver container once lay there, or the path is wrong.", Remediation: fix("none", "take the line away if the driver is installed on the host itself")})
	}
}

// noCgroups tells the switch for rootless engines where a daemon of root is.
func (e *exam) noCgroups(f *tomlFile) {
	if !slices.Contains(e.legacy, "docker") && !slices.Contains(e.legacy, "containerd") {
		return
	}
	line := f.line("nvidia-container-cli", "no-cgroups")
	e.add(finding.Finding{ID: "no-cgroups-with-system-engine", Severity: finding.Warning, Gate: "engine", Layer: "engine", File: f.name, Line: line,
		Summary: fmt.Sprintf("%s:%d has no-cgroups = true, which is for rootless engines; containers of this host's %s do not get the right to open the GPU: \"Failed to initialize NVML: Unknown Error\".", f.name, line, strings.Join(e.legacy, " and ")),
		Because: because(fmt.Sprintf("%s:%d", f.name, line), "no-cgroups = true"), Why: "One file serves all engines of the host.",
		Remediation: fix("none", "set no-cgroups = false; a rootless engine takes CDI instead", "sed -i 's|^\\( *no-cgroups *= *\\)true|\\1false|' "+f.name)})
}

// rootlessCgroups tells the reverse.
func (e *exam) rootlessCgroups(f *tomlFile) {
	configs, err := engine.FindDocker(e.root)
	if err != nil || slices.Contains(e.legacy, "docker") {
		return
	}
	for _, c := range configs {
		if c.Kind != engine.DockerRootless || !strings.Contains(string(c.Data), "nvidia") {
			continue
		}
		e.add(finding.Finding{ID: "rootless-hook-cannot-set-device-rules", Severity: finding.Warning, Gate: "engine", Layer: "engine", File: f.name,
			Summary: fmt.Sprintf("The rootless docker of user %s uses the runtime nvidia, and %s does not say no-cgroups = true: NVIDIA's hook fails to set device rules.", c.User, f.name),
			Because: because(c.File, "runtime nvidia", f.name, "no-cgroups is not true"), Remediation: fix("none", "use CDI with it (davit does), or set no-cgroups = true if no engine of root uses the hook")})
		return
	}
}
