// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"davit/internal/config"
	"davit/internal/nvidia"
	"davit/internal/shim"
)

// shimMain edits on create and run, then becomes the low-level runtime. It
// returns only on failure.
func shimMain(args []string) int {
	inv := shim.ParseArgs(args)
	c, err := loadConfig(os.Getenv)
	if err != nil && (inv.Verb == "create" || inv.Verb == "run") {
		return fail(inv, err)
	}
	if err != nil {
		c = config.Default() // a container that runs must be stoppable
	}
	if inv.Verb == "create" || inv.Verb == "run" {
		bundle := inv.Bundle
		if bundle == "" {
			bundle = "."
		}
		p, err := shim.Create(bundle, shim.Options{
			Facts:    func() (*nvidia.Facts, error) { return readFacts(c) },
			Policy:   c.Policy(),
			Plan:     planOptions(),
			StateDir: c.StateDir,
			GIDs:     c.AdditionalGIDs,
		})
		if p != nil || err != nil {
			trace(c.Debug, "shim "+inv.Verb+" "+bundle, p, err)
		}
		if err != nil {
			return fail(inv, err)
		}
	}
	runtime, err := lookRuntime(c.Runtimes)
	if err != nil {
		return fail(inv, err)
	}
	err = syscall.Exec(runtime, append([]string{runtime}, args...), os.Environ())
	return fail(inv, fmt.Errorf("execute %s: %w", runtime, err))
}

// fail tells the engine, by the runtime's log and by standard error, in one
// line.
func fail(inv shim.Invocation, err error) int {
	msg := printable("davit: " + err.Error())
	toLog(inv, msg)
	fmt.Fprintln(os.Stderr, msg)
	return 1
}

// toLog appends to the log that the engine reads, if it asked for one.
func toLog(inv shim.Invocation, msg string) {
	if inv.Log == "" {
		return
	}
	if f, err := os.OpenFile(inv.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err == nil {
		_, _ = f.Write(logLine(inv.LogFormat, msg))
		f.Close()
	}
}

// lookRuntime finds the first of the names that can be executed and is not
// this program itself.
func lookRuntime(names []string) (string, error) {
	var self, st syscall.Stat_t
	_ = syscall.Stat("/proc/self/exe", &self)
	for _, name := range names {
		dirs := []string{""}
		if !strings.Contains(name, "/") {
			dirs = filepath.SplitList(os.Getenv("PATH"))
		}
		for _, dir := range dirs {
			p := filepath.Join(dir, name)
			if syscall.Stat(p, &st) != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG || st.Mode&0o111 == 0 {
				continue
			}
			if st.Dev == self.Dev && st.Ino == self.Ino {
				continue
			}
			return p, nil
		}
	}
	return "", fmt.Errorf("no low-level runtime found: looked for %s in %s; name one in nvidia-container-runtime.runtimes of config.toml", strings.Join(names, ", "), os.Getenv("PATH"))
}
