// SPDX-License-Identifier: Apache-2.0

// Command davit is the program for people: it shows what a host has, what a
// container would get and why, sets engines up, and simulates GPU hosts.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"davit/internal/config"
	"davit/internal/finding"
	"davit/internal/nvidia"
	"davit/internal/rootfs"
)

// version is set by the linker.
var version = "dev"

// Exit codes, documented in docs/commands.md.
const (
	exitOK        = 0
	exitWarnings  = 1 // with --strict
	exitErrors    = 2
	exitNoAnswer  = 3 // could not examine
	exitUsage     = 64
	rootFlagUsage = "the host to read: a folder that stands for /"
)

// exitError carries an exit code to main. A nil err prints nothing more.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func main() {
	root := newRoot()
	switch args := os.Args[1:]; filepath.Base(os.Args[0]) {
	case "nvidia-ctk":
		if len(args) > 0 && args[0] == "hook" {
			os.Exit(oldHook(args[1:]))
		}
		root = newCtk()
	case "nvidia-container-cli":
		if hasConfigure(args) {
			os.Exit(oldConfigure(args))
		}
		root = newContainerCLI()
	}
	os.Exit(run(root, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process around it, for tests.
func run(root *cobra.Command, args []string, stdout, stderr io.Writer) int {
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	if err == nil {
		return exitOK
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(stderr, "davit: "+text)
	}
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	return exitUsage // what cobra itself complains about
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "davit",
		Short:         "The host's NVIDIA driver and GPUs in any container",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &exitError{exitUsage, fmt.Errorf("%w; see %s --help", err, c.CommandPath())}
	})
	root.AddCommand(newPlan(), newList(), newSetup(), newSimulate(), newCDI(), newDoctor(), newReport(), newWatch(), newExplain(), newLint())
	return root
}

// verdict is the exit code that findings stand for.
func verdict(list []finding.Finding, strict bool) error {
	has := func(s finding.Severity) bool {
		return slices.ContainsFunc(list, func(f finding.Finding) bool { return f.Severity == s })
	}
	switch {
	case has(finding.Error):
		return &exitError{exitErrors, nil}
	case strict && has(finding.Warning):
		return &exitError{exitWarnings, nil}
	}
	return nil
}

// loadConfig reads the host's config.toml, or, of another host given by
// --root, that host's.
func loadConfig(host rootfs.Root) (config.Config, error) {
	paths := config.Paths(os.Getenv)
	if host.Dir() != "/" {
		paths = config.Paths(func(string) string { return "" })
	}
	return config.Load(paths, host.ReadFile)
}

// openHost opens the folder given by --root, or the one that the
// configuration names as the host.
func openHost(dir string) (rootfs.Root, config.Config, *nvidia.Facts, error) {
	host, err := rootfs.Open(dir)
	if err != nil {
		return host, config.Config{}, nil, &exitError{exitNoAnswer, err}
	}
	c, err := loadConfig(host)
	if err != nil {
		return host, c, nil, &exitError{exitErrors, err}
	}
	read := host
	if c.HostRoot != "" {
		if read, err = rootfs.Open(host.Host(c.HostRoot)); err != nil {
			return host, c, nil, &exitError{exitNoAnswer, fmt.Errorf("host-root: %w", err)}
		}
	}
	f, err := nvidia.Read(read, nvidia.Options{DriverRoot: c.DriverRoot})
	if err != nil {
		return host, c, nil, &exitError{exitNoAnswer, err}
	}
	return host, c, f, nil
}
