// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"regexp"
	"strings"

	"davit/internal/knowledge"
)

var compatPath = regexp.MustCompile(`/usr/local/cuda(-[\d.]+)?/compat\b`)

// pathChecks are the rules on the loader's paths of an image.
func (c *checker) pathChecks(im *image) {
	if v, ok := im.env["LD_LIBRARY_PATH"]; ok {
		if strings.Contains(v.value, "/stubs") {
			c.add("stub-library-in-final-stage", v.line, "LD_LIBRARY_PATH of the final stage has the stubs folder, so programs load the stub in place of the driver's libcuda.so.1 (CUDA error 34)",
				"take the stubs folder off LD_LIBRARY_PATH; for link time use LIBRARY_PATH or -L/usr/local/cuda/lib64/stubs", c.d.evidence(v.line))
		}
		if compatPath.MatchString(v.value) {
			c.add("compat-library-forced", v.line, "LD_LIBRARY_PATH forces the compatibility libcuda, which fails with error 803 or 804 on hosts that it is not for and hides a newer one", "", c.d.evidence(v.line))
		}
		old := v.raw != v.value && strings.Contains(v.raw, "LD_LIBRARY_PATH")
		if im.base.cuda && !old && !strings.Contains(v.value, "/usr/local/nvidia/lib") && keepsNvidiaPath(im.base.known.CUDA) && !strings.Contains(v.value, "/stubs") {
			c.add("library-path-overwritten", v.line, fmt.Sprintf("the value drops /usr/local/nvidia/lib64, which nvidia/cuda:%s lists and where some platforms mount the driver", im.base.tag), "append :${LD_LIBRARY_PATH}", c.d.evidence(v.line))
		}
	}
	for _, cm := range im.commands {
		for _, d := range cm.redirects {
			text := cm.text() + d.body
			if !d.out {
				continue
			}
			conf := strings.HasPrefix(d.target, "/etc/ld.so.conf")
			profile := regexp.MustCompile(`bashrc|profile|/etc/environment`).MatchString(d.target) && strings.Contains(text, "LD_LIBRARY_PATH")
			if (conf || profile) && strings.Contains(text, "/stubs") && !c.removed(cm.run.stage, cm, d.target) {
				c.at("stub-library-in-final-stage", cm.file, cm.line, fmt.Sprintf("the stubs folder is written to %s, so programs load the stub in place of libcuda.so.1 of the driver", d.target), "", c.ran(cm)...)
			}
			if (conf || profile) && compatPath.MatchString(text) {
				c.at("compat-library-forced", cm.file, cm.line, fmt.Sprintf("%s forces the compatibility libcuda, which fails with error 803 or 804 on hosts that it is not for", d.target), "", c.ran(cm)...)
			}
		}
	}
}

// keepsNvidiaPath says whether LD_LIBRARY_PATH of that CUDA's images has
// /usr/local/nvidia.
func keepsNvidiaPath(cuda string) bool {
	return cuda != "" && (knowledge.CompareVersions(cuda, "12.8.0") <= 0 || knowledge.CompareVersions(cuda, "13.0.0") >= 0)
}

// layerChecks are the rules on steps, of images that want a GPU or have a
// driver in them.
func (c *checker) layerChecks(im *image) {
	if im.wants == "" && !im.driver {
		return
	}
	added := map[string]int{} // folder in the image -> line of the step
	for _, s := range im.stages {
		var cmd *instr
		for _, in := range s.instrs {
			switch in.cmd {
			case "cmd":
				if cmd != nil {
					c.add("command-overridden", cmd.line, fmt.Sprintf("the CMD of line %d takes this one's place, so it has no effect", in.line), "", c.d.evidence(cmd.line))
				}
				cmd = in
			case "add", "copy":
				if len(in.args) > 1 {
					added[place(in.workdir, in.args[len(in.args)-1])] = in.line
				}
			case "run":
				c.steps(im, in, added)
			}
		}
	}
	c.apt(im)
}

func (c *checker) steps(im *image, in *instr, added map[string]int) {
	own, exports := 0, 0
	for _, cm := range in.commands {
		if cm.from != nil {
			continue
		}
		own++
		switch cm.name {
		case "export":
			if len(cm.vars) > 0 {
				exports++
			}
		case "touch":
			for _, a := range cm.args {
				if strings.HasPrefix(a.val, "/etc/ld.so.conf.d/") && !c.writes(in, a.val) {
					c.add("empty-loader-configuration", cm.line, fmt.Sprintf("%s stays empty and names no folder, so it does nothing", a.val), "", c.d.evidence(cm.line))
				}
			}
		case "rm":
			c.deleted(cm, added)
		case "apt-get", "apt", "yum", "dnf":
			if cm.has("remove", "purge", "autoremove") && strings.Contains(cm.text(), "nvidia") && !im.base.gpu {
				c.add("driver-removal-useless", cm.line, "there is no driver in the base image that could be removed", "", c.d.evidence(cm.line))
			}
		}
	}
	if exports > 0 && exports == own {
		cm := in.commands[0]
		c.add("export-without-effect", cm.line, "export in a RUN of its own has no effect on later steps or at run time: the shell ends with the step", "ENV, if the value is needed at all (tags of nvidia/cuda set the library path themselves)", c.d.evidence(cm.line))
	}
}

// writes says whether another command fills a file.
func (c *checker) writes(in *instr, file string) bool {
	for _, other := range in.stage.instrs {
		for _, cm := range other.commands {
			for _, d := range cm.redirects {
				if d.out && d.target == file {
					return true
				}
			}
			if oneOf(cm.name, "tee", "sed") && strings.Contains(cm.text(), file) {
				return true
			}
		}
	}
	return false
}

func (c *checker) deleted(cm *command, added map[string]int) {
	for _, a := range cm.args {
		for folder, line := range added {
			if folder != "/" && a.val == folder && line != cm.line {
				c.add("deleted-in-later-layer", cm.line, fmt.Sprintf("the layer of line %d keeps %s, so removing it here does not make the image smaller", line, folder),
					"bind it for the step alone: RUN --mount=type=bind,source=…,target="+folder, c.d.evidence(line), c.d.evidence(cm.line))
			}
		}
		if strings.HasPrefix(a.val, "/tmp/selfgz") {
			c.add("deleted-in-later-layer", cm.line, "the layer that wrote these files keeps them, so removing them here does not make the image smaller", "", c.d.evidence(cm.line))
		}
	}
}

// apt reports installs that fail or stop in CUDA images.
func (c *checker) apt(im *image) {
	if !im.base.cuda {
		return
	}
	fetched, said := false, false
	for _, cm := range im.commands {
		if !oneOf(cm.name, "apt-get", "apt") {
			if cm.name == "rm" && strings.Contains(cm.text(), "/var/lib/apt/lists") {
				fetched = false
			}
			continue
		}
		if cm.has("update") {
			fetched = true
		}
		if !cm.has("install") || len(systemPackages(cm)) == 0 {
			continue
		}
		local := strings.Contains(cm.text(), ".deb")
		if !fetched && !said && !local && cm.from == nil && !strings.Contains(strings.Join(cm.run.flags, " "), "/var/lib/apt") {
			said = true
			c.at("apt-without-update", cm.file, cm.line, "apt-get install without apt-get update in the same layer: the base image has no package lists, so nothing is found", "RUN apt-get update && apt-get install -y … && rm -rf /var/lib/apt/lists/*", c.ran(cm)...)
		}
		if !assumesYes(cm) {
			c.at("apt-without-yes", cm.file, cm.line, "apt-get install without -y asks a question that nobody answers, and the build stops", "", c.ran(cm)...)
		}
	}
}

func assumesYes(cm *command) bool {
	for _, a := range cm.args {
		if oneOf(a.val, "--yes", "--assume-yes", "--force-yes", "-qq", "--download-only", "--simulate", "--print-uris") || strings.Contains(a.val, "APT::Get::Assume-Yes") {
			return true
		}
		if strings.HasPrefix(a.val, "-") && !strings.HasPrefix(a.val, "--") && strings.ContainsAny(a.val, "ysd") {
			return true
		}
	}
	for _, other := range cm.run.commands {
		if other.name == "yes" {
			return true
		}
	}
	// Somebody may have written the answer into apt's configuration.
	for _, s := range cm.run.stage.lineage() {
		for _, in := range s.instrs {
			if strings.Contains(in.node.Original, "Assume-Yes") {
				return true
			}
		}
	}
	return false
}
