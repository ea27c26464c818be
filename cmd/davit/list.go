// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"davit/internal/nvidia"
)

func newList() *cobra.Command {
	var root string
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "GPUs and MIG devices with every name that they answer to",
		Long: "Shows each GPU of the host. Index, UUID, the beginning of a UUID and the PCI\n" +
			"address all work in --gpus '\"device=…\"' and in NVIDIA_VISIBLE_DEVICES.",
		Example: "  davit list\n  davit list --json\n  davit list --root /srv/simulated",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, _, f, err := openHost(root)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), struct {
					Schema string `json:"schema"`
					*nvidia.Facts
				}{"davit.list/1", f})
			}
			return listText(c.OutOrStdout(), f)
		},
	}
	c.Flags().StringVar(&root, "root", "/", rootFlagUsage)
	c.Flags().BoolVar(&asJSON, "json", false, "all facts as one JSON object")
	return c
}

func listText(w io.Writer, f *nvidia.Facts) error {
	if f.Driver.Version == "" {
		fmt.Fprintln(w, "driver: not loaded")
		if f.Driver.LibraryVersion != "" {
			fmt.Fprintf(w, "        its libraries, version %s, are installed: run modprobe nvidia\n", f.Driver.LibraryVersion)
		}
		return &exitError{exitErrors, nil}
	}
	kind := "proprietary"
	if f.Driver.Open {
		kind = "open"
	}
	fmt.Fprintf(w, "driver %s (%s kernel module), CUDA up to %s\n", f.Driver.Version, kind, f.Driver.CUDA)
	if f.Driver.LibraryVersion != f.Driver.Version {
		fmt.Fprintf(w, "! the libraries are of version %q: reboot, or reload the modules\n", f.Driver.LibraryVersion)
	}
	if len(f.GPUs) == 0 {
		fmt.Fprintln(w, "no GPU")
		return &exitError{exitErrors, nil}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "INDEX\tNAME\tUUID\tPCI\tNODE\tCOMPUTE")
	for _, g := range f.GPUs {
		node := "missing"
		if g.Node != nil {
			node = g.Node.Path
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\n", g.Index, g.Name, g.UUID, g.BusID, node, g.Arch)
		for _, m := range g.MIG {
			fmt.Fprintf(t, "%d:%d\tMIG device, instance %d/%d\t%s\t\t\t\n", g.Index, m.Index, m.GI, m.CI, m.UUID)
		}
	}
	return t.Flush()
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
