// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"davit/internal/cdihook"
	"davit/internal/finding"
	"davit/internal/nvidia"
	"davit/internal/rootfs"
)

// Against compares a file with the host: what it names and is not there, nodes
// whose numbers are others, another driver, GPUs that it does not know.
func (f *File) Against(host rootfs.Root, id nvidia.Identity) []finding.Finding {
	h := against{File: f, host: host, id: id}
	h.stale()
	h.numbers()
	h.hooks()
	h.gpus()
	return h.out
}

type against struct {
	*File
	host rootfs.Root
	id   nvidia.Identity
	out  []finding.Finding
}

// inside turns a path of this machine into one inside the host's root: specs
// of a host in a folder name the folder.
func (h *against) inside(p string) string {
	if dir := h.host.Dir(); dir != "/" {
		if rest, ok := strings.CutPrefix(p, dir+"/"); ok {
			return "/" + rest
		}
	}
	return p
}

func (h *against) fix() *finding.Remediation {
	return &finding.Remediation{Text: "write the specification again, and let it be refreshed by itself (davit watch)",
		Commands: []string{"davit cdi generate --output " + h.Name}, Risk: "none", Where: "host"}
}

// stale finds, as one finding, all that has gone since the file was written.
func (h *against) stale() {
	var gone []string
	var because []finding.Evidence
	line := 0
	look := func(p, where string) {
		if p == "" || h.host.Exists(h.inside(p)) || slices.Contains(gone, p) {
			return
		}
		gone = append(gone, p)
		if line == 0 {
			line = h.lines[where]
		}
		because = append(because, finding.Evidence{Source: fmt.Sprintf("line %d", h.lines[where]), Value: p + " does not exist"})
	}
	for i, e := range allEdits(h.Spec) {
		for k, n := range e.DeviceNodes {
			p := n.HostPath
			if p == "" {
				p = n.Path
			}
			look(p, fmt.Sprintf("%s.deviceNodes[%d].path", editsPath(i), k))
		}
		for k, m := range e.Mounts {
			look(m.HostPath, fmt.Sprintf("%s.mounts[%d].hostPath", editsPath(i), k))
		}
	}
	why := ""
	if d := h.drivers(); len(d) == 1 && h.id.Driver != "" && d[0].since != h.id.Driver {
		why = fmt.Sprintf("it was written for driver %s, and this host has %s", d[0].since, h.id.Driver)
		because = append([]finding.Evidence{{Source: "/proc/driver/nvidia/version", Value: h.id.Driver}}, because...)
	}
	if stamp, ok := h.stamp(); ok && why == "" {
		why = cdihook.Stale(stamp, h.id)
	}
	if why == "" && len(gone) == 0 {
		return
	}
	if len(gone) > 0 {
		if why != "" {
			why += "; "
		}
		why += fmt.Sprintf("%s that it names %s gone: %s", count(len(gone), "path"), isAre(len(gone)), strings.Join(gone, ", "))
	}
	h.out = append(h.out, h.finding("cdi-spec-stale", finding.Error, line, "the specification is stale: "+why, h.fix(), because...))
}

func count(n int, what string) string {
	if n == 1 {
		return "a " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// stamp is the host that davit's own hook in the file was written for.
func (f *File) stamp() (nvidia.Identity, bool) {
	for _, h := range f.Spec.ContainerEdits.Hooks {
		if i := slices.Index(h.Args, cdihook.Verb); i >= 0 {
			a, err := cdihook.ParseArgs(h.Args[i+1:])
			return a.Stamp, err == nil
		}
	}
	return nvidia.Identity{}, false
}

// numbers finds nodes with fixed numbers that are other nodes now.
func (h *against) numbers() {
	var wrong []string
	var because []finding.Evidence
	line := 0
	for i, e := range allEdits(h.Spec) {
		for k, n := range e.DeviceNodes {
			p := n.HostPath
			if p == "" {
				p = n.Path
			}
			node, err := h.host.Node(h.inside(p))
			if n.Major == 0 || err != nil || int64(node.Major) == n.Major && int64(node.Minor) == n.Minor {
				continue
			}
			at := h.lines[fmt.Sprintf("%s.deviceNodes[%d].major", editsPath(i), k)]
			if line == 0 {
				line = at
			}
			wrong = append(wrong, fmt.Sprintf("%s as %d:%d, which is %d:%d now", p, n.Major, n.Minor, node.Major, node.Minor))
			because = append(because, finding.Evidence{Source: fmt.Sprintf("line %d", at), Value: fmt.Sprintf("%s %d:%d", p, n.Major, n.Minor)},
				finding.Evidence{Source: p, Value: fmt.Sprintf("%d:%d", node.Major, node.Minor)})
		}
	}
	if len(wrong) == 0 {
		return
	}
	fix := h.fix()
	fix.Text = "write the specification again without major and minor, which the kernel may choose anew at each boot (davit writes none)"
	h.out = append(h.out, h.finding("cdi-spec-wrong-device-number", finding.Error, line,
		"it gives "+strings.Join(wrong, "; ")+": in a container the node is another device, and cuInit returns 999 though nvidia-smi works", fix, because...))
}

// hooks finds hooks whose program is not there.
func (h *against) hooks() {
	var seen []string
	for i, e := range allEdits(h.Spec) {
		for k, hook := range e.Hooks {
			if hook.Path == "" || slices.Contains(seen, hook.Path) || h.host.Exists(h.inside(hook.Path)) {
				continue
			}
			// The hook of a host in a folder is this machine's program.
			if h.host.Dir() != "/" && (rootfs.Root{}).Exists(hook.Path) {
				continue
			}
			seen = append(seen, hook.Path)
			h.out = append(h.out, h.finding("cdi-hook-missing", finding.Error, h.lines[fmt.Sprintf("%s.hooks[%d].path", editsPath(i), k)],
				"its hook "+hook.Path+" does not exist on this host, so that no container with its devices starts", h.fix()))
		}
	}
}

// gpus finds cards of the host that no device of the file gives.
func (h *against) gpus() {
	if h.Spec.Kind != DefaultVendor+"/"+DefaultClass {
		return
	}
	var missing []string
	for _, g := range h.id.GPUs {
		p := fmt.Sprintf("/dev/nvidia%d", g.Minor)
		found := false
		for _, e := range allEdits(h.Spec) {
			for _, n := range e.DeviceNodes {
				found = found || path.Clean(n.Path) == p || h.inside(n.HostPath) == p
			}
		}
		if !found && h.host.Exists(p) {
			missing = append(missing, fmt.Sprintf("%s (%s)", g.BusID, p))
		}
	}
	if len(missing) > 0 && len(h.out) == 0 {
		h.out = append(h.out, h.finding("cdi-gpu-missing", finding.Warning, h.lines["devices"],
			"it does not know "+count(len(missing), "GPU")+" of this host: "+strings.Join(missing, ", "), h.fix()))
	}
}

// Together finds devices that several files define: in one folder that makes
// them unresolvable, in two the later folder wins.
func Together(files []*File) (out []finding.Finding) {
	first := map[string]*File{}
	told := map[string]bool{}
	for _, f := range files {
		for i, d := range f.Spec.Devices {
			name := f.Spec.Kind + "=" + d.Name
			other, ok := first[name]
			if !ok {
				first[name] = f
				continue
			}
			pair := other.Name + "\x00" + f.Name
			if other == f || told[pair] {
				continue
			}
			told[pair] = true
			line := f.lines[fmt.Sprintf("devices[%d].name", i)]
			because := []finding.Evidence{{Source: other.Name, Value: name}, {Source: f.Name, Value: name}}
			fix := &finding.Remediation{Text: "remove the file that is not needed", Where: "host"}
			if filepath.Dir(other.Name) == filepath.Dir(f.Name) {
				out = append(out, f.finding("cdi-device-duplicate", finding.Error, line,
					fmt.Sprintf("%s is defined in %s too; two files of one folder make a device unresolvable (conflicting device)", name, other.Name), fix, because...))
			} else {
				out = append(out, f.finding("cdi-device-shadowed", finding.Info, line,
					fmt.Sprintf("%s is defined in %s too; engines take the one of /var/run/cdi", name, other.Name), fix, because...))
			}
		}
	}
	return out
}

// ReadFolders reads the spec files of a host, in the order in which engines
// prefer the later.
func ReadFolders(host rootfs.Root, folders []string) ([]*File, error) {
	var files []*File
	for _, dir := range folders {
		entries, err := host.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		slices.SortFunc(entries, func(a, b rootfs.Entry) int { return strings.Compare(a.Name, b.Name) })
		for _, e := range entries {
			if FormatOf(e.Name) == "" {
				continue
			}
			name := dir + "/" + e.Name
			text, err := host.ReadFile(name)
			if err != nil {
				return nil, err
			}
			files = append(files, Check(name, text))
		}
	}
	return files, nil
}
