// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
)

// variant is one way to start a container.
type variant struct {
	name string
	// way is how the GPU comes in: "plain" (not at all), "empty" (not at all,
	// by way of the empty program), "shim", "hook", "cdi", "edits" (of a CDI
	// spec without hooks), "peer" and "peer-cdi". With floor set the same
	// edits stand in config.json before, and the empty program takes davit's
	// place.
	way      string
	floor    bool
	gpus     int    // 0: no request
	caps     string // "" for the default
	cache    int    // entries of the image's loader cache
	readonly bool   // the container's root
	first    bool   // nothing is kept from earlier starts
	again    bool   // the same root was started before
	// below is the name of the variant that is this one's floor; reach how
	// many milliseconds above it the aim is, for create.
	below string
	reach float64
}

// Names of variants that others are compared with.
const (
	plainName = "plain, no GPU"
	emptyName = "empty program, no GPU"
)

// variants are all cases of one runtime, in the order of the table.
func (b *box) variants() []variant {
	list := []variant{
		{name: plainName, way: "plain", cache: 1500},
		{name: emptyName, way: "empty", cache: 1500},
		{name: "shim, no GPU", way: "shim", cache: 1500, below: emptyName, reach: 0.2},
	}
	// pair adds a case and, unless another has added it, its floor.
	pair := func(v variant, floor string, reach float64) {
		f := variant{name: floor, way: v.way, floor: true, gpus: v.gpus, caps: v.caps, cache: v.cache, readonly: v.readonly}
		v.below, v.reach = f.name, reach
		if !slices.ContainsFunc(list, func(o variant) bool { return o.name == f.name }) {
			list = append(list, f)
		}
		list = append(list, v)
	}
	for _, way := range []string{"shim", "hook", "cdi"} {
		for _, k := range []struct {
			gpus int
			caps string
		}{{1, ""}, {8, "all"}, {16, "all"}} {
			what := fmt.Sprintf("%d GPUs, all", k.gpus)
			if k.gpus == 1 {
				what = "1 GPU"
			} else if k.gpus == 16 && way != "shim" {
				continue
			}
			reach := map[string]float64{"shim": 0.7, "hook": 3, "cdi": 1.5}[way]
			if way == "shim" && k.gpus > 1 {
				reach = 1
			}
			v := variant{name: way + ", " + what, way: way, gpus: k.gpus, caps: k.caps, cache: 1500}
			pair(v, way+" floor, "+what, reach)
			if way == "cdi" {
				v.name, v.way = "cdi without hooks, "+what, "edits"
				list = append(list, v)
			}
		}
	}
	one := variant{way: "shim", gpus: 1, cache: 1500}
	add := func(name, floor string, reach float64, change func(v *variant)) {
		v := one
		v.name = name
		change(&v)
		pair(v, floor, reach)
	}
	add("shim, 1 GPU, all", "shim floor, 1 GPU, all", 1, func(v *variant) { v.caps = "all" })
	add("shim, 8 GPUs", "shim floor, 8 GPUs", 0.7, func(v *variant) { v.gpus = 8 })
	add("shim, 1 GPU, first start", "shim floor, 1 GPU", 4, func(v *variant) { v.first = true })
	add("shim, 1 GPU, restarted", "shim floor, 1 GPU", 0.7, func(v *variant) { v.again = true })
	add("shim, 1 GPU, no cache", "shim floor, 1 GPU", 0.7, func(v *variant) { v.cache = 0 })
	add("shim, 1 GPU, cache of 30", "shim floor, 1 GPU", 0.7, func(v *variant) { v.cache = 30 })
	add("shim, 1 GPU, cache of 5000", "shim floor, 1 GPU", 0.7, func(v *variant) { v.cache = 5000 })
	add("shim, 1 GPU, read-only", "shim floor, 1 GPU, read-only", 0.7, func(v *variant) { v.readonly = true })
	add("shim, 1 GPU, utility", "shim floor, 1 GPU, utility", 0.7, func(v *variant) { v.caps = "utility" })
	if b.peer != "" {
		for _, way := range []string{"peer", "peer-cdi"} {
			list = append(list, variant{name: way + ", no GPU", way: way, cache: 1500, below: emptyName},
				variant{name: way + ", 1 GPU", way: way, gpus: 1, cache: 1500, below: "shim floor, 1 GPU"},
				variant{name: way + ", 8 GPUs, all", way: way, gpus: 8, caps: "all", cache: 1500, below: "shim floor, 8 GPUs, all"})
		}
	}
	return b.pick(list)
}

// pick leaves those that are asked for, and what they are compared with.
func (b *box) pick(list []variant) []variant {
	keep := map[string]bool{plainName: true}
	for _, v := range list {
		if b.wanted(v.name) {
			keep[v.name], keep[v.below] = true, true
		}
	}
	return slices.DeleteFunc(list, func(v variant) bool { return !keep[v.name] })
}
