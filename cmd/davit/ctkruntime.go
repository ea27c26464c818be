// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"davit/internal/engine"
	"davit/internal/rootfs"
)

// ctkRuntime is nvidia-ctk runtime configure.
type ctkRuntime struct {
	runtime, config, dropIn, name, path string
	mode                                string
	setDefault, cdi, dryRun             bool
	others                              []string
}

// ctkFiles are the files that davit changes, by engine.
var ctkFiles = map[string]string{
	"docker":     "/etc/docker/daemon.json",
	"containerd": "/etc/containerd/config.toml",
	"crio":       "/etc/crio/crio.conf",
}

func newCtkRuntime() *cobra.Command {
	var o ctkRuntime
	c := &cobra.Command{
		Use:   "configure",
		Short: "Add the runtime nvidia to a container engine",
		Long: "Takes the flags of NVIDIA's nvidia-ctk runtime configure. davit setup does more: it shows the\n" +
			"change first and checks the names that engines look for. davit setup --undo takes either back.",
		Example: "  nvidia-ctk runtime configure --runtime=docker\n  nvidia-ctk runtime configure --runtime=containerd --dry-run",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	f := c.Flags()
	f.StringVar(&o.runtime, "runtime", "docker", "docker, containerd or crio")
	f.StringVar(&o.config, "config", "", "the engine's file; by default where the engine reads it")
	f.StringVar(&o.dropIn, "drop-in-config", "", "accepted for containerd and crio: davit chooses the file by what the engine reads")
	f.StringVar(&o.name, "nvidia-runtime-name", "nvidia", "the runtime's name: nvidia")
	f.StringVar(&o.path, "nvidia-runtime-path", "", "the runtime's program; by default "+engine.DefaultDockerRuntime)
	f.BoolVar(&o.setDefault, "nvidia-set-as-default", false, "also make it the default runtime")
	f.BoolVar(&o.cdi, "cdi.enabled", false, "also switch the engine's CDI support on")
	f.BoolVar(&o.dryRun, "dry-run", false, "print the file as it would be, and change nothing")
	f.StringVar(&o.mode, "config-mode", "config-file", "config-file")
	for _, name := range []string{"config-source", "executable-path", "oci-hook-path", "nvidia-runtime-hook-path"} {
		f.StringSliceVar(&o.others, name, nil, "accepted, and without effect")
		_ = f.MarkHidden(name)
	}
	f.SetNormalizeFunc(aliasing(map[string]string{"set-as-default": "nvidia-set-as-default", "cdi.enable": "cdi.enabled", "enable-cdi": "cdi.enabled"}))
	return c
}

func (o ctkRuntime) run(c *cobra.Command) error {
	usage := func(format string, args ...any) error { return &exitError{exitUsage, fmt.Errorf(format, args...)} }
	usual, ok := ctkFiles[o.runtime]
	switch {
	case !ok:
		return usage("--runtime %s: want docker, containerd or crio", o.runtime)
	case o.mode != "config-file":
		return usage("--config-mode %s is not supported: for podman's hooks folder there is davit setup podman --hooks", o.mode)
	case o.name != "nvidia":
		return usage("--nvidia-runtime-name %s: davit's runtime is named nvidia, so that it can be found and taken back", o.name)
	case o.dropIn != "" && o.runtime == "docker":
		return usage("--drop-in-config: docker reads one file alone")
	case o.path != "" && !strings.Contains(o.path, "/"):
		o.path = path.Join(path.Dir(engine.DefaultDockerRuntime), o.path)
	case o.path != "" && !path.IsAbs(o.path):
		return usage("--nvidia-runtime-path %s is no absolute path", o.path)
	}
	if o.config == "" {
		o.config = usual
	}
	if o.runtime != "docker" && o.config != usual {
		return usage("--config %s: davit changes what %s reads by itself, %s and what that imports", o.config, o.runtime, usual)
	}
	host, err := rootfs.Open("/")
	if err != nil {
		return &exitError{exitNoAnswer, err}
	}
	f, err := o.plan(host)
	if err != nil {
		return &exitError{exitErrors, err}
	}
	say := func(format string, args ...any) { fmt.Fprintf(c.ErrOrStderr(), "nvidia-ctk: "+format+"\n", args...) }
	if len(o.others) > 0 {
		say("without effect here: %s", strings.Join(o.others, ", "))
	}
	for _, n := range f.Notes {
		say("%s", n)
	}
	if o.dropIn != "" && o.dropIn != f.Path {
		say("the file is %s, not %s", f.Path, o.dropIn)
	}
	if o.dryRun {
		_, err := c.OutOrStdout().Write(f.Now)
		return err
	}
	if !f.Changed() {
		say("%s has the runtime already; nothing to change", f.Path)
		return nil
	}
	if err := f.Write(host); err != nil {
		return &exitError{exitErrors, err}
	}
	say("%s: written. %s", f.Path, restartOf[o.runtime])
	return nil
}

// plan plans the one file.
func (o ctkRuntime) plan(host rootfs.Root) (engine.File, error) {
	ro := engine.RuntimeOptions{Runtime: o.path, Default: o.setDefault}
	switch o.runtime {
	case "containerd":
		return engine.PlanContainerd(host, ro) // switches CDI on by itself
	case "crio":
		return engine.PlanCRIO(host, ro) // CDI is always on
	}
	f := engine.File{Engine: "docker", Path: path.Clean("/" + o.config)}
	if !path.IsAbs(o.config) {
		return f, errors.New("--config " + o.config + " is no absolute path")
	}
	var err error
	if f.Was, err = readExisting(host, f.Path); err != nil {
		return f, err
	}
	f.Now, f.Changes, err = engine.PlanDocker(f.Was, engine.DockerOptions{File: f.Path, Runtime: o.path, Default: o.setDefault, CDI: o.cdi})
	return f, err
}
