// SPDX-License-Identifier: Apache-2.0

package request

import (
	"fmt"
	"strings"
)

// check finds settings that mean nothing.
func (p Policy) check() error {
	switch p.AcceptEnv {
	case "", "auto", "always", "privileged", "never":
	default:
		return fmt.Errorf("accept-visible-devices-env = %q: want auto, always, privileged or never", p.AcceptEnv)
	}
	for _, c := range p.SupportedCapabilities {
		if c != "all" && !isCapability(c) {
			return fmt.Errorf("supported-driver-capabilities: %w", unknownCapability(c))
		}
	}
	return nil
}

// acceptsEnv decides whether the environment of this container may ask, and
// says with which setting it may not.
//
// A privileged container may open every device of the host anyway, so heeding
// its environment gives nothing away; in a pod, everybody else must be given
// devices by the device plugin.
func (p Policy) acceptsEnv(c Container) (bool, string) {
	if c.Privileged {
		if p.AcceptEnv == "never" {
			return false, `accept-visible-devices-env = "never"`
		}
		return true, ""
	}
	switch p.AcceptEnv {
	case "always":
		return true, ""
	case "never":
		return false, `accept-visible-devices-env = "never"`
	case "privileged":
		return false, `accept-visible-devices-env = "privileged" and the container has no CAP_SYS_ADMIN`
	}
	if inPod(c.Annotations) {
		return false, `accept-visible-devices-env = "auto" does not let the environment of a Kubernetes pod choose GPUs; ask for nvidia.com/gpu in the pod's resources, or set it to "always"`
	}
	return true, ""
}

// inPod says whether a Kubernetes node engine made this container. containerd
// marks its with io.kubernetes.cri.*, CRI-O with io.kubernetes.cri-o.*; podman
// borrows a few of CRI-O's names for containers that have no pod.
func inPod(annotations map[string]string) bool {
	podman := annotations["io.container.manager"] == "libpod"
	for k := range annotations {
		if strings.HasPrefix(k, "io.kubernetes.cri.") {
			return true
		}
		rest, ok := strings.CutPrefix(k, "io.kubernetes.cri-o.")
		if !ok {
			continue
		}
		switch rest {
		case "Created", "TTY", "ContainerType", "SandboxID":
			if podman {
				continue
			}
		}
		return true
	}
	return false
}
