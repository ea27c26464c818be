// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"davit/internal/config"
	"davit/internal/request"
	"davit/internal/rootfs"
)

// configKeys are the keys of config.toml and what each holds: b a boolean, s a
// string, l a list of strings, c a string with commas.
var configKeys = map[string]byte{
	"accept-visible-devices-env": 's',
	"host-root":                  's',
	"state-dir":                  's',
	"disable-require":            'b',
	"swarm-resource":             'c',
	"accept-nvidia-visible-devices-envvar-when-unprivileged": 'b',
	"accept-nvidia-visible-devices-as-volume-mounts":         'b',
	"supported-driver-capabilities":                          'c',

	"nvidia-container-cli.root":        's',
	"nvidia-container-cli.path":        's',
	"nvidia-container-cli.environment": 'l',
	"nvidia-container-cli.debug":       's',
	"nvidia-container-cli.ldcache":     's',
	"nvidia-container-cli.load-kmods":  'b',
	"nvidia-container-cli.no-cgroups":  'b',
	"nvidia-container-cli.no-pivot":    'b',
	"nvidia-container-cli.user":        's',
	"nvidia-container-cli.ldconfig":    's',

	"nvidia-ctk.path": 's',

	"nvidia-container-runtime.debug":                             's',
	"nvidia-container-runtime.log-level":                         's',
	"nvidia-container-runtime.runtimes":                          'l',
	"nvidia-container-runtime.mode":                              's',
	"nvidia-container-runtime.modes.cdi.default-kind":            's',
	"nvidia-container-runtime.modes.cdi.spec-dirs":               'l',
	"nvidia-container-runtime.modes.cdi.annotation-prefixes":     'l',
	"nvidia-container-runtime.modes.csv.mount-spec-path":         's',
	"nvidia-container-runtime.modes.csv.compat-container-root":   's',
	"nvidia-container-runtime.modes.jit-cdi.nvcdi-feature-flags": 'l',
	"nvidia-container-runtime.modes.jit-cdi.nvcdi-disable-hooks": 'l',
	"nvidia-container-runtime.modes.jit-cdi.load-kernel-modules": 'l',
	"nvidia-container-runtime.modes.legacy.cuda-compat-mode":     's',
	"nvidia-container-runtime-hook.path":                         's',
	"nvidia-container-runtime-hook.skip-mode-detection":          'b',
	"features.allow-cuda-compat-libs-from-container":             'b',
	"features.allow-ldconfig-from-container":                     'b',
	"features.allow-unknown-oci-spec-fields":                     'b',
	"features.disable-cuda-compat-lib-hook":                      'b',
	"features.disable-imex-channel-creation":                     'b',
	"features.ignore-imex-channel-requests":                      'b',
	"features.no-additional-gids-for-device-nodes":               'b',
}

// defaultConfig is the file with every default, those that stay as comments
// included.
const defaultConfig = `#accept-nvidia-visible-devices-as-volume-mounts = false
#accept-nvidia-visible-devices-envvar-when-unprivileged = true
#accept-visible-devices-env = "auto"
disable-require = false
#state-dir = "/run/davit"
supported-driver-capabilities = "compat32,compute,display,graphics,ngx,utility,video"
#swarm-resource = "DOCKER_RESOURCE_GPU"

[nvidia-container-cli]
#debug = "/var/log/nvidia-container-toolkit.log"
environment = []
#ldcache = "/etc/ld.so.cache"
ldconfig = "@/sbin/ldconfig"
load-kmods = true
#no-cgroups = false
#path = "/usr/bin/nvidia-container-cli"
#root = "/run/nvidia/driver"
#user = "root:video"

[nvidia-container-runtime]
#debug = "/var/log/nvidia-container-runtime.log"
log-level = "info"
mode = "auto"
runtimes = ["runc", "crun"]

[nvidia-container-runtime.modes.cdi]
annotation-prefixes = ["cdi.k8s.io/"]
default-kind = "nvidia.com/gpu"
spec-dirs = ["/etc/cdi", "/var/run/cdi"]

[nvidia-container-runtime.modes.csv]
mount-spec-path = "/etc/nvidia-container-runtime/host-files-for-container.d"

[nvidia-container-runtime.modes.legacy]
cuda-compat-mode = "ldconfig"

[nvidia-container-runtime-hook]
path = "nvidia-container-runtime-hook"
skip-mode-detection = false

[nvidia-ctk]
path = "nvidia-ctk"
`

// ctkConfig is nvidia-ctk config.
type ctkConfig struct {
	file, output string
	set          []string
	separator    string
	inPlace      bool
}

func newCtkConfig(g *ctkGlobal) *cobra.Command {
	var o ctkConfig
	c := &cobra.Command{
		Use:   "config",
		Short: "Show or change config.toml",
		Long: "Prints config.toml, with changes if --set names some. Comments, and keys that davit\n" +
			"does not know, stay byte for byte.",
		Example: "  nvidia-ctk config --in-place --set nvidia-container-cli.no-cgroups\n  nvidia-ctk config --set nvidia-container-runtime.runtimes=crun:runc --output new.toml",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.file == "" {
				o.file = g.config
			}
			return o.run(c)
		},
	}
	f := c.Flags()
	f.StringVarP(&o.file, "config-file", "c", "", "the file; by default the one that davit reads")
	f.StringArrayVar(&o.set, "set", nil, "KEY=VALUE; a list's values separated by : or a comma; KEY alone is true (repeatable)")
	f.StringVar(&o.separator, "config-set-list-separator", "", "what separates a list's values")
	_ = f.MarkHidden("config-set-list-separator")
	f.BoolVarP(&o.inPlace, "in-place", "i", false, "change the file itself")
	f.StringVarP(&o.output, "output", "o", "", "the file to write; by default standard output")
	f.SetNormalizeFunc(aliasing(map[string]string{"config": "config-file"}))

	var output string
	d := &cobra.Command{
		Use: "default", Aliases: []string{"create-default", "generate-default"}, Args: cobra.NoArgs,
		Short:   "Print the file with every default",
		Example: "  nvidia-ctk config default --output /etc/nvidia-container-runtime/config.toml",
		RunE:    func(c *cobra.Command, _ []string) error { return writeOut(c, output, []byte(defaultConfig)) },
	}
	d.Flags().StringVarP(&output, "output", "o", "", "the file to write; by default standard output")
	c.AddCommand(d)
	return c
}

func (o ctkConfig) run(c *cobra.Command) error {
	if o.inPlace && o.output != "" {
		return &exitError{exitUsage, errors.New("--in-place and --output: want one of them")}
	}
	file, text, err := o.read()
	if err != nil {
		return &exitError{exitErrors, err}
	}
	before := text
	for _, s := range o.set {
		if text, err = o.setOne(text, s); err != nil {
			return err
		}
	}
	if _, err := config.Parse(text); err != nil {
		return &exitError{exitErrors, fmt.Errorf("%s: %w", file, err)}
	}
	switch {
	case !o.inPlace:
		return writeOut(c, o.output, text)
	case bytes.Equal(before, text) && fileExists(file):
		return nil
	}
	return writeOut(c, file, text)
}

func fileExists(p string) bool { _, err := os.Stat(p); return err == nil }

// read gives the file's name and text; without a file, the defaults.
func (o ctkConfig) read() (string, []byte, error) {
	paths := config.Paths(os.Getenv)
	if o.file != "" {
		paths = []string{o.file}
	}
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return p, text, err
		}
	}
	return paths[len(paths)-1], []byte(defaultConfig), nil
}

func (o ctkConfig) setOne(text []byte, set string) ([]byte, error) {
	key, val, hasVal := strings.Cut(set, "=")
	key = strings.TrimSpace(key)
	kind, ok := configKeys[key]
	if !ok {
		return nil, &exitError{exitUsage, fmt.Errorf("--set %s: no key %q; did you mean %q?", set, key, nearestKey(key))}
	}
	literal := ""
	switch {
	case kind == 'b' && !hasVal:
		literal = "true"
	case !hasVal:
		return nil, &exitError{exitUsage, fmt.Errorf("--set %s: want %s=VALUE", set, key)}
	case kind == 'b':
		if val != "true" && val != "false" {
			return nil, &exitError{exitUsage, fmt.Errorf("--set %s: want true or false", set)}
		}
		literal = val
	case kind == 'l':
		items := o.items(val)
		for i := range items {
			items[i] = quoteTOML(items[i])
		}
		literal = "[" + strings.Join(items, ", ") + "]"
	case kind == 'c':
		literal = quoteTOML(strings.Join(o.items(val), ","))
	default:
		literal = quoteTOML(val)
	}
	out, err := setTOML(text, strings.Split(key, "."), literal)
	if err != nil {
		return nil, &exitError{exitErrors, err}
	}
	return out, nil
}

// items are a list's values. Where a value holds a colon itself, as a path
// with one would, commas separate.
func (o ctkConfig) items(val string) []string {
	sep := o.separator
	if sep == "" {
		sep = ":"
		if strings.Contains(val, ",") {
			sep = ","
		}
	}
	return slices.DeleteFunc(strings.Split(val, sep), func(s string) bool { return s == "" })
}

// writeOut writes a result by a temporary file, or to standard output.
func writeOut(c *cobra.Command, file string, text []byte) error {
	if file == "" {
		_, err := c.OutOrStdout().Write(text)
		return err
	}
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(file); err == nil {
		if !info.Mode().IsRegular() && !info.IsDir() { // /dev/stdout
			return os.WriteFile(file, text, 0)
		}
		mode = info.Mode().Perm()
	}
	if real, err := filepath.EvalSymlinks(file); err == nil {
		file = real // the link stays
	}
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = rootfs.WriteFile(file, text, mode)
	}
	if err != nil {
		return &exitError{exitErrors, err}
	}
	return nil
}

// nearestKey is the key that takes the fewest changes; a key's last part
// counts for the whole if that alone was written.
func nearestKey(key string) string {
	best, least := "", -1
	for k := range configKeys {
		d := request.Distance(key, k)
		if key == k[strings.LastIndexByte(k, '.')+1:] {
			d = 1
		}
		if least < 0 || d < least || d == least && k < best {
			best, least = k, d
		}
	}
	return best
}
