// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"davit/internal/explain"
	"davit/internal/finding"
	"davit/internal/knowledge"
)

func newExplain() *cobra.Command {
	var root string
	var asJSON, strict bool
	c := &cobra.Command{
		Use:   "explain [flags] [FILE… | - | ERROR | FINDING]",
		Short: "What a log or an error means, and what to do",
		Long: "Reads logs of any kind: docker, containerd, kubelet, the kernel, PyTorch, TensorFlow,\n" +
			"FFmpeg and so on, from files or standard input, and says what is wrong with the GPU, if\n" +
			"anything. Put the command that you typed and its output into it; versions and other\n" +
			"facts in the log are heeded. Several files are taken as one story. Nothing is sent\n" +
			"anywhere.\n\n" +
			"An argument that is no file is an error to look up (803, \"Xid 79\",\n" +
			"CUDA_ERROR_NO_DEVICE), a finding whose page is shown, or the message itself.",
		Example: "  docker run --gpus all debian nvidia-smi 2>&1 | davit explain\n" +
			"  dmesg | davit explain\n  davit explain train.log\n  davit explain 803\n  davit explain \"Xid 79\"\n" +
			"  davit explain \"could not select device driver\"\n  davit explain cdi-spec-stale",
		RunE: func(c *cobra.Command, args []string) error {
			o := explain.Options{}
			if c.Flags().Changed("root") {
				var err error
				if o.Facts, err = hostFacts(root); err != nil {
					return err
				}
			}
			if looked, err := lookUp(c.OutOrStdout(), args, asJSON); looked || err != nil {
				return err
			}
			findings, err := readLogs(c.InOrStdin(), args, o)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(c.OutOrStdout(), struct {
					Schema   string            `json:"schema"`
					AsOf     string            `json:"asOf"`
					Findings []finding.Finding `json:"findings"`
				}{"davit.explain/1", knowledge.ErrorsAsOf(), findings})
			} else {
				for _, f := range findings {
					explainText(c.OutOrStdout(), f)
				}
			}
			if err != nil {
				return err
			}
			return verdict(findings, strict)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object, schema davit.explain/1")
	c.Flags().BoolVar(&strict, "strict", false, "exit status 1 for warnings")
	c.Flags().StringVar(&root, "root", "/", "the host on which the log was made: its driver and GPUs are heeded too")
	return c
}

// hostFacts are what explain wants to know of a host.
func hostFacts(root string) (map[string]string, error) {
	_, _, f, err := openHost(root)
	if err != nil {
		return nil, err
	}
	facts := map[string]string{}
	if f.Driver.Version != "" {
		facts["driver"] = f.Driver.Version
	}
	if f.Driver.LibraryVersion != "" {
		facts["library-version"] = f.Driver.LibraryVersion
	}
	if f.Driver.CUDA != "" {
		facts["have"] = f.Driver.CUDA
	}
	if len(f.GPUs) > 0 {
		facts["gpu"] = f.GPUs[0].Name
	}
	return facts, nil
}

// lookUp answers arguments that are no files but name something.
func lookUp(w io.Writer, args []string, asJSON bool) (bool, error) {
	if len(args) == 0 || slices.Contains(args, "-") {
		return false, nil
	}
	for _, a := range args {
		if _, err := os.Stat(a); !errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
	}
	query := strings.Join(args, " ")
	page, isPage, err := explain.Page("", query)
	if err != nil {
		return true, &exitError{exitNoAnswer, err}
	}
	entries, err := explain.Lookup(query)
	if err != nil {
		return true, &exitError{exitNoAnswer, err}
	}
	if !isPage && len(entries) == 0 {
		return false, nil
	}
	if asJSON {
		var p any
		if isPage {
			p = pageJSON(page)
		}
		return true, printJSON(w, struct {
			Schema  string          `json:"schema"`
			AsOf    string          `json:"asOf"`
			Errors  []explain.Entry `json:"errors,omitempty"`
			Finding any             `json:"finding,omitempty"`
		}{"davit.explain.lookup/1", knowledge.ErrorsAsOf(), entries, p})
	}
	if isPage {
		pageText(w, page)
		return true, nil
	}
	for i, e := range entries {
		if i > 0 {
			fmt.Fprintln(w)
		}
		entryText(w, e)
	}
	return true, nil
}

// pageJSON is a finding that stands on no evidence.
func pageJSON(p knowledge.Page) finding.Finding {
	return finding.Finding{ID: p.ID, Severity: finding.Severity(p.Severity), Gate: p.Gate, Layer: p.Layer, Summary: p.Summary,
		Why: p.Why, Avoid: p.Avoid, Confirm: p.Confirm,
		Remediation: &finding.Remediation{Text: p.Fix, Commands: p.Commands, Risk: p.Risk, Where: p.Where}, Docs: "docs/findings/" + p.ID + ".md"}
}

func entryText(w io.Writer, e explain.Entry) {
	fmt.Fprintf(w, "%s %d, %s: %s\n", e.Table, e.Number, e.Names, e.Meaning)
	if e.Causes != "" && e.Causes != "none" {
		fmt.Fprintf(w, "  causes: %s\n", e.Causes)
	}
	if e.Do != "" {
		fmt.Fprintf(w, "  do:     %s\n", e.Do)
	}
	if e.Finding != "" {
		fmt.Fprintf(w, "  more:   davit explain %s\n", e.Finding)
	}
}

// readLogs reads files, standard input, or the message that was given as an
// argument.
func readLogs(stdin io.Reader, args []string, o explain.Options) ([]finding.Finding, error) {
	log, err := explain.New(o)
	if err != nil {
		return nil, &exitError{exitNoAnswer, err}
	}
	if len(args) == 0 {
		args = []string{"-"}
	}
	for _, name := range args {
		err := func() error {
			if name == "-" {
				return log.Read("", stdin)
			}
			f, err := os.Open(name)
			if errors.Is(err, fs.ErrNotExist) && len(args) == 1 && strings.ContainsAny(name, " \n") {
				return log.Read("", strings.NewReader(name))
			}
			if err != nil {
				return err
			}
			defer f.Close()
			return log.Read(name, f)
		}()
		if err != nil {
			return nil, &exitError{exitNoAnswer, fmt.Errorf("%w%s", err, neither(err, args))}
		}
	}
	return log.Findings(), nil
}

func neither(err error, args []string) string {
	if errors.Is(err, fs.ErrNotExist) && len(args) == 1 && !strings.Contains(args[0], "/") {
		return ", and no error or finding of that name either"
	}
	return ""
}

// explainText says verdict, cause and what to do in the first three lines.
func explainText(w io.Writer, f finding.Finding) {
	marks := map[finding.Severity]string{finding.Error: "✗", finding.Warning: "!", finding.Info: "·", finding.OK: "✓"}
	fmt.Fprintf(w, "%s %s  [%s]\n", marks[f.Severity], f.Summary, f.ID)
	if f.Why != "" {
		fmt.Fprintf(w, "  why:   %s\n", f.Why)
	}
	if r := f.Remediation; r != nil {
		fmt.Fprintf(w, "  do:    %s\n", r.Text)
		for _, c := range r.Commands {
			fmt.Fprintf(w, "           %s\n", c)
		}
		if r.Risk != "" && r.Risk != "none" {
			fmt.Fprintf(w, "         (%s, on the %s)\n", map[string]string{"restart": "restarts something", "reboot": "restarts the machine", "data": "may lose data"}[r.Risk], r.Where)
		}
	}
	for i, b := range f.Because {
		label := "seen:  "
		if i > 0 {
			label = "       "
		}
		fmt.Fprintf(w, "  %s%s: %s\n", label, b.Source, b.Value)
	}
	if f.Avoid != "" {
		fmt.Fprintf(w, "  mind:  %s\n", f.Avoid)
	}
	for i, c := range f.Confirm {
		label := "check: "
		if i > 0 {
			label = "       "
		}
		fmt.Fprintf(w, "  %s%s\n", label, c)
	}
	if f.Gate != "" {
		fmt.Fprintf(w, "  gate:  %s is the first that is closed; those behind it were not reached\n", f.Gate)
	}
	if f.ID != explain.NoProblem && f.ID != explain.Unknown {
		fmt.Fprintf(w, "  more:  davit explain %s\n", f.ID)
	}
}

func pageText(w io.Writer, p knowledge.Page) {
	fmt.Fprintf(w, "%s  [%s, %s]\n\n%s\n", p.Title, p.ID, p.Severity, p.Summary)
	if p.Why != "" {
		fmt.Fprintf(w, "\nwhy\n  %s\n", p.Why)
	}
	fmt.Fprintf(w, "\nwhat to do\n  %s\n", p.Fix)
	for _, c := range p.Commands {
		fmt.Fprintf(w, "    %s\n", c)
	}
	if p.Avoid != "" {
		fmt.Fprintf(w, "\nwhat is not needed\n  %s\n", p.Avoid)
	}
	if len(p.Confirm) > 0 {
		fmt.Fprintf(w, "\nhow to check\n  %s\n", strings.Join(p.Confirm, "\n  "))
	}
	if p.NotThis != "" {
		fmt.Fprintf(w, "\nwhen it is not this\n  %s\n", p.NotThis)
	}
}
