// SPDX-License-Identifier: Apache-2.0

// Package simulate makes GPU hosts out of nothing, and unpacks recorded ones: a
// folder with all of a host that matters to containers, to be read as its root.
//
// A simulated host has /proc/driver/nvidia, sysfs, device nodes, libraries with
// their true SONAMEs, nvidia-smi, firmware and configuration files. Its libcuda
// and libnvidia-ml are real shared objects that find the GPUs whose nodes can
// be opened, as the true ones do. Nothing in it computes, and nothing in it
// touches a real GPU.
//
// The package knows nothing of the packages that read hosts, so that all of
// their tests can use it.
package simulate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Options say which host to make. The zero value is a host with a driver and
// no GPU; empty fields have the defaults given.
type Options struct {
	// GPUs is their number, at most MaxGPUs.
	GPUs int `json:"gpus"`
	// Model is one of Models, or several with commas between, one for each
	// GPU, the last for all others. Default "H100".
	Model string `json:"model"`
	// Driver is the driver's version. Default "580.159.04".
	Driver string `json:"driver"`
	// CUDA is the newest CUDA version of the driver; by default that of its
	// branch.
	CUDA string `json:"cuda,omitempty"`
	// Layout is one of Layouts. Default "debian".
	Layout string `json:"layout"`
	// Arch is a GOARCH name, amd64 or arm64; by default this machine's.
	Arch string `json:"arch"`
	// Kernel is the host's kernel release.
	Kernel string `json:"kernel,omitempty"`
	// Seed makes UUIDs: the same on hosts of the same seed, different on
	// others.
	Seed string `json:"seed,omitempty"`
	// Minors are the minor numbers of the GPUs in PCI order, N of
	// /dev/nvidiaN; by default 0, 1, 2 …
	Minors []int `json:"minors,omitempty"`
	// Compat32 adds the 32-bit libraries.
	Compat32 bool `json:"compat32,omitempty"`
	// DRM adds /dev/dri and the nodes' entries in sysfs.
	DRM bool `json:"drm,omitempty"`
	// Persistenced adds the socket of nvidia-persistenced.
	Persistenced bool `json:"persistenced,omitempty"`
	// CacheEntries is about how many entries the host's loader cache has: those
	// of the driver, and others for libraries that do not exist. 0: there is no
	// cache.
	CacheEntries int `json:"cache_entries,omitempty"`
	// SideTable lists the nodes in rootfs.NodesFile even where they could be
	// made. That happens by itself for users who may not make nodes.
	SideTable bool `json:"side_table,omitempty"`
}

// MaxGPUs is how many GPUs a host can have.
const MaxGPUs = 64

const (
	defaultModel  = "H100"
	defaultDriver = "580.159.04"
	defaultLayout = "debian"
	defaultKernel = "6.8.0-45-generic"
)

// Host is a simulated or recorded host, as Make says and as HostFile keeps it.
type Host struct {
	// Dir is the folder, on this machine.
	Dir string `json:"-"`
	// Kind is "simulated" or "recorded".
	Kind   string `json:"kind"`
	Arch   string `json:"arch"` // as uname -m says it: x86_64, aarch64
	Kernel string `json:"kernel"`
	// The rest is of simulated hosts alone.
	Driver  string   `json:"driver,omitempty"`
	CUDA    string   `json:"cuda,omitempty"`
	GPUs    []GPU    `json:"gpus,omitempty"`
	Options *Options `json:"options,omitempty"`
	// Notes are what a person should know of this host: that nodes are missing
	// or share numbers.
	Notes []string `json:"notes,omitempty"`
}

// GPU is one GPU of a simulated host.
type GPU struct {
	Index     int    `json:"index"`
	Name      string `json:"name"`
	UUID      string `json:"uuid"`
	BusID     string `json:"bus_id"` // 0000:3b:00.0
	Minor     int    `json:"minor"`
	PCIID     string `json:"pci_id"` // 2330
	Arch      string `json:"arch"`   // compute capability, 9.0
	MemoryMiB uint64 `json:"memory_mib"`
	Node      string `json:"node"` // /dev/nvidia0

	model       model
	domain, bus int
}

// Make makes a host in the folder dir. What is there must be empty or an
// earlier host, which is replaced. On an error all is as it was before.
func Make(dir string, o Options) (Host, error) {
	p, err := newPlan(o)
	if err != nil {
		return Host{}, err
	}
	err = place(dir, func(tmp string) error {
		t := &tree{}
		if err := p.fill(t, filepath.Dir(tmp)); err != nil {
			return err
		}
		if err := t.write(tmp); err != nil {
			return err
		}
		return writeJSON(filepath.Join(tmp, HostFile), p.host)
	})
	if err != nil {
		return Host{}, fmt.Errorf("make simulated host: %w", err)
	}
	return Open(dir)
}

func writeJSON(file string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

// plan is a host about to be made.
type plan struct {
	Options
	host    Host
	branch  int
	cuda    int // 12040
	layout  layout
	machine machine
}

// machine is what depends on the architecture.
type machine struct {
	goarch, uname  string
	triple         string // Debian's folder of 64-bit libraries
	triple32       string
	elf, elf32     elfKind
	cache, cache32 uint32 // flags in a loader cache
}

var machines = []machine{
	{goarch: "amd64", uname: "x86_64", triple: "x86_64-linux-gnu", triple32: "i386-linux-gnu",
		elf: elfAMD64, elf32: elf386, cache: 0x0303, cache32: 0x0003},
	{goarch: "arm64", uname: "aarch64", triple: "aarch64-linux-gnu", triple32: "arm-linux-gnueabihf",
		elf: elfARM64, elf32: elfARM, cache: 0x0a03, cache32: 0x0903},
}

func newPlan(o Options) (*plan, error) {
	p := &plan{Options: o}
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&p.Model, defaultModel)
	set(&p.Driver, defaultDriver)
	set(&p.Layout, defaultLayout)
	set(&p.Kernel, defaultKernel)
	set(&p.Arch, runtime.GOARCH)
	if o.GPUs < 0 || o.GPUs > MaxGPUs {
		return nil, fmt.Errorf("%d GPUs: a simulated host has 0 to %d", o.GPUs, MaxGPUs)
	}
	if o.CacheEntries < 0 || o.CacheEntries > 100_000 {
		return nil, fmt.Errorf("%d entries in the loader cache: want 0 to 100000", o.CacheEntries)
	}
	if strings.ContainsAny(p.Kernel, "/\n\x00") {
		return nil, fmt.Errorf("kernel release %q: want one such as %s", p.Kernel, defaultKernel)
	}
	i := slices.IndexFunc(machines, func(m machine) bool { return m.goarch == p.Arch })
	if i < 0 {
		return nil, fmt.Errorf("unknown architecture %q: known are amd64, arm64", p.Arch)
	}
	p.machine = machines[i]
	var ok bool
	if p.layout, ok = layoutNamed(p.Layout); !ok {
		return nil, fmt.Errorf("unknown layout %q: known are %s", p.Layout, strings.Join(Layouts(), ", "))
	}
	branch, cuda, err := parseDriver(p.Driver)
	if err != nil {
		return nil, err
	}
	set(&p.CUDA, cuda)
	p.branch = branch
	if p.cuda, err = cudaNumber(p.CUDA); err != nil {
		return nil, err
	}
	p.host = Host{Kind: "simulated", Arch: p.machine.uname, Kernel: p.Kernel, Driver: p.Driver, CUDA: p.CUDA}
	if err := p.addGPUs(); err != nil {
		return nil, err
	}
	kept := p.Options
	p.host.Options = &kept
	return p, nil
}

// cudaNumber turns "12.4" into 12040, as the driver's libraries count.
func cudaNumber(version string) (int, error) {
	var major, minor int
	n, err := fmt.Sscanf(version, "%d.%d", &major, &minor)
	if err != nil || n != 2 || fmt.Sprintf("%d.%d", major, minor) != version || major < 1 || major > 99 || minor < 0 || minor > 9 {
		return 0, fmt.Errorf("CUDA version %q: want one such as 12.4", version)
	}
	return major*1000 + minor*10, nil
}

// Bus numbers of GPUs, as on an eight-GPU server; later ones are counted on.
var buses = []int{0x18, 0x2a, 0x3a, 0x5d, 0x9a, 0xab, 0xba, 0xdb}

func busID(index int) (domain, bus int) {
	if index < len(buses) {
		return 0, buses[index]
	}
	index -= len(buses)
	return 1 + index/16, 0x01 + index%16*8
}

func (p *plan) addGPUs() error {
	if p.Minors != nil && len(p.Minors) != p.Options.GPUs {
		return fmt.Errorf("%d minor numbers for %d GPUs", len(p.Minors), p.Options.GPUs)
	}
	names := strings.Split(p.Model, ",")
	for i := range p.Options.GPUs {
		m, err := modelNamed(strings.TrimSpace(names[min(i, len(names)-1)]))
		if err != nil {
			return err
		}
		if p.branch < m.first || m.last != 0 && p.branch > m.last {
			until := ""
			if m.last != 0 {
				until = fmt.Sprintf(" to %d", m.last)
			}
			return fmt.Errorf("driver %s does not know the %s: it needs branch %d%s", p.Driver, m.short, m.first, until)
		}
		minor := i
		if p.Minors != nil {
			minor = p.Minors[i]
		}
		if minor < 0 || minor > 247 {
			return fmt.Errorf("minor number %d: want 0 to 247", minor)
		}
		domain, bus := busID(i)
		g := GPU{Index: i, Name: m.name, UUID: uuid(p.Seed, i), BusID: fmt.Sprintf("%04x:%02x:00.0", domain, bus), Minor: minor,
			PCIID: fmt.Sprintf("%04x", m.pciID), Arch: fmt.Sprintf("%d.%d", m.major, m.minor), MemoryMiB: m.mib,
			Node: fmt.Sprintf("/dev/nvidia%d", minor), model: m, domain: domain, bus: bus}
		if slices.ContainsFunc(p.host.GPUs, func(o GPU) bool { return o.Minor == minor }) {
			return fmt.Errorf("minor number %d is given twice", minor)
		}
		p.host.GPUs = append(p.host.GPUs, g)
	}
	// A name that nobody gets would hide a mistake in the others.
	for _, n := range names {
		if _, err := modelNamed(strings.TrimSpace(n)); err != nil {
			return err
		}
	}
	return nil
}

// uuid makes a UUID in the form of version 4.
func uuid(seed string, index int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "davit simulated GPU %d of %q", index, seed))
	sum[6] = sum[6]&0x0f | 0x40
	sum[8] = sum[8]&0x3f | 0x80
	h := hex.EncodeToString(sum[:16])
	return fmt.Sprintf("GPU-%s-%s-%s-%s-%s", h[:8], h[8:12], h[12:16], h[16:20], h[20:32])
}

// openModule says whether the host has the open kernel module: since branch 560
// it is the default where all cards can do with it.
func (p *plan) openModule() bool {
	if slices.ContainsFunc(p.host.GPUs, func(g GPU) bool { return g.model.closed }) {
		return false
	}
	return p.branch >= 560
}

// fill puts the whole host into the tree.
func (p *plan) fill(t *tree, near string) error {
	majors, notes := t.addNodes(p.nodes(), p.SideTable, near)
	p.host.Notes = append(p.host.Notes, notes...)
	p.addProc(t, majors)
	p.addSys(t)
	return p.addDriver(t)
}

// Names in /proc/devices.
const (
	driverGPU  = "nvidia"
	driverDRM  = "drm"
	driverCaps = "nvidia-caps"
)

// nodes are the device nodes that the host should have.
func (p *plan) nodes() []nodeWanted {
	var list []nodeWanted
	mig := false
	for _, g := range p.host.GPUs {
		list = append(list, nodeWanted{g.Node, 0o666, driverGPU, number{195, uint32(g.Minor)}})
		mig = mig || g.model.mig
	}
	list = append(list,
		nodeWanted{"/dev/nvidiactl", 0o666, "nvidiactl", number{195, 255}},
		nodeWanted{"/dev/nvidia-uvm", 0o666, "nvidia-uvm", number{510, 0}},
		nodeWanted{"/dev/nvidia-uvm-tools", 0o666, "nvidia-uvm", number{510, 1}},
		nodeWanted{"/dev/nvidia-modeset", 0o666, "nvidia-modeset", number{195, 254}})
	if mig {
		list = append(list,
			nodeWanted{"/dev/nvidia-caps/nvidia-cap1", 0o400, driverCaps, number{511, 1}},
			nodeWanted{"/dev/nvidia-caps/nvidia-cap2", 0o444, driverCaps, number{511, 2}})
	}
	if p.DRM {
		for i := range p.host.GPUs {
			list = append(list,
				nodeWanted{fmt.Sprintf("/dev/dri/card%d", i), 0o666, driverDRM, number{226, uint32(i)}},
				nodeWanted{fmt.Sprintf("/dev/dri/renderD%d", 128+i), 0o666, driverDRM, number{226, uint32(128 + i)}})
		}
	}
	return list
}
