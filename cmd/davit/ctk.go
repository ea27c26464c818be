// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"
)

// ctkGlobal are the options that nvidia-ctk has before its commands.
type ctkGlobal struct {
	config       string
	debug, quiet bool
}

// newCtk answers to the name of NVIDIA's program.
func newCtk() *cobra.Command {
	var g ctkGlobal
	root := newRoot()
	root.ResetCommands()
	root.Use = "nvidia-ctk"
	root.Short = "What NVIDIA's nvidia-ctk does, done by davit"
	root.SetVersionTemplate("NVIDIA Container Toolkit CLI compatible: davit {{.Version}}\n")
	isSet := func(name string) bool { b, _ := strconv.ParseBool(fromEnv(name, "false")); return b }
	// Options before the command are others than those behind it: --config is both.
	root.TraverseChildren = true
	f := root.Flags()
	f.BoolVarP(&g.debug, "debug", "d", isSet("DEBUG"), "accepted: davit has nothing more to say")
	f.BoolVar(&g.quiet, "quiet", isSet("QUIET"), "errors alone")
	f.StringVar(&g.config, "config", fromEnv("CONFIG", ""), "config.toml to use")
	root.PersistentPreRun = func(c *cobra.Command, _ []string) {
		if g.quiet {
			c.Root().SetErr(quiet{c.Root().ErrOrStderr()})
		}
		if g.config != "" {
			_ = os.Setenv("NVIDIA_CTK_CONFIG_FILE_PATH", g.config) // what all of davit reads it from
		}
	}
	info := newList()
	info.Use, info.Example = "info", "  nvidia-ctk info\n  nvidia-ctk info --json"
	runtime := group("runtime", "Set container engines up")
	runtime.AddCommand(newCtkRuntime())
	system := group("system", "Nodes and links in the host's /dev")
	system.AddCommand(newCtkSymlinks(), newCtkNodes())
	root.AddCommand(newCtkCDI(), newCtkConfig(&g), runtime, system, info)
	return root
}

// group is a command that has commands alone.
func group(name, short string) *cobra.Command {
	return &cobra.Command{Use: name, Short: short, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
}

// quiet drops what is said beside the result; errors are printed by run.
type quiet struct{ io.Writer }

func (quiet) Write(p []byte) (int, error) { return len(p), nil }
