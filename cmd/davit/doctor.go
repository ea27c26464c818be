// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"davit/internal/doctor"
	"davit/internal/finding"
	"davit/internal/rootfs"
	"davit/internal/simulate"
)

// doctorFlags are what doctor was asked.
type doctorFlags struct {
	root, host, fix                string
	set                            []string
	asJSON, strict, verbose, asked bool
}

func newDoctor() *cobra.Command {
	var o doctorFlags
	c := &cobra.Command{
		Use:   "doctor [flags] [FILE…]",
		Short: "Why containers get no GPU on this host, and what to do",
		Long: "Examines the host from its hardware to its engines, by reading files; it runs nothing\n" +
			"and needs no container. What is wrong is said first, with its fix; a cause is told once.\n" +
			"Files given as arguments (daemon.json, containerd's or NVIDIA's config.toml, a CDI\n" +
			"specification, an OCI hook) are examined by themselves.",
		Example: "  davit doctor\n  davit doctor -v --ask\n  davit doctor --root /srv/host --json\n  davit doctor --host report.html\n" +
			"  davit doctor --fix=plan > mend.sh\n  davit doctor /etc/docker/daemon.json",
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, args) },
	}
	f := c.Flags()
	f.StringVar(&o.root, "root", "/", rootFlagUsage)
	f.StringVar(&o.host, "host", "", "examine the host of a report (davit report) or recording instead")
	f.StringVar(&o.fix, "fix", "", "mend what is safe and reversible; --fix=plan prints a script instead")
	f.Lookup("fix").NoOptDefVal = "safe"
	f.StringArrayVar(&o.set, "set", nil, "a fact instead of the detected one, such as driver.version=550.120: "+strings.Join(doctor.Settable, ", "))
	f.BoolVar(&o.asJSON, "json", false, "one JSON object, schema davit.doctor/1")
	f.BoolVar(&o.strict, "strict", false, "exit status 1 for warnings")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "everything that was looked at")
	f.BoolVar(&o.asked, "ask", false, "ask the engines too (docker info, podman --version …), which takes longer")
	return c
}

func (o *doctorFlags) run(c *cobra.Command, args []string) error {
	if o.fix != "" && o.fix != "safe" && o.fix != "plan" {
		return &exitError{exitUsage, fmt.Errorf("--fix=%s: want --fix or --fix=plan", o.fix)}
	}
	if n := len(args) > 0; n && (o.host != "" || c.Flags().Changed("root")) || o.host != "" && c.Flags().Changed("root") {
		return &exitError{exitUsage, errors.New("want one of --root, --host and files")}
	}
	if o.fix == "safe" && (o.host != "" || len(args) > 0 || filepath.Clean(o.root) != "/") {
		return &exitError{exitUsage, errors.New("--fix mends this machine alone; --fix=plan prints what to do elsewhere")}
	}
	options := doctor.Options{Set: map[string]string{}}
	for _, s := range o.set {
		name, value, ok := strings.Cut(s, "=")
		if !ok || !slices.Contains(doctor.Settable, name) {
			return &exitError{exitUsage, fmt.Errorf("--set %s: want NAME=VALUE, with a name of %s", s, strings.Join(doctor.Settable, ", "))}
		}
		options.Set[name] = value
	}
	dir, names, done, err := o.folder(args)
	if err != nil {
		return err
	}
	defer done()
	if o.asked && dir == "/" {
		options.Commands = ask(c.Context())
	}
	res, err := examine(dir, options)
	if err != nil {
		return err
	}
	rename(res, names)
	switch {
	case o.fix == "plan":
		planScript(c.OutOrStdout(), res.Findings())
		return nil
	case o.fix == "safe":
		if err := mend(c.OutOrStdout(), dir, res); err != nil {
			return err
		}
	}
	if o.asJSON {
		if err := doctorJSON(c.OutOrStdout(), res); err != nil {
			return err
		}
	} else {
		doctorText(c.OutOrStdout(), res, o.verbose)
	}
	switch worst := res.Worst(); {
	case worst == doctor.Error:
		return &exitError{exitErrors, nil}
	case worst == doctor.Warning && o.strict:
		return &exitError{exitWarnings, nil}
	}
	return nil
}

// folder is the folder to examine. names says, for files that were given by
// themselves, what they are called; done removes what was made.
func (o *doctorFlags) folder(args []string) (dir string, names map[string]string, done func(), err error) {
	done = func() {}
	if o.host == "" && len(args) == 0 {
		return o.root, nil, done, nil
	}
	tmp, err := os.MkdirTemp("", "davit-doctor-")
	if err != nil {
		return "", nil, done, &exitError{exitNoAnswer, err}
	}
	done = func() { os.RemoveAll(tmp) }
	dir = filepath.Join(tmp, "host")
	if o.host != "" {
		err = unpackReport(o.host, dir)
	} else {
		names, err = placeFiles(args, dir)
	}
	if err != nil {
		done()
		return "", nil, func() {}, &exitError{exitNoAnswer, err}
	}
	return dir, names, done, nil
}

func unpackReport(file, dir string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	recording, err := doctor.Recording(text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return simulate.Unpack(recording, dir)
}

// placeFiles lays files where they usually are.
func placeFiles(args []string, dir string) (map[string]string, error) {
	names := map[string]string{}
	for _, a := range args {
		text, err := os.ReadFile(a)
		if err != nil {
			return nil, err
		}
		place, ok := doctor.Place(a, text)
		if !ok {
			return nil, fmt.Errorf("%s: not a file that doctor knows; logs go to davit explain", a)
		}
		if _, twice := names[place]; twice {
			return nil, fmt.Errorf("%s: a second file of the same kind", a)
		}
		names[place] = a
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, place)), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, place), text, 0o644); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// examine reads the configuration of the host and examines it.
func examine(dir string, o doctor.Options) (*doctor.Result, error) {
	root, err := rootfs.Open(dir)
	if err != nil {
		return nil, &exitError{exitNoAnswer, err}
	}
	config, err := loadConfig(root)
	if err != nil {
		o.ConfigError = err
	}
	o.DriverRoot = config.DriverRoot
	res, err := doctor.Examine(root, o)
	if err != nil {
		return nil, &exitError{exitNoAnswer, err}
	}
	return res, nil
}

// ask runs the few programs that tell more than files, each for a short time.
func ask(ctx context.Context) (list []doctor.Command) {
	for _, argv := range doctor.Asked {
		limit, cancel := context.WithTimeout(ctx, 5*time.Second)
		out, err := exec.CommandContext(limit, argv[0], argv[1:]...).Output()
		cancel()
		if err == nil || len(out) > 0 {
			list = append(list, doctor.Command{Argv: argv, Stdout: string(out)})
		}
	}
	return list
}

// rename gives files back the names that they were given by.
func rename(res *doctor.Result, names map[string]string) {
	if len(names) == 0 {
		return
	}
	var pairs []string
	for place, name := range names {
		pairs = append(pairs, place, name)
	}
	r := strings.NewReplacer(pairs...)
	for i := range res.Areas {
		res.Areas[i].Line = r.Replace(res.Areas[i].Line)
		for k := range res.Areas[i].Findings {
			f := &res.Areas[i].Findings[k]
			f.File, f.Summary, f.Why = r.Replace(f.File), r.Replace(f.Summary), r.Replace(f.Why)
			for b := range f.Because {
				f.Because[b].Source, f.Because[b].Value = r.Replace(f.Because[b].Source), r.Replace(f.Because[b].Value)
			}
			if f.Remediation != nil {
				f.Remediation.Text = r.Replace(f.Remediation.Text)
				for c := range f.Remediation.Commands {
					f.Remediation.Commands[c] = r.Replace(f.Remediation.Commands[c])
				}
			}
		}
	}
}

// mend makes the links that systemd needs: that is safe, and undone by rm.
func mend(w io.Writer, dir string, res *doctor.Result) error {
	made := 0
	for link, target := range res.Links {
		file := filepath.Join(dir, link)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return &exitError{exitErrors, err}
		}
		if err := os.Symlink(target, file); err != nil && !errors.Is(err, os.ErrExist) {
			return &exitError{exitErrors, err}
		}
		made++
	}
	if made > 0 {
		fmt.Fprintf(w, "made %d links in /dev/char; they last until the next boot\n", made)
		for i := range res.Areas {
			a := &res.Areas[i]
			a.Findings = slices.DeleteFunc(a.Findings, func(f finding.Finding) bool { return f.ID == "gpu-will-be-lost-on-reload" })
			if len(a.Findings) == 0 && a.Name == "reload" {
				a.State, a.Line = doctor.OK, "/dev/char has the links that systemd needs"
			}
		}
	} else {
		fmt.Fprintln(w, "nothing that can be mended without risk; --fix=plan prints the rest as a script")
	}
	return nil
}

// planScript prints all fixes as a script for a person to read and run.
func planScript(w io.Writer, list []finding.Finding) {
	fmt.Fprintln(w, "#!/bin/sh\n# Read each step before you run it.\nset -ex")
	var last []string // reboots come at the end, once
	for _, f := range list {
		if f.Remediation == nil || f.Severity != finding.Error && f.Severity != finding.Warning {
			continue
		}
		fmt.Fprintf(w, "\n# %s: %s\n# %s\n", f.ID, oneLine(f.Summary), oneLine(f.Remediation.Text))
		for _, c := range f.Remediation.Commands {
			switch {
			case c == "reboot":
				last = []string{c}
			case strings.Contains(c, "…"):
				fmt.Fprintln(w, "# "+oneLine(c))
			default:
				fmt.Fprintln(w, oneLine(c))
			}
		}
	}
	for _, c := range last {
		fmt.Fprintln(w, "\n# at the end\n"+c)
	}
}

// oneLine keeps a text from leaving its line.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

func doctorJSON(w io.Writer, res *doctor.Result) error {
	type area struct {
		Name     string       `json:"name"`
		State    doctor.State `json:"state"`
		Line     string       `json:"line,omitempty"`
		Findings []string     `json:"findings,omitempty"`
		Notes    []string     `json:"notes,omitempty"`
	}
	out := struct {
		Schema     string            `json:"schema"`
		State      doctor.State      `json:"state"`
		Findings   []finding.Finding `json:"findings"`
		Areas      []area            `json:"areas"`
		Overridden map[string]string `json:"overridden,omitempty"`
	}{"davit.doctor/1", res.Worst(), res.Findings(), nil, res.Overridden}
	for _, a := range res.Areas {
		x := area{Name: a.Name, State: a.State, Line: a.Line, Notes: a.Notes}
		for _, f := range a.Findings {
			x.Findings = append(x.Findings, f.ID)
		}
		out.Areas = append(out.Areas, x)
	}
	return printJSON(w, out)
}

// The marks of states, and their colours on a terminal.
var (
	doctorMarks   = map[doctor.State]string{doctor.OK: "✓", doctor.Warning: "!", doctor.Error: "✗", doctor.Skipped: "·", doctor.None: "·"}
	doctorColours = map[doctor.State]string{doctor.OK: "32", doctor.Warning: "33", doctor.Error: "31"}
)

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// doctorText says first what is wrong and what to do, then how each area is.
func doctorText(w io.Writer, res *doctor.Result, verbose bool) {
	var b bytes.Buffer
	colour := isTerminal(w)
	mark := func(s doctor.State) string {
		if c := doctorColours[s]; colour && c != "" {
			return "\x1b[" + c + "m" + doctorMarks[s] + "\x1b[0m"
		}
		return doctorMarks[s]
	}
	list := res.Findings()
	slices.SortStableFunc(list, func(a, b finding.Finding) int { return severityRank(a) - severityRank(b) })
	for _, f := range list {
		state := doctor.Warning
		if f.Severity == finding.Error {
			state = doctor.Error
		}
		fmt.Fprintf(&b, "%s %s\n", mark(state), oneLine(f.Summary))
		if f.Remediation != nil {
			fmt.Fprintf(&b, "  fix: %s\n", oneLine(f.Remediation.Text))
			for _, c := range f.Remediation.Commands {
				fmt.Fprintf(&b, "       %s\n", oneLine(c))
			}
		}
		if f.Avoid != "" {
			fmt.Fprintf(&b, "  %s\n", oneLine(f.Avoid))
		}
		fmt.Fprintf(&b, "  [%s]\n\n", f.ID)
	}
	if len(list) == 0 {
		fmt.Fprintf(&b, "%s nothing wrong found\n\n", mark(doctor.OK))
	}
	for _, name := range slices.Sorted(maps.Keys(res.Overridden)) {
		fmt.Fprintf(&b, "! set by you: %s = %s\n", name, oneLine(res.Overridden[name]))
	}
	for _, a := range res.Areas {
		if a.State == doctor.None && !verbose {
			continue
		}
		fmt.Fprintf(&b, "%s %-14s %s\n", mark(a.State), a.Name, oneLine(a.Line))
		for _, f := range a.Findings {
			for _, e := range f.Because {
				fmt.Fprintf(&b, "    %s: %s\n", oneLine(e.Source), oneLine(e.Value))
			}
			if f.Why != "" {
				fmt.Fprintf(&b, "    why: %s\n", oneLine(f.Why))
			}
			for _, c := range f.Confirm {
				fmt.Fprintf(&b, "    see: %s\n", oneLine(c))
			}
		}
		if verbose {
			for _, n := range a.Notes {
				fmt.Fprintf(&b, "    note: %s\n", oneLine(n))
			}
		}
	}
	_, _ = w.Write(b.Bytes()) // nobody is left to be told
}

func severityRank(f finding.Finding) int {
	if f.Severity == finding.Error {
		return 0
	}
	return 1
}
