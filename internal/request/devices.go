// SPDX-License-Identifier: Apache-2.0

package request

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxName bounds a device's name; the longest that exists has 53 bytes.
const maxName = 256

const forms = "want an index (0), GPU:MIG (0:1), a UUID or its beginning (GPU-…, MIG-…), a PCI bus id (0000:3b:00.0), nvidia.com/gpu=NAME, all, none or void, with commas between"

// asked is a list of device names, read.
type asked struct {
	all, none, void bool
	names           []string
	features        []string // from CDI names of other classes
	imex            []string
	notes           []string
}

// parseDevices reads a list of names. void anywhere means that nothing is
// asked. Of all and none the one that stands first decides for the whole list,
// as in NVIDIA's toolkit.
func parseDevices(names []string, cdiOnly bool) (asked, error) {
	var a asked
	word := "" // all or none
	seen := make(map[string]bool, len(names))
	for _, written := range names {
		name := strings.TrimSpace(written)
		if strings.EqualFold(name, "void") && !cdiOnly {
			return asked{void: true}, nil
		}
		if name == "" {
			continue
		}
		if err := checkName(name); err != nil {
			return asked{}, err
		}
		if strings.Contains(name, "=") || cdiOnly {
			var err error
			if name, err = a.cdi(name); err != nil {
				return asked{}, err
			}
			if name == "" {
				continue // a feature
			}
		} else if strings.Contains(name, "/") && !oldMIG(name) {
			return asked{}, fmt.Errorf("device %q holds a %q: %s", name, "/", forms)
		}
		switch name = plain(name); {
		case strings.EqualFold(name, "void"):
			return asked{void: true}, nil
		case strings.EqualFold(name, "all"), strings.EqualFold(name, "none"):
			if word == "" {
				word = strings.ToLower(name)
			}
			continue
		}
		if key := strings.ToLower(name); !seen[key] {
			seen[key] = true
			a.names = append(a.names, name)
		}
	}
	a.all, a.none = word == "all", word == "none"
	if a.none && len(a.names) > 0 {
		a.notes = append(a.notes, fmt.Sprintf("none stands in the list of devices, so no GPU is given, %s neither", show(strings.Join(a.names, ","))))
	}
	if word != "" {
		a.names = nil
	}
	if word == "" && len(a.names) == 0 {
		a.void = true
		if len(a.features)+len(a.imex) > 0 {
			a.notes = append(a.notes, "devices beside GPUs are given together with a GPU only, and none was asked for")
		}
	}
	return a, nil
}

// checkName refuses what can be no device's name and would spoil messages and
// paths.
func checkName(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("device %q is longer than %d bytes: %s", show(name), maxName, forms)
	}
	if !utf8.ValidString(name) {
		return fmt.Errorf("device %q is not UTF-8 text: %s", name, forms)
	}
	for _, r := range name {
		switch {
		case r == ' ':
			return fmt.Errorf("device %q holds a blank: %s", name, forms)
		case !unicode.IsPrint(r):
			return fmt.Errorf("device %q holds a control character: %s", name, forms)
		case r == ',':
			return fmt.Errorf("device %q holds a comma: %s", name, forms) // from a mount's target, which is one name
		case r == '\\':
			return fmt.Errorf("device %q holds a %q: %s", name, `\`, forms)
		}
	}
	return nil
}

// nvidiaVendor knows the vendors of CDI names that mean GPUs of NVIDIA.
func nvidiaVendor(vendor string) bool {
	return vendor == "nvidia.com" || strings.HasSuffix(vendor, ".nvidia.com")
}

// cdi reads a CDI name. It gives the device, or "" for a feature, which it
// keeps.
func (a *asked) cdi(name string) (string, error) {
	kind, device, ok := strings.Cut(name, "=")
	vendor, class, ok2 := strings.Cut(kind, "/")
	if !ok || !ok2 || class == "" || device == "" || strings.Contains(class, "/") {
		return "", fmt.Errorf("device %q is not a CDI name: want VENDOR/CLASS=NAME, for example nvidia.com/gpu=0", name)
	}
	if !nvidiaVendor(vendor) {
		return "", fmt.Errorf("device %q: davit gives devices of nvidia.com only; ask the engine for others", name)
	}
	if strings.ContainsAny(device, "=/") {
		return "", fmt.Errorf("device %q: a CDI device's name holds no %q or %q", name, "/", "=")
	}
	switch vendor {
	case "nvidia.com", "runtime.nvidia.com", "k8s.device-plugin.nvidia.com":
	default:
		// management.nvidia.com among them: every device and the driver's own
		// control files, for containers that manage a node.
		return "", fmt.Errorf("device %q: %s is not supported; want nvidia.com/gpu=NAME, or nvidia.com/gpu=all", name, kind)
	}
	switch class {
	case "gpu":
		return device, nil
	case "gds", "mofed", "gdrcopy", "nvswitch":
		if !slices.Contains(a.features, class) {
			a.features = append(a.features, class)
		}
		return "", nil
	case "imex-channel":
		a.imex = append(a.imex, device)
		return "", nil
	}
	return "", fmt.Errorf("device %q: class %q is not supported; want gpu, gds, mofed, gdrcopy, nvswitch or imex-channel", name, class)
}

// oldMIG knows MIG-GPU-UUID/GI/CI, the only name with a "/".
func oldMIG(name string) bool {
	if len(name) < 8 || !strings.EqualFold(name[:8], "MIG-GPU-") {
		return false
	}
	parts := strings.Split(name[8:], "/")
	return len(parts) == 3 && parts[0] != "" && allDigits(parts[1]) && allDigits(parts[2])
}

// plain turns gpu0 into 0, mig0:1 into 0:1, and 00 into 0, so that two names of
// one device are one name.
func plain(name string) string {
	short := name
	for _, prefix := range []string{"gpu", "mig"} {
		if len(name) > 3 && strings.EqualFold(name[:3], prefix) && name[3] >= '0' && name[3] <= '9' {
			short = name[3:]
		}
	}
	if allDigits(short) {
		return number(short)
	}
	if g, m, ok := strings.Cut(short, ":"); ok && allDigits(g) && allDigits(m) {
		return number(g) + ":" + number(m)
	}
	return name
}

// number drops leading zeros.
func number(digits string) string {
	if digits = strings.TrimLeft(digits, "0"); digits == "" {
		return "0"
	}
	return digits
}
