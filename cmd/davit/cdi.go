// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"tags.cncf.io/container-device-interface/specs-go"

	"davit/internal/cdi"
	"davit/internal/config"
	"davit/internal/finding"
	"davit/internal/nvidia"
	"davit/internal/plan"
	"davit/internal/rootfs"
)

func newCDI() *cobra.Command {
	c := &cobra.Command{
		Use:   "cdi",
		Short: "Write, list and check CDI specs, by which most engines give devices",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newCDIGenerate(), newCDIList(), newCDIValidate(), newCDITransform())
	return c
}

// generateFlags are what cdi generate was asked for.
type generateFlags struct {
	root, driverRoot, output, format, capabilities string
	options                                        cdi.Options
	// only picks devices by name; nil for all.
	only func(name string) bool
}

func newCDIGenerate() *cobra.Command {
	var g generateFlags
	o := &g.options
	c := &cobra.Command{
		Use:   "generate",
		Short: "Write a CDI spec for this host's GPUs",
		Long: "Writes a spec with a device for each GPU and MIG device, under its index, UUID and\n" +
			"gpuN, with \"all\", and with \"none\" (the driver without a GPU). Without --output it\n" +
			"goes to standard output. A file that holds the same already is left alone.\n\n" +
			"Engines drop the wish for driver capabilities on this way, so the spec has those\n" +
			"of --capabilities for every container.",
		Example: "  davit cdi generate --output /etc/cdi/nvidia.yaml\n" +
			"  davit cdi generate --capabilities all --output /etc/cdi/nvidia.yaml\n" +
			"  davit cdi generate --root /srv/simulated --format json",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return g.run(c) },
	}
	f := c.Flags()
	f.StringVar(&g.output, "output", "", "the file to write; engines read .yaml and .json in "+strings.Join(cdi.Folders, " and "))
	f.StringVar(&g.format, "format", "", "yaml or json; by default what the file's name says, else yaml")
	f.StringVar(&g.root, "root", "/", rootFlagUsage)
	f.StringVar(&o.Vendor, "vendor", cdi.DefaultVendor, "vendor in the devices' names")
	f.StringVar(&o.Class, "class", cdi.DefaultClass, "class in the devices' names")
	f.StringVar(&g.capabilities, "capabilities", strings.Join(cdi.DefaultCapabilities(), ","), "driver capabilities that every container gets; or all")
	f.StringSliceVar(&o.Names, "device-name-strategy", cdi.Strategies[:3], "names of devices: "+strings.Join(cdi.Strategies, ", "))
	f.BoolVar(&o.NoHooks, "no-hooks", false, "no hook: for tools that run none; fits images of the host's own family alone")
	f.BoolVar(&o.AutoAllow, "buildkit-auto-allow", false, "let builds have the devices without an entitlement; needs CDI 0.6.0, which podman 4 does not read")
	f.StringVar(&o.HookPath, "hook-path", "", "davit-runtime on the host; by default the one beside this program")
	return c
}

func (g *generateFlags) run(c *cobra.Command) error {
	if g.format == "" {
		g.format = cdi.FormatOf(g.output)
	}
	if g.format == "" {
		g.format = "yaml"
	}
	if g.output != "" && cdi.FormatOf(g.output) == "" {
		g.output += "." + g.format // engines read no other names
	}
	text, err := g.generate()
	if err != nil {
		return err
	}
	if g.output == "" {
		_, err := c.OutOrStdout().Write(text)
		return err
	}
	changed, err := cdi.Write(g.output, text)
	if err != nil {
		return &exitError{exitErrors, err}
	}
	what := "is right already"
	if changed {
		what = "written"
	}
	fmt.Fprintf(c.ErrOrStderr(), "%s: %s\n", g.output, what)
	return nil
}

// generate makes a spec's text.
func (g *generateFlags) generate() ([]byte, error) {
	host, conf, facts, err := openHost(g.root)
	if err != nil {
		return nil, err
	}
	dir := host.Dir()
	if conf.HostRoot != "" {
		dir = host.Host(conf.HostRoot)
	}
	read, err := rootfs.Open(dir)
	if err != nil {
		return nil, &exitError{exitNoAnswer, err}
	}
	if g.driverRoot != "" && g.driverRoot != conf.DriverRoot {
		if facts, err = nvidia.Read(read, nvidia.Options{DriverRoot: g.driverRoot}); err != nil {
			return nil, &exitError{exitNoAnswer, err}
		}
	}
	o := g.options
	if o.Capabilities, err = cdi.ParseCapabilities(g.capabilities); err != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("--capabilities: %w", err)}
	}
	if o.HookPath == "" {
		o.HookPath = runtimePath()
	}
	if conf.StateDir != config.Default().StateDir {
		o.StateDir = conf.StateDir
	}
	o.HostRoot = read.Dir()
	o.Layout = cdi.HostLayout(read, facts.Arch)
	spec, err := cdi.Render(facts, o)
	if err != nil {
		var r *plan.Refusal
		if errors.As(err, &r) {
			return nil, &exitError{exitErrors, err}
		}
		return nil, &exitError{exitUsage, err}
	}
	if g.only != nil {
		spec.Devices = slices.DeleteFunc(spec.Devices, func(d specs.Device) bool { return !g.only(d.Name) })
	}
	text, err := cdi.Text(spec, g.format, facts)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return text, nil
}

// aliasing lets flags have other names.
func aliasing(aliases map[string]string) func(*pflag.FlagSet, string) pflag.NormalizedName {
	return func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if other, ok := aliases[name]; ok {
			name = other
		}
		return pflag.NormalizedName(name)
	}
}

// runtimePath is the davit-runtime beside this program, or where packages put
// it.
func runtimePath() string {
	if self, err := os.Executable(); err == nil {
		p := filepath.Join(filepath.Dir(self), "davit-runtime")
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			return p
		}
	}
	return "/usr/bin/davit-runtime"
}

func newCDIList() *cobra.Command {
	var root string
	var asJSON bool
	dirs := slices.Clone(cdi.Folders)
	c := &cobra.Command{
		Use:   "list",
		Short: "The names that the specs on this host define",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			host, err := rootfs.Open(root)
			if err != nil {
				return &exitError{exitNoAnswer, err}
			}
			files, err := cdi.ReadFolders(host, dirs)
			if err != nil {
				return &exitError{exitNoAnswer, err}
			}
			names := []string{}
			for _, f := range files {
				for _, d := range f.Spec.Devices {
					if name := f.Spec.Kind + "=" + d.Name; !slices.Contains(names, name) {
						names = append(names, name)
					}
				}
				if n := errorsIn(f.Findings); n > 0 {
					fmt.Fprintf(c.ErrOrStderr(), "%s: engines drop this file; see davit cdi validate\n", f.Name)
				}
			}
			slices.Sort(names)
			if asJSON {
				return printJSON(c.OutOrStdout(), struct {
					Schema  string   `json:"schema"`
					Devices []string `json:"devices"`
				}{"davit.cdi.list/1", names})
			}
			for _, n := range names {
				fmt.Fprintln(c.OutOrStdout(), n)
			}
			fmt.Fprintf(c.ErrOrStderr(), "%d devices in %d files\n", len(names), len(files))
			return nil
		},
	}
	c.Flags().StringVar(&root, "root", "/", rootFlagUsage)
	c.Flags().StringSliceVar(&dirs, "spec-dir", dirs, "folders of specs")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object, schema davit.cdi.list/1")
	return c
}

func errorsIn(list []finding.Finding) (n int) {
	for _, f := range list {
		if f.Severity == finding.Error {
			n++
		}
	}
	return n
}

func newCDIValidate() *cobra.Command {
	var root string
	var asJSON, strict bool
	c := &cobra.Command{
		Use:   "validate [flags] [FILE…]",
		Short: "What is wrong with CDI specs, also those that others wrote",
		Long: "Checks each file by itself. With --root it is compared with that host too: what is\n" +
			"stale, missing, or has a wrong device number. Without files it checks those of the\n" +
			"host, all together.",
		Example: "  davit cdi validate\n  davit cdi validate nvidia.yaml\n  davit cdi validate --root / --json /etc/cdi/nvidia.yaml",
		RunE: func(c *cobra.Command, args []string) error {
			compare := c.Flags().Changed("root") || len(args) == 0
			files, findings, err := validate(root, args, compare)
			if err != nil {
				return err
			}
			if asJSON {
				names := []string{}
				for _, f := range files {
					names = append(names, f.Name)
				}
				err = printJSON(c.OutOrStdout(), struct {
					Schema   string            `json:"schema"`
					Files    []string          `json:"files"`
					Findings []finding.Finding `json:"findings"`
				}{"davit.cdi.validate/1", names, findings})
			} else {
				validateText(c.OutOrStdout(), files, findings)
			}
			if err != nil {
				return err
			}
			return verdict(findings, strict)
		},
	}
	c.Flags().StringVar(&root, "root", "/", rootFlagUsage+"; given, files are compared with it")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object, schema davit.cdi.validate/1")
	c.Flags().BoolVar(&strict, "strict", false, "exit status 1 for warnings")
	return c
}

// validate reads files, or the host's specs, and judges them.
func validate(root string, names []string, compare bool) ([]*cdi.File, []finding.Finding, error) {
	findings := []finding.Finding{}
	var files []*cdi.File
	var host rootfs.Root
	var err error
	if compare {
		if host, err = rootfs.Open(root); err != nil {
			return nil, nil, &exitError{exitNoAnswer, err}
		}
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, nil, &exitError{exitNoAnswer, err}
		}
		files = append(files, cdi.Check(name, text))
	}
	if len(names) == 0 {
		if files, err = cdi.ReadFolders(host, cdi.Folders); err != nil {
			return nil, nil, &exitError{exitNoAnswer, err}
		}
	}
	var id nvidia.Identity
	if compare {
		if id, err = nvidia.ReadIdentity(host); err != nil {
			return nil, nil, &exitError{exitNoAnswer, err}
		}
	}
	for _, f := range files {
		findings = append(findings, f.Findings...)
		if compare {
			findings = append(findings, f.Against(host, id)...)
		}
	}
	return files, append(findings, cdi.Together(files)...), nil
}

func validateText(w io.Writer, files []*cdi.File, findings []finding.Finding) {
	if len(files) == 0 {
		fmt.Fprintln(w, "no CDI specs in "+strings.Join(cdi.Folders, " and "))
	}
	marks := map[finding.Severity]string{finding.Error: "✗", finding.Warning: "!", finding.Info: "·", finding.OK: "✓"}
	for _, f := range findings {
		fmt.Fprintf(w, "%s %s  [%s]\n", marks[f.Severity], f.Summary, f.ID)
		for _, b := range f.Because {
			fmt.Fprintf(w, "    %s: %s\n", b.Source, b.Value)
		}
		if f.Remediation != nil {
			fmt.Fprintf(w, "  fix: %s\n", f.Remediation.Text)
			for _, command := range f.Remediation.Commands {
				fmt.Fprintf(w, "       %s\n", command)
			}
		}
	}
	for _, f := range files {
		if !slices.ContainsFunc(findings, func(x finding.Finding) bool { return x.File == f.Name && x.Severity != finding.Info }) {
			fmt.Fprintf(w, "✓ %s: CDI %s, %s, %d devices\n", f.Name, f.Spec.Version, f.Spec.Kind, len(f.Spec.Devices))
		}
	}
}

func newCDITransform() *cobra.Command {
	c := &cobra.Command{
		Use:   "transform",
		Short: "Change an existing spec",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	var from, to, input, output, relative string
	root := &cobra.Command{
		Use:     "root",
		Short:   "Move a spec's paths from below one folder to below another",
		Example: "  davit cdi transform root --from /run/nvidia/driver --to / --input in.yaml --output out.yaml",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return transform(c, from, to, input, output, relative)
		},
	}
	f := root.Flags()
	f.StringVar(&from, "from", "/", "the folder that the paths are below now")
	f.StringVar(&to, "to", "/", "the folder that they shall be below")
	f.StringVar(&input, "input", "-", "the spec to read; - is standard input")
	f.StringVar(&output, "output", "", "the file to write; by default standard output")
	f.StringVar(&relative, "relative-to", "host", "which paths are meant: host or container")
	c.AddCommand(root)
	return c
}

func transform(c *cobra.Command, from, to, input, output, relative string) error {
	if relative != "host" && relative != "container" {
		return &exitError{exitUsage, fmt.Errorf("--relative-to %q: want host or container", relative)}
	}
	var text []byte
	var err error
	if input == "-" {
		text, err = io.ReadAll(io.LimitReader(c.InOrStdin(), 16<<20))
	} else {
		text, err = os.ReadFile(input)
	}
	if err != nil {
		return &exitError{exitNoAnswer, err}
	}
	file := cdi.Check(input, text)
	for _, f := range file.Findings {
		// What cannot be understood would be lost in writing.
		if f.ID == "cdi-spec-invalid" || f.ID == "cdi-field-unknown" {
			return &exitError{exitErrors, errors.New(f.Summary)}
		}
	}
	if err := cdi.Transform(file.Spec, from, to, relative == "container"); err != nil {
		return &exitError{exitErrors, err}
	}
	format := cdi.FormatOf(output)
	if format == "" {
		format = cdi.FormatOf(input)
	}
	if format == "" {
		format = "yaml"
	}
	out, err := cdi.Marshal(file.Spec, format)
	if err != nil {
		return &exitError{exitErrors, err}
	}
	if output == "" || output == "-" {
		_, err := c.OutOrStdout().Write(out)
		return err
	}
	if _, err := cdi.Write(output, out); err != nil {
		return &exitError{exitErrors, err}
	}
	return nil
}
