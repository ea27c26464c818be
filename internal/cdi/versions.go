// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"slices"
	"strconv"
	"strings"
)

// versions are those of the CDI specification that its library knows.
var versions = []string{"0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"}

// oldest is the version that everything has which no later one brought.
const oldest = "0.3.0"

// Engine is an engine's range of releases that take the same specs.
type Engine struct {
	Name     string // "docker 26"
	Newest   string // version of the CDI specification; "" without CDI
	Measured bool   // tried with a real engine; else read in its source
	Remark   string
}

// Engines says which engine takes which version. A newer one makes it drop the
// whole file, mostly without a word. As of 2026-11.
var Engines = []Engine{
	{"docker 20.10 to 24", "", true, "no CDI"},
	{"docker 25", "0.6.0", false, "with features.cdi"},
	{"docker 26", "0.7.0", true, "with features.cdi"},
	{"docker 27, 28.0, 28.1", "0.8.0", false, "with features.cdi"},
	{"docker 28.2 to 29.1", "1.0.0", true, ""},
	{"docker 29.2 and later", "1.1.0", false, ""},
	{"podman 4", "0.5.0", true, "takes fields newer than the declared version"},
	{"podman 5.0 to 5.4", "0.8.0", true, ""},
	{"podman 5.5", "0.8.0", false, "reads /etc/cdi alone"},
	{"podman 5.6 and later", "1.0.0", true, ""},
	{"containerd 1.6", "", true, "no CDI"},
	{"containerd 1.7", "0.8.0", true, "with enable_cdi"},
	{"containerd 2.0 to 2.2", "1.0.0", true, ""},
	{"containerd 2.3 and later", "1.1.0", false, ""},
}

// less compares versions such as 0.5.0 number by number.
func less(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		var x, y int
		if i < len(as) {
			x, _ = strconv.Atoi(as[i])
		}
		if i < len(bs) {
			y, _ = strconv.Atoi(bs[i])
		}
		if x != y {
			return x < y
		}
	}
	return false
}

// TooNewFor lists the engines with CDI that do not take a version.
func TooNewFor(version string) (names []string) {
	for _, e := range Engines {
		if e.Newest != "" && less(e.Newest, version) {
			names = append(names, e.Name)
		}
	}
	return names
}

func knownVersion(v string) bool { return slices.Contains(versions, strings.TrimPrefix(v, "v")) }

// shape is what an object of a spec may hold.
type shape map[string]field

// field is one property.
type field struct {
	since string // the version that brought it; "" for oldest
	of    shape  // nil if it is no object
	list  bool   // a list of objects
}

// specShape is the CDI specification's SPEC.md as data.
var specShape = shape{
	"cdiVersion":     {},
	"kind":           {},
	"annotations":    {since: "0.6.0"},
	"containerEdits": {of: editsShape},
	"devices": {list: true, of: shape{
		"name":           {},
		"annotations":    {since: "0.6.0"},
		"containerEdits": {of: editsShape},
	}},
}

var editsShape = shape{
	"env": {},
	"deviceNodes": {list: true, of: shape{
		"path": {}, "hostPath": {since: "0.5.0"}, "type": {}, "major": {}, "minor": {},
		"fileMode": {}, "permissions": {}, "uid": {}, "gid": {},
	}},
	"netDevices": {since: "1.1.0", list: true, of: shape{"hostInterfaceName": {}, "name": {}}},
	"hooks":      {list: true, of: shape{"hookName": {}, "path": {}, "args": {}, "env": {}, "timeout": {}}},
	"mounts": {list: true, of: shape{
		"hostPath": {}, "containerPath": {}, "options": {}, "type": {since: "0.4.0"},
	}},
	"intelRdt": {since: "0.7.0", of: shape{
		"closID": {}, "l3CacheSchema": {}, "memBwSchema": {}, "enableCMT": {}, "enableMBM": {},
		"schemata": {since: "1.1.0"}, "enableMonitoring": {since: "1.1.0"},
	}},
	"additionalGids": {since: "0.7.0"},
}
