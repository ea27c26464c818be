// SPDX-License-Identifier: Apache-2.0

// Package explain reads logs and says what is wrong with the GPU in them, if
// anything: the first cause and not the noise around it. What it knows is in
// the tables of package knowledge; here are the reading, which takes constant
// memory whatever the log's size, and the choice between causes.
package explain

import (
	"fmt"
	"io"
	"regexp"

	"davit/internal/finding"
	"davit/internal/knowledge"
)

// Options are what Explain may know beside the log.
type Options struct {
	// Name of the log, for evidence.
	Name string
	// Language of the texts; "en" if empty.
	Language string
	// Facts of the host on which the log was made, where they are known:
	// driver (version), cuda (the newest that it has), gpu (name). What the log
	// says wins.
	Facts map[string]string
}

// Explain says what a log tells: one finding for the first cause, or one with
// the id no-problem or unknown. Any bytes are a log; the error is the reader's.
func Explain(r io.Reader, o Options) ([]finding.Finding, error) {
	l, err := New(o)
	if err != nil {
		return nil, err
	}
	if err := l.Read(o.Name, r); err != nil {
		return nil, err
	}
	return l.Findings(), nil
}

// A book is what the tables tell, ready for use; it does not change.
type book struct {
	lines    []knowledge.Line
	owners   [][]int // lines of each literal
	auto     *automaton
	pages    map[string]knowledge.Page
	branches []knowledge.Branch
	xids     map[string]knowledge.Xid
	codes    map[string]string // finding of each CUDA number
}

// Log collects what one or more logs of the same trouble tell.
type Log struct {
	*book
	rules []*rule
	order int // counts hits, over all files
	hits  []*hit
	facts map[string][]fact // values that were told
	flags map[string]fact   // where a thing that only holds or not was first told
	runs  []run
}

// A rule is a line of the table at work.
type rule struct {
	knowledge.Line
	match, unless, after *regexp.Regexp // compiled when first needed
	compiled             bool
	tries, matched       int
	file                 string // where it was tried last
	line                 int
	at                   int64
	hitLine              int
}

// A hit is a line that a rule knows.
type hit struct {
	rule  *rule
	order int
	file  string
	line  int
	text  string
	vars  map[string]string
}

// A fact is something that a log, a command line in it, or the host tells.
type fact struct {
	value string
	order int
	file  string
	line  int
	text  string
}

// New makes a Log that knows nothing yet but what the options tell.
func New(o Options) (*Log, error) {
	b, err := readBook(o.Language)
	if err != nil {
		return nil, err
	}
	return b.open(o.Facts), nil
}

func readBook(language string) (*book, error) {
	if language == "" {
		language = "en"
	}
	b := &book{pages: map[string]knowledge.Page{}, xids: map[string]knowledge.Xid{}}
	pages, err := knowledge.Pages(language)
	if err != nil {
		return nil, err
	}
	for _, p := range pages {
		b.pages[p.ID] = p
	}
	if b.branches, err = knowledge.Branches(); err != nil {
		return nil, err
	}
	xids, err := knowledge.Xids()
	if err != nil {
		return nil, err
	}
	for _, x := range xids {
		b.xids[fmt.Sprint(x.Number)] = x
	}
	if b.codes, err = readCodes(); err != nil {
		return nil, err
	}
	if b.lines, _, err = knowledge.Lines(); err != nil {
		return nil, err
	}
	number := map[string]int{}
	var literals []string
	for i, line := range b.lines {
		for _, f := range line.Find {
			n, ok := number[f]
			if !ok {
				n = len(literals)
				number[f] = n
				literals = append(literals, f)
				b.owners = append(b.owners, nil)
			}
			b.owners[n] = append(b.owners[n], i)
		}
	}
	b.auto = build(literals)
	return b, nil
}

// readCodes gives the findings of CUDA's numbers, those of the runtime before
// CUDA 10.1 included.
func readCodes() (map[string]string, error) {
	list, err := knowledge.CUDAErrors()
	if err != nil {
		return nil, err
	}
	codes := map[string]string{"8": "binary-lacks-gpu-architecture", "48": "binary-lacks-gpu-architecture", "59": "program-fault-on-gpu", "77": "program-fault-on-gpu"}
	for _, e := range list {
		if e.Finding != "" {
			codes[fmt.Sprint(e.Code)] = e.Finding
		}
	}
	return codes, nil
}

func (b *book) open(facts map[string]string) *Log {
	l := &Log{book: b, facts: map[string][]fact{}, flags: map[string]fact{}}
	for _, line := range b.lines {
		l.rules = append(l.rules, &rule{Line: line})
	}
	for name, value := range facts {
		l.facts["host-"+name] = []fact{{value: value, file: "this host"}}
	}
	return l
}

// compile makes the rule's expressions; the tables' test holds that they are
// right, so an expression that is not matches nothing.
func (r *rule) compile() {
	r.compiled = true
	get := func(s string) *regexp.Regexp {
		if s == "" {
			return nil
		}
		re, err := regexp.Compile("(?i)" + s)
		if err != nil {
			return regexp.MustCompile(`$^x`)
		}
		return re
	}
	r.match, r.unless, r.after = get(r.Match), get(r.Unless), get(r.After)
}
