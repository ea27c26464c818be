// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"davit/internal/doctor"
	"davit/internal/rootfs"
)

func newReport() *cobra.Command {
	var root, out string
	c := &cobra.Command{
		Use:   "report",
		Short: "One file for a bug report: the host, its engines and what is wrong, without what is private",
		Long: "Writes an HTML page that needs nothing else; the data stand in it as JSON, and davit doctor\n" +
			"--host reads them on another machine. UUIDs, addresses, and every name and word of a\n" +
			"configuration that is not on the list of known words are replaced. Look at it before you\n" +
			"publish it.",
		Example: "  davit report\n  davit report -o gpu-host.html\n  davit doctor --host gpu-host.html",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var o doctor.Options
			if root == "/" {
				o.Commands = ask(c.Context())
			}
			res, err := examine(root, o)
			if err != nil {
				return err
			}
			host, err := rootfs.Open(root)
			if err != nil {
				return &exitError{exitNoAnswer, err}
			}
			rec, err := doctor.TakeRecord(host, o)
			if err != nil {
				return &exitError{exitNoAnswer, err}
			}
			page, err := doctor.Page(rec, res, version)
			if err != nil {
				return &exitError{exitNoAnswer, err}
			}
			if out == "-" {
				_, err := c.OutOrStdout().Write(page)
				return err
			}
			if err := rootfs.WriteFile(out, page, 0o600); err != nil {
				return &exitError{exitNoAnswer, fmt.Errorf("write %s: %w", out, err)}
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: %d findings; look at it before you publish it\n", out, len(res.Findings()))
			return nil
		},
	}
	c.Flags().StringVar(&root, "root", "/", rootFlagUsage)
	c.Flags().StringVarP(&out, "output", "o", "davit-report.html", "the file to write; - is standard output")
	return c
}
