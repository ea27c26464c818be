// SPDX-License-Identifier: Apache-2.0

// Package cdi writes and judges CDI spec files: what davit would give a
// container, in the form that engines read (Container Device Interface).
//
// A spec is one of the three ways into a container and renders the same plan as
// the other two. What a spec cannot say, davit's one hook does in the
// container: see cdihook.
package cdi

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"tags.cncf.io/container-device-interface/pkg/parser"
	"tags.cncf.io/container-device-interface/specs-go"

	"davit/internal/cdihook"
	"davit/internal/loader"
	"davit/internal/nvidia"
	"davit/internal/plan"
	"davit/internal/request"
	"davit/internal/rootfs"
)

// The kind of NVIDIA's GPUs, which scripts and engines know.
const (
	DefaultVendor = "nvidia.com"
	DefaultClass  = "gpu"
)

// autoAllow lets BuildKit hand a device to builds without an entitlement
// (BuildKit, docs/cdi.md).
const autoAllow = "org.mobyproject.buildkit.device.autoallow"

// Strategies are the ways to name devices.
var Strategies = []string{"index", "uuid", "type-index", "pci"}

// Options choose what a spec holds. The zero value is the usual spec, but for
// Layout, which must be set: see HostLayout.
type Options struct {
	Vendor, Class string
	// Capabilities of the driver; default DefaultCapabilities.
	Capabilities []string
	// Names are Strategies; default all but pci.
	Names []string
	// NoHooks leaves davit's hook out: the spec then fits images of the host's
	// own family alone, and never says that it is stale.
	NoHooks bool
	// HookPath is davit-runtime on the host; default /usr/bin/davit-runtime.
	HookPath string
	// AutoAllow adds the annotation for BuildKit, which needs version 0.6.0.
	AutoAllow bool
	// Layout is where libraries go in the container.
	Layout loader.Layout
	// HostRoot is the folder that stands for the host, "" or "/" for the machine.
	HostRoot string
	// StateDir is the state-dir of the configuration, "" for the default.
	StateDir string
}

// DefaultCapabilities are more than an image asks for by default: engines drop
// the user's own wish on this way.
func DefaultCapabilities() []string {
	return []string{nvidia.Compute, nvidia.Utility, nvidia.Video, nvidia.Graphics}
}

// ParseCapabilities reads a list such as "compute,utility" or "all".
func ParseCapabilities(list string) ([]string, error) {
	r, err := request.Read(request.Container{Env: []string{"NVIDIA_VISIBLE_DEVICES=none", "NVIDIA_DRIVER_CAPABILITIES=" + list}}, request.Policy{AcceptEnv: "always"})
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "NVIDIA_DRIVER_CAPABILITIES="+list+": "))
	}
	return r.Capabilities, nil
}

// HostLayout guesses where images of the host's own family keep libraries: in
// the folder of the host's libc, or, where that is not to be seen, in that of
// its distribution; Debian's where images are most probably of another one.
func HostLayout(host rootfs.Root, arch string) loader.Layout {
	if h, err := rootfs.OpenHandle(host.Dir()); err == nil {
		defer h.Close()
		l := loader.Inspect(h, arch)
		if l.Libc == loader.Glibc && !host.Exists("/nix/store") {
			l.Cache = true
			return l
		}
	}
	triple := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[arch]
	l := loader.Layout{Libc: loader.Glibc, Cache: true, Dir: "/usr/lib/" + triple, Dir32: "/usr/lib/i386-linux-gnu"}
	text, err := host.ReadFile("/etc/os-release")
	if err != nil {
		text, _ = host.ReadFile("/usr/lib/os-release")
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if key != "ID" && key != "ID_LIKE" {
			continue
		}
		for _, id := range strings.Fields(strings.Trim(value, `"'`)) {
			switch id {
			case "rhel", "fedora", "centos", "rocky", "almalinux", "ol", "amzn", "suse", "opensuse", "sles", "azurelinux", "mariner":
				l.Dir, l.Dir32 = "/usr/lib64", "/usr/lib"
				return l
			case "arch", "manjaro":
				l.Dir, l.Dir32 = "/usr/lib", "/usr/lib32"
				return l
			case "debian", "ubuntu":
				return l
			}
		}
	}
	return l
}

// Render makes a spec for a host. It opens nothing. An error is a plan.Refusal
// for hosts on which no container could have a GPU, or a wrong option.
func Render(f *nvidia.Facts, o Options) (*specs.Spec, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	common, err := o.plan(f, request.Request{None: true})
	if err != nil {
		return nil, err
	}
	if common.Untouched {
		return nil, &plan.Refusal{ID: "driver-not-loaded", Text: "no NVIDIA driver is loaded on this host, so there is nothing to write a CDI spec for: install or load it (modprobe nvidia)"}
	}
	spec := &specs.Spec{Kind: o.Vendor + "/" + o.Class}
	if o.AutoAllow {
		spec.Annotations = map[string]string{autoAllow: "true"}
	}
	// void: a runtime that wraps runc must not give the container all that an
	// image's variable asks for beside what was asked by CDI names.
	const void = "NVIDIA_VISIBLE_DEVICES=void"
	spec.ContainerEdits = edits(common.Edits, nil)
	spec.ContainerEdits.Env = []string{void}
	if !o.NoHooks {
		spec.ContainerEdits.Hooks = []*specs.Hook{o.hook(f)}
	}
	for _, d := range devices(f, o.Names) {
		p, err := o.plan(f, request.Request{Devices: []string{d.ask}, All: d.ask == "all", Source: "device " + d.name})
		if err != nil {
			return nil, err
		}
		e := edits(p.Edits, common.Edits.Devices)
		spec.Devices = append(spec.Devices, specs.Device{Name: d.name, ContainerEdits: e})
	}
	// A device must have edits of its own.
	spec.Devices = append(spec.Devices, specs.Device{Name: "none", ContainerEdits: specs.ContainerEdits{Env: []string{void}}})
	if spec.Version, err = specs.MinimumRequiredVersion(spec); err != nil {
		return nil, err
	}
	return spec, nil
}

// complete fills in defaults and checks what a person typed.
func (o *Options) complete() error {
	set := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	set(&o.Vendor, DefaultVendor)
	set(&o.Class, DefaultClass)
	set(&o.HookPath, "/usr/bin/davit-runtime")
	if o.Capabilities == nil {
		o.Capabilities = DefaultCapabilities()
	}
	if o.Names == nil {
		o.Names = Strategies[:3]
	}
	for _, n := range o.Names {
		if !slices.Contains(Strategies, n) {
			return fmt.Errorf("unknown device name strategy %q: known are %s", n, strings.Join(Strategies, ", "))
		}
	}
	if err := parser.ValidateVendorName(o.Vendor); err != nil {
		return err
	}
	return parser.ValidateClassName(o.Class)
}

// plan makes a plan as the other two ways into a container do.
func (o *Options) plan(f *nvidia.Facts, r request.Request) (*plan.Plan, error) {
	r.Asked = true
	r.Capabilities = o.Capabilities
	if r.All {
		r.Devices = nil
	}
	if r.Source == "" {
		r.Source = "a CDI spec was asked for"
	}
	layout := o.Layout
	if !slices.Contains(o.Capabilities, nvidia.Compat32) {
		layout.Dir32 = ""
	}
	return plan.Make(f, r, layout, plan.Options{})
}

// named is a device of the spec and what to ask the plan for it.
type named struct{ name, ask string }

// devices lists the names, "all" last.
func devices(f *nvidia.Facts, strategies []string) (list []named) {
	add := func(strategy, name, ask string) {
		if name != "" && slices.Contains(strategies, strategy) {
			list = append(list, named{name, ask})
		}
	}
	for _, g := range f.GPUs {
		index := fmt.Sprint(g.Index)
		add("index", index, index)
		add("type-index", "gpu"+index, index)
		add("uuid", g.UUID, index)
		add("pci", g.BusID, index)
		for _, m := range g.MIG {
			pair := fmt.Sprintf("%d:%d", g.Index, m.Index)
			add("index", pair, pair)
			add("type-index", "mig"+pair, pair)
			add("uuid", m.UUID, pair)
		}
	}
	if len(f.GPUs) > 0 {
		list = append(list, named{"all", "all"})
	}
	return list
}

// edits renders a plan's edits without the nodes that others give already, and
// without what is the same for all devices if there are such nodes.
//
// Nodes have no numbers: engines take those from the node itself when the
// container starts, so that a number that changes at boot does no harm. They
// have no owner either: engines then make the container's user the owner, who
// need not be in the node's group.
func edits(e plan.Edits, without []plan.Device) (out specs.ContainerEdits) {
	for _, d := range e.Devices {
		if slices.ContainsFunc(without, func(o plan.Device) bool { return o.Path == d.Path }) {
			continue
		}
		n := &specs.DeviceNode{Path: d.Path}
		if d.Host != d.Path {
			n.HostPath = d.Host
		}
		if d.Mode != 0o666 {
			mode := os.FileMode(d.Mode)
			n.FileMode = &mode
		}
		out.DeviceNodes = append(out.DeviceNodes, n)
	}
	if without != nil {
		return out
	}
	for _, m := range e.Mounts {
		options := []string{"ro", "nosuid", "nodev", "rbind", "rprivate"}
		if m.Writable {
			options = []string{"nosuid", "nodev", "noexec", "rbind", "rprivate"}
		}
		out.Mounts = append(out.Mounts, &specs.Mount{HostPath: m.Source, ContainerPath: m.Target, Options: options})
	}
	return out
}

// hook is davit's one hook. Its environment is its own: without one, some
// runtimes hand down the container's.
func (o *Options) hook(f *nvidia.Facts) *specs.Hook {
	a := cdihook.Args{Stamp: f.Identity(), Libraries: o.Layout.Dir, StateDir: o.StateDir}
	if slices.Contains(o.Capabilities, nvidia.Compat32) {
		a.Libraries32 = o.Layout.Dir32
	}
	if o.HostRoot != "/" {
		a.HostRoot = o.HostRoot
	}
	return &specs.Hook{
		HookName: "createContainer",
		Path:     o.HookPath,
		Args:     append([]string{"davit-runtime"}, a.Strings()...),
		Env:      []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
	}
}
