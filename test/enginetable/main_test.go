// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	results, err := read(strings.NewReader(`
{"Action":"output","Test":"TestContainerd/containerd16-cgroup-v2","Output":"    containerd_test.go:21: no controller: cpu\n"}
{"Action":"skip","Test":"TestContainerd/containerd16-cgroup-v2"}
{"Action":"pass","Test":"TestContainerd/containerd16-cgroup-v1/ctr/runtime"}
{"Action":"output","Test":"TestContainerd/containerd16-cgroup-v1/cri/field","Output":"    x_test.go:7: has no CDI\n"}
{"Action":"skip","Test":"TestContainerd/containerd16-cgroup-v1/cri/field"}
{"Action":"fail","Test":"TestContainerd/containerd16-cgroup-v1/cri/handler"}
{"Action":"pass","Test":"TestContainerd/containerd16-cgroup-v1"}
not json
`), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	text, passed, failed := table(results)
	if passed != 1 || failed != 1 {
		t.Errorf("%d passed, %d failed", passed, failed)
	}
	for _, want := range []string{
		"| docker 20.10 | `--device nvidia.com/gpu=…` | – (2) | – (2) |",
		"| containerd 1.6 | `ctr --runc-binary`, environment | ✓ | – (3) |",
		"| containerd 1.6 | CRI, field `CDIDevices` | – (4) | – (3) |",
		"environment (if the policy allows it) | ✗ | – (3) |",
		"(1) not run\n", "(3) no controller: cpu\n", "(4) has no CDI\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	page, err := replaced([]byte("a\n"+begin+"old\n"+end+"b\n"), "new\n")
	if err != nil || string(page) != "a\n"+begin+"\nnew\n\n"+end+"b\n" {
		t.Errorf("%q, %v", page, err)
	}
	if _, err := replaced([]byte("a\n"), "x"); err == nil {
		t.Error("a file without a place for the table was taken")
	}
}
