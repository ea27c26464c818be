// SPDX-License-Identifier: Apache-2.0

// Package cdihook is what runs inside a container that was given a GPU by a
// CDI spec: davit's own hook, of which a spec has at most one, and the hooks of
// NVIDIA's toolkit, which specs on disk may still call.
//
// They run at the stage createContainer: in the container's namespaces, its
// mounts made, before pivot_root. So the host is still at "/", and the
// container's root is the folder that its config.json names. Nothing of the
// container is trusted, its environment included, which some runtimes hand to a
// hook that has none of its own.
package cdihook

import (
	"fmt"
	"strconv"
	"strings"

	"davit/internal/nvidia"
)

// Verb is the first argument of davit-runtime as davit's own hook.
const Verb = "cdi-hook"

// Args are the arguments of davit's own hook, so that the hook needs no
// configuration and the spec says all that it does.
type Args struct {
	// Stamp is the host that the spec was written for.
	Stamp nvidia.Identity
	// Libraries is the folder that the spec's mounts put libraries into;
	// Libraries32 that of 32-bit ones, "" for none.
	Libraries, Libraries32 string
	// HostRoot is the folder that stands for the host, "" for "/".
	HostRoot string
	// StateDir is the state-dir of the configuration, "" for the default.
	StateDir string
}

// Strings gives the arguments, Verb first.
func (a Args) Strings() []string {
	list := []string{Verb, "--driver=" + a.Stamp.Driver}
	for _, g := range a.Stamp.GPUs {
		text := fmt.Sprintf("--gpu=%s/%d", g.BusID, g.Minor)
		if g.UUID != "" {
			text += "/" + g.UUID
		}
		list = append(list, text)
		for _, m := range g.MIG {
			list = append(list, fmt.Sprintf("--mig=%s/%s", g.BusID, m))
		}
	}
	for _, o := range []struct{ name, value string }{
		{"--libraries", a.Libraries}, {"--libraries32", a.Libraries32},
		{"--host-root", a.HostRoot}, {"--state-dir", a.StateDir},
	} {
		if o.value != "" {
			list = append(list, o.name+"="+o.value)
		}
	}
	return list
}

// ParseArgs reads the arguments behind Verb.
func ParseArgs(args []string) (Args, error) {
	var a Args
	err := parseFlags(Verb, args, func(name, value string) error {
		switch name {
		case "--driver":
			a.Stamp.Driver = value
		case "--gpu":
			f := strings.SplitN(value, "/", 3)
			if len(f) < 2 {
				return fmt.Errorf("want PCI-ADDRESS/MINOR or PCI-ADDRESS/MINOR/UUID")
			}
			minor, err := strconv.Atoi(f[1])
			if err != nil {
				return err
			}
			g := nvidia.IdentityGPU{BusID: f[0], Minor: minor}
			if len(f) == 3 {
				g.UUID = f[2]
			}
			a.Stamp.GPUs = append(a.Stamp.GPUs, g)
		case "--mig":
			bus, mig, ok := strings.Cut(value, "/")
			last := len(a.Stamp.GPUs) - 1
			if !ok || last < 0 || a.Stamp.GPUs[last].BusID != bus {
				return fmt.Errorf("want PCI-ADDRESS/GI/CI behind --gpu of that address")
			}
			a.Stamp.GPUs[last].MIG = append(a.Stamp.GPUs[last].MIG, mig)
		case "--libraries":
			a.Libraries = value
		case "--libraries32":
			a.Libraries32 = value
		case "--host-root":
			a.HostRoot = value
		case "--state-dir":
			a.StateDir = value
		default:
			return errUnknownFlag
		}
		return nil
	})
	return a, err
}

// errUnknownFlag is given by a flag's reader for a name it does not know.
var errUnknownFlag = fmt.Errorf("unknown flag")

// parseFlags reads --name=value and --name value. All flags here have a value
// but those of booleans, which must be written --name or --name=value.
func parseFlags(hook string, args []string, set func(name, value string) error, booleans ...string) error {
	for i := 0; i < len(args); i++ {
		name, value, hasValue := strings.Cut(args[i], "=")
		if !strings.HasPrefix(name, "-") {
			return fmt.Errorf("%s: unexpected argument %q", hook, args[i])
		}
		name = "--" + strings.TrimLeft(name, "-") // -name too, as Go programs take it
		isBool := false
		for _, b := range booleans {
			isBool = isBool || b == name
		}
		if isBool {
			continue
		}
		missing := false
		if !hasValue {
			if missing = i+1 == len(args); !missing {
				value = args[i+1]
			}
		}
		if err := set(name, value); err == errUnknownFlag {
			return fmt.Errorf("%s: unknown flag %q", hook, args[i])
		} else if missing {
			return fmt.Errorf("%s: %s wants a value", hook, name)
		} else if err != nil {
			return fmt.Errorf("%s: %s: %w", hook, args[i], err)
		}
		if !hasValue {
			i++
		}
	}
	return nil
}

// Stale compares the host that a spec was written for with the host as it is,
// and says in the second half of a sentence what differs; "" if nothing does.
func Stale(spec, host nvidia.Identity) string {
	if spec.Driver != host.Driver {
		if host.Driver == "" {
			return fmt.Sprintf("it was written for driver %s, and no driver is loaded on this host now", spec.Driver)
		}
		return fmt.Sprintf("it was written for driver %s, and this host has %s now", spec.Driver, host.Driver)
	}
	find := func(list []nvidia.IdentityGPU, bus string) *nvidia.IdentityGPU {
		for i := range list {
			if list[i].BusID == bus {
				return &list[i]
			}
		}
		return nil
	}
	for _, g := range spec.GPUs {
		now := find(host.GPUs, g.BusID)
		switch {
		case now == nil:
			return fmt.Sprintf("the GPU %s that it was written for is not on this host now", g.BusID)
		case now.Minor != g.Minor:
			return fmt.Sprintf("the GPU %s was /dev/nvidia%d when it was written and is /dev/nvidia%d now", g.BusID, g.Minor, now.Minor)
		case now.UUID != g.UUID && now.UUID != "" && g.UUID != "":
			return fmt.Sprintf("the GPU %s was %s when it was written and is another, %s, now", g.BusID, g.UUID, now.UUID)
		}
		if a, b := strings.Join(g.MIG, " "), strings.Join(now.MIG, " "); a != b {
			return fmt.Sprintf("the MIG devices of GPU %s were %s when it was written and are %s now", g.BusID, orNone(a), orNone(b))
		}
	}
	for _, g := range host.GPUs {
		if find(spec.GPUs, g.BusID) == nil {
			return fmt.Sprintf("this host has the GPU %s, which it does not know", g.BusID)
		}
	}
	return ""
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
