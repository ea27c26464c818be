// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"davit/internal/cdi"
)

// ctkFlags are the flags of nvidia-ctk cdi generate that mean something to
// davit too, and those that do not.
type ctkFlags struct {
	generateFlags
	mode, hookPath   string
	deviceIDs        []string
	noAll            bool
	disabled, others []string
}

// fromEnv gives a variable's value, or otherwise.
func fromEnv(name, otherwise string) string {
	if v := os.Getenv("NVIDIA_CTK_" + name); v != "" {
		return v
	}
	return otherwise
}

func listFromEnv(name string, otherwise ...string) []string {
	if v := fromEnv(name, ""); v != "" {
		return strings.Split(v, ",")
	}
	return otherwise
}

// newCtkCDI is nvidia-ctk cdi: the flags, variables and defaults of NVIDIA's
// program, with davit's specs behind them.
func newCtkCDI() *cobra.Command {
	c := newCDI()
	c.Short = "Write and list CDI specs, as NVIDIA's nvidia-ctk"
	for _, sub := range c.Commands() {
		switch sub.Name() {
		case "generate", "validate":
			c.RemoveCommand(sub)
		case "list":
			if dirs := listFromEnv("CDI_SPEC_DIRS"); dirs != nil {
				_ = sub.Flags().Set("spec-dir", strings.Join(dirs, ","))
			}
		}
	}
	c.AddCommand(newCtkGenerate())
	return c
}

func newCtkGenerate() *cobra.Command {
	var f ctkFlags
	c := &cobra.Command{
		Use:     "generate",
		Short:   "Write a CDI spec for this host's GPUs",
		Long:    "Takes the flags of NVIDIA's nvidia-ctk cdi generate. davit cdi generate has more to choose.",
		Example: "  nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	s := c.Flags()
	const gen = "CDI_GENERATE_"
	s.StringVar(&f.output, "output", fromEnv("CDI_OUTPUT_FILE_PATH", ""), "the file to write; by default standard output")
	s.StringVar(&f.format, "format", fromEnv(gen+"OUTPUT_FORMAT", ""), "yaml or json")
	s.StringVar(&f.mode, "mode", fromEnv(gen+"MODE", "auto"), "auto or nvml")
	s.StringVar(&f.driverRoot, "driver-root", fromEnv("DRIVER_ROOT", ""), "the folder below which the driver's files lie")
	s.StringVar(&f.hookPath, "nvidia-cdi-hook-path", fromEnv("CDI_HOOK_PATH", ""), "the hook's program on the host; by default davit-runtime")
	s.StringVar(&f.options.Vendor, "vendor", fromEnv(gen+"VENDOR", cdi.DefaultVendor), "vendor in the devices' names")
	s.StringVar(&f.options.Class, "class", fromEnv(gen+"CLASS", cdi.DefaultClass), "class in the devices' names")
	s.StringSliceVar(&f.options.Names, "device-name-strategy", listFromEnv(gen+"DEVICE_NAME_STRATEGIES", cdi.Strategies[:3]...), "names of devices: "+strings.Join(cdi.Strategies, ", "))
	s.StringSliceVar(&f.deviceIDs, "device-id", listFromEnv(gen+"DEVICE_IDS", "all"), "all, or none for a device without a GPU alone")
	noAll, _ := strconv.ParseBool(fromEnv(gen+"NO_ALL_DEVICE", "false"))
	s.BoolVar(&f.noAll, "no-all-device", noAll, "leave the device \"all\" out")
	s.StringSliceVar(&f.disabled, "disable-hook", listFromEnv(gen+"DISABLED_HOOKS"), "\"all\" leaves davit's one hook out")
	for _, name := range []string{"dev-root", "library-search-path", "config-search-path", "ldconfig-path", "enable-hook", "feature-flag",
		"csv.file", "csv.ignore-pattern", "csv.compat-container-root"} {
		s.StringSliceVar(&f.others, name, nil, "accepted, and without effect")
		_ = s.MarkHidden(name)
	}
	// The other spellings of NVIDIA's program.
	aliases := map[string]string{"discovery-mode": "mode", "nvidia-ctk-path": "nvidia-cdi-hook-path", "cdi-vendor": "vendor", "cdi-class": "class",
		"device-name-strategies": "device-name-strategy", "device-ids": "device-id", "device": "device-id", "devices": "device-id",
		"disable-hooks": "disable-hook", "enable-hooks": "enable-hook", "feature-flags": "feature-flag"}
	s.SetNormalizeFunc(aliasing(aliases))
	return c
}

func (f *ctkFlags) run(c *cobra.Command) error {
	note := func(format string, args ...any) { fmt.Fprintf(c.ErrOrStderr(), "nvidia-ctk: "+format+"\n", args...) }
	if f.mode != "auto" && f.mode != "nvml" {
		return &exitError{exitUsage, fmt.Errorf("--mode %s is not supported: davit knows auto and nvml, which are the same to it", f.mode)}
	}
	if len(f.others) > 0 {
		note("without effect here: %s", strings.Join(f.others, ", "))
	}
	if slices.Contains(f.disabled, "all") {
		f.options.NoHooks = true
	} else if len(f.disabled) > 0 {
		note("davit has one hook for all: %s is not switched off by itself", strings.Join(f.disabled, ", "))
	}
	switch {
	case f.hookPath == "":
	case filepath.Base(f.hookPath) == "nvidia-ctk":
		note("the hook is %s, not nvidia-ctk", runtimePath())
	default:
		f.options.HookPath = f.hookPath
	}
	switch {
	case slices.Equal(f.deviceIDs, []string{"all"}):
	case slices.Equal(f.deviceIDs, []string{"none"}):
		f.only = func(name string) bool { return name == "none" }
	default:
		return &exitError{exitUsage, errors.New("--device-id: davit writes all devices; want all or none")}
	}
	if f.noAll && f.only == nil {
		f.only = func(name string) bool { return name != "all" }
	}
	f.root, f.capabilities = "/", strings.Join(cdi.DefaultCapabilities(), ",")
	return f.generateFlags.run(c)
}

// oldHook becomes davit-runtime, which has the hooks: specs on disk may call
// them as "nvidia-ctk hook". It returns only on failure.
func oldHook(args []string) int {
	err := syscall.Exec(runtimePath(), append([]string{"nvidia-cdi-hook"}, args...), []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"})
	fmt.Fprintf(os.Stderr, "nvidia-ctk: execute %s: %v\n", runtimePath(), err)
	return 1
}
