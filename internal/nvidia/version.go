// SPDX-License-Identifier: Apache-2.0

package nvidia

import (
	"strconv"
	"strings"
)

// branchCUDA gives the newest CUDA version that a driver branch runs natively
// (CUDA release notes, table "CUDA Toolkit and Corresponding Driver
// Versions"; CUDA Compatibility guide, edition 615); as of 2026-11.
var branchCUDA = [...]struct {
	branch int
	cuda   string
}{
	{352, "7.5"}, {367, "8.0"}, {375, "8.0"}, {384, "9.0"}, {390, "9.1"}, {396, "9.2"},
	{410, "10.0"}, {418, "10.1"}, {440, "10.2"}, {450, "11.0"}, {455, "11.1"}, {460, "11.2"},
	{465, "11.3"}, {470, "11.4"}, {495, "11.5"}, {510, "11.6"}, {515, "11.7"}, {520, "11.8"},
	{525, "12.0"}, {530, "12.1"}, {535, "12.2"}, {545, "12.3"}, {550, "12.4"}, {555, "12.5"},
	{560, "12.6"}, {565, "12.7"}, {570, "12.8"}, {575, "12.9"}, {580, "13.0"}, {590, "13.1"},
	{595, "13.2"}, {610, "13.3"}, {615, "13.4"},
}

// CUDAVersion is the CUDA version of a driver version such as "550.120": that
// of the newest branch not above it; "" for drivers older than the table.
func CUDAVersion(driver string) string {
	branch, err := strconv.Atoi(strings.SplitN(driver, ".", 2)[0])
	if err != nil {
		return ""
	}
	cuda := ""
	for _, b := range branchCUDA {
		if b.branch > branch {
			break
		}
		cuda = b.cuda
	}
	return cuda
}

// parseVersion reads /proc/driver/nvidia/version, whose first line is one of
//
//	NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.107.02  Wed Jul 24 23:53:00 UTC 2024
//	NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (…)
func parseVersion(text string) (version string, open bool) {
	line, _, _ := strings.Cut(text, "\n")
	for _, f := range strings.Fields(line) {
		if isVersion(f) {
			return f, strings.Contains(line, "Open Kernel Module")
		}
	}
	return "", false
}

// isVersion accepts "550.120", "580.159.04".
func isVersion(s string) bool {
	dots := 0
	for i := range len(s) {
		switch {
		case s[i] == '.' && i > 0 && i < len(s)-1 && s[i-1] != '.':
			dots++
		case s[i] < '0' || s[i] > '9':
			return false
		}
	}
	return dots > 0
}

// baseName is a library's name up to ".so": libcuda.so.550.120 -> libcuda.
func baseName(file string) string {
	name, _, _ := strings.Cut(file, ".so")
	return name
}

// archOf looks a PCI device id ("2330") up; "" if unknown.
func archOf(id string) string {
	n, err := strconv.ParseUint(id, 16, 16)
	if err != nil {
		return ""
	}
	for _, r := range archRanges {
		if uint16(n) >= r.first && uint16(n) <= r.last {
			return strconv.Itoa(int(r.major)) + "." + strconv.Itoa(int(r.minor))
		}
	}
	return ""
}

// brandOf derives the brand as the management library names it from the
// product name (nvml.h, nvmlBrandType_t; the words are those that appear in
// NVIDIA_REQUIRE_CUDA of NVIDIA's images).
func brandOf(name string) string {
	n := strings.ToLower(strings.TrimPrefix(name, "NVIDIA "))
	for _, b := range [...]struct{ prefix, brand string }{
		{"tesla", "tesla"}, {"geforce", "geforce"}, // RTX cards too: nvidia-smi -q says "GeForce"
		{"titan rtx", "titanrtx"}, {"titan", "titan"}, {"quadro rtx", "quadrortx"},
		{"quadro", "quadro"}, {"rtx", "nvidiartx"}, {"nvs", "nvs"}, {"grid", "grid"},
	} {
		if strings.HasPrefix(n, b.prefix) {
			return b.brand
		}
	}
	return "nvidia"
}
