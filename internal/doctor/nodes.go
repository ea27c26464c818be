// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"davit/internal/finding"
	"davit/internal/nvidia"
)

// nodes judges /dev against the kernel's numbers.
func (e *exam) nodes() {
	switch {
	case !e.whole || e.facts.Driver.Version == "" && !e.driverBad:
		e.none("not examined")
		return
	case e.driverBad:
		e.skip("not reached")
		return
	}
	var missing []string
	if len(e.facts.GPUs) > 0 && e.control("/dev/nvidiactl") == nil {
		missing = append(missing, "/dev/nvidiactl")
	}
	all := slices.Clone(e.facts.Control)
	for _, g := range e.facts.GPUs {
		if g.Node == nil {
			missing = append(missing, fmt.Sprintf("/dev/nvidia%d", g.Minor))
		} else {
			all = append(all, *g.Node)
		}
	}
	e.line("%s of %s", plural(len(all), "node"), plural(len(e.facts.GPUs), "GPU"))
	if len(missing) > 0 {
		e.add(finding.Finding{ID: "device-nodes-missing", Severity: finding.Error, Gate: "nodes",
			Summary: "The driver is loaded, but " + strings.Join(missing, ", ") + " " + areNot(len(missing)) + " there.",
			Why:     "The driver does not make its nodes itself; a udev rule, nvidia-persistenced or the first program with root's rights does (nvidia-modprobe).",
			Because: because("/proc/driver/nvidia/version", e.facts.Driver.Version, "/dev", strings.Join(missing, ", ")+" missing"), Confirm: []string{"ls -l /dev/nvidia*"},
			Remediation: fix("none", "make them, at each boot", "nvidia-modprobe -c 0 -u", "systemctl enable --now nvidia-persistenced")})
	}
	e.uvm()
	e.numbers(all)
	e.modes(all)
}

func areNot(n int) string {
	if n == 1 {
		return "is not"
	}
	return "are not"
}

func (e *exam) control(p string) *nvidia.Node {
	for i := range e.facts.Control {
		if e.facts.Control[i].Path == p {
			return &e.facts.Control[i]
		}
	}
	return nil
}

// uvm judges what CUDA needs beyond nvidia-smi.
func (e *exam) uvm() {
	_, major := e.majors["nvidia-uvm"]
	loaded := e.modules["nvidia_uvm"] || e.modules["nvidia-uvm"] || major
	if len(e.modules) == 0 && len(e.majors) == 0 || e.control("/dev/nvidia-uvm") != nil && (loaded || len(e.majors) == 0) {
		return
	}
	f := finding.Finding{ID: "uvm-not-loaded", Severity: finding.Error, Gate: "nodes",
		Summary: "The kernel module nvidia_uvm is not loaded and /dev/nvidia-uvm does not exist: nvidia-smi works, CUDA does not.",
		Why:     "Nothing loads it at boot; the first CUDA program on the host would, a container cannot.",
		Because: because("/proc/modules", "no nvidia_uvm", "/proc/devices", "no nvidia-uvm", "/dev/nvidia-uvm", "does not exist"),
		Confirm: []string{"lsmod | grep nvidia_uvm", "ls -l /dev/nvidia-uvm"},
		Remediation: fix("none", "load nvidia_uvm and make its nodes, now and at each boot; then write CDI specifications again that were written without them",
			"modprobe nvidia_uvm", "nvidia-modprobe -u -c 0", "echo nvidia_uvm > /etc/modules-load.d/nvidia-uvm.conf")}
	switch {
	case loaded:
		f.ID, f.Summary = "uvm-node-missing", "The kernel module nvidia_uvm is loaded, but its node /dev/nvidia-uvm does not exist: nvidia-smi works, CUDA does not."
		f.Why, f.Because = "The nodes are made by nvidia-modprobe, which nobody ran since boot.", because("/proc/devices", fmt.Sprintf("%d nvidia-uvm", e.majors["nvidia-uvm"]), "/dev/nvidia-uvm", "does not exist")
		f.Remediation = fix("none", "make the nodes, at each boot", "nvidia-modprobe -u -c 0")
	case e.control("/dev/nvidia-uvm") != nil:
		f.Summary = "The kernel module nvidia_uvm is not loaded; /dev/nvidia-uvm is a leftover without a driver behind it: nvidia-smi works, CUDA does not."
		f.Because = because("/proc/modules", "no nvidia_uvm", "/dev/nvidia-uvm", "exists")
	}
	e.add(f)
}

// numbers compares nodes with the numbers that the kernel gave.
func (e *exam) numbers(all []nvidia.Node) {
	var wrong []string
	var evidence []finding.Evidence
	for _, n := range all {
		name := ""
		switch base := path.Base(n.Path); {
		case strings.HasPrefix(base, "nvidia-uvm"):
			name = "nvidia-uvm"
		case strings.HasPrefix(base, "nvidia-cap"):
			name = "nvidia-caps"
		case base == "nvidiactl" || base == "nvidia-modeset" || strings.HasPrefix(base, "nvidia"):
			name = "nvidia"
		}
		want, ok := e.majors[name]
		if !ok && name == "nvidia" {
			want, ok = e.majors["nvidia-frontend"]
		}
		if ok && uint32(want) != n.Major {
			wrong = append(wrong, fmt.Sprintf("%s is %d:%d, and the kernel's %s has number %d", n.Path, n.Major, n.Minor, name, want))
			evidence = append(evidence, because(n.Path, fmt.Sprintf("%d:%d", n.Major, n.Minor), "/proc/devices", fmt.Sprintf("%d %s", want, name))...)
		}
	}
	if len(wrong) > 0 {
		e.add(finding.Finding{ID: "device-node-wrong-number", Severity: finding.Error, Gate: "nodes",
			Summary: "A node has another number than its driver: " + strings.Join(wrong, "; ") + ".", Because: evidence,
			Why:         "The number is chosen anew when the module is loaded; a node from before belongs to another driver or none.",
			Remediation: fix("none", "remove the nodes and make them again", "rm "+strings.Fields(wrong[0])[0], "nvidia-modprobe -c 0 -u")})
	}
}

// modes tells nodes that not everybody may open.
func (e *exam) modes(all []nvidia.Node) {
	params := map[string]string{}
	for line := range strings.Lines(e.text("/proc/driver/nvidia/params")) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			params[k] = v
		}
	}
	var closed *nvidia.Node
	for i, n := range all {
		if n.Mode&0o006 != 0o006 && !strings.Contains(n.Path, "nvidia-cap") && n.Path != "/dev/nvidia-modeset" {
			closed = &all[i]
			break
		}
	}
	if closed == nil {
		return
	}
	group := e.group(closed.GID)
	because := because(closed.Path, fmt.Sprintf("mode %04o, group %s", closed.Mode, group))
	trap := ""
	if m, err := strconv.Atoi(params["DeviceFileMode"]); err == nil && m != 0o666 {
		because = append(because, finding.Evidence{Source: "/proc/driver/nvidia/params", Value: fmt.Sprintf("DeviceFileMode: %d, which is decimal for %04o", m, m)})
		trap = fmt.Sprintf(" The option's number is decimal: %d is octal %04o, and 438 is 0666.", m, m)
	}
	f := finding.Finding{ID: "device-nodes-group-only", Severity: finding.Warning, Gate: "nodes",
		Summary: fmt.Sprintf("The GPU's nodes have mode %04o and group %s: processes in containers that are neither root nor in that group get \"Insufficient Permissions\".", closed.Mode, group),
		Why:     "The host was set up like that, perhaps on purpose." + trap, Because: because, Confirm: []string{"ls -l /dev/nvidia*"},
		Remediation: fix("none", fmt.Sprintf("give the container the group (docker: --group-add %d; podman: --group-add keep-groups; CDI 0.7.0: additionalGids, which davit cdi generate writes), or open the nodes with NVreg_DeviceFileMode=0666", closed.GID),
			fmt.Sprintf("docker run --group-add %d …", closed.GID))}
	if closed.Mode&0o060 == 0 {
		f.Summary = fmt.Sprintf("The GPU's nodes have mode %04o: only their owner may open them, in containers too.", closed.Mode)
	}
	e.add(f)
}

// group is a group's number, with its name if the host knows it.
func (e *exam) group(gid uint32) string {
	for line := range strings.Lines(e.text("/etc/group")) {
		if f := strings.Split(line, ":"); len(f) > 2 && f[2] == strconv.Itoa(int(gid)) {
			return fmt.Sprintf("%d (%s)", gid, f[0])
		}
	}
	return strconv.Itoa(int(gid))
}
