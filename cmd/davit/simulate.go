// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"davit/internal/simulate"
)

func newSimulate() *cobra.Command {
	c := &cobra.Command{
		Use:   "simulate",
		Short: "Make a host with GPUs out of nothing, for demos, CI and development",
		Long: "A simulated host is a folder that looks like a GPU host. Set host-root to it in\n" +
			"/etc/nvidia-container-runtime/config.toml, and containers get its GPUs: nvidia-smi\n" +
			"and libcuda show exactly those whose nodes can be opened. They do not compute.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newSimulateUp(), newSimulateDown(), newSimulateUnpack())
	return c
}

func newSimulateUp() *cobra.Command {
	var o simulate.Options
	var asJSON bool
	c := &cobra.Command{
		Use:     "up [flags] DIR",
		Short:   "Make a simulated host in a folder",
		Example: "  davit simulate up --gpus 2 --model T4 --driver 550.120 --layout rhel /srv/gpu-host",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			host, err := simulate.Make(args[0], o)
			if err != nil {
				return &exitError{exitErrors, err}
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), host)
			}
			w := c.OutOrStdout()
			fmt.Fprintf(w, "%s: driver %s, CUDA %s, layout %s\n", host.Dir, host.Driver, host.CUDA, host.Options.Layout)
			for _, g := range host.GPUs {
				fmt.Fprintf(w, "GPU %d: %s (UUID: %s) %s\n", g.Index, g.Name, g.UUID, g.BusID)
			}
			for _, n := range host.Notes {
				fmt.Fprintln(w, "note: "+n)
			}
			return nil
		},
	}
	f := c.Flags()
	f.IntVar(&o.GPUs, "gpus", 1, "number of GPUs")
	f.StringVar(&o.Model, "model", "", "one of "+strings.Join(simulate.Models(), ", ")+"; several with commas, one for each GPU")
	f.StringVar(&o.Driver, "driver", "", "driver version, such as 550.120")
	f.StringVar(&o.CUDA, "cuda", "", "newest CUDA version of the driver; default that of its branch")
	f.StringVar(&o.Layout, "layout", "", "where the driver lies: "+strings.Join(simulate.Layouts(), ", "))
	f.StringVar(&o.Seed, "seed", "", "makes other UUIDs")
	f.BoolVar(&o.Compat32, "compat32", false, "with 32-bit libraries")
	f.BoolVar(&o.DRM, "drm", false, "with /dev/dri")
	f.BoolVar(&o.Persistenced, "persistenced", false, "with the socket of nvidia-persistenced")
	f.IntVar(&o.CacheEntries, "cache-entries", 0, "number of entries in the host's loader cache; 0 for no cache")
	f.BoolVar(&o.SideTable, "no-nodes", false, "list the nodes instead of making them (needs no privileges; for davit list and plan)")
	f.BoolVar(&asJSON, "json", false, "what was made, as one JSON object")
	return c
}

func newSimulateDown() *cobra.Command {
	return &cobra.Command{
		Use:   "down DIR",
		Short: "Remove a simulated host",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := simulate.Remove(args[0]); err != nil {
				return &exitError{exitErrors, err}
			}
			return nil
		},
	}
}

func newSimulateUnpack() *cobra.Command {
	return &cobra.Command{
		Use:   "unpack LAYOUT.YAML DIR",
		Short: "Make the folder of a recorded host",
		Args:  cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return &exitError{exitNoAnswer, err}
			}
			if err := simulate.Unpack(text, args[1]); err != nil {
				return &exitError{exitErrors, fmt.Errorf("%s: %w", args[0], err)}
			}
			return nil
		},
	}
}
