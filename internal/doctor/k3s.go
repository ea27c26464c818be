// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"davit/internal/finding"
)

// distribution is a Kubernetes distribution with a containerd of its own.
type distribution struct {
	name, binary, dir string
	lost              string // the finding that its file was edited
}

var distributions = []distribution{
	{"k3s", "k3s", "/var/lib/rancher/k3s/agent/etc/containerd", "k3s-config-will-be-overwritten"},
	{"rke2", "rke2", "/var/lib/rancher/rke2/agent/etc/containerd", "rke2-config-will-be-overwritten"},
}

// ownContainerd is the distribution that brings its own containerd.
func (e *exam) ownContainerd() string {
	for _, d := range distributions {
		if e.root.Exists(d.dir) || e.program(d.binary) != "" || e.root.Exists("/opt/rke2/bin/"+d.binary) {
			return d.name
		}
	}
	return ""
}

// known are the places in which k3s and rke2 look for the runtime themselves.
var known = append([]string{"/usr/local/nvidia/toolkit"}, binDirs...)

// k3s judges the file that k3s or rke2 writes at each start.
func (e *exam) k3s() {
	name := e.ownContainerd()
	if name == "" {
		e.none("not found")
		return
	}
	e.engines = append(e.engines, name)
	i := slices.IndexFunc(distributions, func(d distribution) bool { return d.name == name })
	d := distributions[i]
	e.line("%s, with its own containerd", name)
	generated := d.dir + "/config.toml"
	f := e.readTOML("containerd", generated)
	var nv *handler
	if f != nil {
		for _, h := range f.handlers() {
			if h.nvidia() {
				nv = &h
				break
			}
		}
		e.ignoredTables(f)
		e.entries(name, f.handlers())
		e.cgroups(name, f.handlers())
	}
	template := "config.toml.tmpl"
	if f != nil && f.version() >= 3 {
		template = "config-v3.toml.tmpl"
	}
	for _, t := range []string{"config.toml.tmpl", "config-v3.toml.tmpl"} {
		if strings.Contains(e.text(d.dir+"/"+t), "nvidia") {
			return
		}
	}
	service := name
	if strings.Contains(e.output("ps"), "agent") {
		service = name + "-agent"
	}
	elsewhere := ""
	if strings.Contains(e.text(containerdFile), "nvidia") && e.program("containerd") == "" {
		elsewhere = containerdFile
	}
	table := "{{ template \"base\" . }} and the table below it"
	switch {
	case nv != nil && !slices.Contains(known, path.Dir(nv.binary())):
		line := f.line(nv.path()...)
		ev := because(fmt.Sprintf("%s:%d", generated, line), nv.name+": "+nv.binary(), d.dir+"/"+template, "does not exist")
		if elsewhere != "" {
			ev = append(ev, because(elsewhere, "is not read by "+name)...)
		}
		e.add(finding.Finding{ID: d.lost, Severity: finding.Warning, Gate: "engine", Layer: "engine", File: generated, Line: line,
			Summary: fmt.Sprintf("The runtime %q was written by hand into %s, which %s generates anew: it works now and is lost at the next start of %s.", nv.name, generated, name, name),
			Why:     fmt.Sprintf("%s adds the runtime by itself only if it finds the program where it looks (%s and the PATH), and %s is not there; there is no template that holds the table.", name, known[0], nv.binary()),
			Because: ev, Avoid: "Do not edit the generated file, nor /etc/containerd/config.toml, which " + name + " does not read.",
			Remediation: fix("restart", fmt.Sprintf("put the table into %s/%s, with %s; or install the program where %s looks, and restart it", d.dir, template, table, name), "systemctl restart "+service)})
	case nv == nil && elsewhere != "":
		e.add(finding.Finding{ID: "k3s-ignores-etc-containerd", Severity: finding.Error, Gate: "engine", Layer: "engine", File: elsewhere,
			Summary: fmt.Sprintf("The runtime nvidia is defined in %s, which %s does not read: its own file %s has none.", elsewhere, name, generated), Because: because(elsewhere, "nvidia", generated, "no nvidia"),
			Remediation: fix("restart", fmt.Sprintf("install the runtime on the PATH and restart %s, which then adds it by itself; or put the table into %s/%s, with %s", name, d.dir, template, table), "systemctl restart "+service)})
	case nv == nil && f != nil && e.program("nvidia-container-runtime") != "":
		e.add(finding.Finding{ID: "engine-not-restarted", Severity: finding.Warning, Gate: "engine", Layer: "engine", File: generated,
			Summary: fmt.Sprintf("nvidia-container-runtime is installed, but %s has not found it yet.", name), Why: name + " looks for it at its start.",
			Because: because(generated, "no runtime nvidia"), Remediation: fix("restart", "restart it", "systemctl restart "+service)})
	}
}

// kubelet tells which engine pods use.
func (e *exam) kubelet() {
	if !e.isNode() {
		e.none("no Kubernetes node")
		return
	}
	endpoint := ""
	for line := range strings.Lines(e.text("/var/lib/kubelet/config.yaml")) {
		if v, ok := strings.CutPrefix(line, "containerRuntimeEndpoint:"); ok {
			endpoint = strings.Trim(strings.TrimSpace(v), `"'`)
		}
	}
	for _, f := range strings.Fields(e.text("/var/lib/kubelet/kubeadm-flags.env")) {
		if v, ok := strings.CutPrefix(strings.Trim(f, `"`), "--container-runtime-endpoint="); ok && endpoint == "" {
			endpoint = strings.Trim(v, `"`)
		}
	}
	e.line("found")
	if endpoint != "" {
		e.line("pods use %s", endpoint)
	}
	if strings.Contains(endpoint, "cri-dockerd") {
		e.note("pods use docker by cri-dockerd: RuntimeClass has no effect there, docker's default-runtime decides")
	}
}
