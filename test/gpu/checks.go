// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// check is one row.
type check struct {
	name     string
	ways     string // "shim" or "hook", if it is about one of them
	noDocker bool
	run      func(c *column) outcome
}

var smiList = []string{"nvidia-smi", "-L"}

// checks are all rows but the time measurements, in the order of the table.
func checks(h *host) []check {
	list := imageChecks(h)
	list = append(list, computeChecks(h)...)
	list = append(list, askChecks(h)...)
	list = append(list, untouchedChecks()...)
	list = append(list, isolationChecks(h)...)
	list = append(list, loaderChecks()...)
	return append(list, check{name: "nothing is left behind after 10 starts", run: nothingLeft})
}

// lists checks that the output is this list of GPUs, no more and no less.
func (r result) lists(want string) outcome {
	if r.code != 0 {
		return r.because("it does not run")
	}
	if got := gpuLines(r.out); got != gpuLines(want) {
		return r.because("want\n%s", want)
	}
	return good
}

// gpuLines keeps what tells of GPUs.
func gpuLines(s string) string {
	var keep []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); strings.Contains(line, "UUID") {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "\n")
}

// sees checks cudacheck's output: it counts and names these GPUs.
func (c *column) sees(r result, indices ...int) outcome {
	if r.code != 0 || !strings.Contains(r.out, "cudacheck: ok") {
		return r.because("cudacheck does not run")
	}
	if !strings.Contains(r.out, fmt.Sprintf("devices %d\n", len(indices))) {
		return r.because("want %d devices", len(indices))
	}
	for _, i := range indices {
		g := c.host.gpus[i]
		if !strings.Contains(r.out, " "+g.uuid+" ") || !strings.Contains(r.out, g.name) {
			return r.because("GPU %d, %s, is missing", i, g.uuid)
		}
	}
	return good
}

func imageChecks(h *host) []check {
	var list []check
	for _, i := range []struct{ image, what string }{
		{"debian", "Debian 12, glibc 2.36"}, {"oldglibc", "glibc 2.31"}, {"newglibc", "glibc 2.41"}, {"fedora", "Fedora-like, /usr/lib64"}} {
		list = append(list, check{name: "nvidia-smi is the host's: " + i.what, run: func(c *column) outcome {
			return c.start(container{image: i.image, gpus: "all", args: smiList}).lists(h.smi)
		}})
	}
	return append(list,
		check{name: "docker build of FROM and CMD nvidia-smi, docker run", run: func(c *column) outcome {
			if !c.docker {
				return none
			}
			return c.lab.docker.builds(c)
		}},
		check{name: "nvidia/cuda-like image with its entrypoint", run: func(c *column) outcome {
			k := container{image: "cuda-base", args: smiList}
			if c.docker && c.way == "hook" {
				k.gpus = "all" // docker adds the hook for its flag alone
			}
			return c.start(k).lists(h.smi)
		}},
		check{name: "distroless: CUDA sees the host's GPUs", run: func(c *column) outcome {
			return c.sees(c.start(container{image: "distroless", gpus: "all", args: []string{"/davit/cudacheck", "list"}}), h.all()...)
		}},
		check{name: "read-only root: nvidia-smi", run: func(c *column) outcome {
			return c.start(container{image: "debian", gpus: "all", readonly: true, args: smiList}).lists(h.smi)
		}},
		check{name: "alpine (musl): nodes, and a note for nvidia-smi", run: noteAndNodes("alpine")},
		check{name: "busybox (static): nodes, and a note for nvidia-smi", run: noteAndNodes("busybox")},
	)
}

// noteAndNodes: an image without glibc has the nodes, and who calls nvidia-smi
// is told why it cannot run.
func noteAndNodes(image string) func(*column) outcome {
	return func(c *column) outcome {
		r := c.start(container{image: image, gpus: "all", args: []string{"/bin/sh", "-c", "nvidia-smi; echo status $?; /davit/gpucheck probe nodes"}})
		for _, g := range c.host.gpus {
			if !strings.Contains(r.out, fmt.Sprintf("node /dev/nvidia%d %s ok", g.minor, g.node)) {
				return r.because("/dev/nvidia%d is not there or does not open", g.minor)
			}
		}
		if !strings.Contains(r.out, "status 127") || !strings.Contains(r.all(), "glibc") {
			return r.because("no note about glibc")
		}
		return good
	}
}

// computeChecks really compute, where the GPU is real.
func computeChecks(h *host) []check {
	var list []check
	for _, image := range []string{"debian", "oldglibc", "newglibc", "fedora", "distroless"} {
		list = append(list, check{name: "a kernel from PTX, 1M numbers checked: " + image, run: func(c *column) outcome {
			return c.computes(c.start(container{image: image, gpus: "all", args: []string{"/davit/cudacheck", "compute"}}))
		}})
	}
	return append(list,
		check{name: "the same on a read-only root", run: func(c *column) outcome {
			return c.computes(c.start(container{image: "distroless", readonly: true, gpus: "all", args: []string{"/davit/cudacheck", "compute"}}))
		}},
		check{name: "python and ctypes: every GPU by libcuda.so.1", noDocker: true, run: func(c *column) outcome {
			if c.python == "" {
				return none
			}
			r := c.start(container{image: "host", gpus: "all", args: []string{c.python, "/davit/train.py", "driver"}})
			if r.code != 0 || !strings.Contains(r.out, fmt.Sprintf("devices %d\n", len(h.gpus))) || !strings.Contains(r.out, "train: ok") {
				return r.because("the script failed")
			}
			return good
		}},
		check{name: "PyTorch trains on every GPU, the loss falls", noDocker: true, run: func(c *column) outcome {
			if h.sim {
				return simulated
			}
			if c.torch == "" {
				return none
			}
			r := c.start(container{image: "host", gpus: "all", limit: longTime, args: []string{c.torch, "/davit/train.py", "torch"}})
			if r.code != 0 || !strings.Contains(r.out, fmt.Sprintf("devices %d\n", len(h.gpus))) || !strings.Contains(r.out, "train: ok") {
				return r.because("the training failed")
			}
			return good
		}},
	)
}

// computes checks that each GPU gave the right numbers.
func (c *column) computes(r result) outcome {
	if o := c.sees(r, c.host.all()...); o.bad {
		return o
	}
	word, cell := "computed", good
	if c.host.sim {
		word, cell = "simulated", simulated
	}
	for i := range c.host.gpus {
		if !strings.Contains(r.out, fmt.Sprintf("%s %d", word, i)) {
			return r.because("device %d did not compute", i)
		}
	}
	return cell
}

// untouchedChecks: who asks for nothing gets nothing, and what davit does not
// know it keeps.
func untouchedChecks() []check {
	return []check{
		{name: "no request: config.json byte for byte, no nodes", run: func(c *column) outcome {
			var before []byte
			r := c.start(container{image: "debian", args: []string{"/davit/gpucheck", "probe", "nodes", "find=libcuda.so.1", "find=nvidia-smi"},
				change: func(b []byte) []byte { before = b; return b }})
			if r.code != 0 || !strings.Contains(r.out, "find libcuda.so.1\nfind nvidia-smi\nprobe: ok") || strings.Contains(r.out, "node ") {
				return r.because("the container was touched")
			}
			if !c.docker && string(before) != string(r.spec) {
				return r.because("config.json was changed:\n%s", r.spec)
			}
			return good
		}},
		{name: "unknown properties of config.json are kept", ways: "shim", noDocker: true, run: func(c *column) outcome {
			const odd = `"org.example.unknown" : { "a":[1, 2.50,1e3,"\u00e9é"],  "b":null }`
			r := c.start(container{image: "debian", gpus: "all", args: smiList, change: func(b []byte) []byte {
				return append([]byte("{"+odd+",\n"), b[1:]...)
			}})
			if o := r.lists(c.host.smi); o.bad {
				return o
			}
			if !strings.HasPrefix(string(r.spec), "{"+odd+",\n") {
				return r.because("the property was changed: %s", cut(string(r.spec), 200))
			}
			return good
		}},
		{name: "davit list names every GPU of the host", ways: "shim", noDocker: true, run: func(c *column) outcome {
			r := c.command(shortTime, nil, c.path("bin/davit"), "list", "--root", c.host.root)
			for _, g := range c.host.gpus {
				if r.code != 0 || !strings.Contains(r.out, g.uuid) || !strings.Contains(r.out, g.bus) {
					return r.because("want %s, %s", g.uuid, g.bus)
				}
			}
			return good
		}},
		{name: "create, state, start, delete, --version, features", noDocker: true, run: verbs},
	}
}

// verbs drives a container as engines do, with global flags before the verb.
func verbs(c *column) outcome {
	b, err := c.bundle(container{image: "debian", gpus: "all", args: []string{"sh", "-c", "nvidia-smi -L >/out; exec /davit/gpucheck probe sleep"}})
	if err != nil {
		return failed("%v", err)
	}
	defer b.m.close()
	log := b.m.dir + "/runtime.log"
	do := func(args ...string) result {
		// The log's and the pid's file, for a created container holds our pipes.
		sh := `exec "$0" "$@" </dev/null >` + b.m.dir + `/stdout 2>` + b.m.dir + `/stderr`
		r := c.command(shortTime, c.shimEnv(), "/bin/sh", append([]string{"-c", sh, c.program(), "--root", c.root, "--log", log, "--log-format", "json"}, args...)...)
		r.out, r.err = tail(b.m.dir+"/stdout", 0), tail(b.m.dir+"/stderr", 0)
		return r
	}
	defer c.cleanup(c.runtime, "--root", c.root, "delete", "--force", b.id)
	steps := []struct {
		want string
		args []string
	}{
		{"", []string{"create", "--bundle", b.m.dir, "--pid-file", b.m.dir + "/pid", b.id}},
		{"created", []string{"state", b.id}},
		{"", []string{"start", b.id}},
		{"running", []string{"state", b.id}},
		{"", []string{"kill", b.id, "KILL"}},
		{"", []string{"delete", "--force", b.id}},
	}
	for _, s := range steps {
		if s.args[0] == "kill" && !waitFor(10*time.Second, func() bool { return gpuLines(tail(b.m.root+"/out", 0)) == gpuLines(c.host.smi) }) {
			return failed("the started container wrote %q, not the host's GPUs", tail(b.m.root+"/out", 0))
		}
		if r := do(s.args...); r.code != 0 || !strings.Contains(r.out, s.want) {
			return r.because("%s failed; its log: %s", strings.Join(s.args, " "), tail(log, 0))
		}
	}
	for _, args := range [][]string{{"--version"}, {"features"}} {
		mine := c.command(shortTime, c.shimEnv(), c.program(), args...)
		theirs := c.command(shortTime, nil, c.runtime, args...)
		if mine.out != theirs.out || mine.code != theirs.code {
			return mine.because("%s differs from the runtime's", args)
		}
	}
	return good
}

// missingFrom gives the lines of want that have has not.
func missingFrom(have, want []string) (lines []string) {
	for _, w := range want {
		if !slices.Contains(have, w) {
			lines = append(lines, w)
		}
	}
	return lines
}
