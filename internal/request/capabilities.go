// SPDX-License-Identifier: Apache-2.0

package request

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// capabilities are the parts of a driver, sorted.
var capabilities = []string{"compat32", "compute", "display", "graphics", "ngx", "utility", "video"}

func isCapability(s string) bool { return slices.Contains(capabilities, s) }

func unknownCapability(name string) error {
	hint := ""
	if near := nearest(name, capabilities); near != "" {
		hint = fmt.Sprintf("did you mean %q? ", near)
	}
	return fmt.Errorf("%q is no driver capability; %sthe capabilities are %s, or all", show(name), hint, strings.Join(capabilities, ", "))
}

// readCapabilities reads NVIDIA_DRIVER_CAPABILITIES.
func readCapabilities(env *environment, p Policy, req *Request) error {
	v := env.capabilities
	var want []string
	all := false
	req.CapSource = "NVIDIA_DRIVER_CAPABILITIES=" + show(v.text)
	for name := range strings.SplitSeq(v.text, ",") {
		name = strings.ToLower(strings.TrimSpace(name))
		switch {
		case name == "" || name == "gpu" || name == "nvidia": // docker's own names for the driver itself
		case name == "all":
			all = true
		case !isCapability(name):
			return fmt.Errorf("NVIDIA_DRIVER_CAPABILITIES=%s: %w", show(v.text), unknownCapability(name))
		case !slices.Contains(want, name):
			want = append(want, name)
		}
	}
	switch {
	case all:
		want = slices.Clone(capabilities)
	case len(want) > 0:
	case !v.set && env.legacy():
		all, want = true, slices.Clone(capabilities)
		req.CapSource = "all, for an old image (CUDA_VERSION without NVIDIA_REQUIRE_CUDA)"
		req.Notes = append(req.Notes, "the image has CUDA_VERSION and neither NVIDIA_REQUIRE_CUDA nor NVIDIA_DRIVER_CAPABILITIES, so it gets all driver capabilities")
	default:
		want = []string{"compute", "utility"}
		req.CapSource = "compute,utility by default (NVIDIA_DRIVER_CAPABILITIES is not set)"
		if v.set {
			req.CapSource = "compute,utility by default (NVIDIA_DRIVER_CAPABILITIES names none)"
		}
	}
	if slices.Contains(want, "display") && !slices.Contains(want, "graphics") {
		want = append(want, "graphics") // what shows pictures must draw them
	}
	slices.Sort(want)
	req.Capabilities = want
	if p.SupportedCapabilities == nil || slices.Contains(p.SupportedCapabilities, "all") {
		return nil
	}
	var cut []string
	req.Capabilities = []string{}
	for _, c := range want {
		if slices.Contains(p.SupportedCapabilities, c) {
			req.Capabilities = append(req.Capabilities, c)
		} else {
			cut = append(cut, c)
		}
	}
	if len(cut) > 0 {
		req.Notes = append(req.Notes, fmt.Sprintf("driver capabilities left out: %s (supported-driver-capabilities = %s)",
			strings.Join(cut, ", "), strconv.Quote(strings.Join(p.SupportedCapabilities, ","))))
	}
	return nil
}
