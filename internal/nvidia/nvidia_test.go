// SPDX-License-Identifier: Apache-2.0

package nvidia

import (
	"bytes"
	"strings"
	"testing"
)

func TestParseVersion(t *testing.T) {
	for _, tt := range []struct {
		name, text, version string
		open                bool
	}{
		{"proprietary module", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.107.02  Wed Jul 24 23:53:00 UTC 2024\nGCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n", "550.107.02", false},
		{"open module", "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (nixbld@)  \nGCC version:  gcc version 15.3.0 (GCC) \n", "580.159.04", true},
		{"old driver", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  340.108  Wed Dec 11 11:06:58 PST 2019\n", "340.108", false},
		{"nothing", "", "", false},
		{"only a compiler", "GCC version:  gcc\n", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if v, open := parseVersion(tt.text); v != tt.version || open != tt.open {
				t.Errorf("got %q %v, want %q %v", v, open, tt.version, tt.open)
			}
		})
	}
}

func TestCUDAVersionOfADriver(t *testing.T) {
	for driver, want := range map[string]string{
		"550.120": "12.4", "580.159.04": "13.0", "535.129.03": "12.2", "470.256.02": "11.4",
		"553.10": "12.4", "999.1": "13.4", "340.29": "", "": "", "x": "",
	} {
		if got := CUDAVersion(driver); got != want {
			t.Errorf("CUDAVersion(%q) = %q, want %q", driver, got, want)
		}
	}
}

func TestCompareVersions(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"550.120", "550.54.14", 1}, {"550.54.14", "550.120", -1}, {"470.82", "470.82", 0},
		{"470.82.01", "470.82", 1}, {"9.1", "10.0", -1}, {"550.090", "550.90", 0},
	} {
		if got := compareVersions(tt.a, tt.b); (got > 0) != (tt.want > 0) || (got < 0) != (tt.want < 0) {
			t.Errorf("compareVersions(%s, %s) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestArchAndBrandOfACard(t *testing.T) {
	for _, tt := range []struct{ id, name, arch, brand string }{
		{"2330", "NVIDIA H100 80GB HBM3", "9.0", "nvidia"},
		{"1eb8", "Tesla T4", "7.5", "tesla"},
		{"2684", "NVIDIA GeForce RTX 4090", "8.9", "geforce"},
		{"24b0", "NVIDIA RTX A4000", "8.6", "nvidiartx"},
		{"1db6", "Tesla V100-PCIE-32GB", "7.0", "tesla"},
		{"1b06", "NVIDIA GeForce GTX 1080 Ti", "6.1", "geforce"},
		{"1e30", "Quadro RTX 6000", "7.5", "quadrortx"},
		{"0000", "", "", "nvidia"},
		{"zz", "NVIDIA TITAN V", "", "titan"},
	} {
		if a, b := archOf(tt.id), brandOf(tt.name); a != tt.arch || b != tt.brand {
			t.Errorf("%s %s: got %q %q, want %q %q", tt.id, tt.name, a, b, tt.arch, tt.brand)
		}
	}
	for i := 1; i < len(archRanges); i++ {
		if a, b := archRanges[i-1], archRanges[i]; a.last >= b.first || b.first > b.last {
			t.Errorf("ranges %x-%x and %x-%x overlap or are out of order", a.first, a.last, b.first, b.last)
		}
	}
}

func TestParseInformation(t *testing.T) {
	text := "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 41\nGPU UUID: \t GPU-ba16d649-0d6a-3673-86a3-54e9c7a06d13\nBus Location: \t 0000:0A:06.0\nDevice Minor: \t 3\nGPU Excluded:\t No\n"
	g, excluded, err := parseInformation(text)
	if err != nil || excluded || g.Name != "NVIDIA H100 80GB HBM3" || g.Minor != 3 || g.BusID != "0000:0a:06.0" || g.UUID != "GPU-ba16d649-0d6a-3673-86a3-54e9c7a06d13" {
		t.Errorf("got %+v %v %v", g, excluded, err)
	}
	if _, excluded, _ := parseInformation(strings.Replace(text, "No", "Yes", 1)); !excluded {
		t.Error("an excluded GPU counts as usable")
	}
	if g, _, err := parseInformation("GPU UUID: GPU-????????-????\nDevice Minor: 0\n"); err != nil || g.UUID != "" {
		t.Errorf("a UUID that is not known yet: got %q, %v", g.UUID, err)
	}
	for _, bad := range []string{"", "Device Minor: x\n", "Device Minor: -2\n"} {
		if _, _, err := parseInformation(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestDriverFileNames(t *testing.T) {
	for name, want := range map[string]bool{
		"libcuda.so.550.120": true, "libcuda.so.1": true, "libcuda.so": false, "libcudart.so.12": false,
		"libnvidia-future.so.999.1": true, "libnvidia-ml.so.1": true, "libGLX_nvidia.so.0": true, "libGLX.so.0": false,
		"libnvcuvid.so.550.120": true, "libc.so.6": false, "libnvidia-ml.so.": false,
	} {
		if got := driverFile(name); got != want {
			t.Errorf("driverFile(%q) = %v", name, got)
		}
	}
}

// library64 is a small shared object with the SONAME given.
func library64(soname string) []byte {
	le := func(n uint64, size int) []byte {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(n >> (8 * i))
		}
		return b
	}
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	b.Write(le(3, 2))        // ET_DYN
	b.Write(le(emAMD64, 2))  // machine
	b.Write(le(1, 4))        // version
	b.Write(le(0, 8))        // entry
	b.Write(le(64, 8))       // program headers
	b.Write(make([]byte, 8)) // no sections
	b.Write(le(0, 4))
	for _, n := range []uint64{64, 56, 2, 64, 0, 0} {
		b.Write(le(n, 2))
	}
	const dyn, str = 64 + 2*56, 64 + 2*56 + 3*16
	total := uint64(str + 1 + len(soname) + 1)
	for _, p := range [][8]uint64{{1, 4, 0, 0, 0, total, total, 4096}, {2, 4, dyn, dyn, dyn, 48, 48, 8}} {
		b.Write(le(p[0], 4))
		b.Write(le(p[1], 4))
		for _, v := range p[2:] {
			b.Write(le(v, 8))
		}
	}
	for _, d := range [][2]uint64{{5, str}, {14, 1}, {0, 0}} {
		b.Write(le(d[0], 8))
		b.Write(le(d[1], 8))
	}
	b.WriteString("\x00" + soname + "\x00")
	return b.Bytes()
}

func TestReadELF(t *testing.T) {
	good := library64("libcuda.so.1")
	info, err := readELF(bytes.NewReader(good))
	if err != nil || info.soname != "libcuda.so.1" || info.bits != 64 || info.machine != emAMD64 {
		t.Fatalf("got %+v, %v", info, err)
	}
	if _, err := readELF(bytes.NewReader(library64("../../etc/passwd"))); err == nil {
		t.Error("a SONAME with a slash was accepted")
	}
	if _, err := readELF(bytes.NewReader(library64(""))); err == nil {
		t.Error("an empty SONAME was accepted")
	}
	for cut := range len(good) {
		if info, err := readELF(bytes.NewReader(good[:cut])); err == nil && info.soname == "libcuda.so.1" {
			t.Fatalf("read a SONAME from %d of %d bytes", cut, len(good))
		}
	}
	if _, err := readELF(strings.NewReader("#!/bin/sh\n")); err == nil {
		t.Error("a script was accepted")
	}
}

func FuzzReadELF(f *testing.F) {
	f.Add(library64("libcuda.so.1"))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := readELF(bytes.NewReader(data))
		if err == nil && (strings.ContainsAny(info.soname, "/\x00") || len(info.soname) > 256) {
			t.Errorf("accepted the SONAME %q", info.soname)
		}
	})
}

func FuzzParseInformation(f *testing.F) {
	f.Add("Model: x\nDevice Minor: 0\n")
	f.Fuzz(func(t *testing.T, text string) {
		if g, _, err := parseInformation(text); err == nil && g.Minor < 0 {
			t.Errorf("accepted the minor number %d", g.Minor)
		}
	})
}
