// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"strconv"
	"strings"

	"davit/internal/finding"
)

// currentBranch is the production branch that is advised where nothing speaks
// against it; as of 2026-11.
const currentBranch = 580

// family is the kind of distribution: debian, fedora, rhel, suse, arch, …
func (e *exam) family() string {
	words := strings.Fields(e.os["ID"] + " " + e.os["ID_LIKE"])
	for _, w := range words {
		switch w {
		case "ubuntu", "debian", "linuxmint", "pop", "raspbian":
			return "debian"
		case "rhel", "centos", "rocky", "almalinux", "ol", "amzn":
			return "rhel"
		case "fedora":
			return "fedora"
		case "suse", "opensuse", "sles", "opensuse-leap", "opensuse-tumbleweed":
			return "suse"
		case "arch", "manjaro", "endeavouros":
			return "arch"
		case "alpine", "nixos", "gentoo", "cos", "bottlerocket", "flatcar", "talos":
			return w
		}
	}
	return ""
}

// install says which packages of this distribution bring a driver for a GPU.
// They are for the host, never for an image.
func (e *exam) install(d pciDevice) *finding.Remediation {
	branch, open := currentBranch, true
	why := fmt.Sprintf("driver %d with the open kernel module", branch)
	switch {
	case d.last != 0 && d.last < currentBranch:
		branch, open = d.last, false
		why = fmt.Sprintf("driver %d, the last branch for %s cards, which has the proprietary kernel module alone", branch, d.arch)
	case d.flavour == 'p':
		open = false
		why = fmt.Sprintf("driver %d, the last branch for %s cards, with the proprietary kernel module", branch, d.arch)
	case d.flavour == 'o':
		why = fmt.Sprintf("driver %d with the open kernel module, the only one for %s cards", branch, d.arch)
	case d.arch != "":
		why += fmt.Sprintf(" (%s cards take either)", d.arch)
	}
	commands, note := e.packages(branch, open, d.arch)
	return fix("reboot", "install on this host "+why+note, commands...)
}

func (e *exam) packages(branch int, open bool, arch string) (commands []string, note string) {
	b := strconv.Itoa(branch)
	server := ""
	if arch == "Hopper" {
		server = "-server" // data-centre cards: branches of Ubuntu's servers
	}
	switch id := e.os["ID"]; {
	case e.family() == "debian" && (id == "debian" || id == "raspbian"):
		switch {
		case branch < 400:
			return []string{"apt-get install nvidia-legacy-" + b + "xx-driver"}, "; Debian has it as a legacy package in old releases alone"
		case branch == 470:
			return []string{"apt-get install nvidia-tesla-470-driver"}, " (component non-free; up to Debian 12)"
		case open:
			return []string{"apt-get install linux-headers-$(dpkg --print-architecture) nvidia-open-kernel-dkms nvidia-driver", "reboot"},
				"; Debian's release decides the branch (components contrib non-free non-free-firmware), and a card newer than it needs NVIDIA's repository (package nvidia-open)"
		}
		return []string{"apt-get install linux-headers-$(dpkg --print-architecture) nvidia-kernel-dkms nvidia-driver", "reboot"},
			"; Debian's release decides the branch (components contrib non-free non-free-firmware)"
	case e.family() == "debian":
		if open {
			return []string{"apt-get update", "apt-get install nvidia-driver-" + b + server + "-open", "reboot"}, ""
		}
		return []string{"apt-get update", "apt-get install nvidia-driver-" + b + server, "reboot"}, ""
	case e.family() == "rhel":
		if open {
			return []string{"dnf install kernel-devel-$(uname -r)", "dnf module enable nvidia-driver:open-dkms || true", "dnf install nvidia-open", "reboot"}, ", from NVIDIA's repository for this release"
		}
		return []string{"dnf module enable nvidia-driver:" + b + "-dkms || true", "dnf install nvidia-driver nvidia-driver-cuda", "reboot"}, ", from NVIDIA's repository for this release"
	case e.family() == "fedora":
		pkg := "akmod-nvidia"
		if branch < currentBranch {
			pkg = "akmod-nvidia-" + b + "xx"
		}
		return []string{"dnf install " + pkg + " xorg-x11-drv-nvidia-cuda", "reboot"}, ", from RPM Fusion (nonfree), which builds the kind of module that the card needs"
	case e.family() == "suse":
		if open {
			return []string{"zypper install nvidia-open-driver-G06-signed-kmp-default nvidia-compute-utils-G06", "reboot"}, ", from the repositories of the distribution and NVIDIA"
		}
		return []string{"zypper install nvidia-driver-G06-kmp-default nvidia-compute-utils-G06", "reboot"}, ", from NVIDIA's repository for the distribution"
	case e.family() == "arch":
		switch {
		case branch < 580 || !open:
			return []string{"yay -S nvidia-" + b + "xx-dkms nvidia-" + b + "xx-utils", "reboot"}, ", which is in the AUR"
		}
		return []string{"pacman -S nvidia-open nvidia-utils", "reboot"}, ""
	case e.family() == "nixos":
		return []string{"nixos-rebuild switch", "reboot"}, fmt.Sprintf(`: services.xserver.videoDrivers = ["nvidia"]; hardware.nvidia.open = %t`, open)
	case e.family() == "gentoo":
		return []string{"emerge x11-drivers/nvidia-drivers"}, ""
	}
	return nil, fmt.Sprintf("; %s: see its own documentation for the package's name", orUnknown(e.os["PRETTY_NAME"], e.os["ID"]))
}

func orUnknown(names ...string) string {
	for _, n := range names {
		if n != "" {
			return n
		}
	}
	return "the distribution is not known"
}

// rebuild builds the module for the running kernel.
func (e *exam) rebuild() []string {
	switch e.family() {
	case "debian":
		return []string{"apt-get install linux-headers-" + e.kernel, "dkms autoinstall -k " + e.kernel, "modprobe nvidia"}
	case "rhel", "suse":
		return []string{"dnf install kernel-devel-" + e.kernel, "dkms autoinstall -k " + e.kernel, "modprobe nvidia"}
	case "fedora":
		return []string{"akmods --force --kernels " + e.kernel, "modprobe nvidia"}
	}
	return []string{"dkms autoinstall -k " + e.kernel, "modprobe nvidia"}
}

// modulePackage installs the kernel module that belongs to libraries.
func (e *exam) modulePackage(version string) []string {
	branch, _, _ := strings.Cut(version, ".")
	switch e.family() {
	case "debian":
		if e.os["ID"] == "debian" {
			return []string{"apt-get install nvidia-kernel-dkms", "modprobe nvidia"}
		}
		return []string{"apt-get install linux-modules-nvidia-" + branch + "-generic || apt-get install nvidia-dkms-" + branch, "modprobe nvidia"}
	case "rhel":
		return []string{"dnf install kmod-nvidia-latest-dkms || dnf install kmod-nvidia-open-dkms", "modprobe nvidia"}
	case "fedora":
		return []string{"dnf install akmod-nvidia", "akmods --force", "modprobe nvidia"}
	}
	return nil
}
