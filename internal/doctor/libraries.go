// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"davit/internal/finding"
	"davit/internal/loader"
)

// libFolders are where drivers put libraries; those beside the chosen set may
// hold leftovers.
var libFolders = []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib", "/usr/local/lib64",
	"/lib64", "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu/nvidia/current", "/usr/lib/x86_64-linux-gnu/nvidia", "/usr/lib64/nvidia", "/usr/lib/nvidia",
	"/usr/lib/nvidia/current", "/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/opt/nvidia/lib64", "/usr/lib/i386-linux-gnu", "/usr/lib32"}

// defaultFolders are searched by a loader without asking its cache.
var defaultFolders = []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/lib64", "/lib", "/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu"}

// libSet are the driver libraries of one version in one folder.
type libSet struct {
	dir, version string
	files        []string
}

// sets finds every version of the driver's libraries on the host.
func (e *exam) sets() (list []libSet) {
	seen := map[string]bool{}
	for _, dir := range append(slices.Clone(e.facts.Driver.LibDirs), libFolders...) {
		real, err := e.root.Resolve(dir)
		if err != nil || seen[real] || e.facts.Driver.Root != "/" && e.facts.Driver.Root != "" {
			continue
		}
		seen[real] = true
		found := map[string]*libSet{}
		for _, n := range e.names(real) {
			base, version, ok := strings.Cut(n, ".so.")
			if !ok || !strings.HasPrefix(n, "lib") || strings.Trim(version, "0123456789.") != "" || numbers(version)[0] < 100 || !strings.Contains(version, ".") {
				continue
			}
			if base != "libcuda" && !strings.HasPrefix(base, "libnvidia-") && !strings.Contains(base, "_nvidia") && base != "libnvcuvid" {
				continue
			}
			if found[version] == nil {
				found[version] = &libSet{dir: real, version: version}
			}
			found[version].files = append(found[version].files, real+"/"+n)
		}
		for _, s := range found {
			core := func(f string) bool {
				return strings.HasPrefix(path.Base(f), "libcuda.") || strings.HasPrefix(path.Base(f), "libnvidia-ml.")
			}
			if slices.ContainsFunc(s.files, core) {
				list = append(list, *s)
			}
		}
	}
	slices.SortFunc(list, func(a, b libSet) int { return strings.Compare(a.dir+a.version, b.dir+b.version) })
	return list
}

// cacheEntries are what the loader's cache says about the driver.
func (e *exam) cacheEntries() (all int, list []loader.Entry) {
	data, err := e.root.ReadFile("/etc/ld.so.cache")
	if err != nil {
		return 0, nil
	}
	c, err := loader.Parse(data)
	if err != nil {
		return 0, nil
	}
	for _, entry := range c.Entries {
		if strings.HasPrefix(entry.Name, "libcuda.so") || strings.HasPrefix(entry.Name, "libnvidia-ml.so") {
			list = append(list, entry)
		}
	}
	return len(c.Entries), list
}

// libraries judges the user space of the driver.
func (e *exam) libraries() {
	module, libs := e.facts.Driver.Version, e.facts.Driver.LibraryVersion
	switch {
	case !e.whole || e.wsl || module == "" && !e.driverBad:
		e.none("not examined")
		return
	case e.driverBad:
		e.skip("not reached")
		return
	case libs == "":
		e.driverBad = true
		if _, cached := e.cacheEntries(); len(cached) > 0 && e.root.Exists(cached[0].Path) {
			dir := path.Dir(cached[0].Path)
			e.add(finding.Finding{ID: "driver-in-unusual-folder", Severity: finding.Error, Gate: "libraries",
				Summary: fmt.Sprintf("The driver's libraries lie in %s, where neither davit nor NVIDIA's toolkit looks.", dir), Because: because("/etc/ld.so.cache", cached[0].Name+" => "+cached[0].Path),
				Why: "The host's own loader finds them by its cache.", Remediation: fix("none", "link the folder to a usual one, or, if it is a whole root of its own, name that in config.toml (nvidia-container-cli.root)", "ln -s "+dir+" /usr/local/nvidia/lib64")})
			return
		}
		e.add(finding.Finding{ID: "driver-libraries-not-found", Severity: finding.Error, Gate: "libraries",
			Summary:     fmt.Sprintf("Kernel module %s is loaded, but libcuda.so and libnvidia-ml.so are in none of the usual folders.", module),
			Why:         "Only the kernel's half of the driver is installed, or the other half lies below another root (a driver container, a snap).",
			Because:     because("/proc/driver/nvidia/version", module, "libcuda.so.*", "not found"),
			Remediation: fix("none", "install the user space of the same version on the host, or name its root in config.toml (nvidia-container-cli.root)", e.userSpace(module)...)})
		e.line("none")
		return
	case libs != module:
		e.mismatch(module, libs)
		return
	}
	e.line("version %s in %s, as the kernel module", libs, strings.Join(e.facts.Driver.LibDirs, ", "))
	e.leftovers(libs)
	if !e.driverBad {
		e.complete(libs)
	}
}

func (e *exam) userSpace(module string) []string {
	branch, _, _ := strings.Cut(module, ".")
	switch {
	case e.family() == "debian" && e.os["ID"] != "debian":
		return []string{"apt-get install libnvidia-compute-" + branch + " nvidia-utils-" + branch}
	case e.family() == "debian":
		return []string{"apt-get install libcuda1 nvidia-smi"}
	case e.family() == "rhel":
		return []string{"dnf install nvidia-driver-cuda"}
	case e.family() == "fedora":
		return []string{"dnf install xorg-x11-drv-nvidia-cuda"}
	}
	return nil
}

func (e *exam) mismatch(module, libs string) {
	e.driverBad = true
	e.line("version %s, kernel module %s", libs, module)
	evidence := because("/proc/driver/nvidia/version", module, "libcuda.so", libs)
	why := "Packages were upgraded, probably unattended, while the old module stayed loaded."
	if pkgs := e.text("/var/run/reboot-required.pkgs"); strings.Contains(pkgs, "nvidia") {
		evidence = append(evidence, finding.Evidence{Source: "/var/run/reboot-required.pkgs", Value: strings.ReplaceAll(pkgs, "\n", ", ")})
	}
	e.add(finding.Finding{ID: "driver-library-mismatch", Severity: finding.Error, Gate: "libraries",
		Summary: fmt.Sprintf("The loaded kernel module is %s, and the libraries are %s: every container with a GPU fails with \"driver/library version mismatch\".", module, libs),
		Why:     why, Because: evidence, Avoid: "Images and engines have no part in it.", Confirm: []string{"cat /proc/driver/nvidia/version", "ldconfig -p | grep libcuda"},
		Remediation: fix("reboot", "reboot, or stop all that uses the GPU and reload the nvidia modules; hold the packages against unattended upgrades if this must not happen again",
			"reboot", "# or: systemctl stop nvidia-persistenced; rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia; modprobe nvidia nvidia_uvm")})
}

// leftovers are libraries of another version beside the right ones.
func (e *exam) leftovers(version string) {
	_, cached := e.cacheEntries()
	var first libSet
	var dirs, versions, files []string
	for _, s := range e.sets() {
		if s.version == version {
			continue
		}
		// Both versions in one folder, and the loader's link leads to the other:
		// that is an upgrade without a reboot, not a leftover.
		if real, err := e.root.Resolve(s.dir + "/libcuda.so.1"); err == nil && len(e.facts.Driver.LibDirs) > 0 && s.dir == e.facts.Driver.LibDirs[0] && path.Base(real) == "libcuda.so."+s.version {
			e.mismatch(version, s.version)
			return
		}
		if first.dir == "" {
			first = s
		}
		if !slices.Contains(dirs, s.dir) {
			dirs = append(dirs, s.dir)
		}
		if !slices.Contains(versions, s.version) {
			versions = append(versions, s.version)
		}
		files = append(files, s.files...)
	}
	if first.dir == "" {
		e.compat(cached)
		return
	}
	f := finding.Finding{ID: "leftover-second-driver", Severity: finding.Warning, Gate: "libraries",
		Summary: fmt.Sprintf("Libraries of a second driver lie on this host: %s in %s, beside the right ones %s in %s.", strings.Join(versions, ", "), strings.Join(dirs, ", "), version, strings.Join(e.facts.Driver.LibDirs, ", ")),
		Why:     "An earlier installation, mostly with the .run file, was not removed before the packages came.", File: first.dir}
	f.Because = because("/proc/driver/nvidia/version", version)
	for _, file := range files[:min(len(files), 4)] {
		f.Because = append(f.Because, finding.Evidence{Source: file, Value: "left over"})
	}
	for _, c := range cached {
		real, err := e.root.Resolve(c.Path)
		if err == nil && slices.Contains(files, real) {
			f.Severity = finding.Error
			f.Because = append(f.Because, finding.Evidence{Source: "/etc/ld.so.cache", Value: c.Name + " => " + c.Path + ", which is " + path.Base(real)})
		}
	}
	if f.Severity == finding.Error {
		f.Why += " The loader's cache prefers them, so that programs of the host, and tools that ask the cache, take the wrong version."
	}
	var commands []string
	if p := e.program("nvidia-uninstall"); p != "" {
		f.Because = append(f.Because, finding.Evidence{Source: p, Value: "from the .run file"})
		commands = append(commands, "# do not run nvidia-uninstall beside packages: it may take their files too")
	}
	for _, s := range e.sets() {
		if s.version != version {
			commands = append(commands, fmt.Sprintf("rm %s/lib*.so.%s", s.dir, s.version))
		}
	}
	commands = append(commands, "ldconfig", "ldconfig -p | grep -e libcuda -e libnvidia-ml")
	f.Remediation = fix("none", fmt.Sprintf("remove the files of version %s from %s, and the links to them, then renew the loader's cache", strings.Join(versions, ", "), strings.Join(dirs, ", ")), commands...)
	e.add(f)
}

// compat tells a forward-compatibility libcuda that the host's loader takes.
func (e *exam) compat(cached []loader.Entry) {
	for _, c := range cached {
		if strings.Contains(c.Path, "/compat") && strings.HasPrefix(c.Name, "libcuda.so") {
			e.add(finding.Finding{ID: "compat-library-on-host", Severity: finding.Error, Gate: "libraries",
				Summary: "The loader of this host takes libcuda from a compatibility package (" + c.Path + "), not from the driver.",
				Why:     "cuda-compat is for images; on the host it gives error 803 or 804, and containers may inherit it.",
				Because: because("/etc/ld.so.cache", c.Name+" => "+c.Path), Remediation: fix("none", "remove the package cuda-compat-… from the host, and its line in /etc/ld.so.conf.d", "ldconfig")})
			return
		}
	}
}

// complete judges whether what each container needs is there, and is found.
func (e *exam) complete(version string) {
	var missing, closed []string
	have := map[string]bool{}
	for _, f := range e.facts.Files {
		base, _, _ := strings.Cut(f.Name, ".so")
		if f.Bits != 32 {
			have[base] = true
		}
		in := strings.TrimPrefix(f.Host, strings.TrimSuffix(e.root.Dir(), "/"))
		if info, err := e.root.Stat(in); err == nil && info.Mode().IsRegular() && info.Mode()&0o004 == 0 {
			closed = append(closed, in)
		}
	}
	for _, lib := range []string{"libcuda", "libnvidia-ml"} {
		if !have[lib] {
			missing = append(missing, lib+".so."+version)
		}
	}
	if len(missing) > 0 {
		e.add(finding.Finding{ID: "driver-libraries-incomplete", Severity: finding.Error, Gate: "libraries",
			Summary:     "The driver's libraries are incomplete: " + strings.Join(missing, ", ") + " " + areNot(len(missing)) + " there.",
			Why:         "Part of the packages is missing or of another version.",
			Because:     because(strings.Join(e.facts.Driver.LibDirs, ", "), "no "+strings.Join(missing, ", ")),
			Remediation: fix("none", "install the rest of the same version", e.userSpace(version)...)})
	} else if !have["libnvidia-ptxjitcompiler"] {
		e.add(finding.Finding{ID: "driver-libraries-incomplete", Severity: finding.Warning, Gate: "libraries",
			Summary: "libnvidia-ptxjitcompiler.so." + version + " is not there: programs that carry PTX for a newer GPU fail (error 221).",
			Because: because(strings.Join(e.facts.Driver.LibDirs, ", "), "no libnvidia-ptxjitcompiler"), Remediation: fix("none", "install the rest of the same version", e.userSpace(version)...)})
	}
	if len(closed) > 0 {
		e.add(finding.Finding{ID: "driver-files-not-readable", Severity: finding.Error, Gate: "libraries",
			Summary:     fmt.Sprintf("%s of the driver may be read by one user alone, such as %s: programs in containers get \"permission denied\".", plural(len(closed), "file"), closed[0]),
			Because:     because(closed[0], "no right to read for others"),
			Remediation: fix("none", "owner root, and readable for all", "chown root:root "+strings.Join(closed, " "), "chmod a+rX "+strings.Join(closed, " "))})
	}
	e.found()
}

// found judges whether the host's own loader finds the libraries.
func (e *exam) found() {
	all, cached := e.cacheEntries()
	if all == 0 || e.facts.Driver.Root != "/" || len(e.facts.Driver.LibDirs) == 0 {
		return
	}
	dir := e.facts.Driver.LibDirs[0]
	for _, c := range cached {
		if strings.HasPrefix(c.Name, "libcuda.so.1") {
			if _, err := e.root.Resolve(c.Path); err == nil {
				return
			}
			e.add(finding.Finding{ID: "loader-cache-stale", Severity: finding.Warning, Gate: "libraries",
				Summary: "The loader's cache names " + c.Path + ", which does not exist.", Because: because("/etc/ld.so.cache", c.Name+" => "+c.Path),
				Why: "The driver was replaced and the cache was not renewed.", Remediation: fix("none", "renew it", "ldconfig")})
			return
		}
	}
	if !slices.Contains(defaultFolders, dir) {
		e.note("the host's own loader does not know %s; programs of the host may not find CUDA, containers do", dir)
	}
}

// tools are what people look with.
func (e *exam) tools() {
	if e.driverBad || !e.whole || e.facts.Driver.Version == "" {
		e.skip("not reached")
		if !e.whole {
			e.none("not examined")
		}
		return
	}
	smi := ""
	for _, f := range e.facts.Files {
		if f.Name == "nvidia-smi" {
			smi = strings.TrimPrefix(f.Host, strings.TrimSuffix(e.root.Dir(), "/"))
		}
	}
	if smi == "" {
		e.note("no nvidia-smi: containers get none either")
		e.line("no nvidia-smi")
	} else {
		e.line("%s", smi)
	}
	if len(e.facts.GPUs) >= 4 && !e.root.Exists("/run/nvidia-persistenced/socket") && !e.root.Exists("/var/run/nvidia-persistenced/socket") {
		e.note("no persistence daemon: with %d GPUs each first start takes seconds (systemctl enable --now nvidia-persistenced)", len(e.facts.GPUs))
	}
}
