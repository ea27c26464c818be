// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"fmt"
	"strings"
)

// addProc adds /proc, as the driver of a recorded host shows it.
func (p *plan) addProc(t *tree, majors []deviceMajor) {
	t.proc("/proc/devices", procDevices(majors))
	t.proc("/proc/modules", `nvidia_uvm 1830912 0 - Live 0x0000000000000000 (O)
nvidia_drm 122880 0 - Live 0x0000000000000000 (O)
nvidia_modeset 1355776 1 nvidia_drm, Live 0x0000000000000000 (O)
nvidia 14299136 2 nvidia_uvm,nvidia_modeset, Live 0x0000000000000000 (O)
overlay 212992 0 - Live 0x0000000000000000
`)
	t.proc("/proc/sys/kernel/osrelease", p.Kernel+"\n")
	const nv = "/proc/driver/nvidia"
	module := "NVIDIA UNIX " + p.machine.uname + " Kernel Module  " + p.Driver + "  Wed Jan  1 00:00:00 UTC 2025"
	if p.openModule() {
		module = "NVIDIA UNIX Open Kernel Module for " + p.machine.uname + "  " + p.Driver + "  Release Build  (simulated)  "
	}
	t.proc(nv+"/version", "NVRM version: "+module+"\nGCC version:  gcc version 13.2.0 (GCC) \n")
	t.proc(nv+"/params", procParams)
	t.proc(nv+"/registry", "Binary: \"\"\n")
	t.proc(nv+"/suspend", "suspend hibernate resume\n")
	t.proc(nv+"/suspend_depth", "default modeset uvm\n")
	t.proc(nv+"/warnings/README", "This host is simulated; its driver has nothing to warn of.\n")
	t.proc(nv+"/patches/README", "This host is simulated; its driver has no patches.\n")
	t.proc(nv+"/capabilities/mig/config", capability(1, 256))
	t.proc(nv+"/capabilities/mig/monitor", capability(2, 292))
	t.proc(nv+"/capabilities/fabric-imex-mgmt", capability(4323, 256))
	t.dir(nv + "/gpus")
	for _, g := range p.host.GPUs {
		dir := nv + "/gpus/" + g.BusID
		t.proc(dir+"/information", p.information(g))
		t.proc(dir+"/registry", "Binary: \"\"\n")
		t.proc(dir+"/power", "Runtime D3 status:          Disabled by default\nVideo Memory:               Active\n")
	}
	t.proc("/proc/driver/nvidia-caps/mig-minors", p.migMinors())
	t.proc("/proc/driver/nvidia-caps/sys-minors", "fabric-imex-mgmt 4323\n")
}

func capability(minor, mode int) string {
	return fmt.Sprintf("DeviceFileMinor: %d\nDeviceFileMode: %d\nDeviceFileModify: 1\n", minor, mode)
}

func (p *plan) information(g GPU) string {
	firmware := "N/A"
	if p.openModule() || p.branch >= 525 && g.model.major >= 9 {
		firmware = p.Driver
	}
	bits, mask := 47, "0x7fffffffffff"
	if g.model.major >= 9 {
		bits, mask = 52, "0xfffffffffffff"
	}
	return fmt.Sprintf("Model: \t\t %s\nIRQ:   \t\t %d\nGPU UUID: \t %s\nVideo BIOS: \t %02x.00.00.00.%02x\nBus Type: \t PCIe\n"+
		"DMA Size: \t %d bits\nDMA Mask: \t %s\nBus Location: \t %s\nDevice Minor: \t %d\nGPU Firmware: \t %s\nGPU Excluded:\t No\n",
		g.Name, 120+g.Index, g.UUID, 0x80+g.model.major*2, g.Index+1, bits, mask, g.BusID, g.Minor, firmware)
}

// migMinors lists the capabilities' numbers of the GPUs there are; the real
// file does for 32, whether they exist or not.
func (p *plan) migMinors() string {
	const instances, computes = 15, 8
	var b strings.Builder
	b.WriteString("config 1\nmonitor 2\n")
	n := 3
	for gpu := range max(len(p.host.GPUs), 1) {
		for gi := range instances {
			fmt.Fprintf(&b, "gpu%d/gi%d/access %d\n", gpu, gi, n)
			n++
			for ci := range computes {
				fmt.Fprintf(&b, "gpu%d/gi%d/ci%d/access %d\n", gpu, gi, ci, n)
				n++
			}
		}
	}
	return b.String()
}

// procParams is /proc/driver/nvidia/params of a host with default options.
const procParams = `ResmanDebugLevel: 4294967295
RmLogonRC: 1
ModifyDeviceFiles: 1
DeviceFileUID: 0
DeviceFileGID: 0
DeviceFileMode: 438
InitializeSystemMemoryAllocations: 1
UsePageAttributeTable: 4294967295
EnableMSI: 1
EnablePCIeGen3: 0
MemoryPoolSize: 0
KMallocHeapMaxSize: 0
VMallocHeapMaxSize: 0
IgnoreMMIOCheck: 0
EnableStreamMemOPs: 0
EnableUserNUMAManagement: 1
NvLinkDisable: 0
RmProfilingAdminOnly: 1
PreserveVideoMemoryAllocations: 0
EnableS0ixPowerManagement: 0
S0ixPowerManagementVideoMemoryThreshold: 256
DynamicPowerManagement: 3
DynamicPowerManagementVideoMemoryThreshold: 200
RegisterPCIDriver: 1
EnablePCIERelaxedOrderingMode: 0
EnableResizableBar: 0
EnableGpuFirmware: 18
EnableGpuFirmwareLogs: 2
EnableDbgBreakpoint: 0
OpenRmEnableUnsupportedGpus: 1
DmaRemapPeerMmio: 1
ImexChannelCount: 2048
CreateImexChannel0: 0
GrdmaPciTopoCheckOverride: 0
CoherentGPUMemoryMode: ""
RegistryDwords: ""
RegistryDwordsPerDevice: ""
RmMsg: ""
GpuBlacklist: ""
TemporaryFilePath: ""
ExcludedGpus: ""
`

// addSys adds /sys: the cards and one device that is none, their driver, the
// modules.
func (p *plan) addSys(t *tree) {
	for _, g := range p.host.GPUs {
		p.addPCI(t, g.BusID, g.model.class, 0x10de, g.model.pciID, 0x10de, g.model.subsystem, "nvidia")
		if !p.DRM {
			continue
		}
		dir := pciDir(g.BusID)
		for _, name := range []string{fmt.Sprintf("card%d", g.Index), fmt.Sprintf("renderD%d", 128+g.Index)} {
			minor := g.Index
			if strings.HasPrefix(name, "render") {
				minor += 128
			}
			t.proc(dir+"/drm/"+name+"/dev", fmt.Sprintf("226:%d\n", minor))
			t.link("/sys/class/drm/"+name, "../.."+strings.TrimPrefix(dir, "/sys")+"/drm/"+name)
			kind := "card"
			if minor >= 128 {
				kind = "render"
			}
			t.link("/dev/dri/by-path/pci-"+g.BusID+"-"+kind, "../"+name)
		}
	}
	p.addPCI(t, "0000:00:03.0", 0x020000, 0x1af4, 0x1041, 0x1af4, 0x1100, "virtio-pci")
	t.dir("/sys/bus/pci/drivers/nvidia")
	t.proc("/sys/module/nvidia/version", p.Driver+"\n")
	for _, m := range []string{"nvidia", "nvidia_uvm", "nvidia_modeset", "nvidia_drm"} {
		t.proc("/sys/module/"+m+"/initstate", "live\n")
	}
	t.proc("/sys/module/nvidia_drm/parameters/modeset", "Y\n")
}

func pciDir(bus string) string {
	return "/sys/devices/pci" + bus[:7] + "/" + bus
}

func (p *plan) addPCI(t *tree, bus string, class uint32, vendor, device, subvendor, subdevice uint16, driver string) {
	dir := pciDir(bus)
	t.proc(dir+"/vendor", fmt.Sprintf("0x%04x\n", vendor))
	t.proc(dir+"/device", fmt.Sprintf("0x%04x\n", device))
	t.proc(dir+"/class", fmt.Sprintf("0x%06x\n", class))
	t.proc(dir+"/subsystem_vendor", fmt.Sprintf("0x%04x\n", subvendor))
	t.proc(dir+"/subsystem_device", fmt.Sprintf("0x%04x\n", subdevice))
	t.proc(dir+"/revision", "0xa1\n")
	t.proc(dir+"/numa_node", "-1\n")
	t.proc(dir+"/uevent", fmt.Sprintf("DRIVER=%s\nPCI_CLASS=%X\nPCI_ID=%04X:%04X\nPCI_SUBSYS_ID=%04X:%04X\nPCI_SLOT_NAME=%s\n",
		driver, class, vendor, device, subvendor, subdevice, bus))
	t.link(dir+"/driver", "../../../bus/pci/drivers/"+driver)
	t.link("/sys/bus/pci/devices/"+bus, "../../.."+strings.TrimPrefix(dir, "/sys"))
	t.link("/sys/bus/pci/drivers/"+driver+"/"+bus, "../../../.."+strings.TrimPrefix(dir, "/sys"))
}
