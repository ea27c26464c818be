// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"slices"
	"strings"

	"davit/internal/cdi"
	"davit/internal/finding"
)

// cdi judges the CDI specifications of the host.
func (e *exam) cdi() {
	files, err := cdi.ReadFolders(e.root, cdi.Folders)
	if err != nil {
		e.add(finding.Finding{ID: "could-not-examine", Severity: finding.Warning, Gate: "engine", Layer: "engine", Summary: "A CDI specification could not be read: " + err.Error()})
		return
	}
	e.otherFolders(files)
	if len(files) == 0 {
		if len(e.cur.Findings) > 0 {
			return
		}
		e.none("no specifications in " + strings.Join(cdi.Folders, ", "))
		return
	}
	var names, kinds []string
	for _, f := range files {
		names = append(names, f.Name)
		if !slices.Contains(kinds, f.Spec.Kind) {
			kinds = append(kinds, f.Spec.Kind)
		}
		bad := false
		for _, x := range f.Findings {
			e.addSpec(x)
			bad = bad || x.Severity == finding.Error
		}
		if bad {
			continue
		}
		e.tooNew(f)
		if e.whole && (strings.HasPrefix(f.Spec.Kind, "nvidia.com/") || strings.Contains(f.Spec.Kind, ".nvidia.com/")) {
			e.freshness(f)
		}
		if info, err := e.root.Stat(f.Name); err == nil && info.Mode()&0o004 == 0 {
			e.addSpec(finding.Finding{ID: "cdi-spec-not-readable", Severity: finding.Warning, Gate: "engine", File: f.Name,
				Summary: fmt.Sprintf("%s may be read by its owner alone (mode %04o): rootless engines find no device in it.", f.Name, info.Mode().Perm()), Because: because(f.Name, fmt.Sprintf("mode %04o", info.Mode().Perm())),
				Remediation: fix("none", "make it readable", "chmod 644 "+f.Name)})
		}
	}
	for _, x := range cdi.Together(files) {
		e.addSpec(x)
	}
	e.line("%s", strings.Join(names, ", "))
	vendors := slices.DeleteFunc(slices.Clone(kinds), func(k string) bool { return strings.HasPrefix(k, "nvidia.com/") || strings.Contains(k, "nvidia.com/") })
	if len(vendors) > 0 && len(vendors) < len(kinds) {
		if slices.Contains(e.engines, "docker") {
			e.addSpec(finding.Finding{ID: "gpus-flag-may-take-another-vendor", Severity: finding.Warning, Gate: "engine",
				Summary: fmt.Sprintf("Beside NVIDIA's, there are specifications of %s: docker's --gpus takes the vendor that it finds first.", strings.Join(vendors, ", ")), Because: because(names[0], strings.Join(kinds, ", ")),
				Remediation: fix("none", "ask by the full name", "docker run --device nvidia.com/gpu=all …")})
			return
		}
		e.note("other vendors have specifications too (%s): docker's --gpus takes the one it finds first; the full name nvidia.com/gpu=all is sure", strings.Join(vendors, ", "))
	}
}

// otherFolders tells specifications where an engine of this host does not look.
func (e *exam) otherFolders(files []*cdi.File) {
	const run, varRun = "/run/cdi", "/var/run/cdi"
	if a, err := e.root.Resolve(run); err == nil {
		b, berr := e.root.Resolve(varRun)
		names := e.names(run)
		if (berr != nil || a != b) && len(names) > 0 {
			e.addSpec(finding.Finding{ID: "cdi-spec-in-other-folder", Severity: finding.Warning, Gate: "engine", File: run + "/" + names[0],
				Summary: fmt.Sprintf("%s/%s lies where most engines do not look: they read /etc/cdi and /var/run/cdi, and /var/run is no link to /run on this host.", run, names[0]),
				Because: because(run, strings.Join(names, ", "), varRun, "another folder, or none"), Remediation: fix("none", "move it to /etc/cdi, or name the folder in the engine's settings (cdi-spec-dirs)", "mv "+run+"/"+names[0]+" /etc/cdi/")})
		}
	}
	count := 0
	volatile, stable := "", false
	for _, f := range files {
		count++
		if strings.Contains(f.Spec.Kind, "nvidia.com/") {
			if strings.HasPrefix(f.Name, varRun) {
				volatile = f.Name
			} else {
				stable = true
			}
		}
	}
	if count > 200 {
		e.addSpec(finding.Finding{ID: "cdi-too-many-files", Severity: finding.Warning, Gate: "engine",
			Summary: fmt.Sprintf("%d CDI specifications lie on this host: engines read all of them again and again.", count), Because: because(files[0].Name, "and "+fmt.Sprint(count-1)+" more"),
			Why: "Something writes one for each container and never removes it.", Remediation: fix("restart", "find out what writes them, remove them, and restart the engine")})
	}
	if volatile != "" && !stable && e.rootless {
		e.addSpec(finding.Finding{ID: "rootless-engine-hides-var-run", Severity: finding.Warning, Gate: "engine", File: volatile,
			Summary: volatile + " is not seen by the rootless docker of this host, which has a /var/run of its own.", Because: because(volatile, "in /var/run"),
			Remediation: fix("none", "write the specification to /etc/cdi", "davit cdi generate --output /etc/cdi/nvidia.yaml")})
	}
}

// addSpec keeps what is only worth knowing out of the findings.
func (e *exam) addSpec(f finding.Finding) {
	if f.Severity == finding.Info || f.Severity == finding.OK {
		e.note("%s", f.Summary)
		return
	}
	f.Layer = "engine"
	if f.Gate == "" {
		f.Gate = "engine"
	}
	if f.File != "" && !strings.Contains(f.Summary, f.File) {
		f.Summary = f.File + ": " + f.Summary
	}
	e.add(f)
}

// freshness compares a specification with the host.
func (e *exam) freshness(f *cdi.File) {
	if e.driverBad {
		e.note("%s was not compared with the driver, which is not in order", f.Name)
		return
	}
	old := f.Against(e.root, e.facts.Identity())
	old = slices.DeleteFunc(old, e.followsFromNodes)
	for _, x := range old {
		e.addSpec(x)
	}
	if len(old) > 0 {
		return
	}
	var nodes []string
	edits := f.Spec.ContainerEdits.DeviceNodes
	for _, d := range f.Spec.Devices {
		edits = append(edits, d.ContainerEdits.DeviceNodes...)
	}
	gives := false
	for _, n := range edits {
		nodes = append(nodes, n.Path)
		gives = gives || strings.HasPrefix(n.Path, "/dev/nvidia") && len(n.Path) > len("/dev/nvidia") && n.Path[len("/dev/nvidia")] <= '9'
	}
	if !gives || len(e.facts.GPUs) == 0 || slices.Contains(nodes, "/dev/nvidia-uvm") {
		return
	}
	rem := fix("none", "write the specification again, once the node is there", "davit cdi generate --output "+f.Name)
	e.addSpec(finding.Finding{ID: "cdi-spec-incomplete", Severity: finding.Error, Gate: "engine", File: f.Name,
		Summary: f.Name + " gives the GPU without /dev/nvidia-uvm: in containers nvidia-smi works and CUDA does not.",
		Why:     "The specification was written while that node did not exist, and stays so until it is written again.", Because: because(f.Name, "no /dev/nvidia-uvm"), Remediation: rem})
}

// followsFromNodes says whether a specification is wrong only because the
// host's own nodes are, which was told.
func (e *exam) followsFromNodes(f finding.Finding) bool {
	i := slices.IndexFunc(e.res.Areas, func(a Area) bool { return a.Name == "device nodes" })
	if i < 0 || e.res.Areas[i].State != Error {
		return false
	}
	switch f.ID {
	case "cdi-spec-wrong-device-number":
		return slices.ContainsFunc(e.res.Areas[i].Findings, func(f finding.Finding) bool { return f.ID == "device-node-wrong-number" })
	case "cdi-spec-stale":
		return len(f.Because) > 0 && !slices.ContainsFunc(f.Because, func(b finding.Evidence) bool {
			return !strings.HasPrefix(b.Value, "/dev/nvidia")
		})
	}
	return false
}

// tooNew tells engines of this host that drop the file for its version.
func (e *exam) tooNew(f *cdi.File) {
	for _, x := range []struct{ engine, version string }{
		{"docker", e.version("docker", e.output("docker", "info"), "Server Version")}, {"podman", e.version("podman", "", "")}, {"containerd", e.version("containerd", "", "")}} {
		newest, ok := newestCDI(x.engine, x.version)
		if x.version == "" || !ok || newest == "" || !older(newest, f.Spec.Version) {
			continue
		}
		e.addSpec(finding.Finding{ID: "cdi-spec-too-new-for-engine", Severity: finding.Error, Gate: "engine", File: f.Name,
			Summary: fmt.Sprintf("%s has CDI version %s, and %s %s takes at most %s: it drops the whole file, and says \"unresolvable CDI devices\".", f.Name, f.Spec.Version, x.engine, x.version, newest),
			Because: because(f.Name, "cdiVersion: "+f.Spec.Version, x.engine+" --version", x.version), Remediation: fix("none", "write it again in the lowest version that holds it, as davit does", "davit cdi generate --output "+f.Name)})
	}
}

// newestCDI is the newest version of CDI that an engine takes; "" if it has no
// CDI. As of 2026-11.
func newestCDI(engine, version string) (string, bool) {
	steps := map[string][][2]string{
		"docker":     {{"25.0", "0.6.0"}, {"26.0", "0.7.0"}, {"27.0", "0.8.0"}, {"28.2", "1.0.0"}, {"29.2", "1.1.0"}},
		"podman":     {{"4.1", "0.5.0"}, {"5.0", "0.8.0"}, {"5.6", "1.0.0"}},
		"containerd": {{"1.7", "0.8.0"}, {"2.0", "1.0.0"}, {"2.3", "1.1.0"}},
	}[engine]
	newest := ""
	for _, s := range steps {
		if !older(version, s[0]) {
			newest = s[1]
		}
	}
	return newest, steps != nil
}
