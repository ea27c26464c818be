// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"davit/internal/finding"
)

// module judges the kernel's side of the driver.
func (e *exam) module() {
	switch {
	case !e.whole:
		e.none("not examined")
		return
	case e.driverBad:
		e.skip("not reached")
		return
	case e.wsl:
		e.wslDriver()
		return
	}
	if e.facts.Driver.Version != "" {
		e.loaded()
		return
	}
	e.driverBad = true
	for _, d := range e.gpus() {
		if d.driver == "nouveau" {
			e.nouveau(d)
			return
		}
	}
	if len(e.gpus()) == 0 && !e.modules["nouveau"] && e.facts.Driver.LibraryVersion == "" {
		e.none("no GPU seen, no driver")
		return
	}
	if e.modules["nouveau"] && !slices.ContainsFunc(e.gpus(), func(d pciDevice) bool { return d.driver != "" }) {
		e.nouveau(pciDevice{})
		return
	}
	e.notLoaded()
}

func (e *exam) loaded() {
	kind := "proprietary"
	if e.facts.Driver.Open {
		kind = "open"
	}
	e.line("NVIDIA %s, %s kernel module, CUDA up to %s", e.facts.Driver.Version, kind, e.facts.Driver.CUDA)
	branch := numbers(e.facts.Driver.Version)[0]
	var missing []pciDevice
	for _, d := range e.gpus() {
		switch {
		case !d.known && d.name == "" && d.arch == "":
		case d.last != 0 && branch > d.last:
			e.driverBad = true
			e.add(finding.Finding{ID: "driver-too-new-for-gpu", Severity: finding.Error, Gate: "module",
				Summary: fmt.Sprintf("Driver %s does not support %s: the last branch for %s cards is %d.", e.facts.Driver.Version, d, d.arch, d.last),
				Why:     "Each driver branch drops old generations of cards.", Because: because("/proc/driver/nvidia/version", e.facts.Driver.Version, "/sys/bus/pci/devices/"+d.address+"/device", "0x"+d.id),
				Avoid: "Do not look for the fault in the container engine.", Remediation: e.install(d)})
			return
		case d.flavour == 'o' && !e.facts.Driver.Open:
			e.flavour(d, "open", "proprietary")
			return
		case d.flavour == 'p' && e.facts.Driver.Open:
			e.flavour(d, "proprietary", "open")
			return
		}
		if d.driver != "vfio-pci" && !e.hasGPU(d.address) {
			missing = append(missing, d)
		}
	}
	e.kernelLog()
	if len(missing) > 0 && e.root.Exists("/proc/driver/nvidia/gpus") {
		d := missing[0]
		if d.driver == "nouveau" {
			e.nouveau(d)
			return
		}
		e.add(finding.Finding{ID: "gpu-does-not-start", Severity: finding.Error, Gate: "module",
			Summary: fmt.Sprintf("The NVIDIA module is loaded, but has not taken %s.", d), Why: "It refused the card or failed on it; the kernel log says why.",
			Because: because("/proc/driver/nvidia/gpus", "no entry for "+d.address), Confirm: []string{"dmesg | grep -i -e NVRM -e nvidia"},
			Remediation: fix("reboot", "read the kernel's lines; switch the machine off and on if they tell of a fault of the card", "dmesg | grep -i -e NVRM -e nvidia")})
	}
}

func (e *exam) hasGPU(address string) bool {
	if e.root.Exists("/proc/driver/nvidia/gpus/" + address) {
		return true
	}
	for _, g := range e.facts.GPUs {
		if strings.EqualFold(g.BusID, address) {
			return true
		}
	}
	return false
}

func (e *exam) flavour(d pciDevice, want, have string) {
	e.driverBad = true
	e.add(finding.Finding{ID: map[string]string{"open": "gpu-needs-open-module", "proprietary": "gpu-needs-proprietary-module"}[want], Severity: finding.Error, Gate: "module",
		Summary: fmt.Sprintf("%s needs the %s kernel module, and the %s one is loaded.", d, want, have),
		Why:     "Cards before Turing work with the proprietary module alone, Blackwell and Grace Hopper with the open one alone; nvidia-smi then says that no devices were found.",
		Because: because("/proc/driver/nvidia/version", "NVIDIA "+e.facts.Driver.Version+", "+have, "/sys/bus/pci/devices/"+d.address+"/device", "0x"+d.id+", "+d.arch),
		Confirm: []string{"modinfo -F license nvidia"}, Remediation: e.install(d)})
}

// nouveau tells that the free driver holds the card.
func (e *exam) nouveau(d pciDevice) {
	e.driverBad = true
	what, at := d.String(), "/sys/bus/pci/devices/"+d.address+"/driver"
	if d.address == "" {
		what, at = "the GPU", "/proc/modules"
	}
	f := finding.Finding{ID: "nouveau-owns-gpu", Severity: finding.Error, Gate: "module",
		Summary: "The kernel's own driver nouveau holds " + what + ", so that NVIDIA's cannot have it.",
		Because: because(at, "nouveau"), Confirm: []string{"lspci -k -d 10de:"}}
	commands := []string{`printf 'blacklist nouveau\noptions nouveau modeset=0\n' > /etc/modprobe.d/blacklist-nouveau.conf`, e.initramfs(), "reboot"}
	text := "blacklist nouveau, rebuild the initramfs, reboot"
	f.Why = "Only one driver can have a card, and nouveau was first at boot."
	if here, _ := e.moduleFiles(); len(here) == 0 && e.facts.Driver.LibraryVersion == "" && d.address != "" {
		rec := e.install(d)
		text = "NVIDIA's driver is not there either: " + rec.Text + "; its packages blacklist nouveau (else do it by hand), then reboot"
		commands = append(rec.Commands, commands...)
	} else if len(here) > 0 {
		f.Why += " NVIDIA's module is there for this kernel (" + here[0] + "), and waits."
	}
	f.Remediation = fix("reboot", text, commands...)
	e.add(f)
}

func (e *exam) initramfs() string {
	switch e.family() {
	case "debian":
		return "update-initramfs -u"
	case "arch":
		return "mkinitcpio -P"
	}
	return "dracut --force"
}

// moduleFiles finds nvidia.ko for the running kernel, and kernels that have it.
func (e *exam) moduleFiles() (here []string, others []string) {
	for _, base := range []string{"/lib/modules", "/usr/lib/modules"} {
		for _, k := range e.names(base) {
			found := ""
			for _, sub := range []string{"updates/dkms", "updates", "extra", "extra/nvidia", "extramodules", "kernel/drivers/video", "kernel/drivers/video/nvidia", "weak-updates/nvidia", "weak-updates", "misc", "kernel/nvidia-" + strconv.Itoa(numbers(e.facts.Driver.LibraryVersion)[0])} {
				for _, f := range e.names(base + "/" + k + "/" + sub) {
					if name, _, _ := strings.Cut(f, ".ko"); name == "nvidia" || name == "nvidia-current" {
						found = path.Join(base, k, sub, f)
					}
				}
			}
			// Ubuntu's signed modules: kernel/nvidia-550/nvidia.ko
			for _, sub := range e.names(base + "/" + k + "/kernel") {
				if strings.HasPrefix(sub, "nvidia-") && e.root.Exists(base+"/"+k+"/kernel/"+sub+"/nvidia.ko") {
					found = path.Join(base, k, "kernel", sub, "nvidia.ko")
				}
			}
			if found == "" {
				continue
			}
			if k == e.kernel {
				here = append(here, found)
			} else if !slices.Contains(others, k) {
				others = append(others, k)
			}
		}
		if len(here)+len(others) > 0 {
			break // /lib is a link to /usr/lib on most hosts
		}
	}
	return here, others
}

// notLoaded says why no NVIDIA module is loaded.
func (e *exam) notLoaded() {
	here, others := e.moduleFiles()
	libs := e.facts.Driver.LibraryVersion
	gpu := pciDevice{}
	if g := e.gpus(); len(g) > 0 {
		gpu = g[0]
	}
	e.kernelLog()
	if e.cur.State == Error {
		return
	}
	f := finding.Finding{Severity: finding.Error, Gate: "module", Because: because("/proc/driver/nvidia/version", "does not exist")}
	switch {
	case len(here) > 0 && e.secureBoot():
		f.ID, f.Summary = "secure-boot-rejects-module", "Secure Boot is on and the NVIDIA module is not loaded: the kernel refuses modules whose key it does not know."
		f.Why = "A module built on this machine is signed with the machine's own key, which must be enrolled once (MOK)."
		f.Because = append(f.Because, because("efivars/SecureBoot", "on", here[0], "exists")...)
		f.Confirm = []string{"mokutil --sb-state", "dmesg | grep -i 'key was rejected'"}
		f.Remediation = fix("reboot", "enrol the key that signed the module, or install the distribution's signed modules", "mokutil --import /var/lib/shim-signed/mok/MOK.der", "reboot")
	case len(here) > 0 && e.blacklisted() != "":
		f.ID, f.Summary = "module-blacklisted", "The NVIDIA module is there for this kernel, but "+e.blacklisted()+" forbids loading it."
		f.Because = append(f.Because, because(e.blacklisted(), "nvidia", here[0], "exists")...)
		f.Remediation = fix("none", "remove that line, then load the module", "modprobe nvidia")
	case len(here) > 0:
		f.ID, f.Summary = "driver-not-loaded", "The NVIDIA module is there for this kernel, but is not loaded."
		f.Because = append(f.Because, because(here[0], "exists")...)
		f.Remediation = fix("none", "load it; what modprobe says then is the cause if it fails", "modprobe nvidia", "nvidia-modprobe -c 0 -u")
	case len(others) > 0:
		f.ID, f.Summary = "driver-module-not-built", fmt.Sprintf("The NVIDIA module is built for kernel %s, and not for %s, which runs.", strings.Join(others, ", "), e.kernel)
		f.Why = "The kernel was updated, and the module was not built again for it: kernel headers are missing, or the build failed."
		f.Because = append(f.Because, because("/proc/sys/kernel/osrelease", e.kernel, "/lib/modules", "nvidia.ko for "+strings.Join(others, ", "))...)
		f.Remediation = fix("none", "build it for the running kernel, with its headers, or boot the older kernel", e.rebuild()...)
	case libs != "":
		f.ID, f.Summary = "kernel-module-missing", fmt.Sprintf("The libraries of driver %s are there, but its kernel module is not, for no kernel.", libs)
		f.Because = append(f.Because, because("libcuda.so", libs)...)
		f.Remediation = fix("none", "install the module of the same version beside them", e.modulePackage(libs)...)
	default:
		f.ID, f.Summary = "driver-not-installed", "This host has "+gpu.String()+", and no NVIDIA driver."
		f.Why = "The driver belongs on the host: containers borrow it from there."
		f.Avoid = "Do not put a driver into an image; it would not be the kernel's."
		f.Remediation = e.install(gpu)
	}
	e.add(f)
	e.line("not loaded")
}

func (e *exam) secureBoot() bool {
	for _, n := range e.names("/sys/firmware/efi/efivars") {
		if strings.HasPrefix(n, "SecureBoot-") {
			data, err := e.root.ReadFile("/sys/firmware/efi/efivars/" + n)
			return err == nil && len(data) > 4 && data[4] == 1
		}
	}
	return strings.Contains(e.output("mokutil", "--sb-state"), "SecureBoot enabled")
}

// blacklisted is the file that forbids the module.
func (e *exam) blacklisted() string {
	for _, dir := range []string{"/etc/modprobe.d", "/usr/lib/modprobe.d", "/run/modprobe.d"} {
		for _, n := range e.names(dir) {
			for line := range strings.Lines(e.text(dir + "/" + n)) {
				f := strings.Fields(line)
				if len(f) >= 2 && f[1] == "nvidia" && (f[0] == "blacklist" || f[0] == "install" && strings.HasSuffix(line, "/false")) {
					return dir + "/" + n
				}
			}
		}
	}
	return ""
}

// kernelLog looks for the few lines that name a cause. They may be old, so that
// only those that fit what is seen count.
func (e *exam) kernelLog() {
	for _, c := range e.commands {
		if len(c.Argv) == 0 || path.Base(c.Argv[0]) != "dmesg" && path.Base(c.Argv[0]) != "journalctl" {
			continue
		}
		for line := range strings.Lines(c.Stdout) {
			line = strings.TrimSpace(line)
			low := strings.ToLower(line)
			f := finding.Finding{Severity: finding.Error, Gate: "module", Because: because(strings.Join(c.Argv, " "), line)}
			switch {
			case e.facts.Driver.Version == "" && strings.Contains(low, "key was rejected by service"):
				f.ID, f.Summary = "secure-boot-rejects-module", "The kernel refused the NVIDIA module: its key is not known (Secure Boot)."
				f.Remediation = fix("reboot", "enrol the key that signed the module, or install the distribution's signed modules", "mokutil --import /var/lib/shim-signed/mok/MOK.der", "reboot")
			case strings.Contains(low, "fallen off the bus"):
				f.ID, f.Gate, f.Summary = "gpu-fell-off-bus", "hardware", "The GPU has fallen off the bus (the kernel says so)."
				f.Why = "A fault of the card, its power or its slot; no setting of a container helps."
				f.Remediation = fix("reboot", "switch the machine off and on; check power and seating")
			default:
				continue
			}
			e.add(f)
			return
		}
	}
}

// wslDriver judges the driver that Windows gives to WSL.
func (e *exam) wslDriver() {
	e.driverBad = true // there are no nodes, and the rest is Windows'
	if !e.root.Exists("/usr/lib/wsl/lib/libcuda.so.1") {
		e.add(finding.Finding{ID: "wsl-libraries-not-found", Severity: finding.Error, Gate: "module",
			Summary: "WSL shows no CUDA library: /usr/lib/wsl/lib/libcuda.so.1 does not exist.", Why: "In WSL the driver is that of Windows, which puts its library there.",
			Avoid: "Do not install a Linux driver in WSL.", Remediation: fix("reboot", "install or update NVIDIA's driver in Windows, then restart WSL", "wsl.exe --update", "wsl.exe --shutdown")})
		return
	}
	e.line("WSL, driver of Windows")
	for _, dir := range []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib64"} {
		for _, n := range e.names(dir) {
			if v, ok := strings.CutPrefix(n, "libcuda.so."); ok && strings.Count(v, ".") > 0 && v != "1.1" {
				e.add(finding.Finding{ID: "wsl-linux-driver-installed", Severity: finding.Error, Gate: "module",
					Summary: "A Linux driver is installed in WSL (" + dir + "/" + n + ") and hides the one of Windows.", Because: because(dir+"/"+n, "exists"),
					Remediation: fix("none", "remove the Linux driver's packages; the driver belongs in Windows", "apt-get remove --purge '^libnvidia-compute-.*' '^nvidia-driver-.*'")})
				return
			}
		}
	}
}
