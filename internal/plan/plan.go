// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"davit/internal/loader"
	"davit/internal/nvidia"
	"davit/internal/request"
)

// Options are what the caller knows beyond facts and request.
type Options struct {
	// NoteProgram is a static program on the host that stands in for
	// nvidia-smi in images without glibc and says why; "" for none.
	NoteProgram string
	// Privileged containers see all nodes anyway: nothing is masked.
	Privileged bool
}

// Refusal is why a container gets nothing and must not start: one sentence
// with the way out, and a stable id for machines.
type Refusal struct {
	ID   string
	Text string
}

func (r *Refusal) Error() string { return r.Text }

func refuse(id, format string, args ...any) error {
	return &Refusal{id, fmt.Sprintf(format, args...)}
}

// Make decides what a container gets. image tells how its loader looks. An
// error is one sentence for the person who started the container.
func Make(f *nvidia.Facts, r request.Request, image loader.Layout, o Options) (*Plan, error) {
	p := &Plan{Notes: r.Notes}
	if !r.Asked {
		p.Untouched = true
		return p, nil
	}
	if f.Driver.Version == "" && f.Driver.LibraryVersion == "" {
		if r.None {
			p.Untouched = true
			p.Notes = append(p.Notes, r.Source+": this host has no NVIDIA driver, so there is nothing to give")
			return p, nil
		}
		return nil, refuse("driver-not-loaded", "%s, but no NVIDIA driver is loaded on this host: install or load it there (modprobe nvidia), never in the image", r.Source)
	}
	if err := checkDriver(f, r); err != nil {
		return nil, err
	}
	if err := p.choose(f, r); err != nil {
		return nil, err
	}
	if err := request.Check(r.Requirements, hostOf(f, p)); err != nil {
		return nil, err
	}
	m := maker{Plan: p, facts: f, req: r, image: image, o: o}
	if err := m.devices(); err != nil {
		return nil, err
	}
	m.files()
	m.masks()
	return p, nil
}

// checkDriver refuses hosts on which every container would fail later with a
// less clear message.
func checkDriver(f *nvidia.Facts, r request.Request) error {
	d := f.Driver
	switch {
	case d.Version == "":
		return refuse("driver-not-loaded", "%s, but the kernel module nvidia is not loaded on this host (libraries of %s are there): run modprobe nvidia, or reboot after the driver's installation", r.Source, d.LibraryVersion)
	case d.LibraryVersion == "":
		return refuse("driver-libraries-not-found", "%s, but the driver's libraries (libcuda.so.%s) were not found on this host: install the driver's library packages of the same version as the kernel module", r.Source, d.Version)
	case d.Version != d.LibraryVersion:
		return refuse("driver-library-mismatch", "%s, but the loaded kernel module is %s and the driver's libraries are %s (driver/library version mismatch): reboot the host, or unload and load the nvidia modules", r.Source, d.Version, d.LibraryVersion)
	}
	return nil
}

// hostOf is what requirements are checked against: the chosen GPUs.
func hostOf(f *nvidia.Facts, p *Plan) request.Host {
	h := request.Host{CUDA: f.Driver.CUDA, Driver: f.Driver.Version}
	for _, g := range p.GPUs {
		h.GPUs = append(h.GPUs, request.HostGPU{Name: g.Name, Arch: g.Arch, Brand: g.Brand})
	}
	return h
}

// maker fills a plan in steps.
type maker struct {
	*Plan
	facts *nvidia.Facts
	req   request.Request
	image loader.Layout
	o     Options
}

func (m *maker) asked(caps ...string) bool {
	for _, c := range caps {
		if slices.Contains(m.req.Capabilities, c) {
			return true
		}
	}
	return false
}

func (m *maker) left(what, why string) { m.Left = append(m.Left, Left{what, why}) }

// devices adds the nodes: control nodes by capability, those of each chosen
// GPU, and what special variables ask for.
func (m *maker) devices() error {
	control := map[string][]string{
		"/dev/nvidiactl":        nil, // always
		"/dev/nvidia-uvm":       {nvidia.Compute, nvidia.Video},
		"/dev/nvidia-uvm-tools": {nvidia.Compute},
		"/dev/nvidia-modeset":   {nvidia.Graphics, nvidia.Display},
	}
	have := map[string]bool{}
	for _, n := range m.facts.Control {
		have[n.Path] = true
		caps := control[n.Path]
		if len(caps) > 0 && !m.asked(caps...) {
			m.left(n.Path, "only for "+strings.Join(caps, " or "))
			continue
		}
		why := "every use of the driver opens it"
		if len(caps) > 0 {
			why = "capability " + m.firstAsked(caps)
		}
		m.device(n, why)
	}
	if len(m.GPUs) > 0 {
		if !have["/dev/nvidiactl"] {
			return refuse("device-nodes-missing", "%s, but /dev/nvidiactl does not exist on this host: run nvidia-modprobe -c 0 (or nvidia-smi) on the host once", m.req.Source)
		}
		if m.asked(nvidia.Compute) && !have["/dev/nvidia-uvm"] {
			return refuse("uvm-not-loaded", "%s, but /dev/nvidia-uvm does not exist on this host, without which no CUDA program runs: run modprobe nvidia-uvm and nvidia-modprobe -u -c 0 on the host", m.req.Source)
		}
	}
	for _, g := range m.GPUs {
		if g.Node == nil {
			return refuse("device-nodes-missing", "%s, but /dev/nvidia%d of GPU %d (%s) does not exist on this host: run nvidia-modprobe -c %d, or nvidia-smi, on the host", m.req.Source, g.Minor, g.Index, g.BusID, g.Minor)
		}
		m.device(*g.Node, fmt.Sprintf("GPU %d, %s", g.Index, g.Name))
		for _, n := range g.DRM {
			if m.asked(nvidia.Graphics, nvidia.Display) {
				m.device(n, fmt.Sprintf("GPU %d, capability %s", g.Index, m.firstAsked([]string{nvidia.Graphics, nvidia.Display})))
			} else {
				m.left(n.Path, "only for graphics or display")
			}
		}
	}
	for _, mig := range m.MIG {
		for _, n := range mig.Caps {
			m.device(n, fmt.Sprintf("MIG device, GPU instance %d, compute instance %d", mig.GI, mig.CI))
		}
	}
	return m.special()
}

// special adds the nodes of NVIDIA_IMEX_CHANNELS, NVIDIA_GDS and the like.
func (m *maker) special() error {
	for _, ch := range m.req.IMEX {
		name := fmt.Sprintf("/dev/nvidia-caps-imex-channels/channel%d", ch)
		i := slices.IndexFunc(m.facts.Special, func(n nvidia.Node) bool { return n.Path == name })
		if i < 0 {
			return refuse("imex-channel-missing", "NVIDIA_IMEX_CHANNELS asks for channel %d, but %s does not exist on this host (%s)", ch, name, listChannels(m.facts.Special))
		}
		m.device(m.facts.Special[i], "NVIDIA_IMEX_CHANNELS")
	}
	for _, feature := range m.req.Features {
		prefixes := featureNodes[feature]
		found := false
		for _, n := range m.facts.Special {
			for _, pre := range prefixes {
				if strings.HasPrefix(n.Path, pre) {
					m.device(n, "NVIDIA_"+strings.ToUpper(feature)+"=enabled")
					found = true
				}
			}
		}
		if !found {
			m.left(prefixes[0]+"*", "NVIDIA_"+strings.ToUpper(feature)+"=enabled, but the host has no such node")
		}
	}
	if n, ok := m.facts.MIGControl["config"]; ok && m.req.MIGConfig {
		m.device(n, "NVIDIA_MIG_CONFIG_DEVICES")
	}
	if n, ok := m.facts.MIGControl["monitor"]; ok && m.req.MIGMonitor {
		m.device(n, "NVIDIA_MIG_MONITOR_DEVICES")
	}
	return nil
}

// featureNodes are the nodes of NVIDIA_GDS and the like, by the beginning of
// their names.
var featureNodes = map[string][]string{
	"gds":      {"/dev/nvidia-fs"},
	"mofed":    {"/dev/infiniband/uverbs", "/dev/infiniband/rdma_cm"},
	"gdrcopy":  {"/dev/gdrdrv"},
	"nvswitch": {"/dev/nvidia-nvswitch"},
}

func listChannels(special []nvidia.Node) string {
	var names []string
	for _, n := range special {
		if c, ok := strings.CutPrefix(n.Path, "/dev/nvidia-caps-imex-channels/"); ok {
			names = append(names, c)
		}
	}
	if len(names) == 0 {
		return "it has no IMEX channel"
	}
	return "it has " + strings.Join(names, ", ")
}

func (m *maker) firstAsked(caps []string) string {
	for _, c := range caps {
		if m.asked(c) {
			return c
		}
	}
	return ""
}

func (m *maker) device(n nvidia.Node, why string) {
	if slices.ContainsFunc(m.Edits.Devices, func(d Device) bool { return d.Path == n.Path }) {
		return
	}
	m.Edits.Devices = append(m.Edits.Devices, Device{n, why})
	if n.Mode&0o006 != 0o006 && n.GID != 0 && !slices.Contains(m.Edits.GIDs, n.GID) {
		m.Edits.GIDs = append(m.Edits.GIDs, n.GID)
	}
}

// files adds libraries under the names that loaders ask for, programs,
// configuration and sockets.
func (m *maker) files() {
	for _, f := range m.facts.Files {
		cap, ok := m.wanted(f)
		if !ok {
			why := "only for " + strings.Join(f.Caps, " or ")
			if f.Caps[0] == nvidia.Every {
				why = "davit does not know it; only for all capabilities"
			}
			m.left(f.Name, why)
			continue
		}
		why := "capability " + cap
		switch f.Kind {
		case nvidia.Library:
			m.library(f, why)
		case nvidia.Program:
			if f.Name == "nvidia-smi" && m.image.Libc != loader.Glibc && m.o.NoteProgram != "" {
				m.mount(m.o.NoteProgram, f.Target, "this image cannot run nvidia-smi; a note says so")
				continue
			}
			m.mount(f.Host, f.Target, why)
		case nvidia.Socket:
			m.Edits.Mounts = append(m.Edits.Mounts, Mount{Source: f.Host, Target: f.Target, Folder: f.Name == "nvidia-mps", Writable: true, Why: why})
		case nvidia.Config:
			m.mount(f.Host, f.Target, why)
		}
	}
	m.left("GSP firmware", "the kernel loads it from the host; nothing in a container reads it")
	switch m.image.Libc {
	case loader.Musl:
		m.Notes = append(m.Notes, "the image's C library is musl: NVIDIA's programs and libraries need glibc, so nvidia-smi and CUDA cannot run in it; take a Debian, Ubuntu or Fedora based image")
	case loader.None:
		m.Notes = append(m.Notes, "the image has no dynamic loader: NVIDIA's programs and libraries need glibc, so only programs that bring their own can use the GPU")
	}
}

// wanted tells by which asked capability a file comes.
func (m *maker) wanted(f nvidia.File) (string, bool) {
	caps := f.Caps
	if f.Bits == 32 {
		if !m.asked(nvidia.Compat32) {
			return "", false
		}
		if m.image.Dir32 == "" {
			return "", false
		}
		caps = caps[1:]
	}
	for _, c := range caps {
		if m.asked(c) || c == nvidia.Every && m.asksEverything() || c == nvidia.Graphics && m.asked(nvidia.Display) {
			return c, true
		}
	}
	return "", false
}

// asksEverything: the capabilities that "all" stands for, but for the 32-bit set.
func (m *maker) asksEverything() bool {
	return m.asked(nvidia.Compute) && m.asked(nvidia.Utility) && m.asked(nvidia.Video) && m.asked(nvidia.Graphics)
}

func (m *maker) library(f nvidia.File, why string) {
	dir, flags := m.image.Dir, uint32(0)
	if f.Bits == 32 {
		dir, flags = m.image.Dir32, loader.FlagsI386
	}
	names := []string{f.SONAME}
	if f.Link != "" {
		names = append(names, f.Link)
	}
	for _, name := range names {
		target := dir + "/" + name
		m.mount(f.Host, target, why)
		// Only what lies in the folder itself is found by its bare name.
		if m.image.Cache && !strings.Contains(name, "/") {
			m.Edits.Cache = append(m.Edits.Cache, loader.Entry{Name: name, Path: target, Flags: flags})
		}
	}
	// GBM looks for its backend by this name (Mesa's gbm, GBM_BACKENDS_PATH).
	if strings.HasPrefix(f.SONAME, "libnvidia-allocator.so") && m.asked(nvidia.Graphics, nvidia.Display) {
		m.mount(f.Host, dir+"/gbm/nvidia-drm_gbm.so", why)
	}
}

func (m *maker) mount(source, target, why string) {
	m.Edits.Mounts = append(m.Edits.Mounts, Mount{Source: source, Target: path.Clean(target), Why: why})
}

// masks hides the entries of the GPUs that were not chosen.
func (m *maker) masks() {
	if m.o.Privileged {
		m.left("masks over other GPUs' entries in /proc", "the container is privileged and can open every node")
		return
	}
	for _, g := range m.facts.GPUs {
		if !slices.ContainsFunc(m.GPUs, func(c nvidia.GPU) bool { return c.BusID == g.BusID }) {
			m.Edits.Masks = append(m.Edits.Masks, Mask{"/proc/driver/nvidia/gpus/" + g.BusID, fmt.Sprintf("GPU %d is not this container's", g.Index)})
		}
	}
	m.Edits.Params = m.facts.Params
}
