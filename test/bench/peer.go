// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// peerConfig makes the configuration of NVIDIA's runtime for a variant, in a
// folder to be its XDG_CONFIG_HOME: in its default mode, or with CDI specs on
// disk.
func (b *box) peerConfig(rt lowRuntime, v variant) (string, error) {
	h := b.host(v)
	dir := b.path("conf", v.way+"-"+rt.name+"-"+filepath.Base(h.Dir))
	file := filepath.Join(dir, "nvidia-container-runtime", "config.toml")
	if _, err := os.Stat(file); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", err
	}
	mode, specs := "jit-cdi", filepath.Join(dir, "cdi")
	ctk := filepath.Join(b.peer, "nvidia-ctk")
	if v.way == "peer-cdi" {
		mode = "cdi"
		cmd := b.command(ctk, "cdi", "generate", "--driver-root", h.Dir, "--dev-root", h.Dir,
			"--nvidia-cdi-hook-path", filepath.Join(b.peer, "nvidia-cdi-hook"), "--output", filepath.Join(specs, "nvidia.yaml"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("nvidia-ctk cdi generate: %w: %s", err, out)
		}
	}
	text := fmt.Sprintf(`[nvidia-container-cli]
root = %q
[nvidia-container-runtime]
mode = %q
runtimes = [%q]
[nvidia-container-runtime.modes.cdi]
default-kind = "nvidia.com/gpu"
spec-dirs = [%q]
[nvidia-container-runtime-hook]
path = %q
[nvidia-ctk]
path = %q
`, h.Dir, mode, rt.path, specs, filepath.Join(b.peer, "nvidia-container-runtime-hook"), ctk)
	return dir, os.WriteFile(file, []byte(text), 0o644)
}
