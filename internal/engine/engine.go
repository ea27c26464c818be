// SPDX-License-Identifier: Apache-2.0

// Package engine finds the configuration of container engines, plans changes
// to it, writes them so that nothing is ever half written, and takes them back.
// It starts, stops and asks no engine.
package engine

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pmezard/go-difflib/difflib"

	"davit/internal/jsonedit"
)

// Change is one thing that a plan changes.
type Change struct {
	Key string `json:"key"`           // "runtimes.nvidia.path"
	Was string `json:"was,omitempty"` // in the file's own notation; "" if there was nothing
	Now string `json:"now"`
}

// String is the change in one line.
func (c Change) String() string {
	if c.Was == "" {
		return "add " + c.Key + " = " + c.Now
	}
	return "change " + c.Key + " from " + c.Was + " to " + c.Now
}

// ConfigError says where a configuration file cannot be used as it is.
type ConfigError struct {
	File         string
	Line, Column int // from 1
	Msg          string
}

// Error is FILE:LINE:COLUMN and the sentence.
func (e *ConfigError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Msg)
}

// parse reads a JSON configuration, whose outermost value must be an object.
func parse(file string, data []byte) (*jsonedit.Doc, error) {
	doc, err := jsonedit.Parse(data)
	if err != nil {
		var at *jsonedit.SyntaxError
		if errors.As(err, &at) {
			return nil, &ConfigError{file, at.Line, at.Column, at.Msg}
		}
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if root := doc.Root(); root.Kind() != jsonedit.Object {
		return nil, misplaced(file, root, "the file should hold an object")
	}
	return doc, nil
}

// misplaced is a ConfigError about a value.
func misplaced(file string, v jsonedit.Value, msg string) error {
	line, column := v.Position()
	return &ConfigError{file, line, column, msg}
}

// Diff is a unified diff of a file before and after a change, "" without one.
func Diff(file string, was, now []byte) string {
	text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: lines(was), B: lines(now), FromFile: file, ToFile: file, Context: 3,
	})
	if err != nil {
		return "" // it writes into memory
	}
	return text
}

// lines splits a text for a diff, which needs a line break at each end.
func lines(data []byte) []string {
	if len(data) == 0 {
		return nil
	}
	all := strings.SplitAfter(string(data), "\n")
	if last := len(all) - 1; all[last] == "" {
		all = all[:last]
	} else {
		all[last] += "\n\\ No newline at end of file\n"
	}
	return all
}
