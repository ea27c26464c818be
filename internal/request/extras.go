// SPDX-License-Identifier: Apache-2.0

package request

import (
	"fmt"
	"slices"
	"strings"
)

// maxChannel is the highest IMEX channel, 2^20-1.
const maxChannel = 1<<20 - 1

// readExtras reads what may come with a GPU: IMEX channels, storage and network
// devices, MIG management. Without a GPU they mean nothing. What stands in the
// environment counts only where the environment may ask at all.
func readExtras(c Container, p Policy, env *environment, a asked, envAllowed bool, whyNot string, req *Request) error {
	if req.None {
		return nil
	}
	note := func(name string, v value, why string) {
		req.Notes = append(req.Notes, name+"="+show(v.text)+" is ignored: "+why)
	}
	req.Features = a.features
	for _, f := range []struct {
		feature, name string
		v             value
	}{
		{"gds", "NVIDIA_GDS", env.gds},
		{"mofed", "NVIDIA_MOFED", env.mofed},
		{"gdrcopy", "NVIDIA_GDRCOPY", env.gdrcopy},
		{"nvswitch", "NVIDIA_NVSWITCH", env.nvswitch},
	} {
		switch {
		case f.v.text == "" || f.v.text == "disabled":
		case f.v.text != "enabled":
			note(f.name, f.v, `only "enabled" counts`)
		case !envAllowed:
			note(f.name, f.v, whyNot)
		case !slices.Contains(req.Features, f.feature):
			req.Features = append(req.Features, f.feature)
		}
	}
	slices.Sort(req.Features)
	for _, m := range []struct {
		name string
		v    value
		at   *bool
	}{
		{"NVIDIA_MIG_CONFIG_DEVICES", env.migConfig, &req.MIGConfig},
		{"NVIDIA_MIG_MONITOR_DEVICES", env.migMonitor, &req.MIGMonitor},
	} {
		switch {
		case m.v.text == "":
		case m.v.text != "all":
			note(m.name, m.v, `only "all" counts`)
		case !c.Privileged:
			note(m.name, m.v, "only privileged containers (CAP_SYS_ADMIN) may manage MIG devices")
		case !envAllowed:
			note(m.name, m.v, whyNot)
		default:
			*m.at = true
		}
	}
	return readIMEX(c, p, env, a, envAllowed, whyNot, req)
}

func readIMEX(c Container, p Policy, env *environment, a asked, envAllowed bool, whyNot string, req *Request) error {
	ids, where := a.imex, req.Source
	if p.AcceptMounts {
		for _, rest := range deviceMounts(c.Mounts) {
			if id, ok := strings.CutPrefix(rest, "imex/"); ok {
				ids, where = append(ids, id), "volume mount at "+show(mountFolder+rest)
			}
		}
	}
	if len(ids) == 0 && strings.Trim(env.imex.text, ", ") != "" {
		where = "NVIDIA_IMEX_CHANNELS=" + show(env.imex.text)
		if !envAllowed {
			req.Notes = append(req.Notes, where+" is ignored: "+whyNot)
			return nil
		}
		ids = strings.Split(env.imex.text, ",")
	}
	if len(ids) == 0 {
		return nil
	}
	if p.IgnoreIMEX {
		req.Notes = append(req.Notes, where+": IMEX channels are ignored: ignore-imex-channel-requests = true")
		return nil
	}
	for _, written := range ids {
		id := strings.TrimSpace(written)
		if id == "" {
			continue
		}
		if strings.EqualFold(id, "all") {
			req.Notes = append(req.Notes, where+`: "all" is ignored: IMEX channels must be named one by one`)
			continue
		}
		n, ok := channel(strings.TrimPrefix(id, "channel"))
		if !ok {
			return fmt.Errorf("%s: %q is no IMEX channel: want N or channelN, from 0 to %d", where, show(id), maxChannel)
		}
		req.IMEX = append(req.IMEX, n)
	}
	slices.Sort(req.IMEX)
	req.IMEX = slices.Compact(req.IMEX)
	return nil
}

// channel reads the number of a channel.
func channel(digits string) (int, bool) {
	if !allDigits(digits) {
		return 0, false
	}
	n := 0
	for i := range len(digits) {
		if n = n*10 + int(digits[i]-'0'); n > maxChannel {
			return 0, false
		}
	}
	return n, true
}
