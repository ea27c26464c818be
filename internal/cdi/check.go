// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"tags.cncf.io/container-device-interface/pkg/parser"
	"tags.cncf.io/container-device-interface/specs-go"

	"davit/internal/finding"
)

// File is a spec file, read and judged by its text alone.
type File struct {
	Name string
	// Spec is what could be understood of it.
	Spec *specs.Spec
	// Findings are what is wrong with the text.
	Findings []finding.Finding

	lines map[string]int // of properties, by paths such as devices[0].name
	needs []need
	nodes int
}

// need is something in a file that an older version does not have.
type need struct {
	what  string
	since string
	line  int
	name  bool // a device's name, or the kind
}

// Check reads a spec's text and judges it. It does not look at the host.
func Check(name string, text []byte) *File {
	f := &File{Name: name, Spec: &specs.Spec{}, lines: map[string]int{}}
	var doc yaml.Node
	if err := decode(text, &doc); err != nil {
		f.invalid(lineOf(err), "it does not parse: "+oneLine(err))
		return f
	}
	if len(doc.Content) == 0 || doc.Content[0].Kind != yaml.MappingNode {
		f.invalid(1, "it holds no object")
		return f
	}
	f.walk(doc.Content[0], specShape, "", 0)
	// One by one, a wrong type in one field hides no other mistake.
	if err := decode(text, f.Spec); err != nil {
		f.invalid(lineOf(err), "a value has the wrong form: "+oneLine(err))
	}
	dropNil(f.Spec)
	f.checkNames()
	f.checkEdits()
	f.checkVersion()
	f.checkDrivers()
	return f
}

// add appends a finding about this file.
func (f *File) add(id string, severity finding.Severity, line int, summary string, fix *finding.Remediation, because ...finding.Evidence) {
	f.Findings = append(f.Findings, f.finding(id, severity, line, summary, fix, because...))
}

func (f *File) finding(id string, severity finding.Severity, line int, summary string, fix *finding.Remediation, because ...finding.Evidence) finding.Finding {
	return finding.Finding{ID: id, Severity: severity, Gate: "engine", Layer: "host", Summary: f.Name + ": " + summary,
		File: f.Name, Line: line, Because: because, Remediation: fix, Docs: "docs/cdi.md"}
}

func (f *File) invalid(line int, summary string) {
	f.add("cdi-spec-invalid", finding.Error, line, summary+"; engines drop the whole file",
		&finding.Remediation{Text: "repair this line, or write the specification again", Where: "host"})
}

// yamlLine finds the line in the YAML reader's messages.
var yamlLine = regexp.MustCompile(`line (\d+):`)

func lineOf(err error) int {
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		n, _ := strconv.Atoi(m[1])
		return n
	}
	return 0
}

func oneLine(err error) string {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n")
	return strings.Join(strings.Fields(text), " ")
}

// maxWalk bounds the nodes that are visited, for aliases can make many of few.
const maxWalk = 200_000

// walk notes the lines of all properties, what needs which version, and what no
// version has.
func (f *File) walk(n *yaml.Node, s shape, at string, depth int) {
	if f.nodes++; f.nodes > maxWalk || depth > 32 {
		return
	}
	if n.Kind == yaml.AliasNode {
		f.walk(n.Alias, s, at, depth+1)
		return
	}
	if n.Kind == yaml.SequenceNode && depth > 0 { // several to merge
		for _, e := range n.Content {
			f.walk(e, s, at, depth+1)
		}
		return
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Tag == "!!merge" {
			f.walk(value, s, at, depth+1)
			continue
		}
		where := key.Value
		if at != "" {
			where = at + "." + key.Value
		}
		p, ok := s[key.Value]
		if !ok {
			f.add("cdi-field-unknown", finding.Error, key.Line,
				fmt.Sprintf("no version of CDI has the field %s; engines drop the whole file for it (unknown field)", where),
				&finding.Remediation{Text: "remove the field", Where: "host"}, finding.Evidence{Source: fmt.Sprintf("line %d", key.Line), Value: key.Value})
			continue
		}
		f.lines[where] = key.Line
		if p.since != "" && !emptyNode(value) {
			f.needs = append(f.needs, need{what: key.Value, since: p.since, line: key.Line})
		}
		switch {
		case p.list:
			f.walkList(value, p.of, where, depth+1)
		case p.of != nil:
			f.walk(value, p.of, where, depth+1)
		}
	}
}

func (f *File) walkList(n *yaml.Node, s shape, at string, depth int) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	for i, e := range n.Content {
		if n.Kind == yaml.SequenceNode {
			f.walk(e, s, fmt.Sprintf("%s[%d]", at, i), depth+1)
		}
	}
}

// emptyNode says whether a value is as good as not there.
func emptyNode(n *yaml.Node) bool {
	switch n.Kind {
	case yaml.SequenceNode:
		return !slices.ContainsFunc(n.Content, func(e *yaml.Node) bool { return e.Tag != "!!null" })
	case yaml.MappingNode:
		return len(n.Content) == 0
	}
	return n.Tag == "!!null"
}

// dropNil removes list items that are null.
func dropNil(s *specs.Spec) {
	for _, e := range allEdits(s) {
		e.DeviceNodes = slices.DeleteFunc(e.DeviceNodes, func(n *specs.DeviceNode) bool { return n == nil })
		e.Mounts = slices.DeleteFunc(e.Mounts, func(m *specs.Mount) bool { return m == nil })
		e.Hooks = slices.DeleteFunc(e.Hooks, func(h *specs.Hook) bool { return h == nil })
		e.NetDevices = slices.DeleteFunc(e.NetDevices, func(d *specs.LinuxNetDevice) bool { return d == nil })
	}
}

// allEdits are those of the spec and of each device.
func allEdits(s *specs.Spec) []*specs.ContainerEdits {
	all := []*specs.ContainerEdits{&s.ContainerEdits}
	for i := range s.Devices {
		all = append(all, &s.Devices[i].ContainerEdits)
	}
	return all
}

// editsPath is where allEdits' number i stands in the file.
func editsPath(i int) string {
	if i == 0 {
		return "containerEdits"
	}
	return fmt.Sprintf("devices[%d].containerEdits", i-1)
}

// checkNames judges the kind and the devices' names.
func (f *File) checkNames() {
	s := f.Spec
	vendor, class := parser.ParseQualifier(s.Kind)
	line := f.lines["kind"]
	switch {
	case s.Kind == "":
		f.invalid(line, "it has no kind, such as nvidia.com/gpu")
	case vendor == "":
		f.invalid(line, fmt.Sprintf("the kind %q is not VENDOR/CLASS", s.Kind))
	default:
		if err := parser.ValidateVendorName(vendor); err != nil {
			f.invalid(line, fmt.Sprintf("the kind %q: %v", s.Kind, err))
		} else if err := parser.ValidateClassName(class); err != nil {
			f.invalid(line, fmt.Sprintf("the kind %q: %v", s.Kind, err))
		}
		if strings.Contains(class, ".") {
			f.needs = append(f.needs, need{fmt.Sprintf("the class %q with a dot", class), "0.6.0", line, true})
		}
	}
	if len(s.Devices) == 0 {
		f.invalid(f.lines["devices"], "it has no devices")
	}
	seen := map[string]bool{}
	for i, d := range s.Devices {
		line := f.lines[fmt.Sprintf("devices[%d].name", i)]
		if err := parser.ValidateDeviceName(d.Name); err != nil {
			f.invalid(line, fmt.Sprintf("the device name %q: %v", d.Name, err))
			continue
		}
		if d.Name[0] >= '0' && d.Name[0] <= '9' {
			f.needs = append(f.needs, need{fmt.Sprintf("the name %q", d.Name), "0.5.0", line, true})
		}
		if seen[d.Name] {
			f.add("cdi-device-duplicate", finding.Error, line, fmt.Sprintf("the device %q is there twice; engines drop the whole file", d.Name),
				&finding.Remediation{Text: "leave one of the two", Where: "host"})
		}
		seen[d.Name] = true
	}
}

var hookStages = []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}

// checkEdits judges what engines refuse in edits.
func (f *File) checkEdits() {
	for i, e := range allEdits(f.Spec) {
		at := editsPath(i)
		line := func(format string, args ...any) int {
			if n := f.lines[at+"."+fmt.Sprintf(format, args...)]; n > 0 {
				return n
			}
			return f.lines[at]
		}
		if i > 0 && len(e.Env)+len(e.DeviceNodes)+len(e.Hooks)+len(e.Mounts)+len(e.AdditionalGIDs)+len(e.NetDevices) == 0 && e.IntelRdt == nil {
			f.invalid(f.lines[fmt.Sprintf("devices[%d].name", i-1)], fmt.Sprintf("the device %q changes nothing in a container", f.Spec.Devices[i-1].Name))
		}
		for _, v := range e.Env {
			if strings.IndexByte(v, '=') <= 0 {
				f.invalid(line("env"), fmt.Sprintf("%q in env is not NAME=VALUE", v))
			}
		}
		for k, n := range e.DeviceNodes {
			switch {
			case n.Path == "":
				f.invalid(line("deviceNodes[%d].path", k), "a device node has no path")
			case !slices.Contains([]string{"", "b", "c", "u", "p"}, n.Type):
				f.invalid(line("deviceNodes[%d].type", k), fmt.Sprintf("%s has the type %q: want c or b", n.Path, n.Type))
			case n.Permissions != "none" && strings.Trim(n.Permissions, "rwm") != "":
				f.invalid(line("deviceNodes[%d].permissions", k), fmt.Sprintf("%s has the permissions %q: want some of rwm", n.Path, n.Permissions))
			}
		}
		for k, m := range e.Mounts {
			if m.HostPath == "" || m.ContainerPath == "" {
				f.invalid(line("mounts[%d].hostPath", k), "a mount has no hostPath or no containerPath")
			}
		}
		for k, h := range e.Hooks {
			if !slices.Contains(hookStages, h.HookName) {
				f.invalid(line("hooks[%d].hookName", k), fmt.Sprintf("there is no hook stage %q: want one of %s", h.HookName, strings.Join(hookStages, ", ")))
			} else if h.Path == "" {
				f.invalid(line("hooks[%d].hookName", k), "a hook has no path")
			}
		}
	}
}

// checkVersion compares the declared version with what is used, and with what
// engines take.
func (f *File) checkVersion() {
	declared := strings.TrimPrefix(f.Spec.Version, "v")
	line := f.lines["cdiVersion"]
	if !knownVersion(declared) {
		f.add("cdi-version-unknown", finding.Error, line, fmt.Sprintf("cdiVersion is %q, which is no version of CDI; engines drop the whole file", f.Spec.Version),
			&finding.Remediation{Text: "declare one of " + strings.Join(versions[2:], ", "), Where: "host"})
		return
	}
	needed := oldest
	for _, name := range []bool{false, true} {
		var lacking []need
		for _, n := range f.needs {
			if less(needed, n.since) {
				needed = n.since
			}
			if n.name == name && less(declared, n.since) {
				lacking = append(lacking, n)
			}
		}
		if len(lacking) > 0 {
			f.versionTooLow(declared, lacking, name)
		}
	}
	if too := TooNewFor(declared); len(too) > 0 {
		text := fmt.Sprintf("version %s is not read by %s", declared, strings.Join(too, ", "))
		fix := &finding.Remediation{Text: "nothing, unless one of them is used here", Where: "host"}
		if less(needed, declared) {
			text += fmt.Sprintf("; its content needs %s only", max55(needed))
			fix.Text = "declare cdiVersion " + max55(needed)
		}
		f.add("cdi-version-too-new", finding.Info, line, text, fix)
	}
}

// max55 is a version that every engine with CDI takes, or the one needed.
func max55(needed string) string {
	if less(needed, "0.5.0") {
		return "0.5.0"
	}
	return needed
}

func (f *File) versionTooLow(declared string, lacking []need, names bool) {
	highest := ""
	var what []string
	because := []finding.Evidence{{Source: fmt.Sprintf("line %d", f.lines["cdiVersion"]), Value: "cdiVersion: " + f.Spec.Version}}
	for _, n := range lacking {
		if less(highest, n.since) {
			highest = n.since
		}
		text := fmt.Sprintf("%s (since %s)", n.what, n.since)
		if !slices.Contains(what, text) {
			what = append(what, text)
		}
		because = append(because, finding.Evidence{Source: fmt.Sprintf("line %d", n.line), Value: n.what})
	}
	id, other := "cdi-version-lower-than-fields", "leave the field out"
	if names {
		id, other = "cdi-version-lower-than-names", "take names that begin with a letter, such as gpu0"
		if len(what) > 4 {
			what = append(what[:4], "…")
		}
	}
	fix := "declare cdiVersion " + highest
	if too := TooNewFor(highest); len(too) > 0 {
		fix += " (then " + too[len(too)-1] + " cannot read it)"
		for _, e := range too {
			if strings.HasPrefix(e, "podman 4") {
				fix = "declare cdiVersion " + highest + " (then podman 4.x cannot read it)"
			}
		}
	}
	f.add(id, finding.Error, f.lines["cdiVersion"],
		fmt.Sprintf("it declares version %s and uses %s: engines drop the whole file", declared, strings.Join(what, ", ")),
		&finding.Remediation{Text: fix + ", or " + other, Where: "host"}, because...)
}

// driverVersion finds the driver's version in a file's name. Branches have three
// digits; libraries with versions of their own (libnvidia-egl-gbm) have less.
var driverVersion = regexp.MustCompile(`\.so\.([3-9][0-9]{2}\.[0-9]+(?:\.[0-9]+)?)$`)

// drivers lists the driver versions in the paths of mounts, with the first line
// of each.
func (f *File) drivers() (found []need) {
	for i, e := range allEdits(f.Spec) {
		for k, m := range e.Mounts {
			v := driverVersion.FindStringSubmatch(m.HostPath)
			if v == nil || slices.ContainsFunc(found, func(n need) bool { return n.since == v[1] }) {
				continue
			}
			found = append(found, need{what: m.HostPath, since: v[1], line: f.lines[fmt.Sprintf("%s.mounts[%d].hostPath", editsPath(i), k)]})
		}
	}
	return found
}

func (f *File) checkDrivers() {
	d := f.drivers()
	if len(d) < 2 {
		return
	}
	var list []string
	var because []finding.Evidence
	for _, n := range d {
		list = append(list, n.since)
		because = append(because, finding.Evidence{Source: fmt.Sprintf("line %d", n.line), Value: n.what})
	}
	f.add("cdi-two-drivers", finding.Error, d[1].line, "it mounts libraries of several drivers: "+strings.Join(list, " and "),
		&finding.Remediation{Text: "remove the files of the driver that is not loaded from the host, then write the specification again", Commands: []string{"davit cdi generate --output " + f.Name}, Where: "host"}, because...)
}
