// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestTableAligned(t *testing.T) {
	tb := &table{columns: []string{"runc shim", "docker"}, rows: []row{
		{"short", []outcome{good, none}},
		{"a longer name", []outcome{failed("why\nso"), {cell: "12.5 ms"}}},
	}}
	want := `check          runc shim  docker
-------------  ---------  -------
short          ok         –
a longer name  FAIL       12.5 ms
`
	if got := tb.text(); got != want {
		t.Errorf("got\n%s", got)
	}
	if got := tb.evidence(100, 100); got != "FAIL, runc shim: a longer name\n    why\n    so\n" {
		t.Errorf("got evidence %q", got)
	}
	if got := tb.markdown(); !strings.Contains(got, "| a longer name | FAIL | 12.5 ms |\n") {
		t.Errorf("got\n%s", got)
	}
}

func TestFinishStatus(t *testing.T) {
	for _, c := range []struct {
		name string
		tb   table
		want int
	}{
		{"all well", table{rows: []row{{"a", []outcome{good, none}}}}, 0},
		{"one failed", table{rows: []row{{"a", []outcome{good, failed("x")}}}}, 1},
		{"a column is missing", table{broken: 1, rows: []row{{"a", []outcome{good}}}}, 1},
		{"nothing was checked", table{rows: []row{{"a", []outcome{none}}}}, 1},
	} {
		var b strings.Builder
		c.tb.columns = make([]string, len(c.tb.rows[0].cells))
		if got := c.tb.finish(&b); got != c.want {
			t.Errorf("%s: status %d, want %d", c.name, got, c.want)
		}
	}
}

func TestLists(t *testing.T) {
	const two = "GPU 0: A (UUID: GPU-1)\nGPU 1: A (UUID: GPU-2)\n"
	for _, c := range []struct {
		r   result
		bad bool
	}{
		{result{out: two}, false},
		{result{out: "GPU 0: A (UUID: GPU-1)\n"}, true},
		{result{out: "GPU 0: A (UUID: GPU-2)\nGPU 1: A (UUID: GPU-1)\n"}, true},
		{result{out: two, code: 1}, true},
	} {
		if o := c.r.lists(two); o.bad != c.bad {
			t.Errorf("%+v: bad is %v", c.r, o.bad)
		}
	}
}

func TestLoads(t *testing.T) {
	h := &host{gpus: []gpu{{name: "A", uuid: "GPU-1"}}, inodes: map[uint64]string{7: "/driver/libcuda.so.1.2"}}
	c := &column{lab: &lab{host: h}}
	const head = "devices 1\ndevice 0 GPU-1 5 MiB A\n"
	for _, x := range []struct {
		maps string
		bad  bool
	}{
		{"map 7 /usr/lib/libcuda.so.1\nmap 9 /usr/lib/libnvidia-ml.so.1\n", false},
		{"map 8 /usr/lib/libcuda.so.1\n", true},
		{"map 7 /usr/lib/other/libcuda.so.1\n", true},
		{"map 7 /usr/lib/libcuda.so.1\nmap 8 /old/libcuda.so.1\n", true},
		{"", true},
	} {
		if o := c.loads(result{out: head + x.maps + "cudacheck: ok\n"}, "/usr/lib/libcuda.so.1"); o.bad != x.bad {
			t.Errorf("%q: bad is %v: %s", x.maps, o.bad, o.evidence)
		}
	}
}

func TestWithHookReplaces(t *testing.T) {
	for program, want := range map[string]int{"": 0, "/bin/x": 1} {
		out, err := withHook([]byte(`{"hooks":{"prestart":[{"path":"/a"},{"path":"/b"}]},"root":{}}`), program, nil)
		if err != nil {
			t.Fatal(err)
		}
		var s struct {
			Hooks struct{ Prestart []struct{ Path string } }
			Root  *struct{}
		}
		if err := json.Unmarshal(out, &s); err != nil || len(s.Hooks.Prestart) != want || s.Root == nil {
			t.Errorf("%q: %s %v", program, out, err)
		}
	}
}

func TestMappedInode(t *testing.T) {
	file := t.TempDir() + "/libcuda.so.1.2"
	if err := copyFile("gpu_test.go", file); err != nil {
		t.Fatal(err)
	}
	if ino, err := mappedInode(file); err != nil || ino == 0 {
		t.Errorf("inode %d, %v", ino, err)
	}
}
