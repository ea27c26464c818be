// SPDX-License-Identifier: Apache-2.0

package request

import (
	"encoding/csv"
	"errors"
	"os"
	"strings"
	"testing"
)

func TestRequirements(t *testing.T) {
	host := Host{CUDA: "12.4", Driver: "550.144.03", GPUs: []HostGPU{
		{Name: "NVIDIA RTX A4000", Arch: "8.6", Brand: "nvidiartx"},
	}}
	two := host
	two.GPUs = append([]HostGPU{{Name: "Tesla T4", Arch: "7.5", Brand: "tesla"}}, host.GPUs...)
	bare := Host{CUDA: "12.4", Driver: "550.144.03"}
	tests := []struct {
		name string
		expr string
		h    Host
		err  string // parts of the error, with | between; "" holds
	}{
		{"an empty expression holds", "", host, ""},
		{"commas alone hold", " , ", host, ""},
		{"an equal version is enough", "cuda>=12.4", host, ""},
		{"versions are padded with zeros", "cuda=12.4.0", host, ""},
		{"versions are compared as numbers", "cuda>=12.10", host, "cuda>=12.10|offers CUDA 12.4"},
		{"leading zeros do not count", "driver=550.144.3", host, ""},
		{"numbers of any length compare", "driver<550.99999999999999999999999999", host, ""},
		{"a newer CUDA is not there", "cuda>=12.8", host,
			"the image requires cuda>=12.8 (NVIDIA_REQUIRE_CUDA), but driver 550.144.03 of this host offers CUDA 12.4: install driver 570.26 or newer, use an image tag for CUDA 12.4 or older, or set NVIDIA_DISABLE_REQUIRE=1 to start it all the same (both are CUDA 12, so minor version compatibility probably holds)"},
		{"of another major version nothing is hoped", "cuda>=13.0", host, "install driver 580.65.06 or newer"},
		{"a CUDA nobody knows needs a newer driver", "cuda>=99", host, "one that offers CUDA 99"},
		{"above a version is not the version", "cuda>12.4", host, "install driver 555.42.02 or newer"},
		{"all terms of an alternative must hold", "cuda>=12.0,driver>=555", host, "driver>=555|this host has driver 550.144.03|install driver 555 or newer"},
		{"one alternative is enough", "cuda>=99 driver>=550", host, ""},
		{"the upper bound of a branch is below its next", "brand=nvidiartx,driver>=550,driver<551", host, ""},
		{"case of a brand does not count", "brand=NvidiaRTX", host, ""},
		{"another brand fails", "brand=tesla", host, "brand=tesla|the GPU NVIDIA RTX A4000 is of brand nvidiartx"},
		{"not a brand holds", "brand!=tesla", host, ""},
		{"compute capability is compared", "arch>=9.0", host, "arch>=9.0|NVIDIA RTX A4000 has compute capability 8.6|newer GPU"},
		{"each GPU must meet it", "arch>=8.0", two, "Tesla T4 has compute capability 7.5"},
		{"without a GPU, terms about GPUs hold", "arch>=99.0,brand=titan", bare, ""},
		{"without a GPU, the others still count", "cuda>=99,brand=titan", bare, "cuda>=99"},
		{"what nobody knows holds", "cuda>=99,driver>=999,arch>=99,brand=titan", Host{GPUs: []HostGPU{{}}}, ""},
		{"text after a driver's numbers does not count", "driver>=550", Host{Driver: "550.54-grid"}, ""},
		{"properties may be in capitals", "CUDA>=12.0", host, ""},
		{"tabs and newlines are blanks", "cuda>=99\n\tdriver>=1", host, ""},
		{"the term about CUDA is named before older branches", "brand=nvidiartx,driver>=470,driver<471 brand=tesla,driver>=550,driver<551 cuda>=12.8", host, "requires cuda>=12.8"},

		{"an unknown property is refused with the nearest", "cdua>=12", host, `NVIDIA_REQUIRE_CUDA: "cdua>=12": "cdua" is no property; did you mean "cuda"? the properties are cuda, driver, arch, brand|NVIDIA_DISABLE_REQUIRE=1`},
		{"an unknown property is refused in an alternative that is not needed", "cuda>=1 vgpu=1", host, `"vgpu" is no property`},
		{"blanks around a comparison are refused", "cuda >= 12", host, `"cuda" has no comparison`},
		{"a value must be a version", "cuda>=twelve", host, `"twelve" is no version`},
		{"a value must be there", "driver<", host, "is no version"},
		{"a version has no empty number", "driver<1..2", host, "is no version"},
		{"a brand has no order", "brand>=tesla", host, "= and != only"},
		{"a brand must be there", "brand=", host, "is no brand"},
		{"two equals signs are refused", "cuda==12", host, "is no version"},
		{"an exclamation mark alone is refused", "cuda!12", host, "want one of"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Check([]Requirement{{"NVIDIA_REQUIRE_CUDA", tt.expr}}, tt.h)
			if tt.err == "" {
				if err != nil {
					t.Errorf("error %v", err)
				}
				return
			}
			if err == nil {
				t.Fatal("holds")
			}
			for _, part := range strings.Split(tt.err, "|") {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q\nwant %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Error("more than one line")
			}
		})
	}
	t.Run("every variable must hold", func(t *testing.T) {
		var unmet *Unmet
		err := Check([]Requirement{{"NVIDIA_REQUIRE_A", "cuda>=1"}, {"NVIDIA_REQUIRE_B", "arch>=8.9"}}, host)
		if !errors.As(err, &unmet) || unmet.Variable != "NVIDIA_REQUIRE_B" || unmet.Term != "arch>=8.9" || unmet.Property != "arch" ||
			unmet.Want != "8.9" || unmet.Have != "8.6" || unmet.Device != "NVIDIA RTX A4000" {
			t.Errorf("%+v", err)
		}
	})
}

// testdata/expressions.csv holds the expressions of NVIDIA's base images, and
// for each of some hosts (driver/CUDA/brand) whether another program found that
// it meets them.
func TestExpressionsOfRealImages(t *testing.T) {
	f, err := os.Open("testdata/expressions.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, row := range rows[1:] {
		for i, want := range row[2:] {
			host := strings.Split(rows[0][i+2], "/")
			h := Host{Driver: host[0], CUDA: host[1], GPUs: []HostGPU{{Name: "X", Arch: "7.5", Brand: host[2]}}}
			err := Check([]Requirement{{"NVIDIA_REQUIRE_CUDA", row[1]}}, h)
			if (err == nil) != (want == "yes") {
				t.Errorf("CUDA %s on %s: error %v, want it to hold: %s", row[0], rows[0][i+2], err, want)
			}
			if err == nil {
				continue
			}
			refused++
			var unmet *Unmet
			// The first alternative of each is the bound of CUDA, the way out that people have.
			if !errors.As(err, &unmet) || unmet.Property != "cuda" || unmet.Have != host[1] || !strings.HasPrefix(row[1], unmet.Term) {
				t.Errorf("CUDA %s on %s: %v, want the term about CUDA", row[0], rows[0][i+2], err)
			}
		}
	}
	if len(rows) < 21 || refused < 20 {
		t.Errorf("%d expressions, %d refusals: too few to tell anything", len(rows)-1, refused)
	}
}

func FuzzRequirement(f *testing.F) {
	for _, s := range []string{"cuda>=12.8 brand=tesla,driver>=470,driver<471", "arch!=9.0", ",", "cuda", "=", "brand=x", "driver>99999999999999999999.0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		alts, err := ParseRequirement(expr)
		h := Host{CUDA: "12.4", Driver: "550.1", GPUs: []HostGPU{{Name: "X", Arch: "8.6", Brand: "tesla"}}}
		cerr := Check([]Requirement{{"NVIDIA_REQUIRE_X", expr}}, h)
		if err != nil {
			if cerr == nil || strings.ContainsAny(cerr.Error(), "\n\r\x00") {
				t.Errorf("parsed with %v, checked with %v", err, cerr)
			}
			return
		}
		// Written again it means the same.
		var again []string
		for _, terms := range alts {
			var s []string
			for _, term := range terms {
				s = append(s, term.String())
			}
			again = append(again, strings.Join(s, ","))
		}
		cerr2 := Check([]Requirement{{"NVIDIA_REQUIRE_X", strings.Join(again, " ")}}, h)
		if (cerr == nil) != (cerr2 == nil) || cerr != nil && cerr.Error() != cerr2.Error() {
			t.Errorf("%q: %v, written again %v", expr, cerr, cerr2)
		}
	})
}
