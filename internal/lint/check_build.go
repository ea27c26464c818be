// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"regexp"
	"strings"

	"davit/internal/finding"
	"davit/internal/knowledge"
)

var pythonAsks = regexp.MustCompile(`torch\.cuda\.(is_available|get_device\w*|device_count|current_device|init|synchronize|FloatTensor)|\.cuda\(\)|\.to\(["']cuda|device=["']cuda|list_physical_devices\(["']GPU|is_gpu_available|jax\.devices\(["'](gpu|cuda)|cupy\.cuda\.(runtime|Device)|pynvml\.nvmlInit|numba\.cuda\.(gpus|detect)`)
var pythonFails = regexp.MustCompile(`\bassert\b|\braise\b|sys\.exit|exit\(|\.cuda\(\)|\.to\(["']cuda|device=["']cuda|get_device|current_device|synchronize|FloatTensor|nvmlInit`)

// buildChecks are the rules on what a build cannot do, in all stages.
func (c *checker) buildChecks() {
	c.each(func(s *stage, in *instr) {
		if in.cmd == "add" || in.cmd == "copy" {
			for _, a := range in.args {
				c.repositoryText(s, c.report.name, c.d.lineOf(in, a), a, "add", a)
			}
		}
		device := strings.Contains(strings.Join(in.flags, " "), "--device")
		for _, cm := range in.commands {
			if !device {
				c.gpuInBuild(cm)
			}
			c.extensions(s, cm)
			c.repositories(s, cm)
		}
	})
}

func (c *checker) gpuInBuild(cm *command) {
	if cm.soft {
		return
	}
	fix := "test it when the container starts (docker run --gpus all); RUN --device=nvidia.com/gpu=all gives a GPU where the builder allows it"
	switch {
	case oneOf(cm.name, "nvidia-smi", "deviceQuery", "nvidia-debugdump", "nvtop", "gpustat"):
		if cm.has("--help", "-h", "--version") {
			return
		}
		c.at("gpu-used-during-build", cm.file, cm.line, fmt.Sprintf("%s needs a GPU, and a build step has none, so the build fails here", cm.name), fix, c.ran(cm)...)
	case strings.HasPrefix(cm.name, "python"):
		code, line := "", cm.line
		for i, a := range cm.args {
			if a.val == "-c" && i+1 < len(cm.args) {
				code = cm.args[i+1].val
			}
		}
		for _, d := range cm.redirects {
			if d.body != "" {
				code, line = d.body, cm.line
			}
		}
		m := pythonAsks.FindString(code)
		if m == "" {
			return
		}
		f := c.at("gpu-used-during-build", cm.file, line, fmt.Sprintf("the step asks for a GPU (%s), and a build step has none", m), fix, c.ran(cm)...)
		if !pythonFails.MatchString(code) {
			f.Severity = finding.Warning
		}
	}
}

var extensionNames = map[string]bool{"apex": true, "mmcv": true, "mmcv-full": true, "detectron2": true, "tiny-cuda-nn": true, "nvdiffrast": true, "pytorch3d": true, "causal-conv1d": true, "mamba-ssm": true, "flash-attn": true, "flash-attention": true,
	"xformers": true, "deformable-detr": true, "torch-scatter": true, "torch-sparse": true, "fused-ssim": true, "diff-gaussian-rasterization": true, "simple-knn": true, "gsplat": true, "minkowskiengine": true, "bitsandbytes": true, "sageattention": true, "torchsparse": true}

// extensions reports CUDA code compiled for Python without architectures.
func (c *checker) extensions(s *stage, cm *command) {
	for _, n := range []string{"TORCH_CUDA_ARCH_LIST", "CUDAARCHS", "CMAKE_CUDA_ARCHITECTURES", "TCNN_CUDA_ARCHITECTURES", "NVCC_APPEND_FLAGS", "CMAKE_ARGS", "FLASH_ATTN_CUDA_ARCHS", "CUDA_ARCHITECTURES"} {
		if v := cm.vars[n]; v != "" {
			return
		}
		if v, ok := cm.run.vars[n]; ok && v != "" {
			return
		}
	}
	for _, other := range cm.run.commands {
		if other.name == "export" && (other.vars["TORCH_CUDA_ARCH_LIST"] != "" || other.vars["TCNN_CUDA_ARCHITECTURES"] != "") {
			return
		}
	}
	base := s.root()
	if !base.cuda && base.repo != "pytorch/pytorch" {
		return
	}
	isolated := true
	for _, a := range cm.args {
		if a.val == "--no-build-isolation" {
			isolated = false
		}
	}
	for _, p := range c.pythonPackages(cm, s, 0) {
		if extensionNames[p.name] && (p.source || !isolated && p.name != "flash-attn") {
			c.at("extension-without-architectures", p.file, p.line, fmt.Sprintf("%s is compiled here without a GPU and without a list of architectures, so its CUDA part fits by chance", p.name), "", c.ran(cm)...)
			return
		}
	}
}

// repositories are the rules on keys and repositories.
func (c *checker) repositories(s *stage, cm *command) {
	text := cm.text()
	for _, d := range cm.redirects {
		text += " " + d.body + " " + d.target
	}
	c.repositoryText(s, cm.file, cm.line, text, cm.name, strings.Join(vals(cm.args), " "))
	if cm.name == "apt-key" && !strings.Contains(text, "del") {
		v, debian := strings.CutPrefix(s.root().system, "debian")
		u, ubuntu := strings.CutPrefix(s.root().system, "ubuntu")
		if debian && knowledge.CompareVersions(v, "13") >= 0 || ubuntu && knowledge.CompareVersions(u, "24.10") >= 0 {
			c.at("apt-key-gone", cm.file, cm.line, s.root().system+" has no apt-key", "", c.ran(cm)...)
		}
	}
	if oneOf(cm.name, "apt", "apt-get", "dnf", "yum") && s.root().cuda && c.shipped[s] {
		for _, a := range cm.args {
			if strings.HasPrefix(a.val, "-") {
				continue
			}
			if oneOf(a.val, "upgrade", "dist-upgrade", "full-upgrade") && len(systemPackages(cm)) == 0 {
				c.at("cuda-packages-upgraded", cm.file, cm.line, fmt.Sprintf("%s %s moves the CUDA packages away from what the tag %s says", cm.name, a.val, s.root().tag), "", c.ran(cm)...)
			}
			break
		}
	}
}

var cudnnArchive = regexp.MustCompile(`cudnn-[\w.-]*\.(?:tgz|tar\.xz|tar\.gz)|libcudnn\d[\w.+-]*\.deb|cudnn-local-repo[\w.-]*\.deb`)

func (c *checker) repositoryText(s *stage, file string, line int, text, name, args string) {
	if name == "rm" || strings.Contains(args, "del ") {
		return
	}
	once := func(id, summary string, sev finding.Severity) {
		key := fmt.Sprintf("%s %s %d", id, file, line)
		if c.said[key] {
			return
		}
		c.said[key] = true
		f := c.at(id, file, line, summary, "")
		f.Because = append(f.Because, finding.Evidence{Source: fmt.Sprintf("%s:%d", file, line), Value: text})
		if sev != "" {
			f.Severity = sev
		}
	}
	lower := strings.ToLower(text)
	if strings.Contains(lower, "7fa2af80") {
		once("repository-key-retired", "7fa2af80 is NVIDIA's old repository key; packages are signed with 3bf863cc since April 2022, so apt-get update fails with NO_PUBKEY A4B469963BF863CC", "")
	}
	nvidia := strings.Contains(text, "developer.download.nvidia") || strings.Contains(text, "cuda") || strings.Contains(text, "nvidia")
	if nvidia && regexp.MustCompile(`--allow-unauthenticated|trusted=yes|--no-gpg-check|gpgcheck=0|--nogpgcheck`).MatchString(text) {
		once("repository-unauthenticated", "packages of NVIDIA's repository are taken without checking their signature", "")
	}
	if strings.Contains(text, "machine-learning/repos") || strings.Contains(text, "nvidia-machine-learning-repo") {
		once("machine-learning-repository", "the machine-learning repository is frozen and has old cuDNN and NCCL only", "")
	}
	if cudnnArchive.MatchString(text) && oneOf(name, "curl", "wget", "add", "copy", "tar", "dpkg") && s.root().cuda {
		key := fmt.Sprintf("cudnn %d", s.index)
		if !c.said[key] {
			c.said[key] = true
			once("cudnn-by-hand", "cuDNN from an archive no longer follows the CUDA version of the image", "")
		}
	}
}
