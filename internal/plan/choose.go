// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"davit/internal/nvidia"
	"davit/internal/request"
)

// choose turns the asked names into GPUs and MIG devices.
func (p *Plan) choose(f *nvidia.Facts, r request.Request) error {
	switch {
	case r.None:
		return nil
	case r.All:
		if len(f.GPUs) == 0 {
			return refuse("no-gpu-on-host", "%s, but the driver %s shows no GPU on this host: see nvidia-smi -L and dmesg there", r.Source, f.Driver.Version)
		}
		for _, g := range f.GPUs {
			p.take(g, g.MIG)
		}
		return nil
	}
	for _, name := range r.Devices {
		g, mig, err := find(f, name)
		if err != nil {
			return refuse("device-not-found", "%s: %s", r.Source, err.Error())
		}
		p.take(*g, mig)
	}
	// The order of the cards is the host's, whatever the order of asking.
	slices.SortFunc(p.GPUs, func(a, b nvidia.GPU) int { return a.Index - b.Index })
	return nil
}

// take adds a GPU and some of its MIG devices, each once.
func (p *Plan) take(g nvidia.GPU, mig []nvidia.MIG) {
	if !slices.ContainsFunc(p.GPUs, func(o nvidia.GPU) bool { return o.BusID == g.BusID }) {
		p.GPUs = append(p.GPUs, g)
	}
	for _, m := range mig {
		same := func(o nvidia.MIG) bool {
			return o.GI == m.GI && o.CI == m.CI && len(o.Caps) > 0 && len(m.Caps) > 0 && o.Caps[0].Minor == m.Caps[0].Minor
		}
		if !slices.ContainsFunc(p.MIG, same) {
			p.MIG = append(p.MIG, m)
		}
	}
}

// find resolves one name. A card in MIG mode brings all its MIG devices.
func find(f *nvidia.Facts, name string) (*nvidia.GPU, []nvidia.MIG, error) {
	low := strings.ToLower(name)
	// ParseUint, for "GPU-10…" must not be read as a negative number.
	if n, err := strconv.ParseUint(strings.TrimPrefix(low, "gpu"), 10, 31); err == nil {
		if int(n) < len(f.GPUs) {
			return &f.GPUs[n], f.GPUs[n].MIG, nil
		}
		return nil, nil, unknown(f, name)
	}
	if strings.HasPrefix(low, "mig-") {
		return findMIG(f, low, name)
	}
	if gpu, mig, ok := strings.Cut(low, ":"); ok && !strings.Contains(mig, ".") {
		return findPair(f, gpu, mig, name)
	}
	if strings.Contains(low, ":") {
		for i := range f.GPUs {
			if sameBus(f.GPUs[i].BusID, low) {
				return &f.GPUs[i], f.GPUs[i].MIG, nil
			}
		}
		return nil, nil, unknown(f, name)
	}
	var hits []int
	for i, g := range f.GPUs {
		uuid := strings.ToLower(g.UUID)
		if uuid == low {
			return &f.GPUs[i], g.MIG, nil
		}
		if len(low) >= 5 && strings.HasPrefix(uuid, low) || len(low) >= 4 && strings.HasPrefix(strings.TrimPrefix(uuid, "gpu-"), low) {
			hits = append(hits, i)
		}
	}
	switch len(hits) {
	case 0:
		return nil, nil, unknown(f, name)
	case 1:
		return &f.GPUs[hits[0]], f.GPUs[hits[0]].MIG, nil
	}
	var who []string
	for _, i := range hits {
		who = append(who, f.GPUs[i].UUID)
	}
	return nil, nil, fmt.Errorf("device %q is the beginning of several: %s", name, strings.Join(who, ", "))
}

// findPair resolves G:M.
func findPair(f *nvidia.Facts, gpu, mig, name string) (*nvidia.GPU, []nvidia.MIG, error) {
	g, err1 := strconv.Atoi(strings.TrimPrefix(gpu, "mig"))
	m, err2 := strconv.Atoi(mig)
	if err1 != nil || err2 != nil || g < 0 || g >= len(f.GPUs) || m < 0 || m >= len(f.GPUs[g].MIG) {
		return nil, nil, unknown(f, name)
	}
	return &f.GPUs[g], f.GPUs[g].MIG[m : m+1], nil
}

// findMIG resolves MIG-UUID and the older MIG-GPU-UUID/GI/CI.
func findMIG(f *nvidia.Facts, low, name string) (*nvidia.GPU, []nvidia.MIG, error) {
	parts := strings.Split(strings.TrimPrefix(low, "mig-"), "/")
	for i, g := range f.GPUs {
		for k, m := range g.MIG {
			old := len(parts) == 3 && parts[0] == strings.ToLower(g.UUID) && parts[1] == strconv.Itoa(m.GI) && parts[2] == strconv.Itoa(m.CI)
			if old || strings.ToLower(m.UUID) == low {
				return &f.GPUs[i], g.MIG[k : k+1], nil
			}
		}
	}
	return nil, nil, unknown(f, name)
}

// sameBus compares PCI addresses: domains of four or eight digits or none,
// any case.
func sameBus(a, b string) bool {
	norm := func(s string) string {
		s = strings.ToLower(s)
		if strings.Count(s, ":") == 1 {
			s = "0:" + s
		}
		return strings.TrimLeft(s, "0")
	}
	return norm(a) == norm(b)
}

// maxListed bounds how many devices an error names.
const maxListed = 16

// unknown is the error for a device that does not exist: it lists those that
// do.
func unknown(f *nvidia.Facts, name string) error {
	if len(f.GPUs) == 0 {
		return fmt.Errorf("there is no device %q, and no GPU at all on this host", name)
	}
	var names []string
	for _, g := range f.GPUs {
		if len(names) == maxListed {
			names = append(names, "…")
			break
		}
		s := strconv.Itoa(g.Index)
		if g.UUID != "" {
			s += " (" + g.UUID + ")"
		}
		names = append(names, s)
		for k := range g.MIG {
			names = append(names, fmt.Sprintf("%d:%d", g.Index, k))
		}
	}
	return fmt.Errorf("there is no device %q; this host has %s", name, strings.Join(names, ", "))
}
