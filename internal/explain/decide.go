// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"slices"
	"strings"

	"davit/internal/finding"
	"davit/internal/knowledge"
)

// The findings that say that nothing was found.
const (
	NoProblem = "no-problem" // the log is known, and harmless
	Unknown   = "unknown"    // nothing in the log is known
)

// Findings says what the logs that were read tell.
func (l *Log) Findings() []finding.Finding {
	main, id := l.choose()
	if main == nil {
		return []finding.Finding{l.nothing()}
	}
	v := l.look(main)
	f := v.render(id)
	for _, h := range l.hits {
		if len(f.Because) >= 6 {
			break
		}
		if h != main && h.rule.Kind == knowledge.Problem && (h.line != main.line || h.file != main.file) {
			f.Because = append(f.Because, finding.Evidence{Source: source(h.file, h.line), Value: h.text})
		}
	}
	return []finding.Finding{f}
}

// choose takes the hit that tells the cause: the one that tells most of it,
// and of several the first.
func (l *Log) choose() (main *hit, id string) {
	best, used := 0, l.lastGood()
	for _, h := range l.hits {
		if h.rule.Kind != knowledge.Problem {
			continue
		}
		id2, rank := l.judge(h)
		if id2 == "" || id2 == NoProblem {
			continue
		}
		severity := finding.Severity(l.pages[id2].Severity)
		if used > 0 && severity != finding.Error || used > h.order && rank >= 3 {
			continue // the GPU is in use all the same
		}
		if severity != finding.Error {
			rank += 10
		}
		if main == nil || rank < best {
			main, id, best = h, id2, rank
		}
	}
	return main, id
}

// lastGood is the order of the last line that shows a GPU in use, or 0.
func (l *Log) lastGood() (order int) {
	for _, h := range l.hits {
		if h.rule.Kind == knowledge.Good && slices.Contains(h.rule.Set, "used") {
			order = max(order, h.order)
		}
	}
	return order
}

// judge says which finding a hit stands for, other facts heeded, and how much
// of the cause it tells.
func (l *Log) judge(h *hit) (id string, rank int) {
	id, rank = h.rule.Finding, h.rule.Rank
	if x, ok := l.xids[h.vars["xid"]]; ok && id == "gpu-xid" {
		return judgeXid(x)
	}
	when := h.rule.When
	if id == "cuda-number" {
		if id, when = l.numbered(h.vars["cuda-code"]); id == "" {
			return "", 0
		}
	}
	v := l.look(h)
	for _, w := range when {
		if !slices.ContainsFunc(w.Facts, func(name string) bool { return !v.holds(name) }) {
			return w.Finding, rank
		}
	}
	return id, rank
}

// numbered is the finding for a number of CUDA's driver or runtime, with what
// may change it.
func (l *Log) numbered(code string) (string, []knowledge.When) {
	if now, ok := map[string]string{"38": "100", "30": "999"}[code]; ok { // before CUDA 10.1
		code = now
	}
	for _, r := range l.rules {
		if r.Name == "cuda-"+code {
			return r.Finding, r.When
		}
	}
	return l.codes[code], nil
}

func judgeXid(x knowledge.Xid) (id string, rank int) {
	switch n := x.Number; {
	case x.ByProgram:
		return "program-fault-on-gpu", 3
	case n == 79:
		return "gpu-fell-off-bus", 1
	case n == 63:
		return "gpu-memory-repaired", 3
	case n == 48 || n == 64 || n == 92 || n == 94 || n == 95 || n == 140 || n == 171 || n == 172:
		return "gpu-memory-error", 1
	case n == 74 || n == 137 || n >= 144 && n <= 150 || n == 155:
		return "nvlink-error", 2
	case n == 119 || n == 120:
		return "gpu-firmware-stopped", 1
	case n == 154:
		return "gpu-needs-reset", 3
	case x.Action == "RESET_GPU" || x.Action == "RESTART_BM":
		return "gpu-needs-reset", 2
	case x.Action == "RESTART_APP":
		return "gpu-xid", 3
	case x.Action == "IGNORE":
		return "gpu-xid-notice", 4
	}
	return "gpu-xid", 2
}

// nothing is the finding of a log without trouble, or of which nothing is
// known.
func (l *Log) nothing() finding.Finding {
	var notes []string
	f := finding.Finding{ID: Unknown, Severity: finding.Info}
	for _, kind := range []knowledge.LineKind{knowledge.Good, knowledge.Harmless} {
		for _, h := range l.hits {
			if h.rule.Kind != kind {
				continue
			}
			if f.ID == Unknown {
				f.ID, f.File, f.Line = NoProblem, h.file, h.line
			}
			if kind == knowledge.Good {
				f.Severity = finding.OK
			}
			f.Because = append(f.Because, finding.Evidence{Source: source(h.file, h.line), Value: h.text})
			if !slices.Contains(notes, h.rule.Note) {
				notes = append(notes, h.rule.Note)
			}
		}
	}
	p := l.pages[f.ID]
	f.Summary, f.Why = p.Summary, p.Why
	if len(notes) > 0 {
		f.Why = strings.Join(notes[:min(len(notes), 4)], " ")
	}
	f.Because = f.Because[:min(len(f.Because), 5)]
	if p.Fix != "" {
		f.Remediation = &finding.Remediation{Text: p.Fix, Commands: p.Commands, Risk: "none"}
	}
	f.Confirm = p.Confirm
	f.Docs = docs(f.ID)
	return f
}

func docs(id string) string { return "docs/findings/" + id + ".md" }

func source(file string, line int) string {
	switch {
	case file == "":
		return fmt.Sprintf("line %d", line)
	case line == 0:
		return file
	}
	return fmt.Sprintf("%s:%d", file, line)
}

// render fills a page with the facts of the hit.
func (v *view) render(id string) finding.Finding {
	p, h := v.l.pages[id], v.hit
	f := finding.Finding{ID: id, Severity: finding.Severity(p.Severity), Gate: p.Gate, Layer: p.Layer, File: h.file, Line: h.line, Docs: docs(id)}
	f.Because = []finding.Evidence{{Source: source(h.file, h.line), Value: h.text}}
	f.Summary, f.Why, f.Avoid = fill(p.Summary, v), fill(p.Why, v), fill(p.Avoid, v)
	r := &finding.Remediation{Text: fill(p.Fix, v), Risk: p.Risk, Where: p.Where}
	for _, c := range p.Commands {
		if text := v.forEngine(fill("[["+c+"]]", v)); text != "" {
			r.Commands = append(r.Commands, text)
		}
	}
	f.Remediation = r
	for _, c := range p.Confirm {
		if text := v.forEngine(fill("[["+c+"]]", v)); text != "" {
			f.Confirm = append(f.Confirm, text)
		}
	}
	when := h.rule.When
	if h.vars["cuda-code"] != "" {
		_, when = v.l.numbered(h.vars["cuda-code"])
	}
	for _, w := range when {
		if w.Finding == id {
			v.used = append(v.used, w.Facts...)
			break
		}
	}
	v.cite(&f)
	return f
}

// Commands in the texts are docker's; these are what they are elsewhere.
var (
	asPodman = strings.NewReplacer("docker run --rm --gpus all", "podman run --rm --device nvidia.com/gpu=all",
		`--gpus '"device=0"'`, "--device nvidia.com/gpu=0", "docker run", "podman run", "docker exec", "podman exec",
		"docker inspect", "podman inspect", "docker restart", "podman restart", "docker update", "podman update", "davit setup docker", "davit setup podman")
	asContainerd = strings.NewReplacer("davit setup docker", "davit setup containerd", "systemctl restart docker", "systemctl restart containerd")
	asK3s        = strings.NewReplacer("davit setup docker", "davit setup k3s", "systemctl restart docker", "systemctl restart k3s",
		"systemctl restart containerd", "systemctl restart k3s")
)

// forEngine says a command in the words of the engine that the log is of; ""
// for one that has no meaning there.
func (v *view) forEngine(command string) string {
	switch {
	case v.holds("run-podman") || v.holds("podman-alias") || v.holds("podman") && !v.holds("run"):
		if strings.HasPrefix(command, "systemctl restart docker") {
			return ""
		}
		return asPodman.Replace(command)
	case v.holds("run-docker") || v.holds("run-nerdctl"):
		return command
	case v.holds("k3s"):
		return asK3s.Replace(command)
	case v.holds("kubernetes"):
		return asContainerd.Replace(command)
	}
	return command
}

// cite adds the lines from which facts in the texts were taken.
func (v *view) cite(f *finding.Finding) {
	for _, name := range v.used {
		x, ok := v.fact(name)
		if !ok || x.line == v.hit.line && x.file == v.hit.file || x.line == 0 && x.file == "" {
			continue
		}
		e := finding.Evidence{Source: source(x.file, x.line), Value: x.text}
		if x.line == 0 {
			e.Value = name + " " + x.value
		}
		if !slices.Contains(f.Because, e) && len(f.Because) < 5 {
			f.Because = append(f.Because, e)
		}
	}
}

// fill puts facts into a text: see knowledge.Page.
func fill(text string, v *view) string {
	var b strings.Builder
	for text != "" {
		before, rest, ok := strings.Cut(text, "[[")
		part, _ := fillPart(before, v)
		b.WriteString(part)
		if !ok {
			break
		}
		inner, after, _ := strings.Cut(rest, "]]")
		used := len(v.used)
		if part, ok := fillPart(inner, v); ok {
			b.WriteString(part)
		} else {
			v.used = v.used[:used]
		}
		text = after
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

func fillPart(text string, v *view) (string, bool) {
	var b strings.Builder
	all := true
	for {
		before, rest, ok := strings.Cut(text, "{")
		b.WriteString(before)
		if !ok {
			return b.String(), all
		}
		name, after, ok := strings.Cut(rest, "}")
		if !ok || !isName(name) {
			b.WriteString("{")
			text = rest
			continue
		}
		text = after
		switch name[0] {
		case '?':
			if v.holds(name[1:]) {
				v.used = append(v.used, name[1:])
			} else {
				all = false
			}
		case '!':
			all = all && v.holds(name)
		default:
			value, ok := v.value(name)
			b.WriteString(value)
			all = all && ok
		}
	}
}

func isName(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-?!*_") == ""
}
