// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// host is a simulated GPU host in a box, at /sim/NAME.
type host struct {
	name, layout, driver string
	model                string // of all GPUs, or one for each
	count                int
	gpus                 []gpu // in PCI order
	dir                  string
}

// gpu is what the host's own files say, read without davit's code.
type gpu struct {
	name, uuid, bus string
	minor           int
	rdev            uint64 // of /dev/nvidiaN
}

// hosts differ in folder layout, driver version and number of GPUs; the first
// is the one that most tests run on.
func hosts() []*host {
	return []*host{
		{name: "host", layout: "debian", driver: "550.120", model: "H100", count: 2},
		{name: "current", layout: "debian-current", driver: "535.261.03", model: "T4", count: 1},
		{name: "rhel", layout: "rhel", driver: "570.133.20", model: "A100,A10", count: 4},
		{name: "flat", layout: "flat", driver: "580.159.04", model: "H100", count: 8},
		{name: "nixos", layout: "nixos", driver: "560.35.03", model: "RTX-4090", count: 3},
		{name: "container", layout: "driver-container", driver: "565.57.01", model: "L4", count: 2},
	}
}

// simulate makes a host in the box and reads it.
func (b *box) simulate(t *testing.T, h *host) {
	t.Helper()
	b.mustIn(t, "davit", "simulate", "up", "/sim/"+h.name, "--gpus", strconv.Itoa(h.count), "--layout", h.layout,
		"--driver", h.driver, "--model", h.model, "--seed", h.name)
	h.dir = filepath.Join(b.root, "sim", h.name)
	files, err := filepath.Glob(filepath.Join(h.dir, "proc/driver/nvidia/gpus/*/information"))
	if err != nil || len(files) != h.count {
		t.Fatalf("host %s has %d GPUs, want %d (%v)", h.name, len(files), h.count, err)
	}
	slices.Sort(files) // by PCI address
	h.gpus = nil
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		g := gpu{minor: -1}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			switch strings.TrimSpace(key) {
			case "Model":
				g.name = value
			case "GPU UUID":
				g.uuid = value
			case "Bus Location":
				g.bus = value
			case "Device Minor":
				g.minor, _ = strconv.Atoi(value)
			}
		}
		var st syscall.Stat_t
		if err := syscall.Stat(filepath.Join(h.dir, "dev", "nvidia"+strconv.Itoa(g.minor)), &st); err != nil {
			t.Fatal(err)
		}
		g.rdev = st.Rdev
		h.gpus = append(h.gpus, g)
	}
}

// use makes davit read this host from the next start on.
func (b *box) use(t *testing.T, h *host) {
	t.Helper()
	file := filepath.Join(b.root, "etc/nvidia-container-runtime/config.toml")
	if err := os.WriteFile(file, []byte("host-root = \"/sim/"+h.name+"\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// library finds a 64-bit driver library in the host's folder and gives its checksum.
func (h *host) library(t *testing.T, prefix string) string {
	t.Helper()
	sum := ""
	err := filepath.WalkDir(h.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || sum != "" || d.Name() != prefix+h.driver || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil || len(data) < 5 || data[4] != 2 { // ELFCLASS64
			return err
		}
		digest := sha256.Sum256(data)
		sum = hex.EncodeToString(digest[:])
		return nil
	})
	if err != nil || sum == "" {
		t.Fatalf("no %s%s on host %s: %v", prefix, h.driver, h.name, err)
	}
	return sum
}

// major and minor are those of a Linux device number.
func major(rdev uint64) string { return strconv.FormatUint(rdev>>8&0xfff|rdev>>32&^0xfff, 10) }
func minor(rdev uint64) string { return strconv.FormatUint(rdev&0xff|rdev>>12&^0xff, 10) }
