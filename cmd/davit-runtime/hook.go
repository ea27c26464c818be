// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"davit/internal/config"
	"davit/internal/jsonedit"
	"davit/internal/live"
	"davit/internal/loader"
	"davit/internal/oci"
	"davit/internal/plan"
	"davit/internal/request"
	"davit/internal/rootfs"
	"davit/internal/shim"
)

// maxState bounds the OCI state on standard input. It has the annotations of
// config.json in it.
const maxState = oci.MaxConfig

// hookMain is docker's prestart hook. Its arguments are those of NVIDIA's
// nvidia-container-runtime-hook: flags, then prestart, poststart or poststop.
//
// Of its environment it takes nothing. That is the engine's, but some runtimes
// give to a hook without one of its own the container's, which an image can
// fill as it likes; runc 1.1 does so at createContainer.
func hookMain(args []string) int {
	os.Clearenv()
	verb, configFile := "", ""
	for i := 0; i < len(args); i++ {
		name, val, hasVal := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if !strings.HasPrefix(args[i], "-") {
			verb = args[i]
			break
		}
		switch name {
		case "version":
			fmt.Println("nvidia-container-runtime-hook (davit) " + version)
			return 0
		case "config":
			if !hasVal && i+1 < len(args) {
				i++
				val = args[i]
			}
			configFile = val
		case "debug": // NVIDIA's hook accepts it; davit's debug file is set in config.toml
		case "help", "h":
			fmt.Println("usage: nvidia-container-runtime-hook [-config FILE] prestart < OCI-STATE")
			return 0
		default:
			fmt.Fprintf(os.Stderr, "davit: unknown flag %q; known: -config FILE, -debug, -version\n", args[i])
			return 2
		}
	}
	switch verb {
	case "poststart", "poststop":
		return 0
	case "prestart":
	default:
		fmt.Fprintf(os.Stderr, "davit: unknown command %q; known: prestart, poststart, poststop\n", verb)
		return 2
	}
	if err := prestart(configFile, os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, printable("davit: "+err.Error()))
		return 1
	}
	return 0
}

// hookConfig reads the configuration that the hook's entry in config.json
// names, by its arguments or its own environment.
func hookConfig(file string, spec *oci.Spec) (config.Config, error) {
	if file == "" {
		return loadConfig(spec.HookEnv)
	}
	if !filepath.IsAbs(file) {
		return config.Config{}, fmt.Errorf("-config %q: give an absolute path", file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return config.Config{}, err
	}
	c, err := config.Parse(text)
	if err != nil {
		return c, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}

// state is what the hook needs of the OCI state (runtime-spec, runtime.md).
type state struct {
	pid    int
	bundle string
}

func readState(r io.Reader) (state, error) {
	var s state
	data, err := io.ReadAll(io.LimitReader(r, maxState))
	if err != nil {
		return s, fmt.Errorf("read the container's state from standard input: %w", err)
	}
	doc, err := jsonedit.Parse(data)
	if err != nil {
		return s, fmt.Errorf("the container's state on standard input: %w", err)
	}
	if v, ok := doc.Get("pid"); ok {
		n, err := v.Int()
		if err != nil {
			return s, fmt.Errorf("pid in the container's state: %w", err)
		}
		s.pid = int(n)
	}
	for _, key := range []string{"bundle", "bundlePath"} { // the second is of runtimes before 1.0
		if v, ok := doc.Get(key); ok && s.bundle == "" {
			if s.bundle, err = v.String(); err != nil {
				return s, fmt.Errorf("%s in the container's state: %w", key, err)
			}
		}
	}
	if s.pid <= 0 || s.bundle == "" {
		return s, errors.New("the container's state has no pid and bundle: is this run as a prestart hook?")
	}
	return s, nil
}

// checkNamespace refuses to run in the container's pid namespace, as at
// createContainer: the number in the state is then another process in /proc,
// 1 the host's first.
func checkNamespace() error {
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return fmt.Errorf("find this process in /proc: %w", err)
	}
	if self != strconv.Itoa(os.Getpid()) {
		return errors.New("this hook is called inside the container's pid namespace, as createContainer hooks are: make it a prestart or createRuntime hook")
	}
	return nil
}

// prestart gives a created container what it asks for.
func prestart(configFile string, stdin io.Reader) error {
	st, err := readState(stdin)
	if err == nil {
		err = checkNamespace()
	}
	if err != nil {
		return err
	}
	file := st.bundle + "/" + oci.ConfigFile
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	spec, err := oci.Parse(data)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	c, err := hookConfig(configFile, spec)
	if err != nil {
		return err
	}
	pol := c.Policy()
	if _, podman := spec.Container.Annotations["io.container.manager"]; !podman {
		// docker adds this hook for --gpus alone, and then the last value of
		// the variable is its own word. Podman's hooks folder adds it to every
		// container, so there the policy on variables of images holds.
		pol.AcceptEnv, pol.RefuseEnv = "always", false
	}
	req, err := request.Read(spec.Container, pol)
	if err != nil {
		return err
	}
	if !req.Asked {
		return nil
	}
	g := gift{pid: st.pid, rootPath: spec.RootPath(st.bundle), privileged: spec.Container.Privileged}
	p, err := g.apply(c, req)
	trace(c.HookDebug, "hook prestart "+st.bundle, p, err)
	return err
}

// gift is what a container that is created and not yet started is given.
type gift struct {
	pid      int
	rootPath string // as the host sees it
	// privileged containers see all nodes anyway.
	privileged bool
	// without are the beginnings of targets that are left out.
	without []string
}

// apply gives it, by the container's own mount namespace, seen through its
// process.
func (g gift) apply(c config.Config, req request.Request) (*plan.Plan, error) {
	facts, err := readFacts(c)
	if err != nil {
		return nil, err
	}
	root, err := rootfs.OpenHandle(fmt.Sprintf("/proc/%d/root%s", g.pid, g.rootPath))
	if err != nil {
		return nil, fmt.Errorf("open the container's root: %w", err)
	}
	defer root.Close()
	o := planOptions()
	o.Privileged = g.privileged
	p, err := plan.Make(facts, req, loader.Inspect(root, facts.Arch), o)
	if err != nil || p.Untouched {
		return p, err
	}
	edits := p.Edits
	if !c.AdditionalGIDs {
		edits.GIDs = nil
	}
	for _, prefix := range g.without {
		edits.Devices = slices.DeleteFunc(slices.Clone(edits.Devices), func(d plan.Device) bool { return strings.HasPrefix(d.Path, prefix) })
		edits.Mounts = slices.DeleteFunc(slices.Clone(edits.Mounts), func(m plan.Mount) bool { return strings.HasPrefix(m.Target, prefix) })
	}
	notes, err := live.Apply(live.Target{Pid: g.pid, RootPath: g.rootPath}, edits, live.Options{
		StateDir:  c.StateDir,
		NoCgroups: c.NoCgroups,
		Drop:      shim.Leftover(root, edits.Cache),
	})
	p.Notes = append(p.Notes, notes...)
	return p, err
}
