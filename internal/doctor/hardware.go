// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	_ "embed"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"davit/internal/finding"
	"davit/internal/nvidia"
)

//go:embed gpus.csv
var gpuTable string

// product is what is known of a PCI device id.
type product struct {
	name, arch string
	flavour    byte // p: proprietary module only, o: open only, e: either
	last       int  // last driver branch, 0 if it is still supported
}

// lookup finds a PCI device id such as "2204".
func lookup(id string) (product, bool) {
	i := strings.Index(gpuTable, "\n"+id+",")
	if len(id) != 4 || i < 0 {
		return product{}, false
	}
	line, _, _ := strings.Cut(gpuTable[i+1:], "\n")
	f := strings.Split(line, ",")
	if len(f) != 5 || len(f[3]) != 1 {
		return product{}, false
	}
	last, _ := strconv.Atoi(f[4])
	return product{f[1], f[2], f[3][0], last}, true
}

// pciDevice is an NVIDIA device on the bus.
type pciDevice struct {
	address, id, class string
	driver             string // that it is bound to, "" if none
	lost               bool   // it answers with ones alone
	product
	known bool
}

func (d pciDevice) gpu() bool    { return strings.HasPrefix(d.class, "0x03") }
func (d pciDevice) bridge() bool { return strings.HasPrefix(d.class, "0x0680") }

// String is how a person finds it again.
func (d pciDevice) String() string {
	name := d.name
	if name == "" {
		name = "an NVIDIA GPU"
	}
	return fmt.Sprintf("%s (10de:%s at %s)", name, d.id, d.address)
}

func (e *exam) readPCI() (list []pciDevice) {
	const dir = "/sys/bus/pci/devices"
	for _, address := range e.names(dir) {
		at := dir + "/" + address
		if e.text(at+"/vendor") != "0x10de" {
			continue
		}
		d := pciDevice{address: address, id: strings.ToLower(strings.TrimPrefix(e.text(at+"/device"), "0x")), class: e.text(at + "/class")}
		if target, err := e.root.Readlink(at + "/driver"); err == nil {
			d.driver = path.Base(target)
		}
		if d.product, d.known = lookup(d.id); !d.known && d.gpu() {
			// A card newer than the table is no reason to be silent about it.
			d.flavour = 'e'
		}
		for _, g := range e.facts.GPUs {
			if strings.EqualFold(g.BusID, address) && g.Name != "" {
				d.name = g.Name // the driver knows it better: products share ids
			}
		}
		if f, err := e.root.Open(at + "/config"); err == nil {
			var head [4]byte
			if n, _ := f.Read(head[:]); n == 4 && head == [4]byte{0xff, 0xff, 0xff, 0xff} {
				d.lost = true
			}
			f.Close()
		}
		list = append(list, d)
	}
	return list
}

// gpus are the cards on the bus.
func (e *exam) gpus() []pciDevice {
	return slices.DeleteFunc(slices.Clone(e.pci), func(d pciDevice) bool { return !d.gpu() })
}

func (e *exam) hardware() {
	if !e.whole {
		e.none("not examined: the folder is no whole host")
		return
	}
	gpus := e.gpus()
	switch {
	case e.wsl:
		e.line("WSL: the GPU is Windows'")
		return
	case len(gpus) == 0 && (len(e.facts.GPUs) > 0 || e.root.Exists("/etc/nv_tegra_release")):
		e.line("%s", gpuNames(e.facts.GPUs))
		return
	case len(gpus) == 0 && !e.root.Exists("/sys/bus/pci/devices"):
		e.none("no list of PCI devices")
		return
	case len(gpus) == 0:
		e.driverBad = true
		e.add(finding.Finding{ID: "no-gpu-on-pci-bus", Severity: finding.Error, Gate: "hardware",
			Summary: "This host has no NVIDIA GPU: none is on its PCI bus.",
			Why:     "If it should have one: a virtual machine sees only GPUs that its hypervisor passes through, and a card that is not seated or has no power does not appear.",
			Because: because("/sys/bus/pci/devices", "no display device of vendor 0x10de"), Confirm: []string{"lspci -d 10de:"},
			Remediation: fix("none", "pass the GPU through to this machine, or use another host")})
		e.line("no NVIDIA GPU")
		return
	}
	var names []string
	for _, d := range gpus {
		names = append(names, d.String())
		if d.lost {
			e.add(finding.Finding{ID: "gpu-fell-off-bus", Severity: finding.Error, Gate: "hardware",
				Summary: d.String() + " does not answer on the PCI bus.", Why: "A fault of the card, its power or its slot; no setting of a container helps.",
				Because:     because("/sys/bus/pci/devices/"+d.address+"/config", "ff ff ff ff"),
				Remediation: fix("reboot", "switch the machine off and on; check power and seating; if it returns, replace the card")})
		}
	}
	e.line("%s", strings.Join(names, ", "))
	e.vfio(gpus)
}

func (e *exam) vfio(gpus []pciDevice) {
	var given []pciDevice
	for _, d := range gpus {
		if d.driver == "vfio-pci" || d.driver == "pci-stub" || d.driver == "xen-pciback" {
			given = append(given, d)
		}
	}
	if len(given) == 0 {
		return
	}
	if len(given) < len(gpus) {
		e.note("%s is kept for virtual machines (%s)", given[0], given[0].driver)
		return
	}
	e.driverBad = true
	e.add(finding.Finding{ID: "gpu-bound-to-vfio", Severity: finding.Error, Gate: "hardware",
		Summary: fmt.Sprintf("%s is bound to %s: it is kept for virtual machines, and containers of this host cannot have it.", given[0], given[0].driver),
		Why:     "Somebody set this host up for passing GPUs through; the GPU is not missing and not broken.",
		Because: because("/sys/bus/pci/devices/"+given[0].address+"/driver", given[0].driver),
		Remediation: fix("reboot", "if containers shall have it: take its id out of the vfio-pci options (kernel command line, /etc/modprobe.d) and reboot",
			"grep -rn vfio /etc/modprobe.d /proc/cmdline")})
}

func gpuNames(gpus []nvidia.GPU) string {
	var names []string
	for _, g := range gpus {
		names = append(names, g.Name)
	}
	return strings.Join(names, ", ")
}
