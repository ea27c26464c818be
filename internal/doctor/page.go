// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"slices"
	"strings"

	"davit/internal/finding"
	"davit/internal/knowledge"
)

//go:embed page.html
var pageText string

// pageGPU is a card in the picture.
type pageGPU struct {
	Name, Bus, NUMA string
	Y, Mid          int
	MIG             []pageMIG
	Bad             bool
}

type pageMIG struct {
	Name string
	X    int
}

// pageBox is an engine in the picture.
type pageBox struct {
	Name, State string
	Y, Mid      int
}

// pageData is what the page shows.
type pageData struct {
	Version  string
	State    State
	Findings []finding.Finding
	Areas    []Area
	Driver   string
	GPUs     []pageGPU
	Engines  []pageBox
	Height   int
	Kernel   string
	Data     template.JS
}

// Page is a report as one HTML page that needs nothing else, with the record
// and the findings inside as JSON. What the findings quote is redacted as the
// record is.
func Page(rec *Record, res *Result, version string) ([]byte, error) {
	r := rec.redactor
	if r == nil {
		r = newRedactor()
	}
	var areas []Area
	var list []finding.Finding
	for _, a := range res.Areas {
		a.Findings = slices.Clone(a.Findings)
		for i, f := range a.Findings {
			a.Findings[i] = r.finding(f)
		}
		a.Line = r.prose(a.Line)
		a.Notes = nil
		areas = append(areas, a)
		list = append(list, a.Findings...)
	}
	inside := struct {
		Schema    string            `json:"schema"`
		Version   string            `json:"version"`
		Findings  []finding.Finding `json:"findings"`
		Areas     []Area            `json:"areas"`
		Recording *Record           `json:"recording"`
	}{"davit.report/1", version, list, areas, rec}
	data, err := json.Marshal(inside) // escapes <, > and &, so that it cannot leave its element
	if err != nil {
		return nil, err
	}
	d := pageData{Version: version, State: res.Worst(), Findings: list, Areas: areas, Kernel: rec.Host.Kernel, Data: template.JS(data)}
	d.picture(res, areas)
	page, err := template.New("page").Funcs(template.FuncMap{"mark": func(s State) string {
		return map[State]string{OK: "✓", Warning: "!", Error: "✗"}[s]
	}}).Parse(pageText)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := page.Execute(&b, d); err != nil {
		return nil, fmt.Errorf("report page: %w", err)
	}
	return b.Bytes(), nil
}

// picture lays out the machine: cards on the left, the driver in the middle,
// engines on the right.
func (d *pageData) picture(res *Result, areas []Area) {
	y := 40
	if f := res.Facts; f != nil {
		d.Driver = "no driver"
		if f.Driver.Version != "" {
			d.Driver = "driver " + f.Driver.Version
		}
		for _, g := range f.GPUs {
			p := pageGPU{Name: g.Name, Bus: g.BusID, Y: y, Mid: y + 30, Bad: g.Node == nil}
			for i, m := range g.MIG {
				p.MIG = append(p.MIG, pageMIG{fmt.Sprintf("%d:%d", g.Index, m.Index), 10 + 38*i})
			}
			d.GPUs = append(d.GPUs, p)
			y += 70
		}
	}
	for _, a := range areas {
		if a.State != None && slices.Contains([]string{"docker", "containerd", "k3s", "podman", "cri-o"}, a.Name) {
			at := 40 + 60*len(d.Engines)
			d.Engines = append(d.Engines, pageBox{a.Name, string(a.State), at, at + 23})
		}
	}
	d.Height = max(y, 40+60*len(d.Engines), 120) + 20
}

// prose redacts a sentence of davit's own: what looks quoted (paths, names in
// quotes, addresses), and each word that was private in the record, unless the
// pages of findings use it too and it says nothing.
func (r *redactor) prose(s string) string {
	english := r.english()
	return wordsOf(s, func(w string) string {
		if strings.ContainsAny(w, "/.:@\"'=_0123456789") {
			return r.text(w)
		}
		return wordPattern.ReplaceAllStringFunc(w, func(p string) string {
			if r.seen[p] && !english[strings.ToLower(p)] {
				return r.word(p)
			}
			return p
		})
	})
}

// english are the words of davit's own texts.
func (r *redactor) english() map[string]bool {
	if r.own != nil {
		return r.own
	}
	r.own = map[string]bool{}
	pages, err := knowledge.Pages("en")
	if err != nil {
		return r.own // then more is replaced
	}
	for _, p := range pages {
		for _, w := range wordPattern.FindAllString(strings.ToLower(strings.Join([]string{p.Title, p.Summary, p.Why, p.Fix, p.Avoid, p.NotThis}, " ")), -1) {
			r.own[w] = true
		}
	}
	return r.own
}

// wordsOf maps the words between blanks.
func wordsOf(s string, f func(string) string) string {
	parts := strings.Split(s, " ")
	for i, p := range parts {
		parts[i] = f(p)
	}
	return strings.Join(parts, " ")
}

// finding redacts what a finding quotes.
func (r *redactor) finding(f finding.Finding) finding.Finding {
	f.Summary, f.Why, f.File = r.prose(f.Summary), r.prose(f.Why), r.text(f.File)
	f.Because = slices.Clone(f.Because)
	for i, b := range f.Because {
		f.Because[i] = finding.Evidence{Source: r.prose(b.Source), Value: r.text(b.Value)}
	}
	if f.Remediation != nil {
		rem := *f.Remediation
		rem.Text = r.prose(rem.Text)
		rem.Commands = slices.Clone(rem.Commands)
		for i, c := range rem.Commands {
			rem.Commands[i] = r.prose(c)
		}
		f.Remediation = &rem
	}
	return f
}
