// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

func kubernetesFile(r *report, text []byte) {
	docs, err := documents(text)
	if err != nil && len(docs) == 0 {
		// Templates are not YAML yet.
		if !strings.Contains(string(text), "{{") {
			r.add("file-not-understood", yamlLine(err), "not YAML: "+err.Error(), "")
		}
		return
	}
	for _, doc := range docs {
		list := []*yaml.Node{doc}
		if kind, _ := get(doc, "kind"); kind.value != nil && kind.value.Value == "List" {
			e, _ := get(doc, "items")
			list = items(e.value)
		}
		for _, d := range list {
			manifest(r, d)
		}
	}
}

// podSpecs finds the pod of any workload, of custom ones too. budget ends the
// search in documents whose aliases have no end.
func podSpecs(n *yaml.Node, depth int, budget *int) (list []*yaml.Node) {
	n = real(n)
	if *budget--; n == nil || depth > 10 || *budget < 0 {
		return nil
	}
	if c, ok := get(n, "containers"); ok && c.value.Kind == yaml.SequenceNode {
		return []*yaml.Node{n}
	}
	for _, e := range entries(n) {
		list = append(list, podSpecs(e.value, depth+1, budget)...)
	}
	for _, x := range items(n) {
		list = append(list, podSpecs(x, depth+1, budget)...)
	}
	return list
}

var gpuResource = regexp.MustCompile(`^nvidia\.com/(gpu|mig-\S+)`)
var agent = regexp.MustCompile(`(?i)dcgm|device-plugin|gpu-operator|exporter|node-feature|gpu-feature|monitor|telegraf|datadog|prometheus|netdata|nvidia-driver`)

func manifest(r *report, doc *yaml.Node) {
	name, _ := dig(doc, "metadata", "name")
	budget := 20000
	for _, pod := range podSpecs(doc, 0, &budget) {
		_, claims := get(pod, "resourceClaims")
		any := false
		var list []*yaml.Node
		for _, kind := range []string{"initContainers", "containers"} {
			e, _ := get(pod, kind)
			list = append(list, items(e.value)...)
		}
		for _, c := range list {
			any = gpuLimit(r, c) || any
		}
		for _, c := range list {
			s := &service{r: r, name: "?", node: c, request: any || claims}
			if n, ok := get(c, "name"); ok {
				s.name = n.value.Value
			}
			label := s.name
			if name.value != nil {
				label += " " + name.value.Value
			}
			if img, ok := get(c, "image"); ok {
				label += " " + img.value.Value
			}
			s.container(pod, agent.MatchString(label))
		}
	}
}

// gpuLimit judges the resources of a container and says whether it has a
// limit of GPUs.
func gpuLimit(r *report, c *yaml.Node) bool {
	resources, ok := get(c, "resources")
	if !ok {
		return false
	}
	limits := map[string]entry{}
	for _, kind := range []string{"limits", "requests"} {
		e, _ := get(resources.value, kind)
		for _, x := range entries(e.value) {
			if !gpuResource.MatchString(x.key.Value) {
				continue
			}
			if strings.Contains(x.value.Value, "{{") || strings.Contains(x.value.Value, "$") {
				limits[x.key.Value] = x
				continue
			}
			if !regexp.MustCompile(`^\d+k?$`).MatchString(x.value.Value) {
				r.add("kubernetes-gpu-request-invalid", x.key.Line, fmt.Sprintf("%s: %s is refused: GPUs are given in whole numbers", x.key.Value, x.value.Value), "a whole number; for parts of a GPU use MIG, time slicing or MPS of the device plugin")
			}
			if kind == "limits" {
				limits[x.key.Value] = x
				continue
			}
			if limit, has := limits[x.key.Value]; !has {
				r.add("kubernetes-gpu-request-invalid", x.key.Line, fmt.Sprintf("%s under requests alone is refused: an extended resource needs a limit", x.key.Value), fmt.Sprintf("limits: {%s: %s}", x.key.Value, x.value.Value))
				limits[x.key.Value] = x
			} else if limit.value.Value != x.value.Value {
				r.add("kubernetes-gpu-request-invalid", x.key.Line, fmt.Sprintf("requests and limits of %s differ (%s and %s), which is refused", x.key.Value, x.value.Value, limit.value.Value), "the same number, or limits only")
			}
		}
	}
	for _, x := range entries(resources.value) {
		if gpuResource.MatchString(x.key.Value) {
			r.add("kubernetes-gpu-request-invalid", x.key.Line, fmt.Sprintf("%s stands under resources itself and is ignored or refused", x.key.Value), fmt.Sprintf("resources: {limits: {%s: %s}}", x.key.Value, x.value.Value))
			return true
		}
	}
	for _, x := range limits {
		if x.value.Value != "0" {
			return true
		}
	}
	return false
}

func (s *service) container(pod *yaml.Node, monitors bool) {
	env, _ := get(s.node, "env")
	for _, e := range items(env.value) {
		name, _ := get(e, "name")
		value, ok := get(e, "value")
		if name.value == nil || name.value.Value != "NVIDIA_VISIBLE_DEVICES" || !ok || oneOf(value.value.Value, "", "void", "none") || monitors || s.request || strings.Contains(value.value.Value, "{{") {
			continue
		}
		s.r.add("kubernetes-gpu-past-scheduler", name.value.Line, fmt.Sprintf("container %s sets NVIDIA_VISIBLE_DEVICES=%s without a limit of nvidia.com/gpu: it gets GPUs that the scheduler does not know of, or none", s.name, value.value.Value),
			"resources: {limits: {nvidia.com/gpu: 1}}, and no variable", s.ev(name.value))
		s.request = true
	}
	volumes, _ := get(pod, "volumes")
	for _, v := range items(volumes.value) {
		p, ok := dig(v, "hostPath", "path")
		if !ok || s.request || monitors {
			continue
		}
		if strings.HasPrefix(p.value.Value, "/dev/nvidia") && !slices.ContainsFunc(s.r.list, func(f findingOf) bool { return f.ID == "device-nodes-by-hand" && f.Line == p.value.Line }) {
			s.r.add("device-nodes-by-hand", p.value.Line, fmt.Sprintf("%s is mounted by hand: the nodes alone bring no driver libraries and are not allowed to the container", p.value.Value), "resources: {limits: {nvidia.com/gpu: 1}}", s.ev(p.value))
		}
	}
	if img, ok := get(s.node, "image"); ok && !strings.Contains(img.value.Value, "{{") {
		b := imageOf(img.value.Value)
		if b.cuda {
			cudaTag(s.r, b, img.value.Line, "", s.ev(img.value))
		}
		if tag := cpuImage(b); tag != "" && s.request {
			s.r.add("cpu-only-framework", img.value.Line, fmt.Sprintf("%s is the CPU variant, and container %s asks for a GPU", b.ref, s.name), fmt.Sprintf("image: %s:%s", b.repo, tag), s.ev(img.value))
		}
	}
}
