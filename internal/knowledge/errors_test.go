// SPDX-License-Identifier: Apache-2.0

package knowledge

import (
	"regexp"
	"strings"
	"testing"
)

func TestErrorTables(t *testing.T) {
	cuda, err := CUDAErrors()
	if err != nil {
		t.Fatal(err)
	}
	nvml, err := NVMLErrors()
	if err != nil {
		t.Fatal(err)
	}
	xids, err := Xids()
	if err != nil {
		t.Fatal(err)
	}
	if len(cuda) < 130 || len(nvml) < 30 || len(xids) < 170 {
		t.Errorf("%d CUDA, %d NVML, %d Xid rows", len(cuda), len(nvml), len(xids))
	}
	last := -1
	for _, e := range cuda {
		if e.Code <= last || e.Meaning == "" || e.Source == "" || e.Driver+e.Runtime == "" || len(e.Source) < 4 {
			t.Errorf("CUDA row %+v", e)
		}
		last = e.Code
	}
	last = -1
	for _, e := range nvml {
		if e.Code <= last || !strings.HasPrefix(e.Name, "NVML_") || len(e.Source) < 4 {
			t.Errorf("NVML row %+v", e)
		}
		last = e.Code
	}
	last = 0
	for _, x := range xids {
		if x.Number <= last || x.Name == "" || len(x.Source) < 4 {
			t.Errorf("Xid row %+v", x)
		}
		if x.Number == 31 && !x.ByProgram || x.Number == 79 && x.ByProgram {
			t.Errorf("Xid %d: by program %v", x.Number, x.ByProgram)
		}
		last = x.Number
	}
	if !regexp.MustCompile(`^20\d\d-\d\d-\d\d$`).MatchString(ErrorsAsOf()) {
		t.Errorf("as of %q", ErrorsAsOf())
	}
}

func TestBranches(t *testing.T) {
	list, err := Branches()
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i < len(list); i++ {
		if list[i].Number <= list[i-1].Number || CompareVersions(list[i].CUDA, list[i-1].CUDA) < 0 {
			t.Errorf("%+v behind %+v", list[i], list[i-1])
		}
	}
	for driver, want := range map[string]string{
		"550.144.03": "12.4", "525.60.13": "12.0", "352.93": "7.5", "580.82.07": "13.0", "340.108": "", "": "", "x": "", "9999.1": "",
	} {
		if got := CUDAOfDriver(list, driver); got != want {
			t.Errorf("driver %q has CUDA %q, want %q", driver, got, want)
		}
	}
	for cuda, want := range map[string]int{"12.8": 570, "12.4": 550, "11.7": 515, "7.5": 352, "99.0": 0} {
		if got := BranchForCUDA(list, cuda); got != want {
			t.Errorf("CUDA %s comes with %d, want %d", cuda, got, want)
		}
	}
	if MinorFloor("12") != "525.60.13" || MinorFloor("10") != "" {
		t.Error("floors of minor-version compatibility")
	}
}

func TestPagesAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"before the first id": "title: x\n",
		"unknown key":         "# a\ntitel: x\n",
		"no value":            "# a\ntitle:\n",
		"twice":               "# a\ntitle: x\ntitle: y\n",
	} {
		if _, err := parsePages("f.txt", text); err == nil || !strings.Contains(err.Error(), "f.txt:") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Pages("xx"); err == nil {
		t.Error("a language that is not there")
	}
}

func TestPagesAreComplete(t *testing.T) {
	pages, err := Pages("en")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, p := range pages {
		if seen[p.ID] {
			t.Errorf("%s twice", p.ID)
		}
		seen[p.ID] = true
		if p.Title == "" || p.Summary == "" || p.Fix == "" {
			t.Errorf("%s lacks title, summary or fix", p.ID)
		}
		switch p.Severity {
		case "error", "warning", "info", "ok":
		default:
			t.Errorf("%s: severity %q", p.ID, p.Severity)
		}
		switch p.Gate {
		case "", "hardware", "module", "nodes", "libraries", "engine", "request", "image", "framework":
		default:
			t.Errorf("%s: gate %q", p.ID, p.Gate)
		}
		switch p.Risk {
		case "", "none", "restart", "reboot", "data":
		default:
			t.Errorf("%s: risk %q", p.ID, p.Risk)
		}
	}
}

func TestLines(t *testing.T) {
	lines, date, err := Lines()
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) < 250 || date == "" {
		t.Errorf("%d lines as of %q", len(lines), date)
	}
	for _, l := range lines {
		for _, f := range l.Find {
			if f != strings.ToLower(f) || len(f) < 2 {
				t.Errorf("%s: literal %q", l.Name, f)
			}
		}
		if l.Kind == Problem && (l.Rank < 1 || l.Rank > 4) {
			t.Errorf("%s: rank %d", l.Name, l.Rank)
		}
	}
}
