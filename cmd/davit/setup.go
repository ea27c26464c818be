// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"davit/internal/engine"
	"davit/internal/rootfs"
)

type setupOptions struct {
	root, binDir               string
	dryRun, undo, yes, json    bool
	defaultRuntime, cdi, hooks bool
	capabilities               string
	in                         io.Reader
	out, ask                   io.Writer
	interactive                bool // ask before changing anything
}

func newSetup() *cobra.Command {
	o := setupOptions{in: os.Stdin}
	c := &cobra.Command{
		Use:   "setup [ENGINE…]",
		Short: "Set container engines up, or take that back",
		Long: "Makes GPUs work in containers of " + strings.Join(engineNames, ", ") + "; without\n" +
			"an argument, of every engine that is found here.\n\n" +
			"It links davit-runtime under the names that engines look for, and adds the runtime\n" +
			"nvidia to the configuration of docker, containerd and CRI-O, or a CDI spec for\n" +
			"podman. All else in those files, comments too, stays byte for byte. The change is\n" +
			"shown first, and what was there before is kept beside it. No engine is restarted:\n" +
			"what to restart is said at the end.",
		Example:   "  davit setup --dry-run\n  davit setup docker\n  davit setup containerd --default-runtime\n  davit setup podman --hooks\n  davit setup --undo",
		ValidArgs: engineNames,
		RunE: func(c *cobra.Command, args []string) error {
			for _, a := range args {
				if !slices.Contains(engineNames, a) {
					return &exitError{exitUsage, fmt.Errorf("unknown engine %q: want some of %s", a, strings.Join(engineNames, ", "))}
				}
			}
			_, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
			o.interactive = err == nil && !o.yes && !o.dryRun // a terminal
			o.out, o.ask = c.OutOrStdout(), c.ErrOrStderr()
			return o.run(args)
		},
	}
	f := c.Flags()
	f.StringVar(&o.root, "root", "/", rootFlagUsage)
	f.StringVar(&o.binDir, "bin-dir", "/usr/bin", "where engines find programs: a folder of dockerd's PATH, inside the root")
	f.BoolVar(&o.dryRun, "dry-run", false, "show what would change, and change nothing")
	f.BoolVar(&o.undo, "undo", false, "take back what an earlier setup changed")
	f.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&o.json, "json", false, "one JSON object, schema davit.setup/1")
	f.BoolVar(&o.defaultRuntime, "default-runtime", false, "also make nvidia the default runtime: images that ask by their environment get a GPU")
	f.BoolVar(&o.cdi, "cdi", false, "also switch docker's CDI support on (docker 25 to 28.1; later ones have it on)")
	f.BoolVar(&o.hooks, "hooks", false, "also give podman a hook: containers that name GPUs in NVIDIA_VISIBLE_DEVICES get them")
	f.StringVar(&o.capabilities, "capabilities", "", "driver capabilities in podman's CDI spec; by default those of davit cdi generate")
	return c
}

// setupPlan is all that a setup or its undoing would do.
type setupPlan struct {
	host    rootfs.Root
	links   []link // to make
	gone    []string
	files   []engine.File
	undos   []undoFile
	notes   []string
	restart []string
	hint    string // what to try afterwards
}

type undoFile struct {
	file engine.File
	undo engine.Undo
}

func (o setupOptions) run(names []string) error {
	host, err := rootfs.Open(o.root)
	if err != nil {
		return &exitError{exitNoAnswer, err}
	}
	p := &setupPlan{host: host}
	if o.undo {
		err = o.planUndo(p, names)
	} else {
		err = o.plan(p, names)
	}
	if err != nil {
		return err
	}
	todo := p.todo()
	if !o.json {
		p.text(o)
	}
	if todo > 0 && !o.dryRun {
		if ok, err := o.agreed(); !ok {
			return err
		}
		if err := p.apply(); err != nil {
			return &exitError{exitErrors, err}
		}
	}
	if o.json {
		return printJSON(o.out, p.json(o))
	}
	p.closing(o, names)
	return nil
}

// plan plans the setup of engines.
func (o setupOptions) plan(p *setupPlan, names []string) error {
	links, err := planLinks(p.host, o.binDir)
	if err != nil {
		return &exitError{exitErrors, err}
	}
	for _, l := range links {
		if !l.there {
			p.links = append(p.links, l)
		}
	}
	named := len(names) > 0
	if !named {
		names = foundEngines(p.host)
	}
	if len(names) == 0 {
		return &exitError{exitErrors, fmt.Errorf("no container engine was found on this host; name one of %s", strings.Join(engineNames, ", "))}
	}
	for _, name := range names {
		files, err := o.engineFiles(p.host, name)
		if err != nil {
			if named || !errors.Is(err, errNoDriver) {
				return err
			}
			p.notes = append(p.notes, name+": "+err.Error())
		}
		for _, f := range files {
			p.files = append(p.files, f)
			p.notes = append(p.notes, f.Notes...)
			finds := !f.Changed() && f.Now == nil && len(p.links) > 0 // k3s looks for the program itself
			if r := restartOf[f.Engine]; r != "" && (f.Changed() || finds || f.Engine == "docker" && len(p.links) > 0) && !slices.Contains(p.restart, r) {
				p.restart = append(p.restart, r)
			}
		}
		if p.hint == "" {
			p.hint = tryOf[name]
		}
		if name == "docker" {
			found, err := engine.FindDocker(p.host)
			if err != nil {
				return &exitError{exitNoAnswer, err}
			}
			for _, other := range found[1:] {
				p.notes = append(p.notes, fmt.Sprintf("docker also runs as %s, with %s; it is left as it is", other.Kind, p.host.Host(other.File)))
			}
		}
	}
	return nil
}

// planUndo plans to take back what was done to engines.
func (o setupOptions) planUndo(p *setupPlan, names []string) error {
	rest := []string{}
	if len(names) == 0 {
		names = engineNames
	}
	for _, name := range engineNames {
		if !slices.Contains(names, name) {
			rest = append(rest, name)
		}
	}
	for _, name := range names {
		list, err := undosOf(p.host, name)
		if err != nil {
			return err
		}
		for _, u := range list {
			p.undos = append(p.undos, u)
			if u.undo.Note != "" {
				p.notes = append(p.notes, u.undo.Note)
			}
			if r := restartOf[u.file.Engine]; r != "" && !slices.Contains(p.restart, r) {
				p.restart = append(p.restart, r)
			}
		}
	}
	p.gone = linksOf(p.host, o.binDir)
	for _, name := range rest {
		// What another engine still needs stays.
		if list, err := undosOf(p.host, name); len(p.gone) > 0 && (err != nil || len(list) > 0) {
			p.notes = append(p.notes, fmt.Sprintf("the links in %s stay, because %s is still set up", p.host.Host(o.binDir), name))
			p.gone = nil
		}
	}
	if len(p.gone) > 0 && slices.Contains(names, "docker") && !slices.Contains(p.restart, restartOf["docker"]) && len(p.undos) == 0 {
		p.restart = append(p.restart, restartOf["docker"])
	}
	return nil
}

// todo counts what there is to do.
func (p *setupPlan) todo() int {
	n := len(p.links) + len(p.gone) + len(p.undos)
	for _, f := range p.files {
		if f.Changed() {
			n++
		}
	}
	return n
}

func (p *setupPlan) apply() error {
	if err := makeLinks(p.host, p.links); err != nil {
		return err
	}
	for _, f := range p.files {
		if err := f.Write(p.host); err != nil {
			return err
		}
	}
	for _, u := range p.undos {
		if err := u.undo.Apply(); err != nil {
			return err
		}
	}
	return removeLinks(p.host, p.gone)
}

// agreed asks on a terminal.
func (o setupOptions) agreed() (bool, error) {
	if !o.interactive {
		return true, nil
	}
	w := o.out
	if o.json {
		w = o.ask
	}
	fmt.Fprint(w, "change this? [y/N] ")
	answer, _ := bufio.NewReader(o.in).ReadString('\n')
	if a := strings.ToLower(strings.TrimSpace(answer)); a == "y" || a == "yes" {
		return true, nil
	}
	return false, &exitError{exitErrors, errors.New("nothing was changed")}
}

// text shows what would be done.
func (p *setupPlan) text(o setupOptions) {
	for _, l := range p.links {
		fmt.Fprintf(o.out, "link %s -> %s\n", p.host.Host(l.path), l.target)
	}
	for _, f := range p.files {
		if f.Changed() {
			fmt.Fprint(o.out, engine.Diff(p.host.Host(f.Path), f.Was, f.Now))
		}
	}
	for _, n := range p.notes {
		fmt.Fprintln(o.out, "note: "+n)
	}
	for _, u := range p.undos {
		if name := p.host.Host(u.file.Path); u.undo.Remove {
			fmt.Fprintf(o.out, "remove %s, which was not there before\n", name)
		} else {
			fmt.Fprint(o.out, engine.Diff(name, u.undo.Was, u.undo.Now))
		}
	}
	for _, g := range p.gone {
		fmt.Fprintf(o.out, "remove %s\n", p.host.Host(g))
	}
}

// closing says what was done and what is left to do.
func (p *setupPlan) closing(o setupOptions, names []string) {
	switch {
	case p.todo() == 0 && o.undo:
		fmt.Fprintln(o.out, "nothing to undo")
	case p.todo() == 0:
		if len(names) == 0 {
			names = foundEngines(p.host)
		}
		is := "is"
		if len(names) > 1 {
			is = "are"
		}
		fmt.Fprintf(o.out, "%s %s set up already; nothing to change\n", strings.Join(names, ", "), is)
	case o.dryRun:
		fmt.Fprintln(o.out, "nothing was changed (--dry-run)")
	case len(p.restart) == 0:
		fmt.Fprintln(o.out, "done. Nothing needs a restart")
	default:
		for i, r := range p.restart {
			start := "done. "
			if i > 0 {
				start = "and "
			}
			fmt.Fprintln(o.out, start+r)
		}
	}
	if p.todo() > 0 && !o.dryRun && !o.undo && p.hint != "" {
		fmt.Fprintln(o.out, "then try: "+p.hint)
	}
}

// The JSON form, schema davit.setup/1.
type (
	setupJSON struct {
		Schema  string      `json:"schema"`
		Root    string      `json:"root"`
		Undo    bool        `json:"undo"`
		DryRun  bool        `json:"dryRun"`
		Changed bool        `json:"changed"` // something was written
		Links   []string    `json:"links"`   // made, or with undo removed
		Files   []setupFile `json:"files"`
		Notes   []string    `json:"notes"`
		Restart []string    `json:"restart"`
	}
	setupFile struct {
		Engine  string          `json:"engine"`
		File    string          `json:"file"`
		Action  string          `json:"action"` // none, create, change, remove, restore
		Changes []engine.Change `json:"changes"`
		Diff    string          `json:"diff"`
	}
)

func (p *setupPlan) json(o setupOptions) setupJSON {
	j := setupJSON{Schema: "davit.setup/1", Root: p.host.Dir(), Undo: o.undo, DryRun: o.dryRun, Changed: p.todo() > 0 && !o.dryRun,
		Links: append([]string{}, p.gone...), Files: []setupFile{}, Notes: append([]string{}, p.notes...), Restart: append([]string{}, p.restart...)}
	for _, l := range p.links {
		j.Links = append(j.Links, l.path)
	}
	for _, f := range p.files {
		s := setupFile{Engine: f.Engine, File: f.Path, Action: "none", Changes: append([]engine.Change{}, f.Changes...)}
		if f.Changed() {
			s.Action = "change"
			if f.Was == nil {
				s.Action = "create"
			}
			s.Diff = engine.Diff(f.Path, f.Was, f.Now)
		}
		j.Files = append(j.Files, s)
	}
	for _, u := range p.undos {
		s := setupFile{Engine: u.file.Engine, File: u.file.Path, Action: "restore", Changes: []engine.Change{}, Diff: engine.Diff(u.file.Path, u.undo.Was, u.undo.Now)}
		if u.undo.Remove {
			s.Action = "remove"
		}
		j.Files = append(j.Files, s)
	}
	return j
}
