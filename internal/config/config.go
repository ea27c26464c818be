// SPDX-License-Identifier: Apache-2.0

// Package config gives meaning to config.toml, the file that NVIDIA's toolkit
// reads under the same name, with davit's own keys beside. It takes bytes; who
// calls it reads the file. Unknown keys are tolerated.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"davit/internal/request"
)

// Paths are the places of the file, first found wins; env is the process's
// environment lookup.
func Paths(env func(string) string) []string {
	var list []string
	if p := env("NVIDIA_CTK_CONFIG_FILE_PATH"); p != "" {
		return []string{p}
	}
	if x := env("XDG_CONFIG_HOME"); x != "" {
		list = append(list, x+"/nvidia-container-runtime/config.toml")
	}
	return append(list, "/etc/nvidia-container-runtime/config.toml")
}

// Config holds the keys that have an effect. The comment behind a field is
// its key.
type Config struct {
	HostRoot string // host-root: a simulated host that stands for "/"
	StateDir string // state-dir, default /run/davit

	AcceptEnv             string   // accept-visible-devices-env
	AcceptMounts          bool     // accept-nvidia-visible-devices-as-volume-mounts
	DisableRequire        bool     // disable-require
	SwarmResources        []string // swarm-resource
	SupportedCapabilities []string // supported-driver-capabilities

	DriverRoot string // nvidia-container-cli.root
	NoCgroups  bool   // nvidia-container-cli.no-cgroups

	Runtimes           []string // nvidia-container-runtime.runtimes
	Debug              string   // nvidia-container-runtime.debug
	HookDebug          string   // nvidia-container-cli.debug
	AnnotationPrefixes []string // nvidia-container-runtime.modes.cdi.annotation-prefixes

	IgnoreIMEX bool // features.ignore-imex-channel-requests
	// AdditionalGIDs: features.no-additional-gids-for-device-nodes turns it off.
	AdditionalGIDs bool
}

// Default is what holds without a file.
func Default() Config {
	return Config{
		StateDir:           "/run/davit",
		AcceptEnv:          "auto",
		Runtimes:           []string{"runc", "crun"},
		AnnotationPrefixes: []string{"cdi.k8s.io/"},
		AdditionalGIDs:     true,
	}
}

// Load reads the first of the paths that exists, by read; none of them means
// the defaults. A file that is there and cannot be understood is an error:
// guessing what an administrator allowed would be worse.
func Load(paths []string, read func(string) ([]byte, error)) (Config, error) {
	for _, p := range paths {
		text, err := read(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return Config{}, err
		}
		c, err := Parse(text)
		if err != nil {
			return c, fmt.Errorf("%s: %w", p, err)
		}
		return c, nil
	}
	return Default(), nil
}

// acceptEnv are the values of accept-visible-devices-env. "refuse" is "never"
// with an error instead of a container without GPU.
var acceptEnv = []string{"auto", "always", "privileged", "never", "refuse"}

// Parse reads the text of a file over the defaults. Errors name the line.
func Parse(text []byte) (Config, error) {
	c := Default()
	if len(text) == 0 {
		return c, nil
	}
	unprivileged := true
	err := parseTOML(string(text), func(key string, v value) error {
		switch key {
		case "host-root":
			return v.text(&c.HostRoot)
		case "state-dir":
			return v.text(&c.StateDir)
		case "accept-visible-devices-env":
			if err := v.text(&c.AcceptEnv); err != nil {
				return err
			}
			for _, a := range acceptEnv {
				if c.AcceptEnv == a {
					return nil
				}
			}
			return fmt.Errorf("%q is none of %s", c.AcceptEnv, strings.Join(acceptEnv, ", "))
		case "accept-nvidia-visible-devices-envvar-when-unprivileged":
			return v.boolean(&unprivileged)
		case "accept-nvidia-visible-devices-as-volume-mounts":
			return v.boolean(&c.AcceptMounts)
		case "disable-require":
			return v.boolean(&c.DisableRequire)
		case "swarm-resource":
			return v.list(&c.SwarmResources)
		case "supported-driver-capabilities":
			return v.list(&c.SupportedCapabilities)
		case "nvidia-container-cli.root":
			return v.text(&c.DriverRoot)
		case "nvidia-container-cli.no-cgroups":
			return v.boolean(&c.NoCgroups)
		case "nvidia-container-cli.debug":
			return v.text(&c.HookDebug)
		case "nvidia-container-runtime.runtimes":
			return v.list(&c.Runtimes)
		case "nvidia-container-runtime.debug":
			return v.text(&c.Debug)
		case "nvidia-container-runtime.modes.cdi.annotation-prefixes":
			return v.list(&c.AnnotationPrefixes)
		case "features.ignore-imex-channel-requests":
			return v.boolean(&c.IgnoreIMEX)
		case "features.no-additional-gids-for-device-nodes":
			var off bool
			err := v.boolean(&off)
			c.AdditionalGIDs = !off
			return err
		}
		return nil
	})
	if err != nil {
		return Default(), err
	}
	// NVIDIA's older key; davit's own, if set, is the finer one.
	if !unprivileged && c.AcceptEnv == "auto" {
		c.AcceptEnv = "privileged"
	}
	if len(c.Runtimes) == 0 {
		return Default(), errors.New("nvidia-container-runtime.runtimes is empty: name at least one low-level runtime, such as runc")
	}
	return c, nil
}

// Policy is what the file says about requests.
func (c Config) Policy() request.Policy {
	p := request.Policy{
		AcceptEnv:             c.AcceptEnv,
		AcceptMounts:          c.AcceptMounts,
		SwarmResources:        c.SwarmResources,
		SupportedCapabilities: c.SupportedCapabilities,
		AnnotationPrefixes:    c.AnnotationPrefixes,
		DisableRequire:        c.DisableRequire,
		IgnoreIMEX:            c.IgnoreIMEX,
	}
	if c.AcceptEnv == "refuse" {
		p.AcceptEnv, p.RefuseEnv = "never", true
	}
	return p
}
