// SPDX-License-Identifier: Apache-2.0

package request

import (
	"fmt"
	"slices"
	"strings"
)

// Host is what requirements are about. An empty string is a value that nobody
// knows; a term about it counts as met.
type Host struct {
	CUDA   string // newest CUDA version that the driver runs, "12.4"
	Driver string // "550.120"
	GPUs   []HostGPU
}

// HostGPU is one GPU that the container would get.
type HostGPU struct {
	Name  string // for messages: "NVIDIA RTX A4000"
	Arch  string // compute capability, "8.6"
	Brand string // "geforce", "nvidiartx", …; case does not matter
}

// Term is one comparison, "cuda>=12.4".
type Term struct {
	Property string // cuda, driver, arch, brand
	Op       string // = != < <= > >=
	Value    string
}

// String is the term as it is written.
func (t Term) String() string { return t.Property + t.Op + t.Value }

// Alternatives is a parsed expression. One of them must hold, and in it every
// term; none at all holds always.
type Alternatives [][]Term

var properties = []string{"cuda", "driver", "arch", "brand"}

// ParseRequirement reads an expression as it stands in NVIDIA_REQUIRE_*:
// blanks separate alternatives, commas join terms.
func ParseRequirement(expr string) (Alternatives, error) {
	var alts Alternatives
	for alternative := range strings.FieldsSeq(expr) {
		var terms []Term
		for text := range strings.SplitSeq(alternative, ",") {
			if text == "" {
				continue
			}
			t, err := parseTerm(text)
			if err != nil {
				return nil, err
			}
			terms = append(terms, t)
		}
		if len(terms) > 0 {
			alts = append(alts, terms)
		}
	}
	return alts, nil
}

func parseTerm(text string) (Term, error) {
	at := strings.IndexAny(text, "=!<>")
	if at < 0 {
		return Term{}, fmt.Errorf("%q has no comparison: want PROPERTY, one of = != < <= > >=, and a value, without blanks, for example cuda>=12.4", show(text))
	}
	if at == 0 {
		return Term{}, fmt.Errorf("%q has no property: want one of %s before the comparison, without blanks", show(text), strings.Join(properties, ", "))
	}
	t := Term{Property: strings.ToLower(text[:at])}
	rest := text[at:]
	for _, op := range []string{"!=", "<=", ">=", "=", "<", ">"} {
		if v, ok := strings.CutPrefix(rest, op); ok {
			t.Op, t.Value = op, v
			break
		}
	}
	if t.Op == "" {
		return Term{}, fmt.Errorf("%q: want one of = != < <= > >=", show(text))
	}
	if !slices.Contains(properties, t.Property) {
		hint := ""
		if near := nearest(t.Property, properties); near != "" {
			hint = fmt.Sprintf("did you mean %q? ", near)
		}
		return Term{}, fmt.Errorf("%q: %q is no property; %sthe properties are %s", show(text), show(text[:at]), hint, strings.Join(properties, ", "))
	}
	if t.Property == "brand" {
		if t.Op != "=" && t.Op != "!=" {
			return Term{}, fmt.Errorf("%q: a brand can be compared with = and != only", show(text))
		}
		if !isWord(t.Value) {
			return Term{}, fmt.Errorf("%q: %q is no brand", show(text), show(t.Value))
		}
		return t, nil
	}
	if !isVersion(t.Value) {
		return Term{}, fmt.Errorf("%q: %q is no version", show(text), show(t.Value))
	}
	return t, nil
}

func isWord(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20 // lower case of letters
		if (c < 'a' || c > 'z') && (s[i] < '0' || s[i] > '9') && s[i] != '-' && s[i] != '_' && s[i] != '.' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// isVersion accepts numbers with dots between.
func isVersion(s string) bool {
	for part := range strings.SplitSeq(s, ".") {
		if !allDigits(part) {
			return false
		}
	}
	return len(s) <= 64
}

// compareVersions compares number by number; the shorter version is padded with
// zeros. Numbers of any length compare right.
func compareVersions(a, b string) int {
	for a != "" || b != "" {
		var x, y string
		x, a, _ = strings.Cut(a, ".")
		y, b, _ = strings.Cut(b, ".")
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if len(x) != len(y) {
			if len(x) < len(y) {
				return -1
			}
			return 1
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// of gives the host's value for a property; "" if it is unknown. Text after
// the numbers of a version ("525.85-grid") does not count.
func (h Host) of(property string, gpu *HostGPU) string {
	v := ""
	switch property {
	case "cuda":
		v = h.CUDA
	case "driver":
		v = h.Driver
	case "arch":
		if gpu != nil {
			v = gpu.Arch
		}
	case "brand":
		if gpu != nil {
			return gpu.Brand
		}
	}
	end := 0
	for end < len(v) && (v[end] == '.' || v[end] >= '0' && v[end] <= '9') {
		end++
	}
	if v = strings.Trim(v[:end], "."); !isVersion(v) {
		return ""
	}
	return v
}

func (t Term) holds(have string) bool {
	if have == "" {
		return true
	}
	if t.Property == "brand" {
		return strings.EqualFold(have, t.Value) == (t.Op == "=")
	}
	c := compareVersions(have, t.Value)
	switch t.Op {
	case "=":
		return c == 0
	case "!=":
		return c != 0
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	}
	return c >= 0
}

// Check says whether a host meets all requirements with each of its GPUs; with
// no GPU, terms about GPUs count as met. The error is an *Unmet, or says which
// variable is malformed.
func Check(reqs []Requirement, h Host) error {
	for _, r := range reqs {
		alts, err := ParseRequirement(r.Expression)
		if err != nil {
			return fmt.Errorf("%s: %w; NVIDIA_DISABLE_REQUIRE=1 skips the check", show(r.Variable), err)
		}
		gpus := []*HostGPU{nil}
		if len(h.GPUs) > 0 {
			gpus = gpus[:0]
			for i := range h.GPUs {
				gpus = append(gpus, &h.GPUs[i])
			}
		}
		for _, gpu := range gpus {
			if unmet := alts.check(h, gpu); unmet != nil {
				unmet.Variable = r.Variable
				return unmet
			}
		}
	}
	return nil
}

// check gives nil if one alternative holds, else what fails in the one that is
// nearest to holding.
func (alts Alternatives) check(h Host, gpu *HostGPU) *Unmet {
	var nearest Term
	best := -1
	for _, terms := range alts {
		score := 0
		var first *Term
		for i, t := range terms {
			if t.holds(h.of(t.Property, gpu)) {
				continue
			}
			if first == nil {
				first = &terms[i]
			}
			// A driver can be changed and a card cannot. Of terms about
			// drivers, one that names CUDA or a lower bound shows the way up;
			// "driver<471" closes a range of older branches.
			switch {
			case t.Property == "cuda":
				score += 10
			case t.Property == "driver" && t.Op[0] == '>':
				score += 11
			case t.Property == "driver":
				score += 20
			default:
				score += 1000
			}
		}
		if first == nil {
			return nil
		}
		if best < 0 || score < best {
			best, nearest = score, *first
		}
	}
	if best < 0 {
		return nil
	}
	u := &Unmet{Term: nearest.String(), Property: nearest.Property, Op: nearest.Op, Want: nearest.Value,
		Have: h.of(nearest.Property, gpu), Driver: h.Driver}
	if gpu != nil {
		u.Device = gpu.Name
	}
	return u
}
