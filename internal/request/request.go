// SPDX-License-Identifier: Apache-2.0

// Package request reads what one container asks for: devices, driver
// capabilities, requirements, and which line of its configuration said so. It
// is pure: it opens nothing and knows nothing of the host.
package request

// Container is the part of a container's configuration that can hold a
// request.
type Container struct {
	Env         []string // NAME=value; of repeated names the last counts
	Annotations map[string]string
	Mounts      []Mount
	// Privileged: CAP_SYS_ADMIN in the bounding set.
	Privileged bool
}

// Mount is a bind mount of the container.
type Mount struct{ Source, Target string }

// Policy is what the administrator allows; the keys of config.toml.
type Policy struct {
	// AcceptEnv is accept-visible-devices-env: "always", "privileged" (only
	// with CAP_SYS_ADMIN), "never", or "auto": as "privileged" for a container
	// of a Kubernetes pod, as "always" elsewhere. "" is "auto".
	AcceptEnv string
	// RefuseEnv makes a request that AcceptEnv does not allow an error; else
	// it is ignored with a note.
	RefuseEnv bool
	// AcceptMounts is accept-nvidia-visible-devices-as-volume-mounts.
	AcceptMounts bool
	// SwarmResources are names of variables that take the place of
	// NVIDIA_VISIBLE_DEVICES if set.
	SwarmResources []string
	// SupportedCapabilities bounds NVIDIA_DRIVER_CAPABILITIES; nil means all.
	SupportedCapabilities []string
	// AnnotationPrefixes of CDI device requests, default cdi.k8s.io/.
	AnnotationPrefixes []string
	// DisableRequire is disable-require.
	DisableRequire bool
	// IgnoreIMEX is ignore-imex-channel-requests.
	IgnoreIMEX bool
}

// Request is what a container asks for.
type Request struct {
	// Asked is false if the container must be left untouched.
	Asked bool `json:"asked"`
	// All GPUs and MIG devices; None: driver files without a GPU. One of
	// All, None and Devices is set if Asked.
	All  bool `json:"all,omitempty"`
	None bool `json:"none,omitempty"`
	// Devices as written, without repeats: index, UUID or its beginning, PCI
	// bus id, G:M, MIG-…; the vendor and class of CDI names taken off, gpuN
	// and migG:M turned into N and G:M. Whether they exist is not known here.
	Devices []string `json:"devices,omitempty"`
	// Source says where the request stood, for messages:
	// "NVIDIA_VISIBLE_DEVICES=all in the container's environment".
	Source string `json:"source"`
	// Capabilities, sorted: compute, utility, video, graphics, display, ngx, compat32.
	Capabilities []string `json:"capabilities"`
	CapSource    string   `json:"capabilities_source"`
	// Legacy image: CUDA_VERSION set, NVIDIA_REQUIRE_CUDA not.
	Legacy bool `json:"legacy,omitempty"`
	// Requirements, one for each NVIDIA_REQUIRE_* variable.
	Requirements []Requirement `json:"requirements,omitempty"`
	// IMEX channels asked for.
	IMEX []int `json:"imex,omitempty"`
	// Features: gds, mofed, gdrcopy, nvswitch.
	Features []string `json:"features,omitempty"`
	// MIGConfig and MIGMonitor ask for the nodes that change or watch MIG.
	MIGConfig  bool `json:"mig_config,omitempty"`
	MIGMonitor bool `json:"mig_monitor,omitempty"`
	// Notes are decisions worth a line in the trace: ignored values, rules
	// for legacy images, what policy refused.
	Notes []string `json:"notes,omitempty"`
}

// Requirement is one expression and the variable it stood in.
type Requirement struct {
	Variable   string `json:"variable"`
	Expression string `json:"expression"`
}
