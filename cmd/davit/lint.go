// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	"github.com/spf13/cobra"

	"davit/internal/finding"
	"davit/internal/lint"
)

// maxLintFile is more than anybody writes by hand.
const maxLintFile = 4 << 20

type lintFlags struct {
	json, sarif, github bool
	strict, noIgnore    bool
	fix, write          bool
	threshold           string
	listAllRules        bool
}

func newLint() *cobra.Command {
	var o lintFlags
	c := &cobra.Command{
		Use:   "lint [flags] [FILE…]",
		Short: "What is wrong with GPUs in Dockerfiles, compose files and manifests, before they run",
		Long: "Reads Dockerfiles (with the scripts and requirement files that they copy and use),\n" +
			"compose files, Kubernetes manifests, devcontainer.json and daemon.json, and says what\n" +
			"will not work with a GPU, why, and what to write instead. Without files, or with a\n" +
			"folder, it finds them. Each rule has a page in docs/rules.\n\n" +
			"A line \"# davit: ignore=ID reason\" above an instruction, or behind a line, silences\n" +
			"one rule there; \"# davit: ignore-file=ID reason\" does so for the file.\n\n" +
			"--fix shows as a diff what can be mended by machine; --write applies it.",
		Example: "  davit lint\n  davit lint --strict Dockerfile compose.yaml\n  davit lint --fix Dockerfile\n  davit lint --fix --write Dockerfile\n  davit lint --sarif > lint.sarif",
		RunE:    func(c *cobra.Command, args []string) error { return runLint(c, args, o) },
	}
	f := c.Flags()
	f.BoolVar(&o.json, "json", false, "one JSON object, schema davit.lint/1")
	f.BoolVar(&o.sarif, "sarif", false, "SARIF 2.1.0")
	f.BoolVar(&o.github, "github", false, "annotations for GitHub's workflows")
	f.BoolVar(&o.strict, "strict", false, "exit status 1 for warnings")
	f.BoolVar(&o.noIgnore, "no-ignore", false, "heed no ignore directive")
	f.BoolVar(&o.fix, "fix", false, "show what can be mended by machine, as a diff")
	f.BoolVarP(&o.write, "write", "w", false, "with --fix: write the files")
	f.StringVar(&o.threshold, "threshold", "", "leave out what is milder: error, warning or info")
	f.BoolVar(&o.listAllRules, "rules", false, "list all rules")
	return c
}

func runLint(c *cobra.Command, args []string, o lintFlags) error {
	forms := 0
	for _, on := range []bool{o.json, o.sarif, o.github} {
		if on {
			forms++
		}
	}
	threshold := finding.Severity(o.threshold)
	switch {
	case forms > 1:
		return &exitError{exitUsage, errors.New("--json, --sarif and --github exclude each other")}
	case o.write && !o.fix:
		return &exitError{exitUsage, errors.New("--write goes with --fix")}
	case !slices.Contains([]finding.Severity{"", finding.Error, finding.Warning, finding.Info}, threshold):
		return &exitError{exitUsage, fmt.Errorf("--threshold %q: want error, warning or info", o.threshold)}
	}
	out := c.OutOrStdout()
	if o.listAllRules {
		for _, r := range lint.Rules() {
			fmt.Fprintf(out, "%-32s %-8s %s\n", r.ID, r.Severity, r.Title)
		}
		return nil
	}
	l, err := lint.New(lint.Options{Read: readLimited, NoIgnore: o.noIgnore, Threshold: threshold})
	if err != nil {
		return &exitError{exitNoAnswer, err}
	}
	names, err := lintFiles(args)
	if err != nil {
		return &exitError{exitNoAnswer, err}
	}
	all := []finding.Finding{}
	for _, name := range names {
		text, err := readLimited(name)
		if err != nil {
			return &exitError{exitNoAnswer, err}
		}
		if o.fix {
			to := out
			if forms > 0 {
				to = c.ErrOrStderr() // standard output has the findings alone
			}
			if text, err = fixFile(to, l, name, text, o.write); err != nil {
				return err
			}
		}
		for _, f := range l.File(name, text) {
			if !slices.ContainsFunc(all, func(x finding.Finding) bool {
				return x.ID == f.ID && x.File == f.File && x.Line == f.Line && x.Summary == f.Summary
			}) {
				all = append(all, f)
			}
		}
	}
	if err := printLint(out, names, all, o); err != nil {
		return err
	}
	return verdict(all, o.strict)
}

func printLint(out io.Writer, names []string, all []finding.Finding, o lintFlags) error {
	switch {
	case o.json:
		return printJSON(out, struct {
			Schema   string            `json:"schema"`
			Files    []string          `json:"files"`
			Findings []finding.Finding `json:"findings"`
		}{"davit.lint/1", names, all})
	case o.sarif:
		return printJSON(out, lint.SARIF(version, all))
	case o.github:
		for _, f := range all {
			fmt.Fprintln(out, lint.GitHub(f))
		}
		return nil
	case o.fix && len(all) == 0:
		return nil
	}
	marks := map[finding.Severity]string{finding.Error: "✗", finding.Warning: "!", finding.Info: "·"}
	for _, f := range all {
		fmt.Fprintf(out, "%s %s:%d: %s  [%s]\n", marks[f.Severity], f.File, f.Line, f.Summary, f.ID)
		fmt.Fprintf(out, "  fix: %s\n", f.Remediation.Text)
	}
	count := func(s finding.Severity) (n int) {
		for _, f := range all {
			if f.Severity == s {
				n++
			}
		}
		return n
	}
	switch {
	case len(names) == 0:
		fmt.Fprintln(out, "no Dockerfile, compose file, manifest, devcontainer.json or daemon.json here")
	case len(all) == 0:
		fmt.Fprintf(out, "✓ nothing found in %d files\n", len(names))
	default:
		fmt.Fprintf(out, "%d errors, %d warnings, %d notes in %d files\n", count(finding.Error), count(finding.Warning), count(finding.Info), len(names))
	}
	return nil
}

// fixFile shows, and with write makes, what can be mended; it gives the text
// that the findings are then about.
func fixFile(w io.Writer, l *lint.Linter, name string, text []byte, write bool) ([]byte, error) {
	fixed := l.Fix(name, text)
	if bytes.Equal(fixed.Text, text) {
		return text, nil
	}
	diff, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: difflib.SplitLines(string(text)), B: difflib.SplitLines(string(fixed.Text)), FromFile: name, ToFile: name, Context: 3})
	if err != nil {
		return nil, &exitError{exitNoAnswer, err}
	}
	fmt.Fprint(w, diff)
	for _, n := range fixed.Notes {
		fmt.Fprintf(w, "%s: %s\n", name, n)
	}
	if !write {
		fmt.Fprintf(w, "%s: not written; --write does\n", name)
		return fixed.Text, nil
	}
	if err := replaceFile(name, fixed.Text); err != nil {
		return nil, &exitError{exitErrors, err}
	}
	fmt.Fprintf(w, "%s: written\n", name)
	return fixed.Text, nil
}

// replaceFile writes a file by temporary file and rename, its mode kept; a
// link stays a link.
func replaceFile(name string, text []byte) error {
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		return err
	}
	info, err := os.Stat(real)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(real), ".davit-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(text)
	err = errors.Join(err, tmp.Chmod(info.Mode().Perm()), tmp.Sync(), tmp.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(tmp.Name(), real)
}

// readLimited reads an ordinary file that is not too long.
func readLimited(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() || info.Size() > maxLintFile {
		return nil, fmt.Errorf("read %s: not a file that lint reads", name)
	}
	return io.ReadAll(io.LimitReader(f, maxLintFile))
}

// Folders that hold other people's files.
var skipped = []string{".git", "node_modules", "vendor", ".venv", "venv", "__pycache__", ".tox", "site-packages", ".terraform", "third_party"}

// lintFiles gives the files to read: those named, and what is found below
// folders.
func lintFiles(args []string) ([]string, error) {
	if len(args) == 0 {
		args = []string{"."}
	}
	names := []string{}
	for _, arg := range args {
		info, err := os.Stat(arg)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			names = append(names, arg)
			continue
		}
		err = filepath.WalkDir(arg, func(name string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return nil // what cannot be read is not for us
			case d.IsDir() && name != arg && (slices.Contains(skipped, d.Name()) || strings.HasPrefix(d.Name(), ".") && d.Name() != ".devcontainer"):
				return fs.SkipDir
			case d.Type().IsRegular() && found(name):
				names = append(names, name)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// found says whether a file below a folder is one to read. Requirement files
// and scripts are read where a Dockerfile uses them.
func found(name string) bool {
	ext := strings.ToLower(filepath.Ext(name))
	base := strings.ToLower(filepath.Base(name))
	yaml := ext == ".yaml" || ext == ".yml"
	if !yaml && !strings.Contains(base, "docker") && !strings.Contains(base, "containerfile") && base != "daemon.json" && !strings.Contains(base, "devcontainer") {
		return false
	}
	var text []byte
	if yaml {
		var err error
		if text, err = readLimited(name); err != nil {
			return false
		}
	}
	switch lint.KindOf(name, text) {
	case lint.Unknown, lint.Requirements, lint.Script:
		return false
	}
	return true
}
