// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// askChecks are the ways to ask for GPUs, for parts of the driver, and for a
// driver that is new enough.
func askChecks(h *host) []check {
	last := len(h.gpus) - 1
	g := h.gpus[last]
	forms := []struct {
		name, value string
		want        []int
	}{
		{"all", "all", h.all()},
		{"index 0", "0", []int{0}},
		{"0,0 is one GPU", "0,0", []int{0}},
		{"UUID", g.uuid, []int{last}},
		{"beginning of a UUID", cut8(g.uuid), []int{last}},
		{"PCI bus id as in /proc", g.bus, []int{last}},
		{"PCI bus id as nvidia-smi writes it", "0000" + strings.ToUpper(g.bus), []int{last}},
		{"two names for one GPU", fmt.Sprintf("%d,%s", last, g.uuid), []int{last}},
	}
	var list []check
	for _, f := range forms {
		list = append(list, check{name: "ask: " + f.name, run: func(c *column) outcome {
			return c.start(container{image: "debian", gpus: f.value, args: smiList}).lists(h.list(f.want...))
		}})
	}
	return append(list,
		check{name: "ask: none gives the driver and no GPU", run: askNone},
		check{name: "ask: an unknown device names those that exist", run: func(c *column) outcome {
			r := c.start(container{image: "debian", gpus: "GPU-ffffffff", args: smiList})
			if r.code == 0 {
				return r.because("the container started")
			}
			for _, g := range h.gpus {
				if !strings.Contains(r.all(), g.uuid) {
					return r.because("the message does not name %s", g.uuid)
				}
			}
			return good
		}},
		check{name: "NVIDIA_DRIVER_CAPABILITIES=utility: no libcuda", run: func(c *column) outcome {
			return c.parts("utility", "libnvidia-ml.so.1", "libcuda.so.1")
		}},
		check{name: "NVIDIA_DRIVER_CAPABILITIES=compute: no nvidia-smi", run: func(c *column) outcome {
			return c.parts("compute", "libcuda.so.1", "nvidia-smi")
		}},
		check{name: "NVIDIA_REQUIRE_CUDA=cuda>=12 is met", run: func(c *column) outcome {
			return c.start(container{image: "debian", gpus: "all", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=12"}, args: smiList}).lists(h.smi)
		}},
		check{name: "NVIDIA_REQUIRE_CUDA=cuda>=99 is refused, with the way out", run: func(c *column) outcome {
			r := c.start(container{image: "debian", gpus: "all", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=99"}, args: smiList})
			if r.code == 0 {
				return r.because("the container started")
			}
			for _, want := range []string{"cuda>=99", h.driver, "NVIDIA_DISABLE_REQUIRE"} {
				if !strings.Contains(r.all(), want) {
					return r.because("the message does not hold %q", want)
				}
			}
			return good
		}},
	)
}

// cut8 is the beginning of a UUID that people copy.
func cut8(uuid string) string { return uuid[:min(len(uuid), len("GPU-")+8)] }

func askNone(c *column) outcome {
	r := c.start(container{image: "debian", gpus: "none", args: []string{"sh", "-c", "nvidia-smi -L; echo status $?; /davit/gpucheck probe nodes"}})
	if strings.Contains(r.out, "UUID") {
		return r.because("a GPU is seen")
	}
	for _, g := range c.host.gpus {
		if strings.Contains(r.out, fmt.Sprintf(" %s ok", g.node)) {
			return r.because("a GPU's node opens")
		}
	}
	if !strings.Contains(r.out, "probe: ok") || !strings.Contains(strings.ToLower(r.all()), "no devices") {
		return r.because("nvidia-smi does not say that there are no devices")
	}
	return good
}

// parts checks that a capability brings one file and not the other.
func (c *column) parts(capability, with, without string) outcome {
	r := c.start(container{image: "debian", gpus: "all", env: []string{"NVIDIA_DRIVER_CAPABILITIES=" + capability},
		args: []string{"/davit/gpucheck", "probe", "find=" + with, "find=" + without}})
	if r.code != 0 || !strings.Contains(r.out, "find "+with+" /") {
		return r.because("%s is not there", with)
	}
	if !strings.Contains(r.out, "find "+without+"\n") {
		return r.because("%s is there", without)
	}
	return good
}

// isolationChecks need two GPUs: a container has the first.
func isolationChecks(h *host) []check {
	first := func(run func(c *column, other gpu) outcome) func(*column) outcome {
		return func(c *column) outcome {
			if len(h.gpus) < 2 {
				return none
			}
			return run(c, h.gpus[1])
		}
	}
	own := h.gpus[0]
	return []check{
		{name: "GPU 0 of 2: the other's node, made by mknod, does not open", run: first(func(c *column, other gpu) outcome {
			r := c.start(container{image: "debian", gpus: "0", args: []string{"/davit/gpucheck", "probe", "nodes", "mknod=" + own.node, "mknod=" + other.node}})
			if !strings.Contains(r.out, "mknod "+own.node+" ok\n") || !strings.Contains(r.out, "mknod "+other.node+" EPERM\n") {
				return r.because("want own node %s to open and %s to be refused with EPERM", own.node, other.node)
			}
			if strings.Contains(r.out, fmt.Sprintf("node /dev/nvidia%d ", other.minor)) {
				return r.because("the other's node is there")
			}
			return good
		})},
		{name: "GPU 0 of 2: CUDA counts one device", run: first(func(c *column, _ gpu) outcome {
			return c.sees(c.start(container{image: "debian", gpus: "0", args: []string{"/davit/cudacheck", "list"}}), 0)
		})},
		{name: "GPU 0 of 2: nvidia-smi as root shows and opens one GPU", run: first(func(c *column, other gpu) outcome {
			r := c.start(container{image: "debian", gpus: "0", args: []string{"sh", "-c", "nvidia-smi -L; nvidia-smi >/dev/null; /davit/gpucheck probe nodes"}})
			if strings.Contains(r.out, other.uuid) || !strings.Contains(r.out, own.uuid) {
				return r.because("nvidia-smi sees the wrong GPUs")
			}
			if strings.Contains(r.out, " "+other.node+" ok") {
				return r.because("the other's node opens")
			}
			// A driver library that runs as root makes nodes of its own unless params
			// forbid it, and only the hook can mount over a file of /proc. In the
			// shim way such a node may appear; the device cgroup keeps it shut.
			if c.way == "hook" && strings.Contains(r.out, " "+other.node+" ") {
				return r.because("there is a node of the other (it does not open)")
			}
			return good
		})},
		{name: "GPU 0 of 2: /proc/driver/nvidia/gpus hides the other", run: first(func(c *column, other gpu) outcome {
			dir := "/proc/driver/nvidia/gpus/"
			r := c.start(container{image: "debian", gpus: "0", args: []string{"/davit/gpucheck", "probe", "ls=" + dir, "ls=" + dir + other.bus, "cat=" + dir + own.bus + "/information", "cat=" + dir + other.bus + "/information"}})
			if h.sim { // its /proc is not the kernel's: look at what was asked of the runtime
				if c.way == "shim" && !c.docker && !strings.Contains(string(r.spec), dir+other.bus) {
					return r.because("no mask in %s", r.spec)
				}
				return simulated
			}
			if strings.Contains(r.out, "ls "+dir+other.bus+" information") || strings.Contains(r.out, other.uuid) || !strings.Contains(r.out, own.uuid) {
				return r.because("want the entry of %s hidden and that of %s shown", other.bus, own.bus)
			}
			return good
		})},
		{name: "/proc/driver/nvidia/params: ModifyDeviceFiles is 0", ways: "hook", run: func(c *column) outcome {
			if h.sim {
				return simulated
			}
			r := c.start(container{image: "debian", gpus: "0", args: []string{"/davit/gpucheck", "probe", "cat=/proc/driver/nvidia/params"}})
			if !strings.Contains(r.out, "| ModifyDeviceFiles: 0\n") {
				return r.because("it is not")
			}
			return good
		}},
		{name: "without a request no GPU's node opens", run: func(c *column) outcome {
			r := c.start(container{image: "debian", args: []string{"/davit/gpucheck", "probe", "mknod=" + own.node}})
			if !strings.Contains(r.out, "mknod "+own.node+" EPERM\n") {
				return r.because("want EPERM")
			}
			return good
		}},
	}
}
