// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"davit/internal/finding"
)

var driverRunFile = regexp.MustCompile(`NVIDIA-Linux-(?:x86_64|aarch64|ppc64le|x86|armv7l-gnueabihf|\*|[^\s/]*?)-?[\w.*+-]*\.run`)
var cudaRunFile = regexp.MustCompile(`(?:^|/)cuda_[\d.*]+[\w.*-]*linux[\w.*-]*(?:\.run|-run)?$`)
var hostInstaller = regexp.MustCompile(`ollama\.com/install\.sh|ollama\.ai/install\.sh|install-?gpu-?driver|cuda_installer\.pyz|install_gpu_driver\.py|lambdalabs\.com/install-lambda-stack|lambda\.ai/install-lambda-stack`)
var driverFile = regexp.MustCompile(`(?:^|/)(libcuda\.so[\w.*]*|libcuda\.\*|libnvidia-[\w*.-]+\.so[\w.*]*|libnvidia-\*|libnvcuvid\.so[\w.*]*|libnvoptix\.so[\w.*]*|libcudadebugger\.so[\w.*]*|nvidia-smi|nvidia-modprobe|nvidia-persistenced)$`)

// driverChecks are the rules on parts of the driver in the image, in all
// stages: what a build stage has is only a note.
func (c *checker) driverChecks() {
	fetched := map[string][]finding.Evidence{} // run files and where they are fetched, by stage
	installed := map[*stage]bool{}
	for _, s := range c.d.stages {
		var lastFetch *command
		for _, in := range s.instrs {
			if in.cmd == "copy" || in.cmd == "add" {
				c.copiedDriver(s, in)
			}
			for _, cm := range in.commands {
				key := fmt.Sprint(s.index)
				switch {
				case c.installer(s, cm, fetched[key]):
					installed[s] = true
				case driverRunFile.MatchString(cm.text()) && !oneOf(cm.name, "rm", "echo", "chmod", "mv", "ls", "test", "[", "sha256sum", "md5sum"):
					fetched[key] = append(fetched[key], c.ran(cm)...)
					lastFetch = cm
				}
				c.driverPackages(s, cm)
				c.driverCommands(s, cm)
			}
		}
		if lastFetch != nil && !installed[s] {
			f := c.at("driver-installer-in-image", lastFetch.file, lastFetch.line, "an NVIDIA driver installer is fetched into the image, where the driver must come from the host", "", c.ran(lastFetch)...)
			f.Severity = finding.Warning
			c.mild(f, s)
		}
	}
}

func oneOf(s string, list ...string) bool { return slices.Contains(list, s) }

// installer reports a driver or CUDA installer that is run.
func (c *checker) installer(s *stage, cm *command, before []finding.Evidence) bool {
	program := cm.rawName()
	if isShell(cm.name) {
		for _, a := range cm.args {
			if a.val == "-c" {
				return false
			}
			if !strings.HasPrefix(a.val, "-") {
				program = a.val
				break
			}
		}
	}
	base := path.Base(program)
	switch {
	case driverRunFile.MatchString(base):
		version := strings.TrimSuffix(base, ".run")
		summary := fmt.Sprintf("the installer %s puts one fixed driver into the image, which must equal the host's kernel module to the last digit", base)
		fix := "leave the installer out: the host's driver is injected at run time (docker run --gpus all). An image with a driver of its own is built again with each driver, is wrong on the next machine and after the next driver update, and nobody remembers its steps."
		if want := c.wanted(s); want != "" {
			fix += " " + want
		} else {
			fix += " If Vulkan, EGL or OpenGL files were missing, ask for the capability graphics; for NVENC video; for nvidia-smi utility (NVIDIA_DRIVER_CAPABILITIES)."
		}
		_ = version
		f := c.at("driver-installer-in-image", cm.file, cm.line, summary, fix, append(before, c.ran(cm)...)...)
		c.mild(f, s)
		c.brings(s)
		return true
	case oneOf(cm.name, "nvidia-installer", "ubuntu-drivers"):
		c.mild(c.at("driver-installer-in-image", cm.file, cm.line, cm.name+" installs one fixed driver, which must equal the host's kernel module to the last digit", "", c.ran(cm)...), s)
		c.brings(s)
	case cudaRunFile.MatchString(program):
		args := strings.Join(vals(cm.args), " ")
		toolkit := regexp.MustCompile(`(^|\s)--?(toolkit|extract|samples|tar|help|list)\b`).MatchString(args)
		driver := regexp.MustCompile(`(^|\s)--?driver\b`).MatchString(args)
		if driver || !toolkit {
			f := c.at("cuda-installer-with-driver", cm.file, cm.line, fmt.Sprintf("%s installs its driver too, because --toolkit is missing or --driver is given; the driver must come from the host", base), "", c.ran(cm)...)
			c.mild(f, s)
			c.brings(s)
		}
	}
	return false
}

// wanted says which capability the makers of a stage with a driver were
// probably missing.
func (c *checker) wanted(s *stage) string {
	for _, im := range c.leaves {
		if !slices.Contains(im.stages, s) {
			continue
		}
		g, v := c.usesGraphics(im), c.usesVideo(im)
		switch {
		case g != "" && v != "":
			return fmt.Sprintf("For %s and %s set NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics,video.", g, v)
		case g != "":
			return fmt.Sprintf("For %s set NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics (and install libvulkan1 or libglvnd from the distribution).", g)
		case v != "":
			return fmt.Sprintf("For %s set NVIDIA_DRIVER_CAPABILITIES=compute,utility,video.", v)
		}
	}
	return ""
}

// brings notes that images made from a stage have a driver inside.
func (c *checker) brings(s *stage) {
	for _, im := range c.leaves {
		if slices.Contains(im.stages, s) {
			im.driver = true
		}
	}
}

// driverPackages reports packages that are or bring the driver.
func (c *checker) driverPackages(s *stage, cm *command) {
	for _, p := range systemPackages(cm) {
		known := c.l.packages.Find(p.name)
		if known == nil || p.manager == "apk" || p.name == "cuda" && p.manager == "pacman" {
			continue
		}
		ev := []finding.Evidence{{Source: fmt.Sprintf("%s:%d", cm.file, p.word.line), Value: strings.TrimSpace(p.word.raw)}}
		if cm.file != c.d.name {
			ev = append(ev, c.d.evidence(cm.run.line))
		}
		shown := p.name
		if strings.Contains(shown, "*") {
			shown = strings.Trim(p.word.raw, `"'`)
		}
		switch known.Kind {
		case "driver":
			c.mild(c.at("driver-package-in-image", cm.file, p.word.line, fmt.Sprintf("%s puts driver files of one version into the image; they must come from the host, whose kernel module they have to equal", shown),
				fmt.Sprintf("leave %s out: the host's driver files are injected at run time; nvidia-smi comes with the capability utility", shown), ev...), s)
			c.brings(s)
		case "meta":
			instead := metaInstead(p.name, known.Instead)
			c.mild(c.at("cuda-metapackage-pulls-driver", cm.file, p.word.line, fmt.Sprintf("%s depends on %s, so a driver comes into the image that must come from the host", shown, known.Pulls), instead, ev...), s)
			c.brings(s)
		case "pulls", "recommends":
			if known.Kind == "recommends" && p.lean || c.cudaRepository(s, p.name) {
				continue
			}
			how := "depends on"
			if known.Kind == "recommends" {
				how = "recommends"
			}
			instead := known.Instead
			if instead == "" {
				instead = "a package without that dependency"
			}
			if known.Kind == "recommends" {
				instead += ", or --no-install-recommends"
			}
			f := c.at("package-pulls-driver-libraries", cm.file, p.word.line, fmt.Sprintf("%s %s %s, so driver libraries of one version come into the image", shown, how, known.Pulls), "install "+strings.TrimPrefix(instead, "pip install ")+" instead", ev...)
			if strings.HasPrefix(instead, "pip install ") {
				f.Remediation.Text = "take it from PyPI instead: " + instead
			}
			c.mild(f, s)
			c.brings(s)
		}
	}
}

// cudaRepository says whether a package of this name comes from NVIDIA's own
// repository, whose packages have no such dependency.
func (c *checker) cudaRepository(s *stage, name string) bool {
	return strings.HasPrefix(name, "nsight-systems") && s.root().cuda || strings.HasPrefix(name, "libcudart")
}

func metaInstead(name, instead string) string {
	rest := strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(name, "cuda-runtime"), "cuda-demo-suite"), "cuda")
	if strings.HasPrefix(name, "lambda") {
		return "take the frameworks from PyPI or from an image"
	}
	v := strings.ReplaceAll(strings.SplitN(strings.TrimPrefix(rest, "-"), "-1", 2)[0], ".", "-")
	if regexp.MustCompile(`^\d+-\d+`).MatchString(strings.TrimPrefix(rest, "-")) {
		v = regexp.MustCompile(`^\d+-\d+`).FindString(strings.TrimPrefix(rest, "-"))
	}
	if v == "" || v == "*" {
		return "install cuda-toolkit to compile or cuda-libraries-X-Y to run: they have no driver in them; or start from a devel or runtime tag of nvidia/cuda"
	}
	if instead == "cuda-libraries-X-Y" {
		return fmt.Sprintf("install cuda-libraries-%s instead (cuda-toolkit-%s to compile)", v, v)
	}
	return fmt.Sprintf("install cuda-toolkit-%s instead, or cuda-libraries-%s for run time only", v, v)
}

// driverCommands reports other ways in which a driver comes in.
func (c *checker) driverCommands(s *stage, cm *command) {
	text := cm.text()
	switch {
	case oneOf(cm.name, "curl", "wget", "sh", "bash", "python3", "python") && hostInstaller.MatchString(text):
		c.mild(c.at("host-installer-in-image", cm.file, cm.line, "the script is an installer for hosts and may install a driver: "+hostInstaller.FindString(text), "", c.ran(cm)...), s)
	case oneOf(cm.name, "modprobe", "insmod") && strings.Contains(text, "nvidia"):
		c.mild(c.at("kernel-module-in-image", cm.file, cm.line, "a build cannot load kernel modules; the nvidia module is loaded by the host", "", c.ran(cm)...), s)
	case cm.name == "cp" || cm.name == "mv" || cm.name == "ln" || cm.name == "install":
		c.linkedDriver(s, cm)
	}
	if systemPackages(cm) != nil {
		for _, p := range systemPackages(cm) {
			raw := strings.Trim(p.word.raw, `"'`)
			if strings.HasPrefix(p.name, "linux-headers-") && strings.Contains(raw, "uname") && c.anyWish(s) {
				c.mild(c.at("kernel-module-in-image", cm.file, p.word.line, "linux-headers of uname -r are those of the build machine; a container has no kernel of its own", "", c.ran(cm)...), s)
			}
			if strings.HasPrefix(p.name, "nvidia-container-") || p.name == "nvidia-docker2" || strings.HasPrefix(p.name, "libnvidia-container") {
				if b := s.root(); !strings.Contains(b.repo+b.tag, "dind") && !strings.Contains(b.repo, "kindest") && !strings.Contains(b.repo, "k3s") && b.repo != "docker" && !strings.Contains(b.repo, "kind") {
					c.mild(c.at("container-toolkit-in-image", cm.file, p.word.line, p.name+" belongs to the host, where containers are started", "", c.ran(cm)...), s)
				}
			}
		}
	}
}

func (c *checker) anyWish(s *stage) bool {
	return slices.ContainsFunc(c.leaves, func(im *image) bool { return im.wants != "" && slices.Contains(im.stages, s) })
}

// copiedDriver reports COPY and ADD of driver files and installers.
func (c *checker) copiedDriver(s *stage, in *instr) {
	if len(in.args) < 2 {
		return
	}
	dst := in.args[len(in.args)-1]
	for _, src := range in.args[:len(in.args)-1] {
		if m := driverFile.FindStringSubmatch(src); m != nil && !strings.Contains(src, "/stubs/") && !strings.Contains(src, "/compat/") && !strings.Contains(dst, "/compat") && !strings.Contains(dst, "/stubs") {
			line := c.d.lineOf(in, path.Base(src))
			c.mild(c.add("driver-library-in-image", line, fmt.Sprintf("%s is a file of the driver; the copy ties the image to one driver and stands where the host's file is to be mounted", m[1]),
				"leave the copy out: the file comes from the host at run time; for linking use /usr/local/cuda/lib64/stubs in a build stage", c.d.evidence(line)), s)
			c.brings(s)
		}
	}
}

// linkedDriver reports driver files and stubs that are copied or linked within
// the image.
func (c *checker) linkedDriver(s *stage, cm *command) {
	var names []string
	for _, a := range cm.args {
		if !strings.HasPrefix(a.val, "-") {
			names = append(names, a.val)
		}
	}
	if len(names) < 2 {
		return
	}
	src, dst := names[0], names[len(names)-1]
	base := path.Base(src)
	target := dst
	if !strings.Contains(path.Base(dst), ".so") && cm.name != "mv" || strings.HasSuffix(dst, "/") {
		target = path.Join(dst, base)
	}
	if strings.Contains(src, "/stubs/") {
		soname := regexp.MustCompile(`lib(cuda|nvidia-ml)\.so(\.1)?`).MatchString(path.Base(target)) || strings.ContainsAny(base, "*")
		if soname && !strings.Contains(target, "/stubs/") && c.shipped[s] && !c.removed(s, cm, target) {
			c.at("stub-library-in-final-stage", cm.file, cm.line, fmt.Sprintf("the stub becomes %s, which programs load at run time in place of the driver (libcuda.so.1 is then a stub: CUDA error 34)", target),
				"make no such link: for link time set LIBRARY_PATH or pass -L/usr/local/cuda/lib64/stubs; or remove it in the same RUN", c.ran(cm)...)
		}
		return
	}
	if driverFile.MatchString(src) && !strings.Contains(src, "/compat/") && !strings.Contains(target, "/compat/") && !c.removed(s, cm, target) {
		// A dangling name without version helps programs that open it, and the
		// driver's own names are what it points to.
		if cm.name == "ln" && !regexp.MustCompile(`\.so\.[\d*]+$`).MatchString(target) {
			return
		}
		if cm.name == "ln" && regexp.MustCompile(`\.so\.\d$`).MatchString(src) {
			return
		}
		c.mild(c.at("driver-library-in-image", cm.file, cm.line, fmt.Sprintf("%s of %s fixes one driver's files in the image; they must come from the host", cm.name, base), "", c.ran(cm)...), s)
	}
}

// removed says whether a later command of the image removes a file.
func (c *checker) removed(s *stage, from *command, file string) bool {
	after := false
	for _, in := range s.instrs {
		for _, cm := range in.commands {
			if cm == from {
				after = true
				continue
			}
			if !after || !oneOf(cm.name, "rm", "unlink", "find") {
				continue
			}
			for _, a := range cm.args {
				if ok, err := path.Match(a.val, file); a.val == file || err == nil && ok || strings.HasSuffix(a.val, "/*") && strings.HasPrefix(file, strings.TrimSuffix(a.val, "*")) {
					return true
				}
				if path.Base(a.val) == path.Base(file) && !strings.HasPrefix(a.val, "/") {
					return true
				}
			}
		}
	}
	return false
}
