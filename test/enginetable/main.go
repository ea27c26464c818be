// SPDX-License-Identifier: Apache-2.0

// Command enginetable reads the output of `go test -json` of the tests with
// real engines and writes, into the file named, the table of engines, ways to
// ask for a GPU and cgroup versions: what ran, what failed, and why what did
// not run did not. It exits 1 if a cell failed.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go test -json ./test/e2e | enginetable FILE")
		os.Exit(64)
	}
	results, err := read(os.Stdin, os.Stderr)
	if err == nil {
		var old []byte
		if old, err = os.ReadFile(os.Args[1]); err == nil {
			text, passed, failed := table(results)
			fmt.Print(text)
			if failed > 0 || passed == 0 {
				err = fmt.Errorf("%d cells failed, %d passed; %s is left as it is", failed, passed, os.Args[1])
			} else if old, err = replaced(old, text); err == nil {
				err = os.WriteFile(os.Args[1], old, 0o644)
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "enginetable:", err)
		os.Exit(1)
	}
}

// row is one way to ask one engine. Its tests are TEST/PROFILE-cgroup-VERSION/WAY.
type row struct{ engine, way, test, profile, part string }

// rows are all cells that there should be.
func rows() (list []row) {
	for _, d := range [][2]string{{"docker20", "docker 20.10"}, {"docker26", "docker 26.1"}, {"docker28", "docker 28.5"}} {
		for _, w := range [][3]string{
			{"`--gpus`", "TestDocker", "gpus-flag"},
			{"`--runtime nvidia`", "TestDocker", "runtime"},
			{"`default-runtime`, the image's environment", "TestDocker", "default-runtime"},
			{"`RUN` in the old builder, `default-runtime`", "TestDocker", "default-runtime/build-step"},
			{"`--device nvidia.com/gpu=…`", "TestCDI", "names"},
		} {
			list = append(list, row{d[1], w[0], w[1], d[0], w[2]})
		}
	}
	for _, d := range [][2]string{{"podman43", "podman 4.3"}, {"podman54", "podman 5.4"}, {"podman58", "podman 5.8"}} {
		for _, low := range []string{"crun", "runc"} {
			for _, w := range [][2]string{
				{"`--device nvidia.com/gpu=all`", "device-all"},
				{"`--device nvidia.com/gpu=1`", "device-one"},
				{"`--gpus all`", "gpus-flag"},
				{"`--runtime …/nvidia-container-runtime`, environment", "runtime"},
				{"hooks folder, environment", "hooks-folder"},
				{"hooks folder and `--device`", "hooks-folder-and-device"},
			} {
				list = append(list, row{d[1] + ", " + low, w[0], "TestPodman", d[0], low + "/" + w[1]})
			}
		}
	}
	for _, d := range [][2]string{{"podman54", "podman 5.4"}, {"podman58", "podman 5.8"}} {
		for _, low := range []string{"crun", "runc"} {
			for _, w := range [][2]string{
				{"`--device nvidia.com/gpu=all`", "device-all"},
				{"`--device`, `--read-only`", "read-only"},
				{"`--device nvidia.com/gpu=1`", "device-one"},
				{"`--gpus all`", "gpus-flag"},
				{"`--runtime …/nvidia-container-runtime`, environment", "runtime"},
			} {
				list = append(list, row{d[1] + ", " + low + ", rootless", w[0], "TestRootless", d[0], low + "/" + w[1]})
			}
		}
	}
	for _, d := range [][2]string{{"containerd16", "containerd 1.6"}, {"containerd17", "containerd 1.7"}, {"containerd21", "containerd 2.1"}} {
		for _, w := range [][2]string{
			{"`ctr --runc-binary`, environment", "ctr/runtime"},
			{"`ctr --device nvidia.com/gpu=…`", "ctr/device"},
			{"`ctr --gpus N`", "ctr/gpus"},
			{"CRI, field `CDIDevices`", "cri/field"},
			{"CRI, annotation `cdi.k8s.io/…`", "cri/annotation"},
			{"CRI, runtime `nvidia`, environment (if the policy allows it)", "cri/handler"},
		} {
			list = append(list, row{d[1], w[0], "TestContainerd", d[0], w[1]})
		}
	}
	return list
}

// known are reasons for which no test is written.
func known(r row) string {
	if r.profile == "docker20" && r.test == "TestCDI" {
		return "docker has CDI since 25.0"
	}
	return ""
}

// outcome is how a test ended.
type outcome struct {
	action string // pass, fail, skip
	reason string // of a skip
}

// read takes the results, and shows what tests that failed said.
func read(from io.Reader, errors io.Writer) (map[string]outcome, error) {
	results, last, output := map[string]outcome{}, map[string]string{}, map[string]string{}
	for lines := bufio.NewReader(from); ; {
		line, err := lines.ReadBytes('\n')
		var e struct{ Action, Test, Output string }
		if json.Unmarshal(line, &e) == nil && e.Test != "" {
			switch e.Action {
			case "output":
				text := strings.TrimSpace(e.Output)
				if _, after, ok := strings.Cut(text, ".go:"); ok {
					_, last[e.Test], _ = strings.Cut(after, ": ")
				}
				output[e.Test] += e.Output
			case "pass", "fail", "skip":
				results[e.Test] = outcome{e.Action, last[e.Test]}
				if e.Action == "fail" {
					fmt.Fprint(errors, output[e.Test])
				}
				delete(output, e.Test)
			}
		}
		if err == io.EOF {
			return results, nil
		} else if err != nil {
			return nil, err
		}
	}
}

// cell gives a row's result under a cgroup version.
func cell(results map[string]outcome, r row, cgroup string) outcome {
	if why := known(r); why != "" {
		return outcome{"skip", why}
	}
	// A test that is not there may have been skipped with the one above it.
	for name := r.test + "/" + r.profile + "-cgroup-" + cgroup + "/" + r.part; ; {
		if o, ok := results[name]; ok && (o.action != "pass" || strings.HasSuffix(name, r.part)) {
			return o
		}
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			return outcome{"skip", "not run"}
		}
		name = name[:i]
	}
}

// table writes the table in Markdown.
func table(results map[string]outcome) (text string, passed, failed int) {
	var b strings.Builder
	var reasons []string
	ran := 0
	b.WriteString("| engine | way | cgroup v1 | cgroup v2 |\n| --- | --- | --- | --- |\n")
	for _, r := range rows() {
		fmt.Fprintf(&b, "| %s | %s |", r.engine, r.way)
		for _, cgroup := range []string{"v1", "v2"} {
			o := cell(results, r, cgroup)
			switch o.action {
			case "pass":
				passed++
				b.WriteString(" ✓ |")
			case "fail":
				failed++
				b.WriteString(" ✗ |")
			default:
				i := slices.Index(reasons, o.reason)
				if i < 0 {
					i = len(reasons)
					reasons = append(reasons, o.reason)
				}
				fmt.Fprintf(&b, " – (%d) |", i+1)
			}
			ran++
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\n%d cells: %d passed with a real container, %d failed, %d not run.\n", ran, passed, failed, ran-passed-failed)
	for i, why := range reasons {
		fmt.Fprintf(&b, "\n(%d) %s\n", i+1, why)
	}
	return b.String(), passed, failed
}

// The table stands between these lines.
const (
	begin = "<!-- make engines writes from here -->\n"
	end   = "<!-- to here -->\n"
)

func replaced(old []byte, text string) ([]byte, error) {
	head, rest, ok := bytes.Cut(old, []byte(begin))
	_, tail, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		return nil, fmt.Errorf("the file has no lines %q and %q", strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return []byte(string(head) + begin + "\n" + text + "\n" + end + string(tail)), nil
}
