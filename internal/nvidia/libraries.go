// SPDX-License-Identifier: Apache-2.0

package nvidia

import "slices"

// Driver capabilities, the words of NVIDIA_DRIVER_CAPABILITIES.
const (
	Compute  = "compute"
	Compat32 = "compat32"
	Graphics = "graphics"
	Utility  = "utility"
	Video    = "video"
	Display  = "display"
	NGX      = "ngx"
	// Every marks a driver library that the table does not know, of a driver
	// newer than the table: it goes to containers that ask for everything.
	Every = "every"
)

// library is what is known of one driver library.
type library struct {
	name string // up to ".so"
	caps []string
	// link is a further name that programs open.
	link string
	// dir is the subfolder of the library folder it belongs to.
	dir string
}

// libraries says which capability brings which library. Sources: the driver's
// own README (chapter "Installed components"), libnvidia-container's
// nvc_info.c for the sets of utility, compute, video, graphics and ngx.
var libraries = []library{
	{name: "libnvidia-ml", caps: []string{Utility}},
	{name: "libnvidia-cfg", caps: []string{Utility}},
	{name: "libnvidia-nscq", caps: []string{Utility}},
	{name: "libnvidia-sandboxutils", caps: []string{Utility}},

	{name: "libcuda", caps: []string{Compute, Video}, link: "libcuda.so"},
	{name: "libcudadebugger", caps: []string{Compute}},
	{name: "libnvidia-opencl", caps: []string{Compute}},
	{name: "libnvidia-gpucomp", caps: []string{Compute, Video, Graphics}},
	{name: "libnvidia-ptxjitcompiler", caps: []string{Compute, Video}},
	{name: "libnvidia-fatbinaryloader", caps: []string{Compute, Video}},
	{name: "libnvidia-allocator", caps: []string{Compute, Video, Graphics}},
	{name: "libnvidia-compiler", caps: []string{Compute}},
	{name: "libnvidia-pkcs11", caps: []string{Compute, Video}},
	{name: "libnvidia-pkcs11-openssl3", caps: []string{Compute, Video}},
	{name: "libnvidia-nvvm", caps: []string{Compute, Video}},
	{name: "libnvidia-nvvm70", caps: []string{Compute}},
	{name: "libnvidia-tileiras", caps: []string{Compute}},

	{name: "libvdpau_nvidia", caps: []string{Video}, dir: "vdpau"},
	{name: "libnvidia-encode", caps: []string{Video}},
	{name: "libnvidia-opticalflow", caps: []string{Video}, link: "libnvidia-opticalflow.so"},
	{name: "libnvcuvid", caps: []string{Video}},

	{name: "libnvidia-eglcore", caps: []string{Graphics}},
	{name: "libnvidia-glcore", caps: []string{Graphics}},
	{name: "libnvidia-tls", caps: []string{Graphics}},
	{name: "libnvidia-glsi", caps: []string{Graphics}},
	{name: "libnvidia-fbc", caps: []string{Graphics}},
	{name: "libnvidia-ifr", caps: []string{Graphics}},
	{name: "libnvidia-rtcore", caps: []string{Graphics}},
	{name: "libnvoptix", caps: []string{Graphics}},
	{name: "libGLX_nvidia", caps: []string{Graphics}, link: "libGLX_indirect.so.0"},
	{name: "libEGL_nvidia", caps: []string{Graphics}},
	{name: "libGLESv2_nvidia", caps: []string{Graphics}},
	{name: "libGLESv1_CM_nvidia", caps: []string{Graphics}},
	{name: "libnvidia-glvkspirv", caps: []string{Graphics}},
	{name: "libnvidia-cbl", caps: []string{Graphics}},
	{name: "libnvidia-vulkan-producer", caps: []string{Graphics}},
	{name: "libnvidia-egl-gbm", caps: []string{Graphics}},
	{name: "libnvidia-egl-wayland", caps: []string{Graphics}},
	{name: "libnvidia-egl-wayland2", caps: []string{Graphics}},
	{name: "libnvidia-egl-xcb", caps: []string{Graphics}},
	{name: "libnvidia-egl-xlib", caps: []string{Graphics}},
	{name: "libnvidia-present", caps: []string{Graphics}},
	{name: "libnvidia-vksc-core", caps: []string{Graphics}},

	{name: "libnvidia-ngx", caps: []string{NGX}},

	// Part of every driver, of no use in a container: they serve the desktop
	// and virtual machines of the host.
	{name: "libnvidia-gtk2"}, {name: "libnvidia-gtk3"}, {name: "libnvidia-wayland-client"},
	{name: "libnvidia-vgpu"}, {name: "libnvidia-vgxcfg"}, {name: "libglxserver_nvidia"},
}

// ownVersion are driver libraries with a version number of their own.
var ownVersion = []string{
	"libnvidia-egl-gbm", "libnvidia-egl-wayland", "libnvidia-egl-wayland2",
	"libnvidia-egl-xcb", "libnvidia-egl-xlib", "libnvidia-nvvm70",
}

// knownLibrary looks a library up by its name up to ".so".
func knownLibrary(name string) (library, bool) {
	i := slices.IndexFunc(libraries, func(l library) bool { return l.name == name })
	if i < 0 {
		return library{name: name, caps: []string{Every}}, false
	}
	return libraries[i], true
}

// IsDriverLibrary says whether a file or SONAME is one of the driver's by its
// name: a table entry, whatever the version behind ".so".
func IsDriverLibrary(name string) bool {
	base := baseName(name)
	_, ok := knownLibrary(base)
	return ok
}

// programs are the driver's programs and the capability that brings each.
var programs = []struct {
	name string
	caps []string
}{
	{"nvidia-smi", []string{Utility}},
	{"nvidia-debugdump", []string{Utility}},
	{"nvidia-cuda-mps-control", []string{Compute}},
	{"nvidia-cuda-mps-server", []string{Compute}},
	{"nvidia-imex", []string{Utility}},
	{"nvidia-imex-ctl", []string{Utility}},
	{"nvidia-xconfig", []string{Display}},
}

// programDirs is where programs lie, under the driver's root; in a container
// they all go to /usr/bin.
var programDirs = []string{
	"/usr/bin", "/usr/sbin", "/usr/local/nvidia/bin", "/usr/local/bin",
	"/run/opengl-driver/bin", "/run/current-system/sw/bin", "/usr/lib/nvidia/current",
	"/usr/lib/wsl/lib", "/opt/bin", "/bin", "/sbin",
}

// configs are files that driver libraries read, looked for in the folders
// given, and put into the container at target.
var configs = []struct {
	name   string
	dirs   []string
	target string
	caps   []string
}{
	{"glvnd/egl_vendor.d/10_nvidia.json", share, "/usr/share/glvnd/egl_vendor.d/10_nvidia.json", []string{Graphics}},
	{"egl/egl_external_platform.d/15_nvidia_gbm.json", share, "/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json", []string{Graphics}},
	{"egl/egl_external_platform.d/10_nvidia_wayland.json", share, "/usr/share/egl/egl_external_platform.d/10_nvidia_wayland.json", []string{Graphics}},
	{"egl/egl_external_platform.d/09_nvidia_wayland2.json", share, "/usr/share/egl/egl_external_platform.d/09_nvidia_wayland2.json", []string{Graphics}},
	{"egl/egl_external_platform.d/20_nvidia_xcb.json", share, "/usr/share/egl/egl_external_platform.d/20_nvidia_xcb.json", []string{Graphics}},
	{"egl/egl_external_platform.d/20_nvidia_xlib.json", share, "/usr/share/egl/egl_external_platform.d/20_nvidia_xlib.json", []string{Graphics}},
	{"nvidia/nvoptix.bin", share, "/usr/share/nvidia/nvoptix.bin", []string{Graphics}},
	{"vulkan/icd.d/nvidia_icd.json", share, "/etc/vulkan/icd.d/nvidia_icd.json", []string{Graphics}},
	{"vulkan/icd.d/nvidia_icd.x86_64.json", share, "/etc/vulkan/icd.d/nvidia_icd.x86_64.json", []string{Graphics}},
	{"vulkan/icd.d/nvidia_icd.aarch64.json", share, "/etc/vulkan/icd.d/nvidia_icd.aarch64.json", []string{Graphics}},
	{"vulkan/implicit_layer.d/nvidia_layers.json", share, "/etc/vulkan/implicit_layer.d/nvidia_layers.json", []string{Graphics}},
	{"OpenCL/vendors/nvidia.icd", share, "/etc/OpenCL/vendors/nvidia.icd", []string{Compute}},
	{"X11/xorg.conf.d/10-nvidia.conf", share, "/usr/share/X11/xorg.conf.d/10-nvidia.conf", []string{Display}},
	{"X11/xorg.conf.d/nvidia-drm-outputclass.conf", share, "/usr/share/X11/xorg.conf.d/nvidia-drm-outputclass.conf", []string{Display}},
}

// share is where the files of configs lie, first found wins.
var share = []string{"/etc", "/usr/share", "/usr/local/share", "/usr/local/nvidia/share", "/run/opengl-driver/share", "/run/opengl-driver/etc"}

// sockets of the host's daemons; a folder is handed on whole.
var sockets = []struct {
	paths []string
	caps  []string
}{
	{[]string{"/run/nvidia-persistenced/socket", "/var/run/nvidia-persistenced/socket"}, []string{Utility}},
	{[]string{"/run/nvidia-fabricmanager/socket", "/var/run/nvidia-fabricmanager/socket"}, []string{Utility}},
	{[]string{"/tmp/nvidia-mps"}, []string{Compute}},
}
