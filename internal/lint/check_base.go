// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"davit/internal/finding"
	"davit/internal/knowledge"
)

const flavours = "base has the CUDA runtime library only, runtime adds the math libraries, tags with cudnn add cuDNN, devel adds nvcc and headers"

// retired judges the nvidia/cuda tags of all stages: a tag that is gone stops
// the build wherever it stands.
func (c *checker) retired() {
	for _, s := range c.d.stages {
		if s.base == "" || s.byArg {
			continue
		}
		b := imageOf(s.base)
		if b.cuda {
			cudaTag(c.report, b, s.line, s.platform, c.d.evidence(s.line))
		}
		if s.platform == "linux/amd64" && strings.Contains(b.repo, "nvidia/l4t-") {
			c.add("jetson-image", s.line, "an l4t image runs on Jetson only and has no build for linux/amd64", "", c.d.evidence(s.line))
		}
	}
}

// cudaTag judges one tag of nvidia/cuda.
func cudaTag(r *report, b base, line int, _ string, ev ...finding.Evidence) {
	if strings.Contains(b.ref, "@sha256:") && b.tag == "" {
		return
	}
	if b.tag == "" || b.tag == "latest" {
		tag, _ := replacement(knowledge.Tag{Flavour: "base"})
		r.add("base-image-without-tag", line, "nvidia/cuda has no tag latest, so the image cannot be pulled", fmt.Sprintf("name a tag with CUDA version, flavour and system, such as nvidia/cuda:%s; %s", tag, flavours), ev...)
		return
	}
	if b.known.State == "alive" && knowledge.EndOfLife(b.known.Distro) == "" || b.known.State == "seen" || b.known.State == "unknown" {
		return
	}
	_, text := replacement(b.known)
	switch b.known.State {
	case "gone":
		when := ""
		if b.known.AbsentSince != "" {
			when = fmt.Sprintf(" (removed from the lists by %s)", b.known.AbsentSince)
		}
		r.add("retired-base-image", line, fmt.Sprintf("nvidia/cuda:%s no longer exists%s, so the build stops here", b.tag, when), "take "+text+". Of the flavours, "+flavours+".", ev...)
	case "doomed":
		r.add("base-image-end-of-life", line, fmt.Sprintf("nvidia/cuda:%s is past its end of life and will be deleted", b.tag), "take "+text, ev...)
	case "alive":
		if ended := knowledge.EndOfLife(b.known.Distro); ended != "" {
			r.add("base-image-end-of-life", line, fmt.Sprintf("%s of nvidia/cuda:%s is out of support since %s, and its tags will be deleted", b.known.Distro, b.tag, ended), "take "+text, ev...)
		}
	case "":
		switch {
		case b.known.CUDA == "" || strings.Contains(b.tag, "*"):
		case b.known.Distro == "":
			r.add("retired-base-image", line, fmt.Sprintf("nvidia/cuda:%s does not exist: tags without a system were removed in 2021", b.tag), "take "+text, ev...)
		case knowledge.CompareVersions(b.known.CUDA, knowledge.NewestCUDA) <= 0:
			f := r.add("retired-base-image", line, fmt.Sprintf("nvidia/cuda:%s is in no list of tags and probably does not exist", b.tag), "take "+text, ev...)
			f.Severity = finding.Warning
		}
	}
}

func (c *checker) baseChecks(im *image) {
	s := im.leaf.bottom()
	b := im.base
	if s.byArg || im.wants == "" && !im.driver {
		return
	}
	if b.musl && im.wants != "" && !s.chosen {
		better := "a glibc base such as debian:12-slim or ubuntu:24.04"
		if strings.Contains(b.tag, "alpine") {
			better = fmt.Sprintf("a glibc base such as %s:%s", b.repo, strings.Trim(regexp.MustCompile(`-?alpine[0-9.]*`).ReplaceAllString(b.tag, ""), "-")+"-slim")
		} else if strings.Contains(b.repo, "distroless/static") {
			better = "gcr.io/distroless/base-debian12, which has glibc"
		}
		c.add("musl-image", s.line, fmt.Sprintf("%s has no glibc (Alpine and busybox use musl), and the injected driver libraries and nvidia-smi need it: they are \"not found\" although the files are there", b.ref),
			fmt.Sprintf("take %s; gcompat lets some of them run, with reservations", better), c.d.evidence(s.line))
	}
	if ended := knowledge.EndOfLife(b.system); ended != "" && !b.cuda && b.system != "" {
		c.add("base-image-end-of-life", s.line, fmt.Sprintf("%s is out of support since %s: no fixes, and its glibc is older than what new driver libraries may need", b.ref, ended), "take a living system, such as ubuntu:24.04 or debian:12, or a living tag of nvidia/cuda", c.d.evidence(s.line))
	}
	c.flavour(im)
	c.devel(im)
	c.compiler(im)
}

var nvccPackage = regexp.MustCompile(`^(cuda-(nvcc|toolkit|compiler|minimal-build|command-line-tools)(-.*)?|cuda-1[0-9][-.].*|cuda|nvidia-cuda-toolkit|nvidia-cuda-nvcc.*)$`)

// flavour reports nvcc in a stage of nvidia/cuda that has none.
func (c *checker) flavour(im *image) {
	c.each(func(s *stage, in *instr) {
		b := s.root()
		if !b.cuda || s.bottom().byArg || b.known.Flavour == "" || b.known.Flavour == "devel" {
			return
		}
		for _, cm := range in.commands {
			cmake := cm.name == "cmake" && regexp.MustCompile(`-D\w*(GGML_CUDA|USE_CUDA|WITH_CUDA|ENABLE_CUDA|LLAMA_CUBLAS|CUDA_ARCH)\w*=(ON|1|TRUE|on|[0-9"])`).MatchString(cm.text())
			if cm.name != "nvcc" && !cmake || cm.soft || c.said[fmt.Sprint("nvcc", s.index)] || c.brought(s, nvccPackage) {
				continue
			}
			c.said[fmt.Sprint("nvcc", s.index)] = true
			tag, _ := replacement(knowledge.Tag{CUDA: b.known.CUDA, Flavour: "devel", CuDNN: b.known.CuDNN, Distro: b.known.Distro})
			c.at("image-lacks-cuda-part", cm.file, cm.line, fmt.Sprintf("nvcc is used, and nvidia/cuda:%s is a %s tag without it", b.tag, b.known.Flavour),
				fmt.Sprintf("compile in a stage FROM nvidia/cuda:%s and copy the result into this one; %s", tag, flavours), append(c.ran(cm), c.d.evidence(s.bottom().line))...)
		}
	})
}

// brought says whether a stage installs a package of a pattern.
func (c *checker) brought(s *stage, pattern *regexp.Regexp) bool {
	for _, x := range s.lineage() {
		for _, in := range x.instrs {
			for _, cm := range in.commands {
				if cudaRunFile.MatchString(cm.rawName()) || isShell(cm.name) && len(cm.args) > 0 && cudaRunFile.MatchString(cm.args[0].val) {
					return true
				}
				for _, p := range systemPackages(cm) {
					if pattern.MatchString(p.name) {
						return true
					}
				}
				for _, p := range c.pythonPackages(cm, x, 0) {
					if pattern.MatchString(p.name) || p.name == "cudatoolkit-dev" {
						return true
					}
				}
			}
		}
	}
	return false
}

var compilesAtRun = regexp.MustCompile(`^(torch|triton|cupy.*|deepspeed|vllm|sglang|flashinfer.*|numba.*|jax.*|pycuda|tensorflow.*|xformers|flash-attn|bitsandbytes|taichi|nvidia-.*|tilelang|gsplat|nerfstudio|warp-lang)$`)

// devel notes a compiler in an image that starts a finished program.
func (c *checker) devel(im *image) {
	if !im.base.cuda || im.base.known.Flavour != "devel" || im.leaf.bottom().byArg || len(im.start) == 0 || oneOfShells(im.startup) {
		return
	}
	if slices.ContainsFunc(im.python, func(p pyPackage) bool { return compilesAtRun.MatchString(p.name) || p.source || p.name == "-r" }) || strings.Contains(im.startup, "nvcc") || strings.Contains(im.startup, "python") {
		return
	}
	for _, cm := range im.commands {
		if oneOf(cm.name, "make", "cmake", "nvcc", "ninja", "meson", "cargo", "bazel") {
			s := im.leaf.bottom()
			c.add("devel-in-final-stage", s.line, fmt.Sprintf("nvidia/cuda:%s ships the compiler with the finished program", im.base.tag),
				"build in a stage of it, and copy the program into a runtime or base tag of the same CUDA version", c.d.evidence(s.line))
			return
		}
	}
}

func oneOfShells(startup string) bool {
	f := strings.Fields(startup)
	return len(f) > 0 && len(f) < 3 && isShell(strings.TrimPrefix(f[0], "/bin/"))
}

var gccVersion = regexp.MustCompile(`^(?:gcc|g\+\+)-(\d+)$`)

// lastGCC is the newest gcc that nvcc of a CUDA version takes.
var lastGCC = map[string]string{"11.8": "11", "12.0": "12", "12.1": "12", "12.2": "12", "12.3": "12", "12.4": "13", "12.5": "13", "12.6": "13", "12.8": "14", "12.9": "14"}

func (c *checker) compiler(im *image) {
	c.each(func(s *stage, in *instr) {
		b := s.root()
		limit := lastGCC[minorOf(b.known.CUDA)]
		if in.cmd != "env" || !b.cuda || limit == "" || s.bottom().byArg {
			return
		}
		for _, name := range []string{"CC", "CXX", "CUDAHOSTCXX", "NVCC_CCBIN"} {
			for i := 0; i+1 < len(in.args); i += 3 {
				m := gccVersion.FindStringSubmatch(in.vars[name])
				if in.args[i] == name && m != nil && knowledge.CompareVersions(m[1], limit) > 0 && !c.said["gcc"] {
					c.said["gcc"] = true
					line := c.d.lineOf(in, name)
					c.add("compiler-too-new", line, fmt.Sprintf("nvcc of CUDA %s takes gcc up to %s, and %s is %s", minorOf(b.known.CUDA), limit, name, in.vars[name]), fmt.Sprintf("gcc-%s for nvcc, or a newer CUDA", limit), c.d.evidence(line))
				}
			}
		}
	})
}
