// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"davit/internal/config"
	"davit/internal/loader"
	"davit/internal/nvidia"
	"davit/internal/plan"
	"davit/internal/request"
	"davit/internal/rootfs"
)

// newContainerCLI answers to the name nvidia-container-cli for people: info
// and list. configure, which engines call, is davit-runtime's.
func newContainerCLI() *cobra.Command {
	root := newRoot()
	root.ResetCommands()
	root.Use = "nvidia-container-cli"
	root.Short = "The host's NVIDIA driver and GPUs, as NVIDIA's nvidia-container-cli shows them"
	var driverRoot string
	var unused string
	var unusedBool bool
	// Options before the command are others than those behind it: -d is both.
	root.TraverseChildren = true
	f := root.Flags()
	f.StringVarP(&driverRoot, "root", "r", "", "the folder below which the driver's files lie")
	f.StringVarP(&unused, "debug", "d", "", "accepted, and without effect but for configure")
	f.StringVarP(&unused, "ldcache", "l", "", "accepted, and without effect")
	f.StringVarP(&unused, "user", "u", "", "accepted, and without effect")
	f.BoolVarP(&unusedBool, "load-kmods", "k", false, "accepted, and without effect: load modules by modprobe")
	f.BoolVarP(&unusedBool, "no-pivot", "n", false, "accepted, and without effect")
	f.BoolVar(&unusedBool, "no-create-imex-channels", false, "accepted, and without effect")
	f.Lookup("user").NoOptDefVal = "root"
	root.AddCommand(newCLIInfo(&driverRoot), newCLIList(&driverRoot))
	return root
}

// hasConfigure finds the command that is davit-runtime's behind global options.
func hasConfigure(args []string) bool {
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "configure":
			return true
		case slices.Contains([]string{"-r", "--root", "-d", "--debug", "-l", "--ldcache"}, a):
			i++ // its value
		case !strings.HasPrefix(a, "-"):
			return false
		}
	}
	return false
}

// oldConfigure becomes davit-runtime. It returns only on failure.
func oldConfigure(args []string) int {
	err := syscall.Exec(runtimePath(), append([]string{"nvidia-container-cli"}, args...), []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"})
	fmt.Fprintf(os.Stderr, "nvidia-container-cli: configure is in davit-runtime, which cannot be executed as %s: %v\n", runtimePath(), err)
	return 1
}

// cliHost reads the host, its driver below another folder if one is given.
func cliHost(driverRoot string) (rootfs.Root, *nvidia.Facts, error) {
	host, c, f, err := openHost("/")
	if err == nil && driverRoot != "" {
		c.DriverRoot = driverRoot
		f, err = nvidia.Read(readFrom(host, c), nvidia.Options{DriverRoot: driverRoot})
	}
	if err == nil && f.Driver.Version == "" && f.Driver.LibraryVersion == "" {
		err = &exitError{exitErrors, fmt.Errorf("no NVIDIA driver is loaded on this host: install or load it (modprobe nvidia)")}
	}
	return readFrom(host, c), f, err
}

// readFrom is the host that the configuration names.
func readFrom(host rootfs.Root, c config.Config) rootfs.Root {
	if c.HostRoot != "" {
		if r, err := rootfs.Open(host.Host(c.HostRoot)); err == nil {
			return r
		}
	}
	return host
}

func newCLIInfo(driverRoot *string) *cobra.Command {
	var asCSV bool
	c := &cobra.Command{
		Use:     "info",
		Short:   "The driver and its GPUs",
		Long:    "Shows the driver's version and each GPU. davit list shows more.",
		Example: "  nvidia-container-cli info\n  nvidia-container-cli info --csv",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, f, err := cliHost(*driverRoot)
			if err != nil {
				return err
			}
			return infoText(c.OutOrStdout(), f, asCSV)
		},
	}
	c.Flags().BoolVar(&asCSV, "csv", false, "lines with commas")
	return c
}

// infoText writes in the form that scripts take apart.
func infoText(w io.Writer, f *nvidia.Facts, asCSV bool) error {
	heads := [][]string{{"NVRM version", "CUDA version"}, {"Device Index", "Device Minor", "Model", "Brand", "GPU UUID", "Bus Location", "Architecture"}}
	gpus := [][]string{}
	for _, g := range f.GPUs {
		// The management library writes the domain with eight digits.
		gpus = append(gpus, []string{strconv.Itoa(g.Index), strconv.Itoa(g.Minor), g.Name, brandName(g.Brand), g.UUID, "0000" + strings.ToUpper(g.BusID), g.Arch})
	}
	driver := []string{f.Driver.Version, f.Driver.CUDA}
	if asCSV {
		out := csv.NewWriter(w)
		if err := out.WriteAll([][]string{heads[0], driver}); err != nil {
			return err
		}
		fmt.Fprintln(w)
		return out.WriteAll(append([][]string{heads[1]}, gpus...))
	}
	table := func(head, row []string) {
		for i, h := range head {
			fmt.Fprintf(w, "%-15s %s\n", h+":", row[i])
		}
	}
	table(heads[0], driver)
	for i, g := range gpus {
		fmt.Fprintln(w)
		table(heads[1], g)
		for _, m := range f.GPUs[i].MIG {
			fmt.Fprintf(w, "%-15s %d:%d\n", "MIG Device:", f.GPUs[i].Index, m.Index)
		}
	}
	return nil
}

// brandName is the brand as the management library spells it.
func brandName(brand string) string {
	switch brand {
	case "geforce":
		return "GeForce"
	case "":
		return "Unknown"
	}
	return strings.ToUpper(brand[:1]) + brand[1:]
}

// listOptions are the flags of list.
type listOptions struct {
	devices, migConfig, migMonitor      []string
	libraries, binaries, ipcs, compat32 bool
}

func newCLIList(driverRoot *string) *cobra.Command {
	var o listOptions
	c := &cobra.Command{
		Use:     "list",
		Short:   "The driver's files and nodes, one path a line",
		Long:    "Lists what containers are given. Without a choice, all of it. Paths are those below the driver's root.",
		Example: "  nvidia-container-cli list\n  nvidia-container-cli list --device=0 --libraries",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			host, f, err := cliHost(*driverRoot)
			if err != nil {
				return err
			}
			paths, err := o.paths(host, f)
			if err != nil {
				return &exitError{exitErrors, err}
			}
			for _, p := range paths {
				fmt.Fprintln(c.OutOrStdout(), p)
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringSliceVarP(&o.devices, "device", "d", nil, "nodes of these GPUs, and those that all GPUs share")
	f.BoolVarP(&o.libraries, "libraries", "l", false, "the driver's libraries")
	f.BoolVarP(&o.binaries, "binaries", "b", false, "the driver's programs")
	f.BoolVarP(&o.ipcs, "ipcs", "i", false, "sockets of the driver's services")
	f.BoolVar(&o.compat32, "compat32", false, "32-bit libraries too")
	f.StringSliceVar(&o.migConfig, "mig-config", nil, "nodes to change MIG devices of these GPUs: all")
	f.StringSliceVar(&o.migMonitor, "mig-monitor", nil, "nodes to watch MIG devices of these GPUs: all")
	var unused bool
	for _, name := range []string{"no-persistenced", "no-fabricmanager", "no-gsp-firmware"} {
		f.BoolVar(&unused, name, false, "accepted, and without effect")
		_ = f.MarkHidden(name)
	}
	return c
}

// paths gives nodes, programs, libraries and sockets, in this order.
func (o listOptions) paths(host rootfs.Root, f *nvidia.Facts) ([]string, error) {
	if len(o.devices) == 0 && !o.libraries && !o.binaries && !o.ipcs && o.migConfig == nil && o.migMonitor == nil {
		o.devices, o.libraries, o.binaries, o.ipcs = []string{"all"}, true, true, true
	}
	list, err := o.nodes(f)
	if err != nil {
		return nil, err
	}
	below := strings.TrimSuffix(host.Host(f.Driver.Root), "/")
	add := func(kind nvidia.FileKind, bits int) {
		for _, file := range f.Files {
			if file.Kind == kind && file.Bits == bits {
				list = append(list, strings.TrimPrefix(file.Host, below))
			}
		}
	}
	if o.binaries {
		add(nvidia.Program, 0)
	}
	if o.libraries {
		add(nvidia.Library, 64)
		if o.compat32 {
			add(nvidia.Library, 32)
		}
	}
	if o.ipcs {
		add(nvidia.Socket, 0)
	}
	return list, nil
}

// nodes asks the plan for these devices, so that names mean the same as
// elsewhere.
func (o listOptions) nodes(f *nvidia.Facts) (list []string, err error) {
	if len(o.devices) == 0 && o.migConfig == nil && o.migMonitor == nil {
		return nil, nil
	}
	names := strings.Join(o.devices, ",")
	if names == "" {
		names = "none"
	}
	env := []string{"NVIDIA_VISIBLE_DEVICES=" + names, "NVIDIA_DRIVER_CAPABILITIES=compute,display,utility"}
	req, err := request.Read(request.Container{Env: env}, request.Policy{AcceptEnv: "always"})
	if err != nil {
		return nil, err
	}
	if !req.Asked {
		return nil, nil
	}
	req.Source = "--device=" + names
	req.MIGConfig, req.MIGMonitor = o.migConfig != nil, o.migMonitor != nil
	p, err := plan.Make(f, req, loader.Layout{}, plan.Options{})
	if err != nil {
		return nil, err
	}
	for _, d := range p.Edits.Devices {
		list = append(list, d.Path)
	}
	return list, nil
}
