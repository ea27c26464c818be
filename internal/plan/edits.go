// SPDX-License-Identifier: Apache-2.0

// Package plan turns facts and a request into edits, with a reason for each
// edit and for each thing left out. It is pure: it opens nothing.
package plan

import (
	"davit/internal/loader"
	"davit/internal/nvidia"
)

// Plan is what must change in a container, and why.
type Plan struct {
	// Untouched: the container asked for nothing; all else is empty.
	Untouched bool         `json:"untouched"`
	GPUs      []nvidia.GPU `json:"gpus"`
	MIG       []nvidia.MIG `json:"mig,omitempty"`
	Edits     Edits        `json:"edits"`
	// Left is what was left out.
	Left []Left `json:"left,omitempty"`
	// Notes are sentences for the trace.
	Notes []string `json:"notes,omitempty"`
}

// Edits are the changes, the same for all three writers.
type Edits struct {
	Devices []Device `json:"devices,omitempty"`
	Mounts  []Mount  `json:"mounts,omitempty"`
	// Masks are paths under /proc to hide: other GPUs' entries.
	Masks []Mask `json:"masks,omitempty"`
	// Cache holds entries to merge into the container's /etc/ld.so.cache;
	// empty if it has none.
	Cache []loader.Entry `json:"cache,omitempty"`
	// Params is the container's /proc/driver/nvidia/params, with
	// ModifyDeviceFiles off, for the writers that can mount below /proc.
	Params string `json:"-"`
	// GIDs to add to the process: groups of nodes that others cannot open.
	GIDs []uint32 `json:"gids,omitempty"`
}

// Device is a node to make, and to allow in the device cgroup.
type Device struct {
	nvidia.Node
	Why string `json:"why"`
}

// Mount is a bind mount from the host, private, nosuid, nodev.
type Mount struct {
	Source   string `json:"source"` // on the host, links resolved
	Target   string `json:"target"` // in the container
	Folder   bool   `json:"folder,omitempty"`
	Writable bool   `json:"writable,omitempty"` // sockets
	Why      string `json:"why"`
}

// Mask hides a path.
type Mask struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// Left is something that the container does not get.
type Left struct {
	What string `json:"what"`
	Why  string `json:"why"`
}
