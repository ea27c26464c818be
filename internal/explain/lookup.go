// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"davit/internal/knowledge"
)

// An Entry is what a table says of one number or name.
type Entry struct {
	Table   string `json:"table"` // CUDA, NVML, Xid
	Number  int    `json:"number"`
	Names   string `json:"names,omitempty"`
	Meaning string `json:"meaning"`
	Causes  string `json:"causes,omitempty"` // what brings it about in containers
	Do      string `json:"do,omitempty"`
	Finding string `json:"finding,omitempty"`
	Source  string `json:"source"`
}

var queryForm = regexp.MustCompile(`(?i)^\s*(cuda|curesult|cudaerror|nvml|xid)?[ :_-]*(?:runtime )?(?:error|code)?[ :_-]*[(#]?(\d{1,5})\)?\s*$`)

// Lookup finds a number or name of an error in the tables: 803, "Xid 79",
// "NVML 18", CUDA_ERROR_NO_DEVICE, cudaErrorNoDevice. A number alone is looked
// for in all of them. Nothing found is no error.
func Lookup(query string) ([]Entry, error) {
	cuda, err := knowledge.CUDAErrors()
	if err != nil {
		return nil, err
	}
	nvml, err := knowledge.NVMLErrors()
	if err != nil {
		return nil, err
	}
	xids, err := knowledge.Xids()
	if err != nil {
		return nil, err
	}
	kind, number, name := "", -1, strings.ToLower(strings.TrimSpace(query))
	if m := queryForm.FindStringSubmatch(query); m != nil {
		kind, name = strings.ToLower(m[1]), ""
		number, _ = strconv.Atoi(m[2])
	}
	wants := func(table string, n int) bool {
		return n == number && (kind == "" || strings.HasPrefix(kind, table) || table == "cuda" && kind == "curesult")
	}
	same := func(s string) bool { return s != "" && name != "" && strings.ToLower(s) == name }
	var found []Entry
	for _, e := range cuda {
		if wants("cuda", e.Code) || same(e.Driver) || same(e.Runtime) {
			names := strings.Join(slices.DeleteFunc([]string{e.Driver, e.Runtime}, func(s string) bool { return s == "" }), ", ")
			found = append(found, Entry{"CUDA", e.Code, names, e.Meaning, e.Causes, "", e.Finding, e.Source})
		}
	}
	for _, e := range nvml {
		if wants("nvml", e.Code) || same(e.Name) || same(strings.TrimPrefix(e.Name, "NVML_")) {
			found = append(found, Entry{"NVML", e.Code, e.Name, e.Meaning, e.Causes, "", e.Finding, e.Source})
		}
	}
	for _, x := range xids {
		if wants("xid", x.Number) || same(x.Name) {
			id, _ := judgeXid(x)
			if x.Meaning == "unused" {
				id = ""
			}
			cause := ""
			if x.ByProgram {
				cause = "mostly the program's own fault, not the hardware's"
			}
			found = append(found, Entry{"Xid", x.Number, x.Name, x.Meaning, cause, x.Do, id, x.Source})
		}
	}
	return found, nil
}

// Page gives the text of a finding without a log: parts that need facts are
// left out.
func Page(language, id string) (p knowledge.Page, ok bool, err error) {
	b, err := readBook(language)
	if err != nil {
		return p, false, err
	}
	p, ok = b.pages[id]
	if !ok {
		return p, false, nil
	}
	return bare(p), true, nil
}

// bare fills a page with no facts at all.
func bare(p knowledge.Page) knowledge.Page {
	v := &view{l: (&book{}).open(nil), hit: &hit{rule: &rule{}}}
	text := func(s string) string {
		return strings.ReplaceAll(strings.TrimSpace(fill(named.ReplaceAllString(inParts(s), "…"), v)), "……", "…")
	}
	p.Summary, p.Why, p.Fix, p.Avoid, p.NotThis = text(p.Summary), text(p.Why), text(p.Fix), text(p.Avoid), text(p.NotThis)
	var commands []string
	for _, c := range p.Commands {
		if s := fill("[["+c+"]]", v); s != "" {
			commands = append(commands, s)
		}
	}
	p.Commands = commands
	var confirm []string
	for _, c := range p.Confirm {
		if s := fill("[["+c+"]]", v); s != "" {
			confirm = append(confirm, s)
		}
	}
	p.Confirm = confirm
	return p
}

var (
	named = regexp.MustCompile(`\{[a-z][a-z0-9*-]*\}`)
	part  = regexp.MustCompile(`\[\[.*?\]\]`)
)

// inParts takes out the parts of a text that need a fact.
func inParts(s string) string {
	return part.ReplaceAllStringFunc(s, func(p string) string {
		if named.MatchString(p) || strings.Contains(p, "{?") {
			return ""
		}
		return p
	})
}

// Markdown is the page of a finding for docs/findings.
func Markdown(p knowledge.Page, lines []knowledge.Line) string {
	var b strings.Builder
	p = bare(p)
	fmt.Fprintf(&b, "# %s\n\n`%s` · %s", p.Title, p.ID, p.Severity)
	if p.Gate != "" {
		fmt.Fprintf(&b, " · gate: %s", p.Gate)
	}
	if p.Layer != "" {
		fmt.Fprintf(&b, " · to be mended in: %s", p.Layer)
	}
	b.WriteString("\n\n" + p.Summary + "\n")
	section := func(title, text string, commands []string) {
		if text == "" && len(commands) == 0 {
			return
		}
		fmt.Fprintf(&b, "\n## %s\n", title)
		if text != "" {
			b.WriteString("\n" + text + "\n")
		}
		if len(commands) > 0 {
			b.WriteString("\n```sh\n" + strings.Join(commands, "\n") + "\n```\n")
		}
	}
	section("Why", p.Why, nil)
	var seen []string
	for _, l := range lines {
		leads := l.Kind == knowledge.Problem && l.Finding == p.ID || l.Kind == knowledge.Harmless && p.ID == NoProblem ||
			slices.ContainsFunc(l.When, func(w knowledge.When) bool { return w.Finding == p.ID })
		if leads && len(seen) < 24 {
			seen = append(seen, l.Sample[0])
		}
	}
	if len(seen) > 0 {
		b.WriteString("\n## How it shows\n\nLines such as these, alone or together with others:\n\n```text\n" + strings.Join(seen, "\n") + "\n```\n")
	}
	section("What to do", p.Fix, p.Commands)
	if p.Risk != "" && p.Risk != "none" {
		b.WriteString("\n" + map[string]string{"restart": "This restarts something.", "reboot": "This needs a restart of the machine.", "data": "This may lose data: read it first."}[p.Risk] + "\n")
	}
	section("What is not needed", p.Avoid, nil)
	section("How to see that it is this, or mended", "", p.Confirm)
	section("When it is not this", p.NotThis, nil)
	section("Source", p.Source, nil)
	return b.String()
}
