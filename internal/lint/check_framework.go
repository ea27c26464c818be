// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"davit/internal/finding"
	"davit/internal/knowledge"
)

func (c *checker) frameworkChecks(im *image) {
	c.cpuOnly(im)
	c.conflicts(im.python)
	c.tensorflow(im)
	c.onnxruntime(im)
	c.twoCUDA(im)
	c.torchTwice(im)
	c.cudaTwice(im)
}

func (p pyPackage) evidence() finding.Evidence {
	v := p.name
	if p.extras != "" {
		v += "[" + p.extras + "]"
	}
	if p.conda && p.spec != "" {
		v += "="
	}
	return finding.Evidence{Source: fmt.Sprintf("%s:%d", p.file, p.line), Value: v + p.spec}
}

var cpuTag = regexp.MustCompile(`(^|-)cpu(-|$)`)

// cpuOnly reports CPU builds in an image that wants a GPU.
func (c *checker) cpuOnly(im *image) {
	if im.wants == "" {
		return
	}
	s := im.leaf.bottom()
	if !s.chosen {
		if tag := cpuImage(im.base); tag != "" && !im.has("tensorflow", "tf-nightly") {
			c.add("cpu-only-framework", s.line, fmt.Sprintf("%s is the CPU variant, and the image asks for a GPU (%s)", im.base.ref, im.wants), fmt.Sprintf("FROM %s:%s", im.base.repo, tag), c.d.evidence(s.line))
		}
	}
	said := map[string]bool{}
	for _, p := range im.python {
		if p.cmd != nil && (p.cmd.soft || c.variable(p.indexRaw)) || said[p.name] {
			continue
		}
		what := ""
		switch {
		case torchFamily[p.name] && strings.Contains(p.spec, "+cpu"), torchFamily[p.name] && regexp.MustCompile(`/whl/(nightly/)?cpu\b`).MatchString(p.index) && !cudaLocal.MatchString(p.spec):
			what = p.name + " from the CPU index"
			if strings.Contains(p.spec, "+cpu") {
				what = p.name + p.spec
			}
		case oneOf(p.name, "tensorflow-cpu", "faiss-cpu", "cpuonly", "intel-tensorflow", "tensorflow-cpu-aws", "dgl-cpu"):
			if p.name == "faiss-cpu" && im.has("torch", "vllm") {
				continue
			}
			what = p.name
		case p.name == "jax" && strings.Contains(p.extras, "cpu"), p.name == "jax" && p.extras == "" && !strings.Contains(im.base.ref, "jax") && !im.has("jax-cuda12-plugin", "jax-cuda13-plugin", "torch", "tensorflow") && !slices.ContainsFunc(im.python, func(q pyPackage) bool { return q.name == "jax" && strings.Contains(q.extras, "cuda") }):
			what = p.name + " without the extra cuda12"
		case p.name == "tensorflow" && p.extras == "" && !im.base.brings && !im.driver && im.strongOrVariable() && !c.cudaInside(im):
			what = "tensorflow without the extra and-cuda"
		default:
			continue
		}
		said[p.name] = true
		if torchFamily[p.name] {
			if said["torch*"] {
				continue
			}
			said["torch*"] = true
		}
		c.at("cpu-only-framework", p.file, p.line, fmt.Sprintf("%s is a CPU build, and the image wants a GPU (%s), which stays unused on every host", what, im.wants), c.gpuBuild(im, p), p.evidence())
	}
}

func (im *image) strongOrVariable() bool { return im.wants != "" }

// variable says whether a word holds an ARG: the builder chooses.
func (c *checker) variable(raw string) bool {
	for name := range c.d.args {
		if strings.Contains(raw, "$"+name) || strings.Contains(raw, "${"+name) {
			return true
		}
	}
	return false
}

// cudaInside says whether something else brings CUDA and cuDNN.
func (c *checker) cudaInside(im *image) bool {
	if slices.ContainsFunc(im.python, func(p pyPackage) bool {
		return strings.HasPrefix(p.name, "nvidia-cu") || strings.HasPrefix(p.name, "cudnn") || p.name == "cudatoolkit"
	}) {
		return true
	}
	for _, p := range im.system {
		if strings.HasPrefix(p.name, "libcudnn") || strings.HasPrefix(p.name, "cudnn") || strings.HasPrefix(p.name, "cuda-") {
			return true
		}
	}
	return false
}

// gpuBuild says what to install instead of a CPU build.
func (c *checker) gpuBuild(im *image, p pyPackage) string {
	switch {
	case torchFamily[p.name]:
		return fmt.Sprintf("the CUDA index: --index-url https://download.pytorch.org/whl/%s (or no index: PyPI's default wheel for Linux has CUDA); if CPU is meant, take a small base image without CUDA", torchIndex(im, p))
	case strings.HasPrefix(p.name, "tensorflow"), p.name == "intel-tensorflow":
		return "tensorflow[and-cuda] (2.14 or newer), which brings CUDA and cuDNN"
	case p.name == "jax":
		return "jax[cuda12], or jax[cuda13] for GPUs of compute capability 7.5 and newer"
	case p.name == "cpuonly":
		return "pytorch-cuda of the wanted version instead of cpuonly, or the pip wheels of the CUDA index"
	}
	return "the GPU build: " + strings.Replace(p.name, "-cpu", "-gpu", 1)
}

// torchIndex is the index nearest to the CUDA of the base.
func torchIndex(im *image, p pyPackage) string {
	version, _, _ := strings.Cut(p.version, "+")
	cuda := im.base.known.CUDA
	best, bestTag := "", "cu126"
	for _, w := range knowledge.TorchWheels(version) {
		if cuda != "" && knowledge.CompareVersions(w.CUDA, minorOf(cuda)) <= 0 && knowledge.CompareVersions(w.CUDA, best) > 0 || cuda == "" && w.Default {
			best, bestTag = w.CUDA, w.Tag
		}
	}
	if version == "" || p.name != "torch" {
		// Every index from 11.8 on still serves some version.
		for _, known := range []string{"13.0", "12.9", "12.8", "12.6", "12.4", "12.1", "11.8"} {
			if cuda != "" && knowledge.CompareVersions(known, minorOf(cuda)) <= 0 {
				return "cu" + strings.ReplaceAll(known, ".", "")
			}
		}
	}
	return bestTag
}

// cpuImage gives the GPU tag of an image whose tag is the CPU one.
func cpuImage(b base) string {
	switch {
	case b.repo == "tensorflow/tensorflow" && !strings.Contains(b.tag, "gpu") && !strings.Contains(b.tag, "custom-op") && !strings.Contains(b.tag, "devel") && !strings.Contains(b.tag, "build"):
		if b.tag == "" || b.tag == "latest" {
			return "latest-gpu"
		}
		if v, ok := strings.CutSuffix(b.tag, "-jupyter"); ok {
			return v + "-gpu-jupyter"
		}
		return b.tag + "-gpu"
	case (b.repo == "pytorch/torchserve" || b.repo == "pytorch/pytorch" || b.repo == "huggingface/transformers-pytorch-cpu" || strings.HasSuffix(b.repo, "text-embeddings-inference")) && cpuTag.MatchString(b.tag):
		return cpuTag.ReplaceAllString(b.tag, "${1}gpu${2}")
	}
	return ""
}

// conflicts reports packages that own the same files.
func (c *checker) conflicts(list []pyPackage) { conflicts(c.report, list) }

func conflicts(r *report, list []pyPackage) {
	var cpu, gpu *pyPackage
	for i := range list {
		switch list[i].name {
		case "onnxruntime":
			if cpu == nil {
				cpu = &list[i]
			}
		case "onnxruntime-gpu":
			if gpu == nil {
				gpu = &list[i]
			}
		}
	}
	if cpu != nil && gpu != nil {
		r.at("onnxruntime-conflict", cpu.file, cpu.line, "onnxruntime and onnxruntime-gpu own the same files: the one installed last wins, and the CPU one has no CUDAExecutionProvider", "install only onnxruntime-gpu", cpu.evidence(), gpu.evidence())
	}
}

// fits compares the CUDA of an image with that of a framework: by major, and
// before CUDA 11 by minor too.
func fits(image, wanted string) bool {
	major, _, _ := strings.Cut(wanted, ".")
	if knowledge.CompareVersions(major, "11") < 0 {
		return minorOf(image) == minorOf(wanted)
	}
	m, _, _ := strings.Cut(image, ".")
	return m == major
}

// pairing compares a framework with the tag of nvidia/cuda.
func (c *checker) pairing(im *image, p pyPackage, b knowledge.Build, exact bool) {
	t := im.base.known
	if t.Flavour == "" || im.leaf.bottom().byArg {
		return
	}
	var lacks []string
	if exact && !fits(t.CUDA, b.CUDA) {
		lacks = append(lacks, "CUDA "+b.CUDA)
	}
	major, _, _ := strings.Cut(b.CuDNN, ".")
	if !c.cudaInside(im) {
		switch {
		case !t.CuDNN:
			lacks = append(lacks, "cuDNN "+b.CuDNN)
		case exact && t.CuDNNMajor != "" && t.CuDNNMajor != major:
			lacks = append(lacks, "cuDNN "+b.CuDNN)
		case t.Flavour == "base":
			lacks = append(lacks, "the CUDA math libraries")
		}
	} else if len(lacks) == 0 {
		return
	}
	if len(lacks) == 0 {
		return
	}
	s := im.leaf.bottom()
	summary := fmt.Sprintf("%s wants CUDA %s and cuDNN %s, and nvidia/cuda:%s has no %s, so it would run on the CPU", strings.TrimSpace(p.name+" "+p.version), b.CUDA, b.CuDNN, im.base.tag, strings.Join(lacks, " and no "))
	c.add("framework-cuda-mismatch", s.line, summary, pairingFix(p, b, t), c.d.evidence(s.line), p.evidence(),
		finding.Evidence{Source: "nvidia/cuda flavours", Value: flavours})
}

// pairingFix names a living tag of the pair, and the way without one.
func pairingFix(p pyPackage, b knowledge.Build, t knowledge.Tag) string {
	major, _, _ := strings.Cut(b.CuDNN, ".")
	found, best := "", -1
	for _, l := range knowledge.LivingTags("runtime", true) {
		if !fits(l.CUDA, b.CUDA) || l.CuDNNMajor != "" && l.CuDNNMajor != major {
			continue
		}
		score := 0
		for points, ok := range []bool{0: false, 1: strings.HasPrefix(l.Distro, "ubuntu"), 2: l.Distro == t.Distro, 3: minorOf(l.CUDA) == minorOf(b.CUDA), 4: minorOf(l.CUDA) == minorOf(t.CUDA)} {
			if ok {
				score += points
			}
		}
		if score > best {
			found, best = l.Name, score
		}
	}
	var ways []string
	if found != "" {
		ways = append(ways, "FROM nvidia/cuda:"+found)
	} else {
		ways = append(ways, fmt.Sprintf("no living tag of nvidia/cuda has CUDA %s with cuDNN %s (the last was a %s-cudnn%s tag)", b.CUDA, major, minorOf(b.CUDA), major))
	}
	switch {
	case strings.HasPrefix(p.name, "tensorflow") && b.Brings != "":
		ways = append(ways, "or pip install \"tensorflow[and-cuda]\" on python:3.11-slim, which brings CUDA and cuDNN")
	case strings.HasPrefix(p.name, "tensorflow"):
		ways = append(ways, "or a TensorFlow from 2.14 on with its own CUDA: pip install \"tensorflow[and-cuda]\" on python:3.11-slim")
		if p.version != "" {
			ways = append(ways, fmt.Sprintf("or, if it must be %s, TensorFlow's own image tensorflow/tensorflow:%s-gpu, which was built with that pair", p.version, p.version))
		}
	case p.name == "onnxruntime-gpu":
		ways = append(ways, "or pip install \"onnxruntime-gpu[cuda,cudnn]\" (1.21 or newer), which brings both")
	}
	return strings.Join(ways, "; ") + ". " + strings.ToUpper(flavours[:1]) + flavours[1:] + "."
}

func (c *checker) tensorflow(im *image) {
	if !im.base.cuda {
		return
	}
	for _, p := range im.python {
		if p.conda || !oneOf(p.name, "tensorflow", "tensorflow-gpu") || strings.Contains(p.extras, "and-cuda") {
			continue
		}
		b, ok := knowledge.TensorFlowBuild(p.version)
		if ok {
			c.pairing(im, p, b, p.version != "")
		}
		return
	}
}

func (c *checker) onnxruntime(im *image) {
	for _, p := range im.python {
		if p.name != "onnxruntime-gpu" || p.extras != "" || p.conda {
			continue
		}
		// With the CPU package beside it that is the first thing to mend.
		if im.has("torch", "vllm", "pytorch", "onnxruntime") || p.index != "" {
			return
		}
		b, ok := knowledge.ONNXRuntimeBuild(p.version)
		if !ok {
			return
		}
		if im.base.cuda {
			c.pairing(im, p, b, p.version != "")
		} else if !im.base.brings && !c.cudaInside(im) && !im.leaf.bottom().byArg && !im.driver {
			f := c.at("framework-cuda-mismatch", p.file, p.line, fmt.Sprintf("onnxruntime-gpu needs CUDA %s and cuDNN %s in the image, and %s has neither, so it would run on the CPU", b.CUDA, b.CuDNN, im.base.ref), pairingFix(p, b, knowledge.Tag{}), p.evidence())
			f.Severity = finding.Warning
		}
		return
	}
}

var wheelMajor = regexp.MustCompile(`^(?:nvidia-[a-z0-9-]+-cu|cupy-cuda|jax-cuda|cudf-cu|cuml-cu|nvidia-dali-cuda)(1[0-9])`)

// twoCUDA reports wheels of two CUDA majors.
func (c *checker) twoCUDA(im *image) {
	found := map[string]pyPackage{}
	for _, p := range im.python {
		m := ""
		if x := wheelMajor.FindStringSubmatch(p.name); x != nil {
			m = x[1]
		} else if p.name == "cudatoolkit" || p.name == "pytorch-cuda" {
			m, _, _ = strings.Cut(p.spec, ".")
		} else if x := cudaIndex.FindStringSubmatch(p.index); x != nil && torchFamily[p.name] && !c.variable(p.indexRaw) {
			m = x[1][:len(x[1])-1]
		} else if x := cudaLocal.FindStringSubmatch(p.spec); x != nil {
			m = x[1][:len(x[1])-1]
		}
		if len(m) == 2 && regexp.MustCompile(`^1\d$`).MatchString(m) {
			if _, has := found[m]; !has {
				found[m] = p
			}
		}
	}
	if len(found) < 2 {
		return
	}
	majors := slices.Sorted(maps.Keys(found))
	var ev []finding.Evidence
	for _, m := range majors {
		ev = append(ev, found[m].evidence())
	}
	last := found[majors[len(majors)-1]]
	c.at("two-cuda-versions", last.file, last.line, fmt.Sprintf("packages of CUDA %s are in one environment, and their libraries get mixed", strings.Join(majors, " and ")), "", ev...)
}

// torchTwice reports a chosen torch that a later step replaces.
func (c *checker) torchTwice(im *image) {
	var first *pyPackage
	for i := range im.python {
		p := &im.python[i]
		if p.name != "torch" || p.conda {
			continue
		}
		if first == nil {
			if cudaIndex.MatchString(p.index) || cudaLocal.MatchString(p.spec) {
				first = p
			}
			continue
		}
		a, _, _ := strings.Cut(first.version, "+")
		b, _, _ := strings.Cut(p.version, "+")
		if p.step != first.step && b != "" && a != b && p.index != first.index {
			c.at("torch-installed-twice", p.file, p.line, fmt.Sprintf("this replaces torch %s of the CUDA index by %s from another index", a, b), "", first.evidence(), p.evidence())
			return
		}
	}
}

// cudaTwice notes a CUDA base whose libraries the wheels do not use.
func (c *checker) cudaTwice(im *image) {
	t := im.base.known
	if !im.base.cuda || t.Flavour == "" || t.Flavour == "base" || t.State == "gone" || t.Flavour == "devel" {
		return
	}
	var brings *pyPackage
	for i, p := range im.python {
		switch {
		case p.name == "torch" && !strings.Contains(p.index, "/cpu") && !strings.Contains(p.spec, "+cpu"), p.name == "vllm", p.name == "jax" && strings.Contains(p.extras, "cuda"), p.name == "tensorflow" && strings.Contains(p.extras, "and-cuda"):
			if brings == nil && !p.conda {
				brings = &im.python[i]
			}
		case p.source, strings.HasPrefix(p.name, "onnxruntime"), strings.HasPrefix(p.name, "cupy"), oneOf(p.name, "tensorrt", "numba", "faster-whisper", "ctranslate2", "llama-cpp-python", "pycuda", "deepspeed", "triton"):
			return
		}
	}
	for _, cm := range im.commands {
		if oneOf(cm.name, "nvcc", "cmake", "make") {
			return
		}
	}
	if brings == nil {
		return
	}
	s := im.leaf.bottom()
	c.add("cuda-twice-in-image", s.line, fmt.Sprintf("the wheel of %s brings its own CUDA, so the libraries of nvidia/cuda:%s are there twice, and LD_LIBRARY_PATH puts the base's first", brings.name, im.base.tag),
		"a slim Python image with ENV NVIDIA_VISIBLE_DEVICES=all and NVIDIA_DRIVER_CAPABILITIES=compute,utility, or a base tag", brings.evidence())
}

// requirementsFile judges a requirements file by itself.
func (l *Linter) requirementsFile(r *report, text []byte) {
	var list []pyPackage
	for _, p := range parseRequirements(string(text)) {
		p.file = r.name
		list = append(list, p)
	}
	conflicts(r, list)
}
