// SPDX-License-Identifier: Apache-2.0

package knowledge

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// The texts, one folder for each language; a language beside "en" may hold
// some of the pages, and the keys that are not words come from "en".
//
//go:embed findings
var findingFiles embed.FS

//go:embed errors.lines.txt
var lineTable string

// Page is what is known of one finding. Texts may hold {name}, which stands
// for a fact from the log or host, and [[ … ]], a part that is left out where
// one of its facts is missing; {?name} and {!name} print nothing and ask only
// whether a fact is there or not.
type Page struct {
	ID       string
	Severity string // error, warning, info, ok
	Gate     string
	Layer    string
	Title    string // what a page and a list call it
	Summary  string // one sentence
	Why      string
	Fix      string
	Commands []string
	Risk     string // none, restart, reboot, data
	Where    string // host, container, Dockerfile
	Avoid    string // what not to do
	Confirm  []string
	NotThis  string // when it is something else
	Source   string
}

// Pages are all findings that explain knows, in the order of the files.
func Pages(language string) ([]Page, error) {
	files, err := fs.Glob(findingFiles, path.Join("findings", language, "*.txt"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no texts of findings in language %q", language)
	}
	var pages []Page
	for _, f := range files {
		text, err := findingFiles.ReadFile(f)
		if err != nil {
			return nil, err
		}
		list, err := parsePages(f, string(text))
		if err != nil {
			return nil, err
		}
		pages = append(pages, list...)
	}
	return pages, nil
}

func parsePages(name, text string) ([]Page, error) {
	var pages []Page
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "//") {
			continue
		}
		if id, ok := strings.CutPrefix(line, "# "); ok {
			pages = append(pages, Page{ID: id, Severity: "error"})
			continue
		}
		if len(pages) == 0 {
			return nil, fmt.Errorf("%s:%d: text before the first id", name, n)
		}
		p := &pages[len(pages)-1]
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			p.Commands = append(p.Commands, command)
			continue
		}
		key, value, _ := strings.Cut(line, ": ")
		if key == "confirm" {
			p.Confirm = append(p.Confirm, value)
			continue
		}
		field := map[string]*string{"severity": &p.Severity, "gate": &p.Gate, "layer": &p.Layer, "title": &p.Title, "summary": &p.Summary,
			"why": &p.Why, "fix": &p.Fix, "risk": &p.Risk, "where": &p.Where, "avoid": &p.Avoid, "not-this": &p.NotThis, "source": &p.Source}[key]
		if field == nil || value == "" {
			return nil, fmt.Errorf("%s:%d: unknown key or no value: %q", name, n, line)
		}
		if *field != "" && key != "severity" {
			return nil, fmt.Errorf("%s:%d: %s twice", name, n, key)
		}
		*field = value
	}
	return pages, nil
}

// LineKind says what a line of a log tells.
type LineKind string

// The kinds of lines.
const (
	Problem  LineKind = "problem"  // something is wrong; Finding says what
	Harmless LineKind = "harmless" // looks like trouble with the GPU and is not
	Good     LineKind = "good"     // shows that the GPU is there or used
	Fact     LineKind = "fact"     // tells something that decides between causes
)

// Line is a pattern of a log line.
type Line struct {
	Name    string
	Kind    LineKind
	Rank    int      // of a problem: 1 tells the root cause, 2 a cause, 3 a symptom, 4 a consequence
	Finding string   // of a problem
	Find    []string // lower-case literals, one of which must occur
	Match   string   // regular expression for the line around it; named groups are facts
	Unless  string   // regular expression for lines that are not meant
	After   string   // regular expression with more facts, for this or one of the next lines; needed by a fact, and where there is no Match
	Join    bool     // the kernel breaks the sentence over lines
	Set     []string // facts that hold when the line is there
	When    []When
	Note    string // of a harmless or good line: one sentence
	Sample  []string
	Miss    []string // near misses, for tests
	Source  string
}

// When changes the finding if facts hold.
type When struct {
	Facts   []string // "!name" for a fact that must not hold
	Finding string
}

// Lines is the table of log lines, and the date for which it is true.
func Lines() (list []Line, date string, err error) {
	n := 0
	for text := range strings.Lines(lineTable) {
		n++
		text = strings.TrimSpace(text)
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		key, value, _ := strings.Cut(text, " ")
		value = strings.TrimSpace(value)
		if kind := LineKind(key); kind == Problem || kind == Harmless || kind == Good || kind == Fact {
			l := Line{Kind: kind}
			w := strings.Fields(value)
			if kind == Problem {
				if len(w) != 3 {
					return nil, "", fmt.Errorf("errors.lines:%d: want problem NAME RANK FINDING", n)
				}
				if l.Rank, err = strconv.Atoi(w[1]); err != nil {
					return nil, "", fmt.Errorf("errors.lines:%d: %w", n, err)
				}
				l.Finding = w[2]
			} else if len(w) != 1 {
				return nil, "", fmt.Errorf("errors.lines:%d: want %s NAME", n, kind)
			}
			l.Name = w[0]
			list = append(list, l)
			continue
		}
		if len(list) == 0 {
			return nil, "", fmt.Errorf("errors.lines:%d: text before the first line", n)
		}
		if err := list[len(list)-1].set(key, value); err != nil {
			return nil, "", fmt.Errorf("errors.lines:%d: %w", n, err)
		}
	}
	return list, asOf(lineTable), nil
}

func (l *Line) set(key, value string) error {
	switch key {
	case "find":
		l.Find = append(l.Find, strings.ToLower(value))
	case "match":
		l.Match = value
	case "unless":
		l.Unless = value
	case "after":
		l.After = value
	case "join":
		l.Join = true
	case "set":
		l.Set = append(l.Set, strings.Fields(value)...)
	case "when":
		facts, id, ok := strings.Cut(value, " -> ")
		if !ok {
			return fmt.Errorf("when %q: want FACTS -> FINDING", value)
		}
		l.When = append(l.When, When{strings.Fields(facts), id})
	case "note":
		l.Note = value
	case "sample":
		l.Sample = append(l.Sample, value)
	case "miss":
		l.Miss = append(l.Miss, value)
	case "from":
		l.Source = value
	default:
		return fmt.Errorf("unknown key %q", key)
	}
	return nil
}
