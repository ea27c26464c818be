// SPDX-License-Identifier: Apache-2.0

// Package finding is what a person must act on: what was found, on what
// evidence, why it matters and how to mend it. Every command that judges
// something speaks in findings.
package finding

// Severity says how bad a finding is.
type Severity string

// The severities, worst first.
const (
	Error   Severity = "error"   // it does not work
	Warning Severity = "warning" // it works now, and will break
	Info    Severity = "info"    // worth knowing
	OK      Severity = "ok"      // checked, and right
)

// Finding is one thing to say. Its JSON form is schema version 1.
type Finding struct {
	ID       string   `json:"id"` // stable, such as driver-library-mismatch
	Severity Severity `json:"severity"`
	// Gate is the first of the gates from host to program that is closed:
	// hardware, module, nodes, libraries, engine, request, image, framework.
	Gate string `json:"gate,omitempty"`
	// Layer is where it must be mended: host, engine, image, container.
	Layer   string `json:"layer,omitempty"`
	Summary string `json:"summary"` // one sentence
	// Why is the cause in words, Avoid what would not help or do harm, Confirm
	// how to see that it is this, or that it is mended.
	Why         string       `json:"why,omitempty"`
	Avoid       string       `json:"avoid,omitempty"`
	Confirm     []string     `json:"confirm,omitempty"`
	File        string       `json:"file,omitempty"`
	Line        int          `json:"line,omitempty"` // from 1
	Because     []Evidence   `json:"because,omitempty"`
	Remediation *Remediation `json:"remediation,omitempty"`
	Docs        string       `json:"docs,omitempty"`
}

// Evidence is a fact that the finding stands on.
type Evidence struct {
	Source string `json:"source"` // a file, a command, a variable
	Value  string `json:"value"`
}

// Remediation is how to mend it.
type Remediation struct {
	Text     string   `json:"text"`
	Commands []string `json:"commands,omitempty"`
	Risk     string   `json:"risk,omitempty"`  // none, restart, reboot, data
	Where    string   `json:"where,omitempty"` // host, container, Dockerfile
}
