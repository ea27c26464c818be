// SPDX-License-Identifier: Apache-2.0

package request

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The variables that ask for something.
const (
	visibleDevices = "NVIDIA_VISIBLE_DEVICES"
	requirePrefix  = "NVIDIA_REQUIRE_"
	// jetpackPrefix selects files on Tegra boards; it is no requirement.
	jetpackPrefix = "NVIDIA_REQUIRE_JETPACK"
)

// Read tells what a container asks for. The first of these that names a device
// is the request: annotations with CDI names, volume mounts if the policy
// accepts them, the variables of SwarmResources, NVIDIA_VISIBLE_DEVICES, and
// the rule for images older than NVIDIA_REQUIRE_CUDA.
//
// An error means that the container must not start: it asked for something
// that is malformed or, with RefuseEnv, not allowed. A container that asked
// for nothing gives no error, whatever else its environment holds.
func Read(c Container, p Policy) (Request, error) {
	if err := p.check(); err != nil {
		return Request{}, err
	}
	env := scanEnv(c.Env, p.SwarmResources)
	req := Request{Legacy: env.legacy()}

	from, err := findSource(c, p, &env, &req)
	if err != nil || from.text == "" {
		return Request{Notes: req.Notes}, err
	}
	allowed, whyNot := p.acceptsEnv(c)
	if from.env && !allowed {
		if p.RefuseEnv {
			return Request{}, fmt.Errorf("%s is refused: %s", from.text, whyNot)
		}
		return Request{Notes: append(req.Notes, from.text+" is ignored: "+whyNot)}, nil
	}

	asked, err := parseDevices(from.names, from.cdiOnly)
	if err != nil {
		return Request{}, fmt.Errorf("%s: %w", from.text, err)
	}
	if asked.void {
		return Request{Notes: append(req.Notes, asked.notes...)}, nil
	}
	req.Asked, req.Source = true, from.text
	req.All, req.None, req.Devices = asked.all, asked.none, asked.names
	req.Notes = append(req.Notes, asked.notes...)
	if from.implied {
		req.Notes = append(req.Notes, fmt.Sprintf("CUDA_VERSION=%s without NVIDIA_REQUIRE_CUDA and NVIDIA_VISIBLE_DEVICES marks an old image: it counts as a request for all GPUs and nothing beyond them", show(env.cudaVersion.text)))
	}

	if err := readCapabilities(&env, p, &req); err != nil {
		return Request{}, err
	}
	readRequirements(&env, p, &req)
	if err := readExtras(c, p, &env, asked, allowed, whyNot, &req); err != nil {
		return Request{}, err
	}
	return req, nil
}

// source is where a request stands.
type source struct {
	names   []string
	text    string // for messages; "" if nothing was asked
	env     bool   // in the environment, which policy may not accept
	cdiOnly bool   // every name must be a CDI name
	implied bool   // by the rule for old images
}

// findSource gives the first place that asks. It adds notes about places that
// policy does not accept.
func findSource(c Container, p Policy, env *environment, req *Request) (source, error) {
	if from := fromAnnotations(c.Annotations, p.AnnotationPrefixes); from.text != "" {
		return from, nil
	}
	from, err := fromMounts(c.Mounts)
	if err != nil && p.AcceptMounts {
		return source{}, err
	}
	if from.text != "" || err != nil {
		if p.AcceptMounts {
			return from, nil
		}
		req.Notes = append(req.Notes, "volume mounts under "+mountFolder+" are ignored: accept-nvidia-visible-devices-as-volume-mounts = false")
	}
	return fromEnv(env), nil
}

// fromAnnotations collects the CDI names of NVIDIA; other vendors' devices are
// the business of others.
func fromAnnotations(annotations map[string]string, prefixes []string) source {
	if len(annotations) == 0 {
		return source{}
	}
	if prefixes == nil {
		prefixes = []string{"cdi.k8s.io/"}
	}
	var keys []string
	for k := range annotations {
		if slices.ContainsFunc(prefixes, func(prefix string) bool { return prefix != "" && strings.HasPrefix(k, prefix) }) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	from := source{cdiOnly: true}
	for _, k := range keys {
		for name := range strings.SplitSeq(annotations[k], ",") {
			name = strings.TrimSpace(name)
			if vendor, _, ok := strings.Cut(name, "/"); !ok || !nvidiaVendor(vendor) {
				continue
			}
			from.names = append(from.names, name)
			if from.text == "" {
				from.text = "annotation " + show(k) + "=" + show(annotations[k])
			}
		}
	}
	return from
}

// mountFolder holds the targets of volume mounts that stand for devices.
const mountFolder = "/var/run/nvidia-container-devices/"

// deviceMounts gives what stands after mountFolder in the targets of mounts of
// /dev/null.
func deviceMounts(mounts []Mount) []string {
	var found []string
	for _, m := range mounts {
		if rest, ok := strings.CutPrefix(m.Target, mountFolder); ok && rest != "" && m.Source == "/dev/null" {
			found = append(found, rest)
		}
	}
	return found
}

func fromMounts(mounts []Mount) (source, error) {
	var from source
	for _, rest := range deviceMounts(mounts) {
		if strings.HasPrefix(rest, "imex/") {
			continue // no device; see readExtras
		}
		name := rest
		if cdi, ok := strings.CutPrefix(rest, "cdi/"); ok {
			// vendor/class=device, or vendor/class/device; a device may hold no "/".
			name = cdi
			if !strings.Contains(cdi, "=") {
				parts := strings.Split(cdi, "/")
				if len(parts) != 3 {
					return source{}, fmt.Errorf("volume mount at %s: want cdi/VENDOR/CLASS/DEVICE after %s", show(mountFolder+rest), mountFolder)
				}
				name = parts[0] + "/" + parts[1] + "=" + parts[2]
			}
		}
		from.names = append(from.names, name)
		if from.text == "" {
			from.text = "volume mount at " + show(mountFolder+rest)
		}
	}
	return from, nil
}

// fromEnv reads the environment. Values that ask for nothing, "" and void, give
// no source, so that they are never refused by policy.
func fromEnv(env *environment) source {
	from := source{env: true}
	add := func(name, list string) {
		for d := range strings.SplitSeq(list, ",") {
			if d = strings.TrimSpace(d); d != "" {
				from.names = append(from.names, d)
			}
		}
		if from.text != "" {
			from.text += ", "
		}
		from.text += show(name) + "=" + show(list)
	}
	set := false
	for _, v := range env.swarm {
		if v.set {
			set = true
			add(v.name, v.text)
		}
	}
	if !set && env.visible.set {
		set = true
		add(visibleDevices, env.visible.text)
	}
	if !set && env.legacy() {
		return source{env: true, implied: true, names: []string{"all"},
			text: "CUDA_VERSION=" + show(env.cudaVersion.text) + " of an image without NVIDIA_REQUIRE_CUDA"}
	}
	if len(from.names) == 0 || slices.ContainsFunc(from.names, func(d string) bool { return strings.EqualFold(d, "void") }) {
		return source{}
	}
	from.text += " in the container's environment"
	return from
}

// readRequirements collects what the image asks of the host.
func readRequirements(env *environment, p Policy, req *Request) {
	var found []Requirement
	for _, v := range env.requires {
		if strings.TrimSpace(v.text) != "" {
			found = append(found, Requirement{Variable: v.name, Expression: v.text})
		}
	}
	slices.SortFunc(found, func(a, b Requirement) int { return strings.Compare(a.Variable, b.Variable) })
	if env.legacy() {
		if v, ok := majorMinor(env.cudaVersion.text); ok {
			found = append(found, Requirement{Variable: "CUDA_VERSION", Expression: "cuda>=" + v})
		} else {
			req.Notes = append(req.Notes, "CUDA_VERSION="+show(env.cudaVersion.text)+" is not a version, so nothing is required of the driver")
		}
	}
	off := ""
	if p.DisableRequire {
		off = "disable-require = true"
	}
	if v := env.disableRequire; v.set && v.text != "" {
		// The forms of strconv.ParseBool, as users know them.
		if b, err := strconv.ParseBool(v.text); err != nil {
			req.Notes = append(req.Notes, "NVIDIA_DISABLE_REQUIRE="+show(v.text)+" is ignored: want true or false")
		} else if b {
			off = "NVIDIA_DISABLE_REQUIRE=" + v.text
		}
	}
	if off != "" && len(found) > 0 {
		req.Notes = append(req.Notes, "the image's requirements are not checked: "+off)
		return
	}
	req.Requirements = found
}

// majorMinor gives "8.0" of "8.0.61" and "12.0" of "12".
func majorMinor(version string) (string, bool) {
	parts := strings.Split(strings.TrimSpace(version), ".")
	if len(parts) == 1 {
		parts = append(parts, "0")
	}
	for _, p := range parts[:2] {
		if p == "" || len(p) > 4 || !allDigits(p) {
			return "", false
		}
	}
	return parts[0] + "." + parts[1], true
}
