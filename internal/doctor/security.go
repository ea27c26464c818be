// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"davit/internal/finding"
	"davit/internal/nvidia"
)

// security looks at SELinux and at hidden processes.
func (e *exam) security() {
	if !e.whole {
		e.none("not examined")
		return
	}
	enforcing := e.text("/sys/fs/selinux/enforce") == "1" || strings.TrimSpace(e.output("getenforce")) == "Enforcing" || field(e.output("sestatus"), "Current mode") == "enforcing"
	e.line("SELinux is not enforcing")
	if enforcing {
		e.line("SELinux is enforcing")
		boolean := e.text("/sys/fs/selinux/booleans/container_use_devices")
		for line := range strings.Lines(e.output("getsebool")) {
			if f := strings.Fields(line); boolean == "" && len(f) == 3 && f[0] == "container_use_devices" {
				boolean = map[string]string{"on": "1", "off": "0"}[f[2]]
			}
		}
		labelled := slices.Contains(e.engines, "podman") || slices.Contains(e.engines, "cri-o") || slices.Contains(e.engines, "docker") && strings.Contains(e.text("/etc/docker/daemon.json"), `"selinux-enabled": true`)
		if strings.HasPrefix(boolean, "0") && labelled && !e.driverBad {
			e.add(finding.Finding{ID: "selinux-denies-device", Severity: finding.Warning, Gate: "nodes",
				Summary: "SELinux is enforcing and container_use_devices is off: containers are denied the GPU's nodes (\"Insufficient Permissions\"), unless a policy for them is installed.",
				Because: because("/sys/fs/selinux/enforce", "1", "container_use_devices", "off"), Confirm: []string{"ausearch -m avc -ts recent | grep nvidia"},
				Avoid: "Do not switch SELinux off as a whole.", Remediation: fix("none", "switch the boolean on", "setsebool -P container_use_devices 1")})
		}
	}
	for line := range strings.Lines(e.text("/proc/mounts")) {
		f := strings.Fields(line)
		if len(f) > 3 && f[1] == "/proc" && (strings.Contains(f[3], "hidepid=2") || strings.Contains(f[3], "hidepid=invisible")) && len(e.legacy) > 0 {
			e.add(finding.Finding{ID: "proc-hidden-from-hook", Severity: finding.Warning, Gate: "engine",
				Summary: "/proc is mounted with hidepid: NVIDIA's hook cannot see the container's process and fails.", Because: because("/proc/mounts", strings.TrimSpace(line)),
				Remediation: fix("none", "mount it without hidepid, or with a group that may look (gid=)", "mount -o remount,hidepid=0 /proc")})
		}
	}
}

// reload foresees that systemd takes the GPU away from running containers.
func (e *exam) reload() {
	switch {
	case e.driverBad || len(e.facts.GPUs) == 0:
		e.skip("not reached")
		if !e.whole {
			e.none("not examined")
		}
		return
	case len(e.legacy) == 0:
		e.none("no engine gives devices behind systemd's back")
		return
	}
	nodes := slices.Clone(e.facts.Control)
	for _, g := range e.facts.GPUs {
		if g.Node != nil {
			nodes = append(nodes, *g.Node)
		}
	}
	e.res.Links = e.links(nodes)
	if len(e.res.Links) == 0 {
		e.line("/dev/char has the links that systemd needs")
		return
	}
	at := slices.IndexFunc(e.legacy, func(engine string) bool { return e.systemd[engine] != "" })
	if at < 0 {
		e.line("cgroups are not systemd's")
		return
	}
	source, value, _ := strings.Cut(e.systemd[e.legacy[at]], ": ")
	names := make([]string, 0, len(e.res.Links))
	for l := range e.res.Links {
		names = append(names, l)
	}
	slices.Sort(names)
	var commands []string
	for _, l := range names {
		commands = append(commands, "ln -s "+e.res.Links[l]+" "+l)
	}
	e.add(finding.Finding{ID: "gpu-will-be-lost-on-reload", Severity: finding.Warning, Gate: "nodes",
		Summary: "Nothing is broken now, but the next systemctl daemon-reload will take the GPU away from running containers (\"Failed to initialize NVML: Unknown Error\"): /dev/char has no links for its nodes.",
		Why:     fmt.Sprintf("Three things meet: %s's cgroups are systemd's, the devices are added by a hook or runtime behind systemd's back, and systemd finds a device only by its link in /dev/char.", e.legacy[at]),
		Because: because(source, value, names[0], "does not exist"), Confirm: []string{"ls -l /dev/char | grep nvidia"},
		Remediation: fix("none", "create the links (davit doctor --fix makes them now; davit watch, or a udev rule, at each boot); or ask for devices by CDI; or set the engine to the cgroupfs driver", commands...)})
}

// links are those that /dev/char lacks.
func (e *exam) links(nodes []nvidia.Node) map[string]string {
	missing := map[string]string{}
	for _, n := range nodes {
		l := fmt.Sprintf("/dev/char/%d:%d", n.Major, n.Minor)
		if _, err := e.root.Lstat(l); notThere(err) {
			missing[l] = "../" + strings.TrimPrefix(n.Path, "/dev/")
		}
	}
	return missing
}

// fabric judges NVSwitch machines and IMEX.
func (e *exam) fabric() {
	switches := slices.ContainsFunc(e.pci, func(d pciDevice) bool { return d.bridge() }) ||
		slices.ContainsFunc(e.names("/dev"), func(n string) bool { return strings.HasPrefix(n, "nvidia-nvswitch") && n != "nvidia-nvswitchctl" })
	if !switches {
		e.none("no NVSwitch")
		return
	}
	if e.driverBad {
		e.skip("not reached")
		return
	}
	binary := e.program("nv-fabricmanager")
	running, known := e.process("nv-fabricmana", "nvidia-fabricmanager")
	version := firstVersion(e.output("nv-fabricmanager", "--version"))
	e.line("NVSwitch, fabric manager running")
	branch, _, _ := strings.Cut(e.facts.Driver.Version, ".")
	f := finding.Finding{ID: "fabric-manager-not-running", Severity: finding.Error, Gate: "module", Because: because("/sys/bus/pci/devices", "NVSwitch"),
		Why: "On machines with NVSwitch CUDA waits for the fabric manager (error 802: system not yet initialized), while nvidia-smi works."}
	switch {
	case binary == "" && !running:
		f.Summary = "This machine has NVSwitches and no fabric manager is installed: CUDA fails with error 802."
		f.Remediation = fix("none", "install it in exactly the version of the driver, "+e.facts.Driver.Version, "apt-get install nvidia-fabricmanager-"+branch, "systemctl enable --now nvidia-fabricmanager")
	case version != "" && version != e.facts.Driver.Version:
		f.ID, f.Summary = "fabric-manager-version-differs", fmt.Sprintf("The fabric manager is %s and the driver %s: they must be equal to the last digit.", version, e.facts.Driver.Version)
		f.Because = append(f.Because, because("nv-fabricmanager --version", version, "/proc/driver/nvidia/version", e.facts.Driver.Version)...)
		f.Remediation = fix("none", "install the one of the driver's version, and start it", "apt-get install nvidia-fabricmanager-"+branch, "systemctl restart nvidia-fabricmanager")
	case known && !running:
		f.Summary = "This machine has NVSwitches and the fabric manager does not run: CUDA fails with error 802."
		f.Because = append(f.Because, because(binary, "is installed, and does not run")...)
		f.Remediation = fix("none", "start it, at each boot", "systemctl enable --now nvidia-fabricmanager")
	default:
		if !known {
			e.line("NVSwitch, fabric manager installed")
		}
		return
	}
	e.add(f)
}

// process says whether a program runs, and whether that can be known.
func (e *exam) process(comm, unit string) (running, known bool) {
	for _, c := range e.commands {
		if len(c.Argv) > 1 && path.Base(c.Argv[0]) == "systemctl" && slices.ContainsFunc(c.Argv, func(a string) bool { return strings.TrimSuffix(a, ".service") == unit }) {
			out := strings.ToLower(c.Stdout)
			return strings.HasPrefix(strings.TrimSpace(out), "active") || strings.Contains(out, "active: active") || strings.Contains(out, "(running)"), true
		}
	}
	for _, n := range e.names("/proc") {
		if strings.Trim(n, "0123456789") != "" {
			continue
		}
		known = true
		if e.text("/proc/"+n+"/comm") == comm {
			return true, true
		}
	}
	return false, known
}

// mig judges MIG devices and their nodes.
func (e *exam) mig() {
	// A GPU instance without a compute instance is none that a program sees.
	empty := func(g nvidia.GPU) bool {
		return len(g.MIG) == 0 && slices.ContainsFunc(e.names(fmt.Sprintf("/proc/driver/nvidia/capabilities/gpu%d/mig", g.Minor)), func(n string) bool { return strings.HasPrefix(n, "gi") })
	}
	if e.driverBad || !slices.ContainsFunc(e.facts.GPUs, func(g nvidia.GPU) bool { return empty(g) || len(g.MIG) > 0 }) {
		e.none("not in use")
		return
	}
	devices := 0
	for _, g := range e.facts.GPUs {
		devices += len(g.MIG)
		if empty(g) {
			e.add(finding.Finding{ID: "mig-enabled-without-instance", Severity: finding.Warning, Gate: "hardware",
				Summary: fmt.Sprintf("GPU %d (%s) is in MIG mode and has no compute instance: programs see no device (error 100).", g.Index, g.Name), Because: because("/proc/driver/nvidia/capabilities", "no compute instance"),
				Remediation: fix("none", "create instances, or leave MIG mode", fmt.Sprintf("nvidia-smi mig -i %d -cci", g.Index), fmt.Sprintf("# or: nvidia-smi -i %d -mig 0", g.Index))})
		}
		for _, m := range g.MIG {
			if len(m.Caps) < 2 {
				e.add(finding.Finding{ID: "mig-nodes-missing", Severity: finding.Error, Gate: "nodes",
					Summary: fmt.Sprintf("MIG device %d:%d has no nodes below /dev/nvidia-caps: containers cannot open it.", g.Index, m.Index), Because: because("/dev/nvidia-caps", "nodes missing"),
					Remediation: fix("none", "make them", "nvidia-modprobe -f /proc/driver/nvidia/capabilities/gpu"+fmt.Sprint(g.Minor)+"/mig/gi"+fmt.Sprint(m.GI)+"/access", "nvidia-smi -L")})
				break
			}
		}
	}
	e.line("%s", plural(devices, "MIG device"))
}

// jetson judges the lists of files that Jetson boards mount.
func (e *exam) jetson() {
	if !e.root.Exists("/etc/nv_tegra_release") {
		e.none("no Jetson")
		return
	}
	const dir = "/etc/nvidia-container-runtime/host-files-for-container.d"
	var gone []string
	found := 0
	for _, n := range e.names(dir) {
		if path.Ext(n) != ".csv" {
			continue
		}
		found++
		for line := range strings.Lines(e.text(dir + "/" + n)) {
			kind, p, ok := strings.Cut(line, ",")
			p = strings.TrimSpace(p)
			if _, err := e.root.Lstat(p); ok && path.IsAbs(p) && notThere(err) && strings.TrimSpace(kind) == "lib" {
				gone = append(gone, p)
			}
		}
	}
	e.line("%s of files to mount", plural(found, "list"))
	if found == 0 {
		e.add(finding.Finding{ID: "jetson-list-missing", Severity: finding.Error, Gate: "libraries",
			Summary: "This is a Jetson board, and " + dir + " has no list of the files that containers get.", Because: because("/etc/nv_tegra_release", "exists", dir, "no .csv"),
			Why: "The lists are part of the board's software (JetPack).", Remediation: fix("none", "install the container package of JetPack", "apt-get install nvidia-container")})
	} else if len(gone) > 0 {
		e.add(finding.Finding{ID: "jetson-host-files-not-mounted", Severity: finding.Warning, Gate: "libraries",
			Summary: fmt.Sprintf("%s that the board's lists name %s on this host, such as %s: containers get them empty or not at all.", plural(len(gone), "file"), areNot(len(gone)), gone[0]), Because: because(dir, strings.Join(gone[:min(len(gone), 5)], ", ")),
			Remediation: fix("none", "install the packages of JetPack that they belong to", "apt-get install nvidia-jetpack")})
	}
}

// repositories looks at apt's lists, which old instructions leave broken.
func (e *exam) repositories() {
	const dir = "/etc/apt/sources.list.d"
	keys := map[string]string{} // address -> key
	where := map[string]string{}
	seen := false
	for _, n := range e.names(dir) {
		name := dir + "/" + n
		if !strings.Contains(n, "nvidia") && !strings.Contains(n, "cuda") && !strings.Contains(n, "libnvidia") {
			continue
		}
		seen = true
		text := e.text(name)
		low := strings.ToLower(text)
		if strings.HasPrefix(low, "# unsupported distribution") || strings.HasPrefix(low, "<!doctype") || strings.HasPrefix(low, "<html") {
			line, _, _ := strings.Cut(text, "\n")
			e.add(finding.Finding{ID: "repository-list-holds-error-page", Severity: finding.Warning, Gate: "engine", File: name, Line: 1,
				Summary: name + " is no list of packages but an answer of a web server.", Because: because(name+":1", line), Why: "Old instructions put the distribution's version into the address, which the server does not know.",
				Remediation: fix("none", "remove the file; the address for all distributions is https://nvidia.github.io/libnvidia-container/stable/deb/", "rm "+name)})
			continue
		}
		for line := range strings.Lines(text) {
			f := strings.Fields(line)
			if len(f) < 2 || f[0] != "deb" {
				continue
			}
			key, address := "", ""
			for _, w := range f[1:] {
				if _, v, ok := strings.Cut(strings.Trim(w, "[]"), "signed-by="); ok {
					key = strings.Trim(v, "[]")
				} else if strings.Contains(w, "://") && address == "" {
					address = strings.TrimSuffix(w, "/")
				}
			}
			if old, ok := keys[address]; ok && old != key && where[address] != name {
				e.add(finding.Finding{ID: "repository-listed-twice", Severity: finding.Warning, Gate: "engine", File: name,
					Summary: fmt.Sprintf("%s and %s name the same repository with different keys: apt refuses both (\"Conflicting values set for option Signed-By\").", where[address], name),
					Because: because(where[address], old, name, key), Remediation: fix("none", "remove one of the two", "rm "+where[address])})
			}
			keys[address], where[address] = key, name
		}
	}
	if !seen {
		e.none("nothing of NVIDIA's in apt's lists")
		return
	}
	e.line("apt's lists of NVIDIA's repositories")
}
