// SPDX-License-Identifier: Apache-2.0

// Package nvidia reads the facts of a GPU host: the driver, its GPUs and MIG
// devices, their nodes, and the driver's files with the capability each
// belongs to. It reads files alone and runs or loads nothing.
package nvidia

// Facts is what a host has. It holds no open file and can be written as JSON.
type Facts struct {
	Arch   string `json:"arch"` // amd64, arm64
	Driver Driver `json:"driver"`
	GPUs   []GPU  `json:"gpus"`
	// Control are the nodes that every GPU shares: nvidiactl, nvidia-uvm,
	// nvidia-uvm-tools, nvidia-modeset, as far as they exist.
	Control []Node `json:"control"`
	Files   []File `json:"files"`
	// Special are nodes that only special requests bring: IMEX channels,
	// GPUDirect Storage, RDMA, gdrcopy, NVSwitch.
	Special []Node `json:"special,omitempty"`
	// MIGControl are the capability nodes "config" and "monitor".
	MIGControl map[string]Node `json:"mig_control,omitempty"`
	// Params is /proc/driver/nvidia/params with ModifyDeviceFiles 0: a driver
	// library that reads it makes no nodes of its own. "" without a driver.
	Params string `json:"-"`
	// Missing is what was looked for in vain, and why that matters.
	Missing []Missing `json:"missing,omitempty"`
}

// Driver is the NVIDIA driver of a host.
type Driver struct {
	// Version of the loaded kernel module, "" when none is loaded
	// (/proc/driver/nvidia/version).
	Version string `json:"version"`
	// LibraryVersion is the version of libcuda.so that was chosen.
	LibraryVersion string `json:"library_version"`
	// CUDA is the newest CUDA version that the driver runs, "12.4".
	CUDA string `json:"cuda"`
	Open bool   `json:"open"` // the open kernel module
	// Root is the folder below which libraries and programs lie, "/" except
	// for driver containers ("/run/nvidia/driver").
	Root string `json:"root"`
	// LibDirs are the folders, inside Root, that held driver libraries; the
	// one of libcuda first.
	LibDirs []string `json:"lib_dirs"`
}

// GPU is one graphics card.
type GPU struct {
	Index int    `json:"index"` // in PCI order, as the management library counts
	UUID  string `json:"uuid"`
	Name  string `json:"name"`
	BusID string `json:"bus_id"` // 0000:3b:00.0
	Minor int    `json:"minor"`  // N of /dev/nvidiaN
	Brand string `json:"brand"`  // as in brand= of NVIDIA_REQUIRE_*: tesla, geforce, nvidia …
	// Arch is the compute capability, "9.0"; "" where the table does not know
	// the card.
	Arch  string `json:"arch"`
	PCIID string `json:"pci_id"` // device id, "2330"
	Node  *Node  `json:"node"`   // nil if /dev/nvidiaN is not there
	DRM   []Node `json:"drm,omitempty"`
	MIG   []MIG  `json:"mig,omitempty"`
	// MIGEnabled: programs see its MIG devices, not the card.
	MIGEnabled bool `json:"mig_enabled,omitempty"`
}

// MIG is one MIG device: a compute instance in a GPU instance.
type MIG struct {
	Index int    `json:"index"`          // M of G:M
	UUID  string `json:"uuid,omitempty"` // not in /proc; "" if nobody told
	GI    int    `json:"gi"`
	CI    int    `json:"ci"`
	Caps  []Node `json:"caps"` // /dev/nvidia-caps/nvidia-capN of GPU and compute instance
}

// Node is a device node to hand on.
type Node struct {
	Path  string `json:"path"` // as in the container, /dev/nvidia0
	Host  string `json:"host"` // where it lies on this machine
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
	Mode  uint32 `json:"mode"` // permission bits
	UID   uint32 `json:"uid"`
	GID   uint32 `json:"gid"`
}

// FileKind is what a driver file is.
type FileKind string

// The kinds of driver files.
const (
	Library FileKind = "library"
	Program FileKind = "program"
	Config  FileKind = "config" // json, icd, conf, bin read by a library
	Socket  FileKind = "socket"
)

// File is one file of the driver.
type File struct {
	Kind FileKind `json:"kind"`
	// Host is the file itself on this machine, links resolved.
	Host string `json:"host"`
	// Name is the base name of the file, libcuda.so.550.120.
	Name string `json:"name"`
	// SONAME is what a loader asks for, libcuda.so.1; libraries alone.
	SONAME string `json:"soname,omitempty"`
	// Link is the development name that programs open too, libcuda.so; ""
	// if none is customary.
	Link string `json:"link,omitempty"`
	// Target is the path in the container of everything but libraries.
	Target string `json:"target,omitempty"`
	// Bits is 64 or 32; libraries alone.
	Bits int `json:"bits,omitempty"`
	// Caps are the driver capabilities that bring this file.
	Caps []string `json:"caps"`
}

// Missing is something that was not found.
type Missing struct {
	What string `json:"what"`
	Why  string `json:"why"`
}
