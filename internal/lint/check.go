// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"regexp"
	"slices"
	"strings"

	"davit/internal/finding"
)

// checker judges one Dockerfile.
type checker struct {
	*report
	d       *dockerfile
	leaves  []*image
	shipped map[*stage]bool
	said    map[string]bool // one-time findings
}

// image is what a stage that becomes an image is made of.
type image struct {
	leaf     *stage
	stages   []*stage // its lineage, first first
	base     base
	env      map[string]setting
	commands []*command
	system   []systemPackage
	python   []pyPackage
	start    []*instr // the CMD and ENTRYPOINT that count
	startup  string   // their text
	wants    string   // why it is taken to want a GPU, or empty
	strong   bool     // by more than a variable
	driver   bool     // parts of the driver are installed: an error was given
}

func (c *checker) all() {
	c.said = map[string]bool{}
	leaves, shipped := c.d.shipped()
	c.shipped = shipped
	for _, s := range leaves {
		c.leaves = append(c.leaves, c.image(s))
	}
	c.driverChecks()
	c.buildChecks()
	for _, im := range c.leaves {
		c.baseChecks(im)
		c.frameworkChecks(im)
		c.envChecks(im)
		c.pathChecks(im)
		c.layerChecks(im)
	}
	c.retired()
}

func (c *checker) image(s *stage) *image {
	im := &image{leaf: s, stages: s.lineage(), base: s.root(), env: c.d.settings(s)}
	var cmd, entry *instr
	step := 0
	for _, st := range im.stages {
		for _, p := range st.parted {
			for _, x := range p.lineage() {
				step = c.installs(im, x, step)
			}
		}
		step = c.installs(im, st, step)
		for _, in := range st.instrs {
			switch in.cmd {
			case "run":
				im.commands = append(im.commands, in.commands...)
			case "cmd":
				cmd = in
			case "entrypoint":
				entry, cmd = in, nil
			}
		}
	}
	for _, in := range []*instr{entry, cmd} {
		if in != nil {
			im.start = append(im.start, in)
			im.startup += " " + strings.Join(in.args, " ") + c.startScript(im, in)
		}
	}
	for _, cm := range im.commands {
		im.system = append(im.system, systemPackages(cm)...)
	}
	im.wants, im.strong = c.wish(im)
	return im
}

func (c *checker) installs(im *image, s *stage, step int) int {
	for _, in := range s.instrs {
		for _, cm := range in.commands {
			step++
			im.python = append(im.python, c.pythonPackages(cm, s, step)...)
		}
	}
	return step
}

// startScript is the text of the script that the image starts, if it is known.
func (c *checker) startScript(im *image, in *instr) string {
	for _, a := range in.args {
		for _, w := range strings.Fields(a) {
			if !strings.HasSuffix(w, ".sh") {
				continue
			}
			if _, text, ok := c.d.contextFile(im.leaf, place(in.workdir, w)); ok && len(text) < 1<<18 {
				return "\n" + string(text)
			}
		}
	}
	return ""
}

var gpuWords = regexp.MustCompile(`(^|[\s=",])(--require-gpu|--gpus?|nvidia-smi|cuda(:\d+)?|--use[-_]gpu|--cuda)([\s=",]|$)|_nvenc\b|_cuvid\b|nvcuvid|hwaccel[\s=",]+(cuda|nvdec|cuvid)`)
var gpuPackage = regexp.MustCompile(`^(onnxruntime-gpu|cupy-cuda\d+x?|tensorflow-gpu|nvidia-[a-z0-9-]+-cu1[0-9]|vllm|faiss-gpu.*|flash-attn|sglang|cudf-cu\d+|cuml-cu\d+|pycuda|pytorch-cuda|cudatoolkit|jax-cuda\d+-.*|nvidia-dali-cuda\d+|numba-cuda|tensorrt|mxnet-cu\d+|paddlepaddle-gpu|cuda-python|cuda-toolkit|cudnn|dgl-cu\d+|llama-cpp-python-cuda|auto-gptq|ctranslate2-cuda)$`)
var cudaIndex = regexp.MustCompile(`/whl/(?:nightly/|test/)?cu(\d{2,3})\b`)
var cudaLocal = regexp.MustCompile(`\+cu(\d{2,3})`)

// wish says why an image is taken to want a GPU.
func (c *checker) wish(im *image) (why string, strong bool) {
	for _, p := range im.python {
		switch {
		case gpuPackage.MatchString(p.name):
			return p.name, true
		case (p.name == "tensorflow" || p.name == "onnxruntime") && strings.Contains(p.extras, "cuda"), p.name == "jax" && strings.Contains(p.extras, "cuda"):
			return p.name + "[" + p.extras + "]", true
		case torchFamily[p.name] && cudaIndex.MatchString(p.index):
			return p.index, true
		case cudaLocal.MatchString(p.spec):
			return p.name + p.spec, true
		}
	}
	if im.base.gpu {
		return im.base.ref, true
	}
	if v, ok := im.env["NVIDIA_VISIBLE_DEVICES"]; ok && !slices.Contains([]string{"", "void", "none"}, v.value) {
		return "NVIDIA_VISIBLE_DEVICES=" + v.value, false
	}
	for _, name := range []string{"NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_REQUIRE_CUDA", "FORCE_CUDA", "TORCH_CUDA_ARCH_LIST"} {
		if v, ok := im.env[name]; ok && v.value != "" && v.value != "0" {
			return name, false
		}
	}
	if v, ok := im.env["CUDA_VISIBLE_DEVICES"]; ok && v.value != "" && v.value != "-1" {
		return "CUDA_VISIBLE_DEVICES", false
	}
	if m := gpuWords.FindString(im.startup); m != "" {
		return strings.TrimSpace(m), true
	}
	for _, cm := range im.commands {
		if cm.name == "nvidia-smi" || cm.name == "nvcc" {
			return cm.name, true
		}
	}
	return "", false
}

var torchFamily = map[string]bool{"torch": true, "torchvision": true, "torchaudio": true, "pytorch": true}

// each calls f for the RUN instructions of all stages.
func (c *checker) each(f func(*stage, *instr)) {
	for _, s := range c.d.stages {
		for _, in := range s.instrs {
			f(s, in)
		}
	}
}

// has says whether a Python or conda package is installed.
func (im *image) has(names ...string) bool {
	return slices.ContainsFunc(im.python, func(p pyPackage) bool { return slices.Contains(names, p.name) })
}

// ran is where a command stands that is not in the Dockerfile itself.
func (c *checker) ran(cm *command) []finding.Evidence {
	list := []finding.Evidence{}
	if cm.file == c.d.name {
		return append(list, c.d.evidence(cm.line))
	}
	return append(list, finding.Evidence{Source: cm.file, Value: cm.text()}, c.d.evidence(cm.run.line))
}

// mild makes a finding in a stage that is not shipped a note.
func (c *checker) mild(f *finding.Finding, s *stage) {
	if !c.shipped[s] {
		f.Severity = finding.Info
	}
}
