// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"davit/internal/finding"
)

// service is what a compose service or a pod's container asks for.
type service struct {
	r       *report
	name    string
	node    *yaml.Node
	request bool // a GPU is asked for
}

func composeFile(r *report, text []byte) {
	docs, err := documents(text)
	if err != nil && len(docs) == 0 {
		r.add("file-not-understood", yamlLine(err), "not YAML: "+err.Error(), "")
		return
	}
	for _, doc := range docs {
		services, ok := get(doc, "services")
		if !ok {
			continue
		}
		for _, e := range entries(services.value) {
			if e.key.Value == "<<" || e.value.Kind != yaml.MappingNode {
				continue
			}
			s := &service{r: r, name: e.key.Value, node: e.value}
			s.compose()
		}
	}
}

var yamlAt = regexp.MustCompile(`line (\d+)`)

func yamlLine(err error) int {
	n := 1
	if m := yamlAt.FindStringSubmatch(err.Error()); m != nil {
		fmt.Sscan(m[1], &n)
	}
	return n
}

func (s *service) ev(n *yaml.Node) finding.Evidence {
	v := n.Value
	if v == "" {
		v = "service " + s.name
	}
	return finding.Evidence{Source: fmt.Sprintf("%s:%d", s.r.name, n.Line), Value: v}
}

func (s *service) compose() {
	for _, kind := range []string{"reservations", "limits"} {
		devices, ok := dig(s.node, "deploy", "resources", kind, "devices")
		if !ok {
			continue
		}
		if kind == "limits" {
			s.request = true
			s.r.add("compose-devices-misplaced", devices.key.Line, fmt.Sprintf("service %s has devices under limits, which compose refuses (Additional property devices is not allowed)", s.name), "move devices under deploy.resources.reservations", s.ev(devices.key))
			continue
		}
		for _, d := range items(devices.value) {
			s.reservation(d)
		}
	}
	s.gpus()
	if runtime, ok := get(s.node, "runtime"); ok && strings.HasPrefix(runtime.value.Value, "nvidia") {
		s.request = true
		s.r.add("compose-runtime-nvidia", runtime.key.Line, fmt.Sprintf("service %s needs a runtime named nvidia in the engine's configuration", s.name), "a device reservation: deploy.resources.reservations.devices", s.ev(runtime.value))
	}
	s.byHand()
	env := s.environment()
	if v, ok := env["NVIDIA_VISIBLE_DEVICES"]; ok && !s.request && !oneOf(v.Value, "", "void", "none") && !strings.Contains(v.Value, "$") {
		s.r.add("gpu-variable-without-request", v.Line, fmt.Sprintf("service %s sets NVIDIA_VISIBLE_DEVICES and asks for no GPU: unless nvidia is the default runtime, the variable does nothing", s.name), "add deploy.resources.reservations.devices with driver: nvidia, count: all, capabilities: [gpu]", s.ev(v))
	}
	s.image(env)
}

var deviceCapabilities = []string{"gpu", "nvidia", "compute", "compat32", "graphics", "utility", "video", "display", "ngx", "tpu", "all"}

func (s *service) reservation(d *yaml.Node) {
	if d.Kind != yaml.MappingNode {
		return
	}
	driver, _ := get(d, "driver")
	caps, hasCaps := get(d, "capabilities")
	count, hasCount := get(d, "count")
	ids, hasIDs := get(d, "device_ids")
	isGPU := driver.value != nil && oneOf(driver.value.Value, "nvidia", "cdi") || slices.ContainsFunc(items(caps.value), func(n *yaml.Node) bool { return n.Value == "gpu" || n.Value == "nvidia" })
	if driver.value == nil && !hasCaps {
		isGPU = hasCount || hasIDs
	}
	if !isGPU {
		return
	}
	s.request = true
	line := d.Line
	if hasIDs {
		line = ids.key.Line
	} else if hasCount {
		line = count.key.Line
	}
	bad := false
	if !hasCaps || hasCaps && caps.value.Kind == yaml.SequenceNode && len(caps.value.Content) == 0 {
		bad = true
		s.r.add("compose-device-request-invalid", line, fmt.Sprintf("service %s reserves devices without capabilities, which is mandatory", s.name), "add capabilities: [gpu]", s.ev(d))
	} else if caps.value.Kind == yaml.ScalarNode {
		bad = true
		s.r.add("compose-device-request-invalid", caps.key.Line, fmt.Sprintf("service %s gives capabilities as one word, and compose wants a list", s.name), "capabilities: [gpu]", s.ev(caps.value))
	}
	if hasCount && hasIDs {
		bad = true
		s.r.add("compose-device-request-invalid", count.key.Line, fmt.Sprintf("service %s gives count and device_ids, which exclude each other", s.name), "keep device_ids to name GPUs, or count for a number of them", s.ev(count.key), s.ev(ids.key))
	}
	if hasIDs {
		for _, id := range items(ids.value) {
			if id.Tag == "!!int" {
				bad = true
				s.r.add("compose-device-request-invalid", id.Line, fmt.Sprintf("service %s gives device_ids as numbers, and compose wants strings", s.name), fmt.Sprintf("device_ids: [\"%s\"]", id.Value), s.ev(id))
				break
			}
		}
	}
	for _, w := range items(caps.value) {
		if !slices.Contains(deviceCapabilities, w.Value) && !strings.Contains(w.Value, "$") && driver.value != nil && driver.value.Value == "nvidia" {
			bad = true
			f := s.r.add("compose-device-request-invalid", w.Line, fmt.Sprintf("service %s asks for the capability %q, which no NVIDIA device has", s.name, w.Value), "gpu, and of the driver's own: compute, utility, video, graphics, display", s.ev(w))
			f.Severity = finding.Warning
		}
	}
	if !hasCount && !hasIDs && !bad {
		s.r.add("compose-count-missing", d.Line, fmt.Sprintf("service %s reserves a GPU with neither count nor device_ids: since engine 27.3 that can give no GPU, before it gave all", s.name), "count: all (or a number), or device_ids", s.ev(d))
	}
}

func (s *service) gpus() {
	g, ok := get(s.node, "gpus")
	if !ok {
		return
	}
	s.request = true
	fix := "the long form works with all versions: deploy.resources.reservations.devices with driver: nvidia, count: all, capabilities: [gpu]"
	switch {
	case g.value.Kind == yaml.ScalarNode && g.value.Value == "all":
		s.r.add("compose-gpus-short-form", g.key.Line, fmt.Sprintf("service %s uses gpus: all, which only compose 2.30 and newer know", s.name), fix, s.ev(g.key))
	case g.value.Kind == yaml.ScalarNode:
		f := s.r.add("compose-gpus-short-form", g.key.Line, fmt.Sprintf("service %s has gpus: %s, and gpus must be a list or the word all", s.name, g.value.Value), fix, s.ev(g.value))
		f.Severity = finding.Error
	case g.value.Kind == yaml.SequenceNode:
		f := s.r.add("compose-gpus-short-form", g.key.Line, fmt.Sprintf("service %s uses gpus, which only compose 2.30 and newer know", s.name), fix, s.ev(g.key))
		f.Severity = finding.Info
		for _, d := range items(g.value) {
			if c, ok := get(d, "count"); ok {
				if ids, ok := get(d, "device_ids"); ok {
					s.r.add("compose-device-request-invalid", c.key.Line, fmt.Sprintf("service %s gives count and device_ids, which exclude each other", s.name), "keep one of them", s.ev(ids.key))
				}
			}
		}
	default:
		f := s.r.add("compose-gpus-short-form", g.key.Line, fmt.Sprintf("service %s has gpus as a mapping, and it must be a list", s.name), fix, s.ev(g.key))
		f.Severity = finding.Error
	}
}

var driverMount = regexp.MustCompile(`lib(cuda|nvidia|nvcuvid)[\w.-]*\.so|/nvidia-smi(:|$)`)

// byHand reports device nodes and libraries of the driver given by hand.
func (s *service) byHand() {
	var nodes []*yaml.Node
	if devices, ok := get(s.node, "devices"); ok {
		for _, d := range items(devices.value) {
			v := d
			if src, ok := get(d, "source"); ok {
				v = src.value
			}
			if strings.HasPrefix(v.Value, "/dev/nvidia") {
				nodes = append(nodes, v)
			}
			if strings.HasPrefix(v.Value, "nvidia.com/") {
				s.request = true
			}
		}
	}
	if len(nodes) > 0 && !s.request {
		s.r.add("device-nodes-by-hand", nodes[0].Line, fmt.Sprintf("service %s lists %s by hand: the nodes alone bring no driver libraries, and other hosts have other nodes", s.name, nodes[0].Value), "ask for the GPU: deploy.resources.reservations.devices, or devices: [\"nvidia.com/gpu=all\"]", s.ev(nodes[0]))
		s.request = true
	}
	if volumes, ok := get(s.node, "volumes"); ok {
		for _, v := range items(volumes.value) {
			n := v
			if src, ok := get(v, "source"); ok {
				n = src.value
			}
			if driverMount.MatchString(n.Value) {
				s.r.add("driver-mounted-by-hand", n.Line, fmt.Sprintf("service %s mounts driver files of the host by hand; they go stale with the next driver update", s.name), "", s.ev(n))
				break
			}
		}
	}
}

// environment gives the variables of a service.
func (s *service) environment() map[string]*yaml.Node {
	all := map[string]*yaml.Node{}
	env, ok := get(s.node, "environment")
	if !ok {
		return all
	}
	for _, e := range entries(env.value) {
		v := *e.value
		v.Line = e.key.Line
		all[e.key.Value] = &v
	}
	for _, n := range items(env.value) {
		k, v, ok := strings.Cut(n.Value, "=")
		if ok {
			c := *n
			c.Value = v
			all[k] = &c
		}
	}
	return all
}

var trains = regexp.MustCompile(`(^|/)(pytorch/pytorch|nvidia/pytorch|vllm/vllm-openai|vllm-openai|horovod|deepspeed|text-generation-inference|sglang|pytorch-lightning)\b`)

// image judges the image that a service names.
func (s *service) image(map[string]*yaml.Node) {
	img, ok := get(s.node, "image")
	if !ok || strings.Contains(img.value.Value, "$") {
		return
	}
	b := imageOf(img.value.Value)
	if b.cuda {
		cudaTag(s.r, b, img.value.Line, "", s.ev(img.value))
	}
	if !s.request {
		return
	}
	if tag := cpuImage(b); tag != "" {
		s.r.add("cpu-only-framework", img.value.Line, fmt.Sprintf("%s is the CPU variant, and service %s asks for a GPU", b.ref, s.name), fmt.Sprintf("image: %s:%s", b.repo, tag), s.ev(img.value))
	}
	if b.musl {
		s.r.add("musl-image", img.value.Line, fmt.Sprintf("%s has no glibc (musl), and the injected driver libraries need it", b.ref), "", s.ev(img.value))
	}
	_, shm := get(s.node, "shm_size")
	_, ipc := get(s.node, "ipc")
	tmpfs, _ := get(s.node, "tmpfs")
	mounted := false
	if volumes, ok := get(s.node, "volumes"); ok {
		for _, v := range items(volumes.value) {
			t, _ := get(v, "target")
			mounted = mounted || strings.Contains(v.Value, "/dev/shm") || t.value != nil && t.value.Value == "/dev/shm"
		}
	}
	if trains.MatchString(b.repo) && !shm && !ipc && !mounted && tmpfs.value == nil {
		s.r.add("shared-memory-too-small", img.value.Line, fmt.Sprintf("service %s has 64 MB of shared memory, too little for data loaders and NCCL", s.name), "", s.ev(img.value))
	}
}
