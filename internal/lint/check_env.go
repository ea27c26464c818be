// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"davit/internal/finding"
)

var capabilityNames = []string{"all", "compute", "compat32", "graphics", "utility", "video", "display", "ngx"}
var videoWords = regexp.MustCompile(`\b(h264|hevc|av1|vp9|mjpeg)_(nvenc|cuvid)\b|nvcuvid|libnvidia-encode|hwaccel[\s=",]+(cuda|nvdec|cuvid)|--enable-(nvenc|nvdec|cuvid)|\bnvh26[45](enc|dec)\b|NvVideoCodec|PyNvVideoCodec`)
var graphicsWords = regexp.MustCompile(`\b(vulkaninfo|vkcube|glxinfo|glxgears|eglinfo|vkmark|glmark2|vglrun|es2_info)\b|EGL_PLATFORM|MUJOCO_GL[= ]"?egl|PYOPENGL_PLATFORM[= ]"?egl|__GLX_VENDOR_LIBRARY_NAME`)
var windowWords = regexp.MustCompile(`\b(vkcube|glxgears|vglrun|Xorg|startx|xinit)\b`)

func (c *checker) usesVideo(im *image) string {
	if m := videoWords.FindString(im.startup); m != "" {
		return m
	}
	for _, cm := range im.commands {
		if m := videoWords.FindString(cm.text()); m != "" && !oneOf(cm.name, "sed", "grep", "rm") {
			return m
		}
	}
	for _, p := range im.python {
		if oneOf(p.name, "pynvvideocodec", "vali", "torchcodec-cuda") {
			return p.name
		}
	}
	return ""
}

func (c *checker) usesGraphics(im *image) string {
	if m := graphicsWords.FindString(im.startup); m != "" {
		return m
	}
	for name, v := range im.env {
		if m := graphicsWords.FindString(name + "=" + v.value); m != "" {
			return m
		}
	}
	for _, p := range im.system {
		if oneOf(p.name, "vulkan-tools", "vulkan-utils", "mesa-utils", "virtualgl", "vkmark") || strings.HasPrefix(p.name, "glmark2") {
			return p.name
		}
	}
	return ""
}

// capabilities gives the list of the image, and the line of the setting or of
// the base.
func (c *checker) capabilities(im *image) (list []string, line int, set bool) {
	if v, ok := im.env["NVIDIA_DRIVER_CAPABILITIES"]; ok {
		return strings.FieldsFunc(v.value, func(r rune) bool { return r == ',' || r == ' ' }), v.line, true
	}
	return []string{"compute", "utility"}, im.leaf.bottom().line, false
}

func (c *checker) envChecks(im *image) {
	c.visibleDevices(im)
	c.capabilityChecks(im)
	for _, name := range []string{"NVIDIA_DISABLE_REQUIRE", "NVIDIA_REQUIRE_CUDA"} {
		v, ok := im.env[name]
		if !ok || name == "NVIDIA_DISABLE_REQUIRE" && oneOf(strings.ToLower(v.value), "", "0", "false") || name == "NVIDIA_REQUIRE_CUDA" && !im.base.cuda {
			continue
		}
		f := c.add("requirement-disabled", v.line, name+" is set in the image, so a host whose driver is too old is no longer refused with a clear message", "", c.d.evidence(v.line))
		if name == "NVIDIA_REQUIRE_CUDA" {
			f.Severity = finding.Info
		}
	}
	if im.wants != "" && im.strong && !im.base.gpu && !im.base.musl && !im.driver && !im.leaf.bottom().byArg {
		if _, ok := im.env["NVIDIA_VISIBLE_DEVICES"]; !ok {
			if _, ok := im.env["NVIDIA_DRIVER_CAPABILITIES"]; !ok {
				s := im.leaf
				c.add("gpu-variables-missing", s.line, fmt.Sprintf("%s sets no NVIDIA variables, so with --runtime nvidia alone the container gets no GPU (--gpus and CDI devices work)", im.base.ref), "", c.d.evidence(s.line))
			}
		}
	}
}

var indexValue = regexp.MustCompile(`^(\d+(:\d+)?|GPU-[0-9a-f-]+|MIG-\S+)(,(\d+(:\d+)?|GPU-[0-9a-f-]+|MIG-\S+))*$`)

func (c *checker) visibleDevices(im *image) {
	for _, name := range []string{"NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"} {
		v, ok := im.env[name]
		if !ok || strings.Contains(v.raw, "$") {
			continue
		}
		switch {
		case indexValue.MatchString(v.value):
			c.add("visible-devices-fixed", v.line, fmt.Sprintf("%s=%s names GPUs of one host; on another it is a different GPU or none", name, v.value), "leave it out: choose when the container is started (--gpus device=…)", c.d.evidence(v.line))
		case name == "CUDA_VISIBLE_DEVICES" && oneOf(v.value, "", "-1") && im.strong:
			c.add("visible-devices-fixed", v.line, fmt.Sprintf("CUDA_VISIBLE_DEVICES=%s hides every GPU from the programs of an image that is made for one", v.value), "leave it out", c.d.evidence(v.line))
		}
	}
	v, ok := im.env["NVIDIA_VISIBLE_DEVICES"]
	if !ok || v.value != "all" || c.application(im) {
		return
	}
	c.add("image-requests-all-gpus", v.line, "NVIDIA_VISIBLE_DEVICES=all in a base image gives every container made from it all GPUs of a node whose default runtime heeds the variable, and no scheduler knows",
		"set NVIDIA_VISIBLE_DEVICES at run time, or in the image of the application that needs a GPU", c.d.evidence(v.line))
	if w, ok := im.env["NVIDIA_DRIVER_CAPABILITIES"]; ok && w.value == "all" {
		c.add("capabilities-wider-than-needed", w.line, "NVIDIA_DRIVER_CAPABILITIES=all is wider than a base image needs", "compute,utility", c.d.evidence(w.line))
	}
}

// application says whether an image has a program of its own.
func (c *checker) application(im *image) bool {
	if len(im.start) > 0 || im.base.gpu || len(im.python) > 0 {
		return true
	}
	if im.strong {
		return true
	}
	for _, s := range im.stages {
		for _, in := range s.instrs {
			if in.cmd == "copy" || in.cmd == "add" && !strings.Contains(strings.Join(in.args, " "), "://") {
				return true
			}
		}
	}
	return false
}

func (c *checker) capabilityChecks(im *image) {
	list, line, set := c.capabilities(im)
	if v, ok := im.env["NVIDIA_DRIVER_CAPABILITIES"]; ok && strings.Contains(v.value, "*") {
		return
	}
	if set {
		for _, w := range list {
			if !slices.Contains(capabilityNames, w) {
				c.add("capability-unknown", line, fmt.Sprintf("%q is no driver capability, and runtimes refuse the container", w), "", c.d.evidence(line))
			}
		}
	}
	if im.wants == "" || im.driver || slices.Contains(list, "all") || im.leaf.bottom().byArg {
		return
	}
	// Only nvidia/cuda and images without NVIDIA variables are known to have
	// the default; others may set more.
	if !set && im.base.gpu && !im.base.cuda {
		return
	}
	has := func(w string) bool { return slices.Contains(list, w) }
	with := func(w ...string) string {
		return "ENV NVIDIA_DRIVER_CAPABILITIES=" + strings.Join(append(slices.Clone(list), w...), ",") + " (the list replaces the default, so name all that are needed)"
	}
	value := strings.Join(list, ",")
	if len(list) == 0 {
		return
	}
	if m := c.usesVideo(im); m != "" && !has("video") {
		c.add("capability-video-missing", line, fmt.Sprintf("the image encodes or decodes on the GPU (%s), and NVIDIA_DRIVER_CAPABILITIES (%s) has no video, so the encode and decode libraries (NVENC, NVDEC) are not injected", m, value), with("video"), c.d.evidence(line))
	}
	if m := c.usesGraphics(im); m != "" && !has("graphics") && !has("display") {
		c.add("capability-graphics-missing", line, fmt.Sprintf("the image draws on the GPU (%s), and NVIDIA_DRIVER_CAPABILITIES (%s) has no graphics, so the Vulkan, EGL and OpenGL libraries are not injected", m, value), with("graphics"), c.d.evidence(line))
	} else if m := windowWords.FindString(im.startup); m != "" && has("graphics") && !has("display") {
		c.add("capability-graphics-missing", line, fmt.Sprintf("%s opens windows, and NVIDIA_DRIVER_CAPABILITIES (%s) has no display, so nothing can be presented", m, value), with("display"), c.d.evidence(line))
	}
	if set && !has("utility") && regexp.MustCompile(`nvidia-smi|nvml|nvitop|gpustat`).MatchString(c.programs(im)) {
		c.add("capability-utility-missing", line, fmt.Sprintf("nvidia-smi or NVML is used, and NVIDIA_DRIVER_CAPABILITIES (%s) has no utility, so it is not injected", value), with("utility"), c.d.evidence(line))
	}
	if set && !has("compute") && im.has("torch", "tensorflow", "jax", "vllm", "cupy-cuda12x", "cupy-cuda11x", "cupy-cuda13x", "onnxruntime-gpu", "numba") {
		c.add("capability-compute-missing", line, fmt.Sprintf("CUDA is used, and NVIDIA_DRIVER_CAPABILITIES (%s) has no compute, so libcuda is not injected", value), with("compute"), c.d.evidence(line))
	}
}

// programs is what the image starts and checks itself with.
func (c *checker) programs(im *image) string {
	text := im.startup
	for _, s := range im.stages {
		for _, in := range s.instrs {
			if in.cmd == "healthcheck" {
				text += " " + in.node.Original
			}
		}
	}
	for _, p := range im.python {
		if oneOf(p.name, "nvidia-ml-py", "pynvml", "nvitop", "gpustat") {
			text += " nvml"
		}
	}
	return text
}
