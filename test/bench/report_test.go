// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// measured is a group in which all is known.
func measured() group {
	at := func(create ...float64) []phases {
		var list []phases
		for _, c := range create {
			list = append(list, phases{create: c, start: 2, end: 1, delete: 1})
		}
		return list
	}
	return group{
		runtime: "runc",
		variants: []variant{
			{name: plainName, way: "plain"},
			{name: "floor", way: "shim", floor: true},
			{name: "shim, 1 GPU", way: "shim", gpus: 1, below: "floor", reach: 0.7},
			{name: "shim, 1 GPU, all", way: "shim", gpus: 1, below: "floor", reach: 0.2},
		},
		// The second round was slow for all.
		taken: [][]phases{at(6, 106, 6), at(8, 108, 8), at(8.5, 108.5, 8.5), at(9, 109, 9)},
	}
}

func TestGroupTable(t *testing.T) {
	g := measured()
	tb := g.table()
	for i, want := range []string{
		"plain, no GPU|6.00|1.00|||2.00||1.00||10.00|1.00|",
		"floor|8.00|1.33|||2.00||1.00||12.00|1.20|",
		"shim, 1 GPU|8.50|1.42|+0.50|≤ 0.7 yes|2.00|+0.00|1.00|+0.00|12.50|1.25|1.04",
		"shim, 1 GPU, all|9.00|1.50|+1.00|≤ 0.2 no|2.00|+0.00|1.00|+0.00|13.00|1.30|1.08",
	} {
		if got := strings.Join(tb.rows[i], "|"); got != want {
			t.Errorf("row %d\n got %s\nwant %s", i, got, want)
		}
		if len(tb.rows[i]) != len(tb.head) {
			t.Errorf("row %d has %d cells for %d columns", i, len(tb.rows[i]), len(tb.head))
		}
	}
}

func TestGroupWithoutRounds(t *testing.T) {
	g := measured()
	g.taken = make([][]phases, len(g.variants))
	if got := strings.Join(g.table().rows[2], "|"); !strings.Contains(got, "0.00") {
		t.Errorf("got %s", got)
	}
	if gpus, libraries := g.bars(); len(gpus)+len(libraries) != 0 {
		t.Errorf("bars of nothing: %v %v", gpus, libraries)
	}
}

func TestAligned(t *testing.T) {
	tb := table{head: []string{"case", "×"}, rows: [][]string{{"a", "1.00"}, {"longer", ""}}}
	if got, want := tb.aligned(), "case       ×\na       1.00\nlonger\n"; got != want {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}

func TestMarkdown(t *testing.T) {
	r := report{head: []string{"machine: m"}, groups: []group{measured()}, many: []many{{"runc", 100, 200, 250}},
		single: []single{{"facts", "1 ms", "10 ms"}}, notes: []string{"two\nlines"}}
	got := r.markdown()
	for _, want := range []string{"- machine: m\n", "| shim, 1 GPU | 8.50 | 1.42 | +0.50 |", "| runc | 100 ms | 200 ms | 250 ms | 1.25 | ≤ 1.1× no |", "| facts | 1 ms | 10 ms |", "- note: two lines\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestPlot(t *testing.T) {
	r := report{groups: []group{measured()}}
	text := r.plot()
	for _, want := range []string{"davit: 2.50 ms", "floor: 2.00 ms", "davit: 3.00 ms"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestTick(t *testing.T) {
	for _, c := range []struct{ highest, want float64 }{{1, 0.2}, {6, 1}, {6.1, 2}, {40, 10}} {
		if got := tick(c.highest); got != c.want {
			t.Errorf("%g: %g, want %g", c.highest, got, c.want)
		}
	}
}

func TestCountCalls(t *testing.T) {
	const text = `% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 50.00    0.000100           1       100           mmap
 30.00    0.000050          10         5         2 execve
 20.00    0.000010           1        10         1 openat
  0.00    0.000000           1        77           nanosleep
  0.00    0.000000           1        20         3 futex
------ ----------- ----------- --------- --------- ----------------
100.00    0.000160           1       115         3 total
`
	if got := countCalls(text); got != (called{115, 3}) {
		t.Errorf("got %+v", got)
	}
}

func TestCollected(t *testing.T) {
	if got := collected("==1== x\n==12== Collected : 487064\n"); got != 487064 {
		t.Errorf("got %d", got)
	}
	if got := collected("Callgrind: Assertion failed"); got != 0 {
		t.Errorf("got %d", got)
	}
}

func TestVariants(t *testing.T) {
	b := &box{}
	all := b.variants()
	for _, v := range all {
		if v.below != "" && !slices.ContainsFunc(all, func(o variant) bool { return o.name == v.below }) {
			t.Errorf("%s: no %s", v.name, v.below)
		}
		if n := 0; slices.ContainsFunc(all, func(o variant) bool {
			if o.name == v.name {
				n++
			}
			return n > 1
		}) {
			t.Errorf("%s is there twice", v.name)
		}
	}
	b.only = "hook, 1 GPU;shim, no"
	var names []string
	for _, v := range b.variants() {
		names = append(names, v.name)
	}
	if got := strings.Join(names, "; "); got != "plain, no GPU; empty program, no GPU; shim, no GPU; hook floor, 1 GPU; hook, 1 GPU" {
		t.Errorf("picked %s", got)
	}
}
