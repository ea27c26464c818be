// SPDX-License-Identifier: Apache-2.0

// Command davit-runtime is what engines run at every container start. By the
// name it is called it is the runtime shim (nvidia-container-runtime), docker's
// prestart hook (nvidia-container-runtime-hook), the hook of CDI specs
// (nvidia-cdi-hook), the tool of ctr and LXC (nvidia-container-cli), or,
// mounted into images that cannot run the real one, a note in the place of
// nvidia-smi.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"davit/internal/config"
	"davit/internal/jsonedit"
	"davit/internal/nvidia"
	"davit/internal/plan"
	"davit/internal/rootfs"
)

// version is set by the linker.
var version = "dev"

func main() {
	args := os.Args[1:]
	switch filepath.Base(os.Args[0]) {
	case "nvidia-container-runtime-hook", "nvidia-container-toolkit":
		os.Exit(hookMain(args))
	case "nvidia-cdi-hook":
		os.Exit(oldCDIHookMain(args))
	case "nvidia-container-cli":
		os.Exit(cliMain(args))
	case "nvidia-ctk":
		if len(args) > 0 && args[0] == "hook" {
			os.Exit(oldCDIHookMain(args[1:]))
		}
	case "nvidia-smi":
		os.Exit(smiNote())
	case "davit-runtime":
		if len(args) > 0 {
			switch args[0] {
			case "--version", "-version", "version":
				fmt.Println("davit-runtime " + version)
				return
			case "hook":
				os.Exit(hookMain(args[1:]))
			case "cdi-hook":
				os.Exit(cdiHookMain(args[1:]))
			}
		}
	}
	os.Exit(shimMain(args))
}

// maxConfigToml bounds config.toml, which people write by hand.
const maxConfigToml = 16 << 20

// loadConfig reads config.toml, whose place env may name.
func loadConfig(env func(string) string) (config.Config, error) {
	paths := config.Paths(env)
	for _, p := range paths {
		if !filepath.IsAbs(p) {
			return config.Config{}, fmt.Errorf("%q is no absolute path: the working folder is the engine's choice, or in an image; give NVIDIA_CTK_CONFIG_FILE_PATH and XDG_CONFIG_HOME from the root", p)
		}
	}
	return config.Load(paths, func(p string) ([]byte, error) {
		text, _, err := rootfs.ReadHostFile(p, maxConfigToml)
		return text, err
	})
}

// readFacts reads the host that the configuration names.
func readFacts(c config.Config) (*nvidia.Facts, error) {
	dir := "/"
	if c.HostRoot != "" {
		dir = c.HostRoot
	}
	host, err := rootfs.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("host-root: %w", err)
	}
	return nvidia.ReadCached(host, nvidia.Options{DriverRoot: c.DriverRoot}, c.StateDir, version)
}

func planOptions() plan.Options {
	self, err := os.Executable()
	if err != nil {
		return plan.Options{}
	}
	return plan.Options{NoteProgram: self}
}

// trace appends what was decided to the debug file, if one is configured.
func trace(file, what string, p *plan.Plan, err error) {
	if file == "" || file == os.DevNull {
		return
	}
	f, oerr := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if oerr != nil {
		return // a debug file that cannot be written must not stop a container
	}
	defer f.Close()
	text := time.Now().UTC().Format(time.RFC3339) + " " + what + "\n"
	if err != nil {
		text += "  error: " + err.Error() + "\n"
	}
	if p != nil {
		for _, n := range p.Notes {
			text += "  note: " + n + "\n"
		}
		for _, d := range p.Edits.Devices {
			text += fmt.Sprintf("  device %s %d:%d: %s\n", d.Path, d.Major, d.Minor, d.Why)
		}
		for _, m := range p.Edits.Mounts {
			text += "  mount " + m.Source + " at " + m.Target + ": " + m.Why + "\n"
		}
		for _, l := range p.Left {
			text += "  left out " + l.What + ": " + l.Why + "\n"
		}
	}
	_, _ = f.WriteString(text)
}

// printable keeps a message on one line and harmless for terminals, whatever
// of a container's configuration stands in it.
func printable(s string) string {
	odd := func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == '\ufffd' }
	if !strings.ContainsFunc(s, odd) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if odd(r) {
			fmt.Fprintf(&b, "\\u%04x", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// smiNote runs inside a container in the place of nvidia-smi.
func smiNote() int {
	fmt.Fprintln(os.Stderr, "nvidia-smi: the GPU is here, but this image cannot run NVIDIA's programs: they need glibc, and the image has none (musl, or static programs alone).")
	fmt.Fprintln(os.Stderr, "Take an image based on Debian, Ubuntu, Fedora or another with glibc. The device nodes and the driver's files were given to this container.")
	return 127
}

// logLine is a line of a runtime's log as engines read it: text, or JSON.
func logLine(format, msg string) []byte {
	now := time.Now().UTC().Format(time.RFC3339)
	if format == "json" {
		line := append([]byte(`{"level":"error","msg":`), jsonedit.Quote(msg)...)
		line = append(line, `,"time":`...)
		line = append(line, jsonedit.Quote(now)...)
		return append(line, "}\n"...)
	}
	return []byte("time=" + now + " level=error msg=" + string(jsonedit.Quote(msg)) + "\n")
}
