// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"davit/internal/finding"
	"davit/internal/loader"
	"davit/internal/oci"
	"davit/internal/plan"
	"davit/internal/request"
	"davit/internal/rootfs"
)

// planOutput is the schema davit.plan/1.
type planOutput struct {
	Schema  string           `json:"schema"`
	Request *request.Request `json:"request,omitempty"`
	// Image is what the container's root says of its loader, or what was
	// assumed because the root is not there.
	Image    *loader.Layout    `json:"image,omitempty"`
	Plan     *plan.Plan        `json:"plan,omitempty"`
	Findings []finding.Finding `json:"findings"`
}

func newPlan() *cobra.Command {
	var root, accept string
	var asJSON bool
	c := &cobra.Command{
		Use:   "plan [flags] CONFIG.JSON",
		Short: "What a container would get, with the reason for each edit",
		Long: "Reads a container's config.json (a file, or - for standard input) and the host,\n" +
			"and prints what davit would change in the container, why, and what it would\n" +
			"leave out. Nothing is changed.",
		Example: "  davit plan /run/containerd/io.containerd.runtime.v2.task/moby/ID/config.json\n" +
			"  davit plan --json --root /srv/simulated config.json",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			out, err := makePlan(root, args[0], accept)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(c.OutOrStdout(), out)
			} else {
				planText(c.OutOrStdout(), out, hostDir(root))
			}
			for _, f := range out.Findings {
				if f.Severity == finding.Error {
					return &exitError{exitErrors, nil}
				}
			}
			return err
		},
	}
	c.Flags().StringVar(&root, "root", "/", rootFlagUsage)
	c.Flags().StringVar(&accept, "accept-visible-devices-env", "", "instead of the configured policy: auto, always, privileged, never, refuse")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object, schema davit.plan/1")
	return c
}

// makePlan goes the way of the shim without changing anything.
func makePlan(root, file, accept string) (*planOutput, error) {
	_, conf, facts, err := openHost(root)
	if err != nil {
		return nil, err
	}
	if accept != "" {
		conf.AcceptEnv = accept
	}
	var data []byte
	if file == "-" {
		data, err = io.ReadAll(io.LimitReader(os.Stdin, oci.MaxConfig))
	} else {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, &exitError{exitNoAnswer, err}
	}
	spec, err := oci.Parse(data)
	if err != nil {
		return nil, &exitError{exitNoAnswer, fmt.Errorf("%s: %w", file, err)}
	}
	out := &planOutput{Schema: "davit.plan/1", Findings: []finding.Finding{}}
	req, err := request.Read(spec.Container, conf.Policy())
	if err != nil {
		out.Findings = append(out.Findings, refusal(err))
		return out, nil
	}
	out.Request = &req
	image, note := imageLayout(spec, filepath.Dir(file), facts.Arch)
	out.Image = &image
	p, err := plan.Make(facts, req, image, plan.Options{Privileged: spec.Container.Privileged})
	if err != nil {
		out.Findings = append(out.Findings, refusal(err))
		return out, nil
	}
	if note != "" && !p.Untouched {
		p.Notes = append(p.Notes, note)
	}
	out.Plan = p
	return out, nil
}

// imageLayout looks at the container's root if it is there.
func imageLayout(spec *oci.Spec, bundle, arch string) (loader.Layout, string) {
	dir := spec.RootPath(bundle)
	h, err := rootfs.OpenHandle(dir)
	if err == nil && spec.Root == "" {
		h.Close() // config.json names no root: the bundle itself is none
		err = fs.ErrNotExist
	}
	if err != nil {
		triple := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[arch]
		return loader.Layout{Libc: loader.Glibc, Dir: "/usr/lib/" + triple, Cache: true},
			"the container's root " + dir + " is not there: a Debian-like image with a loader cache is assumed"
	}
	defer h.Close()
	return loader.Inspect(h, arch), ""
}

// refusal makes a finding of the error that a container would fail with.
func refusal(err error) finding.Finding {
	f := finding.Finding{ID: "request-not-valid", Severity: finding.Error, Gate: "request", Layer: "container", Summary: err.Error()}
	var r *plan.Refusal
	var unmet *request.Unmet
	switch {
	case errors.As(err, &r):
		f.ID, f.Layer = r.ID, "host"
	case errors.As(err, &unmet):
		f.ID, f.Layer = "image-needs-newer-driver", "image"
		f.Because = []finding.Evidence{{Source: unmet.Variable, Value: unmet.Term}, {Source: "host", Value: unmet.Have}}
	}
	return f
}

// planText prints a plan for people; root is taken off the host's paths.
func planText(w io.Writer, out *planOutput, root string) {
	for _, f := range out.Findings {
		fmt.Fprintf(w, "✗ the container would not start: %s\n", f.Summary)
	}
	p := out.Plan
	if p == nil {
		return
	}
	if p.Untouched {
		fmt.Fprintln(w, "untouched: the container asks for no GPU, or must not have one")
	} else {
		fmt.Fprintln(w, "asked by  "+out.Request.Source)
		fmt.Fprintln(w, "needs     "+out.Request.CapSource)
		fmt.Fprintf(w, "image     %s, libraries go to %s\n", out.Image.Libc, out.Image.Dir)
		for _, g := range p.GPUs {
			fmt.Fprintf(w, "GPU %-5d %s  %s  %s\n", g.Index, g.Name, g.UUID, g.BusID)
		}
	}
	section(w, len(p.Edits.Devices), "nodes", func(t io.Writer) {
		for _, d := range p.Edits.Devices {
			fmt.Fprintf(t, "  %s\t%d:%d\t%s\n", d.Path, d.Major, d.Minor, d.Why)
		}
	})
	section(w, len(p.Edits.Mounts), "mounts", func(t io.Writer) {
		for _, m := range p.Edits.Mounts {
			fmt.Fprintf(t, "  %s\t%s\t%s\n", m.Target, strings.TrimPrefix(m.Source, root), m.Why)
		}
	})
	section(w, len(p.Edits.Masks), "hidden", func(t io.Writer) {
		for _, m := range p.Edits.Masks {
			fmt.Fprintf(t, "  %s\t%s\n", m.Path, m.Why)
		}
	})
	section(w, len(p.Edits.Cache), "merged into /etc/ld.so.cache", func(t io.Writer) {
		for _, e := range p.Edits.Cache {
			fmt.Fprintf(t, "  %s\t%s\n", e.Name, e.Path)
		}
	})
	section(w, len(p.Left), "left out", func(t io.Writer) {
		for _, l := range p.Left {
			fmt.Fprintf(t, "  %s\t%s\n", l.What, l.Why)
		}
	})
	for _, n := range p.Notes {
		fmt.Fprintln(w, "note: "+n)
	}
}

// section prints a headline and an aligned table under it, unless it is empty.
func section(w io.Writer, n int, headline string, rows func(io.Writer)) {
	if n == 0 {
		return
	}
	fmt.Fprintf(w, "%s (%d)\n", headline, n)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rows(t)
	t.Flush()
}

// hostDir is the folder that --root names, "" for the machine itself.
func hostDir(root string) string {
	r, err := rootfs.Open(root)
	if err != nil || r.Dir() == "/" {
		return ""
	}
	return r.Dir()
}
