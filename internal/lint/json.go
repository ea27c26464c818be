// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"davit/internal/finding"
)

type findingOf = finding.Finding

// jsonNode reads a JSON text with lines, through YAML, of which it is a part.
func jsonNode(text []byte) (*yaml.Node, error) {
	docs, err := documents(text)
	if err != nil {
		return nil, err
	}
	if len(docs) == 0 {
		return nil, errors.New("empty")
	}
	return docs[0], nil
}

// jsonMistake says line and column of the first mistake of a JSON text.
func jsonMistake(text []byte) (line, col int, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	var v any
	offset := int64(0)
	if err = d.Decode(&v); err != nil {
		var s *json.SyntaxError
		if offset = int64(len(text)); errors.As(err, &s) {
			offset = s.Offset
		}
	} else if rest := bytes.TrimSpace(text[d.InputOffset():]); len(rest) > 0 {
		offset = int64(len(text)-len(rest)) + 1
		if i := bytes.Index(text[d.InputOffset():], rest[:1]); i >= 0 {
			offset = d.InputOffset() + int64(i) + 1
		}
		err = fmt.Errorf("%q behind the end of the object", rest[0])
	} else {
		return 0, 0, nil
	}
	head := text[:min(max(0, int(offset)-1), len(text))]
	return bytes.Count(head, []byte("\n")) + 1, len(head) - bytes.LastIndexByte(head, '\n'), err
}

func devcontainerFile(r *report, text []byte) {
	clean := strictJSON(text)
	doc, err := jsonNode(clean)
	if err != nil {
		if line, col, bad := jsonMistake(clean); bad != nil {
			r.add("file-not-understood", line, fmt.Sprintf("not JSON (with comments): line %d, column %d: %v", line, col, bad), "")
		}
		return
	}
	ev := func(n *yaml.Node) finding.Evidence {
		return finding.Evidence{Source: fmt.Sprintf("%s:%d", r.name, n.Line), Value: n.Value}
	}
	args, _ := get(doc, "runArgs")
	var demands *yaml.Node
	list := items(args.value)
	for i, a := range list {
		v := a.Value
		flag, value, spaced := strings.Cut(v, " ")
		if spaced && strings.HasPrefix(flag, "--gpus") && !strings.Contains(flag, "=") {
			r.add("devcontainer-gpus-argument", a.Line, fmt.Sprintf("%q is one argument with a space in it, and docker answers unknown flag: %s", v, v),
				fmt.Sprintf("%q, or two strings: %q, %q", flag+"="+strings.TrimSpace(value), flag, strings.TrimSpace(value)), ev(a))
			demands = a
		} else if spaced && (strings.HasPrefix(flag, "--runtime") || strings.HasPrefix(flag, "--device")) && !strings.Contains(flag, "=") {
			r.add("devcontainer-gpus-argument", a.Line, fmt.Sprintf("%q is one argument with a space in it, and docker answers unknown flag", v), fmt.Sprintf("%q, or two strings", flag+"="+strings.TrimSpace(value)), ev(a))
		}
		if strings.HasPrefix(v, "--gpus") {
			demands = a
			if v == "--gpus" && i+1 >= len(list) {
				r.add("devcontainer-gpus-argument", a.Line, "--gpus has no value behind it", "\"--gpus=all\"", ev(a))
			}
		}
		device := strings.TrimPrefix(v, "--device=")
		if v == "--device" && i+1 < len(list) {
			device = list[i+1].Value
		}
		if strings.HasPrefix(device, "/dev/nvidia") {
			f := r.add("device-nodes-by-hand", a.Line, device+" is given by hand: the nodes alone bring no driver libraries", "\"--gpus=all\"", ev(a))
			f.Remediation.Where = "devcontainer.json"
		}
		if i > 0 && (list[i-1].Value == "-v" || list[i-1].Value == "--volume") && driverMount.MatchString(v) {
			r.add("driver-mounted-by-hand", a.Line, "driver files of the host are mounted by hand and go stale with the next driver update", "\"--gpus=all\"", ev(a))
		}
	}
	gpu, ok := dig(doc, "hostRequirements", "gpu")
	if ok && gpu.value.Value == "optional" && demands != nil {
		r.add("devcontainer-gpu-not-optional", gpu.key.Line, "runArgs demands a GPU although hostRequirements calls it optional, so the container does not start on machines without one", "", ev(demands), ev(gpu.value))
	}
	if img, ok := get(doc, "image"); ok {
		if b := imageOf(img.value.Value); b.cuda {
			cudaTag(r, b, img.value.Line, "", ev(img.value))
		}
	}
}

func daemonFile(r *report, text []byte) {
	if len(bytes.TrimSpace(text)) == 0 {
		return
	}
	if line, col, err := jsonMistake(text); err != nil {
		r.add("daemon-json-invalid", line, fmt.Sprintf("line %d, column %d: %v, so docker does not start", line, col, err), "")
		return
	}
	doc, err := jsonNode(strictJSON(text))
	if err != nil || doc.Kind != yaml.MappingNode {
		return
	}
	runtimes, has := get(doc, "runtimes")
	for _, e := range entries(runtimes.value) {
		path, ok := get(e.value, "path")
		_, typed := get(e.value, "runtimeType")
		if !typed && (!ok || path.value.Value == "") {
			r.add("daemon-json-invalid", e.key.Line, fmt.Sprintf("runtime %s has neither path nor runtimeType", e.key.Value), fmt.Sprintf("%q: {\"path\": \"nvidia-container-runtime\"}", e.key.Value))
		}
	}
	def, ok := get(doc, "default-runtime")
	if !ok {
		return
	}
	name := def.value.Value
	if _, known := get(runtimes.value, name); (!has || !known) && !oneOf(name, "runc", "io.containerd.runc.v2") && !strings.HasPrefix(name, "io.containerd.") {
		r.add("daemon-json-invalid", def.key.Line, fmt.Sprintf("default-runtime names %q, which runtimes does not have", name), "")
	} else if strings.Contains(name, "nvidia") {
		r.add("default-runtime-nvidia", def.key.Line, "with nvidia as the default runtime every image that sets NVIDIA_VISIBLE_DEVICES gets GPUs without asking", "")
	}
}
