// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"fmt"
	"strconv"
	"strings"
)

// model is a GPU that can be simulated.
type model struct {
	short     string // how a person asks for it
	name      string // as the driver prints it
	pciID     uint16
	subsystem uint16
	class     uint32 // 0x030200 for cards without a display, 0x030000 with one
	major     int    // compute capability
	minor     int
	mib       uint64 // memory as the management library tells it
	mig       bool   // can be divided
	closed    bool   // the open kernel module does not drive it
	first     int    // first driver branch that knows it
	last      int    // last branch that drives it, 0 if none is known
}

// models is in the order that people see. Device ids and names are those of
// pci.ids and of the driver's own list of supported GPUs.
var models = []model{
	{short: "H100", name: "NVIDIA H100 80GB HBM3", pciID: 0x2330, subsystem: 0x16c1, class: 0x030200, major: 9, minor: 0, mib: 81559, mig: true, first: 525},
	{short: "H100-PCIe", name: "NVIDIA H100 PCIe", pciID: 0x2331, subsystem: 0x1626, class: 0x030200, major: 9, minor: 0, mib: 81559, mig: true, first: 525},
	{short: "H200", name: "NVIDIA H200", pciID: 0x2335, subsystem: 0x18be, class: 0x030200, major: 9, minor: 0, mib: 143771, mig: true, first: 535},
	{short: "B200", name: "NVIDIA B200", pciID: 0x2901, subsystem: 0x1999, class: 0x030200, major: 10, minor: 0, mib: 183359, mig: true, first: 570},
	{short: "A100", name: "NVIDIA A100-SXM4-40GB", pciID: 0x20b0, subsystem: 0x134f, class: 0x030200, major: 8, minor: 0, mib: 40960, mig: true, first: 450},
	{short: "A100-80GB", name: "NVIDIA A100-SXM4-80GB", pciID: 0x20b2, subsystem: 0x1463, class: 0x030200, major: 8, minor: 0, mib: 81920, mig: true, first: 460},
	{short: "A10", name: "NVIDIA A10", pciID: 0x2236, subsystem: 0x1482, class: 0x030200, major: 8, minor: 6, mib: 23028, first: 460},
	{short: "L4", name: "NVIDIA L4", pciID: 0x27b8, subsystem: 0x16ca, class: 0x030200, major: 8, minor: 9, mib: 23034, first: 525},
	{short: "L40S", name: "NVIDIA L40S", pciID: 0x26b9, subsystem: 0x1851, class: 0x030200, major: 8, minor: 9, mib: 46068, first: 535},
	{short: "T4", name: "Tesla T4", pciID: 0x1eb8, subsystem: 0x12a2, class: 0x030200, major: 7, minor: 5, mib: 15360, first: 410},
	{short: "V100", name: "Tesla V100-SXM2-16GB", pciID: 0x1db1, subsystem: 0x1212, class: 0x030200, major: 7, minor: 0, mib: 16384, closed: true, first: 384, last: 580},
	{short: "P100", name: "Tesla P100-PCIE-16GB", pciID: 0x15f8, subsystem: 0x118f, class: 0x030200, major: 6, minor: 0, mib: 16384, closed: true, first: 375, last: 580},
	{short: "RTX-A4000", name: "NVIDIA RTX A4000", pciID: 0x24b0, subsystem: 0x14ad, class: 0x030000, major: 8, minor: 6, mib: 16376, first: 460},
	{short: "RTX-3090", name: "NVIDIA GeForce RTX 3090", pciID: 0x2204, subsystem: 0x1454, class: 0x030000, major: 8, minor: 6, mib: 24576, first: 455},
	{short: "RTX-4090", name: "NVIDIA GeForce RTX 4090", pciID: 0x2684, subsystem: 0x167c, class: 0x030000, major: 8, minor: 9, mib: 24564, first: 520},
	{short: "RTX-5090", name: "NVIDIA GeForce RTX 5090", pciID: 0x2b85, subsystem: 0x2057, class: 0x030000, major: 12, minor: 0, mib: 32607, first: 570},
	{short: "GTX-1080-Ti", name: "NVIDIA GeForce GTX 1080 Ti", pciID: 0x1b06, subsystem: 0x120f, class: 0x030000, major: 6, minor: 1, mib: 11264, closed: true, first: 378, last: 580},
}

// Models lists the names that Options.Model takes.
func Models() []string {
	names := make([]string, len(models))
	for i, m := range models {
		names[i] = m.short
	}
	return names
}

// modelNamed finds a model by its short or its full name; case, spaces, "-"
// and "_" do not matter.
func modelNamed(name string) (model, error) {
	plain := func(s string) string {
		return strings.NewReplacer(" ", "", "-", "", "_", "").Replace(strings.ToLower(s))
	}
	for _, m := range models {
		if plain(name) == plain(m.short) || plain(name) == plain(m.name) {
			return m, nil
		}
	}
	return model{}, fmt.Errorf("unknown GPU model %q: known are %s", name, strings.Join(Models(), ", "))
}

// branchCUDA is the newest CUDA version of each driver branch.
var branchCUDA = []struct {
	branch int
	cuda   string
}{
	{410, "10.0"}, {418, "10.1"}, {440, "10.2"}, {450, "11.0"}, {455, "11.1"}, {460, "11.2"},
	{465, "11.3"}, {470, "11.4"}, {495, "11.5"}, {510, "11.6"}, {515, "11.7"}, {520, "11.8"},
	{525, "12.0"}, {530, "12.1"}, {535, "12.2"}, {545, "12.3"}, {550, "12.4"}, {555, "12.5"},
	{560, "12.6"}, {565, "12.7"}, {570, "12.8"}, {575, "12.9"}, {580, "13.0"}, {590, "13.1"},
	{595, "13.2"}, {610, "13.3"}, {615, "13.4"},
}

// parseDriver checks a driver version and gives its branch and CUDA version; a
// branch between two known ones has the older one's CUDA.
func parseDriver(version string) (branch int, cuda string, err error) {
	wrong := fmt.Errorf("driver version %q: want one such as %s", version, defaultDriver)
	parts := strings.Split(version, ".")
	if len(parts) < 2 || len(parts) > 3 || len(version) > 32 {
		return 0, "", wrong
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || p[0] == '+' {
			return 0, "", wrong
		}
		if i == 0 {
			branch = int(n)
		}
	}
	for _, b := range branchCUDA {
		if branch >= b.branch {
			cuda = b.cuda
		}
	}
	if cuda == "" {
		return 0, "", fmt.Errorf("driver version %q: older than %d, which is not simulated", version, branchCUDA[0].branch)
	}
	return branch, cuda, nil
}

// library is one shared object of the driver.
type library struct {
	base   string // libcuda
	soname string // ".so.1"; "" for a SONAME that carries the driver version
	file   string // own version of files that do not carry the driver's: "1.1.2"
	dev    bool   // has an unversioned link, libcuda.so
	sub    string // folder below the library folder
	bits32 bool   // part of the 32-bit set
	first  int    // driver branches, 0 for no limit
	last   int
}

// libraries is what the driver installs, as its packages and recorded hosts
// show it.
var libraries = []library{
	{base: "libcuda", soname: ".so.1", dev: true, bits32: true},
	{base: "libcudadebugger", soname: ".so.1", first: 515},
	{base: "libnvcuvid", soname: ".so.1", dev: true, bits32: true},
	{base: "libnvidia-ml", soname: ".so.1", dev: true, bits32: true},
	{base: "libnvidia-cfg", soname: ".so.1", dev: true},
	{base: "libnvidia-ptxjitcompiler", soname: ".so.1", dev: true, bits32: true},
	{base: "libnvidia-nvvm", soname: ".so.4", dev: true, bits32: true, first: 470},
	{base: "libnvidia-nvvm70", soname: ".so.4", first: 580},
	{base: "libnvidia-opencl", soname: ".so.1", bits32: true},
	{base: "libnvidia-compiler", last: 510},
	{base: "libnvidia-fatbinaryloader", last: 450},
	{base: "libnvidia-allocator", soname: ".so.1", dev: true, bits32: true, first: 440},
	{base: "libnvidia-pkcs11", first: 530},
	{base: "libnvidia-pkcs11-openssl3", first: 530},
	{base: "libnvidia-encode", soname: ".so.1", dev: true, bits32: true},
	{base: "libnvidia-opticalflow", soname: ".so.1", dev: true, bits32: true, first: 418},
	{base: "libnvidia-fbc", soname: ".so.1", dev: true, bits32: true},
	{base: "libnvidia-ifr", soname: ".so.1", dev: true, bits32: true, last: 470},
	{base: "libnvidia-eglcore", bits32: true},
	{base: "libnvidia-glcore", bits32: true},
	{base: "libnvidia-glsi", bits32: true},
	{base: "libnvidia-tls", bits32: true},
	{base: "libnvidia-glvkspirv", bits32: true},
	{base: "libnvidia-gpucomp", bits32: true, first: 545},
	{base: "libnvidia-rtcore"},
	{base: "libnvidia-cbl", first: 418, last: 470},
	{base: "libnvidia-ngx", soname: ".so.1", first: 418},
	{base: "libnvoptix", soname: ".so.1"},
	{base: "libnvidia-vksc-core", soname: ".so.1", first: 525},
	{base: "libnvidia-sandboxutils", soname: ".so.1", first: 565},
	{base: "libGLX_nvidia", soname: ".so.0", bits32: true},
	{base: "libEGL_nvidia", soname: ".so.0", bits32: true},
	{base: "libGLESv1_CM_nvidia", soname: ".so.1", bits32: true},
	{base: "libGLESv2_nvidia", soname: ".so.2", bits32: true},
	{base: "libvdpau_nvidia", soname: ".so.1", sub: "vdpau", bits32: true},
	{base: "libnvidia-egl-gbm", soname: ".so.1", file: "1.1.2", first: 495},
	{base: "libnvidia-egl-wayland", soname: ".so.1", file: "1.1.19"},
	{base: "libnvidia-egl-xcb", soname: ".so.1", file: "1.0.3", first: 560},
	{base: "libnvidia-egl-xlib", soname: ".so.1", file: "1.0.3", first: 560},
	{base: "libnvidia-api", soname: ".so.1", file: "1", first: 545},
}

// in says whether the branch has the library.
func (l library) in(branch int) bool {
	return branch >= l.first && (l.last == 0 || branch <= l.last)
}

// names gives the file's name and its SONAME for a driver version.
func (l library) names(version string) (file, soname string) {
	file = l.base + ".so." + version
	if l.file != "" {
		file = l.base + ".so." + l.file
	}
	if l.soname == "" {
		return file, file
	}
	return file, l.base + l.soname
}
