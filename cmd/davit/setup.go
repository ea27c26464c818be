// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"davit/internal/engine"
	"davit/internal/rootfs"
)

// programNames are the names that engines and configurations look for; each
// becomes a link to davit-runtime.
var programNames = []string{"nvidia-container-runtime", "nvidia-container-runtime-hook", "nvidia-container-toolkit"}

type setupOptions struct {
	root, binDir        string
	dryRun, undo, yes   bool
	defaultRuntime, cdi bool
	in                  io.Reader
	interactive         bool // ask before changing anything
}

func newSetup() *cobra.Command {
	c := &cobra.Command{
		Use:   "setup",
		Short: "Set container engines up, or take that back",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newSetupDocker())
	return c
}

func newSetupDocker() *cobra.Command {
	o := setupOptions{in: os.Stdin}
	c := &cobra.Command{
		Use:   "docker",
		Short: "Make docker run --gpus and --runtime nvidia work",
		Long: "Links davit-runtime under the names that docker looks for, and adds the runtime\n" +
			"nvidia to daemon.json; all else in that file stays byte for byte. The change is\n" +
			"shown first. docker looks for its hook when it starts, so restart it afterwards.",
		Example: "  davit setup docker --dry-run\n  davit setup docker\n  davit setup docker --undo",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			info, err := os.Stdin.Stat()
			o.interactive = err == nil && info.Mode()&fs.ModeCharDevice != 0 && !o.yes && !o.dryRun
			if o.undo {
				return undoDocker(c.OutOrStdout(), o)
			}
			return setupDocker(c.OutOrStdout(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.root, "root", "/", rootFlagUsage)
	f.StringVar(&o.binDir, "bin-dir", "/usr/bin", "where docker finds programs: a folder of dockerd's PATH, inside the root")
	f.BoolVar(&o.dryRun, "dry-run", false, "show what would change, and change nothing")
	f.BoolVar(&o.undo, "undo", false, "take back what an earlier setup changed")
	f.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&o.defaultRuntime, "default-runtime", false, "also make nvidia the default runtime: images that ask by their environment get a GPU")
	f.BoolVar(&o.cdi, "cdi", false, "also switch docker's CDI support on (docker 25 to 28.1; later ones have it on)")
	return c
}

// link is a name to make for davit-runtime.
type link struct {
	path   string // inside the root
	target string
	there  bool // it is right already
}

// planLinks finds davit-runtime and what its names hold now.
func planLinks(host rootfs.Root, binDir string) ([]link, error) {
	target := path.Join(binDir, "davit-runtime")
	if _, err := host.Stat(target); err != nil {
		return nil, fmt.Errorf("%s is not there: install davit-runtime beside davit (make install), or name its folder with --bin-dir", host.Host(target))
	}
	var links []link
	for _, name := range programNames {
		l := link{path: path.Join(binDir, name), target: "davit-runtime"}
		info, err := host.Lstat(l.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case info.Mode()&fs.ModeSymlink == 0:
			return nil, fmt.Errorf("%s is another program, probably of NVIDIA's toolkit: remove the package nvidia-container-toolkit first, or install davit in another folder of dockerd's PATH and name it with --bin-dir", host.Host(l.path))
		default:
			text, err := host.Readlink(l.path)
			if err != nil {
				return nil, err
			}
			if path.Base(text) != "davit-runtime" {
				return nil, fmt.Errorf("%s is a link to %s, not to davit-runtime: remove the package that brought it, or use --bin-dir", host.Host(l.path), text)
			}
			l.there = true
		}
		links = append(links, l)
	}
	return links, nil
}

func setupDocker(w io.Writer, o setupOptions) error {
	host, err := rootfs.Open(o.root)
	if err != nil {
		return &exitError{exitNoAnswer, err}
	}
	links, err := planLinks(host, o.binDir)
	if err != nil {
		return &exitError{exitErrors, err}
	}
	found, err := engine.FindDocker(host)
	if err != nil {
		return &exitError{exitNoAnswer, err}
	}
	conf := found[0]
	now, changes, err := engine.PlanDocker(conf.Data, engine.DockerOptions{
		File:    host.Host(conf.File),
		Runtime: path.Join(o.binDir, "nvidia-container-runtime"),
		Default: o.defaultRuntime,
		CDI:     o.cdi,
	})
	if err != nil {
		return &exitError{exitErrors, err}
	}
	todo := len(changes)
	for _, l := range links {
		if !l.there {
			fmt.Fprintf(w, "link %s -> %s\n", host.Host(l.path), l.target)
			todo++
		}
	}
	fmt.Fprint(w, engine.Diff(host.Host(conf.File), conf.Data, now))
	for _, other := range found[1:] {
		fmt.Fprintf(w, "note: docker also runs as %s, with %s; it is left as it is\n", other.Kind, host.Host(other.File))
	}
	if todo == 0 {
		fmt.Fprintln(w, "docker is set up already; nothing to change")
		return nil
	}
	if o.dryRun {
		fmt.Fprintln(w, "nothing was changed (--dry-run)")
		return nil
	}
	if ok, err := agreed(w, o); !ok {
		return err
	}
	if err := makeLinks(host, links); err != nil {
		return &exitError{exitErrors, err}
	}
	if err := engine.WriteDocker(host, conf.File, conf.Data, now); err != nil {
		return &exitError{exitErrors, err}
	}
	fmt.Fprintln(w, "done. Restart docker now: systemctl restart docker")
	fmt.Fprintln(w, "then try: docker run --rm --gpus all debian nvidia-smi")
	return nil
}

// agreed asks on a terminal.
func agreed(w io.Writer, o setupOptions) (bool, error) {
	if !o.interactive {
		return true, nil
	}
	fmt.Fprint(w, "change this? [y/N] ")
	answer, _ := bufio.NewReader(o.in).ReadString('\n')
	if a := strings.ToLower(strings.TrimSpace(answer)); a == "y" || a == "yes" {
		return true, nil
	}
	return false, &exitError{exitErrors, errors.New("nothing was changed")}
}

// makeLinks makes what is missing; a name that turns up meanwhile is an error.
func makeLinks(host rootfs.Root, links []link) error {
	for _, l := range links {
		if l.there {
			continue
		}
		dir, err := host.Resolve(path.Dir(l.path))
		if err != nil {
			return err
		}
		if err := os.Symlink(l.target, host.Host(filepath.Join(dir, path.Base(l.path)))); err != nil {
			return err
		}
	}
	return nil
}

func undoDocker(w io.Writer, o setupOptions) error {
	host, err := rootfs.Open(o.root)
	if err != nil {
		return &exitError{exitNoAnswer, err}
	}
	found, err := engine.FindDocker(host)
	if err != nil {
		return &exitError{exitNoAnswer, err}
	}
	file := found[0].File
	u, err := engine.PlanUndoDocker(host, file)
	nothing := errors.Is(err, engine.ErrNothingToUndo)
	if err != nil && !nothing {
		return &exitError{exitErrors, err}
	}
	var gone []string
	for _, name := range programNames {
		p := path.Join(o.binDir, name)
		if text, err := host.Readlink(p); err == nil && path.Base(text) == "davit-runtime" {
			gone = append(gone, p)
			fmt.Fprintf(w, "remove %s\n", host.Host(p))
		}
	}
	if nothing && len(gone) == 0 {
		fmt.Fprintln(w, "nothing to undo")
		return nil
	}
	if !nothing {
		if u.Note != "" {
			fmt.Fprintln(w, "note: "+u.Note)
		}
		if u.Remove {
			fmt.Fprintf(w, "remove %s, which was not there before\n", host.Host(file))
		} else {
			fmt.Fprint(w, engine.Diff(host.Host(file), u.Was, u.Now))
		}
	}
	if o.dryRun {
		fmt.Fprintln(w, "nothing was changed (--dry-run)")
		return nil
	}
	if ok, err := agreed(w, o); !ok {
		return err
	}
	if !nothing {
		if err := u.Apply(); err != nil {
			return &exitError{exitErrors, err}
		}
	}
	for _, p := range gone {
		dir, err := host.Resolve(path.Dir(p))
		if err == nil {
			err = os.Remove(host.Host(filepath.Join(dir, path.Base(p))))
		}
		if err != nil {
			return &exitError{exitErrors, err}
		}
	}
	fmt.Fprintln(w, "done. Restart docker now: systemctl restart docker")
	return nil
}
