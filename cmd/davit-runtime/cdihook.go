// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"davit/internal/cdihook"
	"davit/internal/shim"
)

// cdiHookMain is the one hook of davit's CDI specs, behind "cdi-hook". All that
// it needs stands in its arguments: it reads no configuration and no
// environment.
func cdiHookMain(args []string) int {
	os.Clearenv() // some runtimes hand down the container's
	return hookResult(cdiHook(args))
}

func cdiHook(args []string) ([]string, error) {
	a, err := cdihook.ParseArgs(args)
	if err != nil {
		return nil, fmt.Errorf("%w: the CDI spec and this davit-runtime (%s) do not fit together; write the spec again (davit cdi generate --output FILE)", err, version)
	}
	c, err := cdihook.Open(os.Stdin)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return cdihook.Run(c, a, shim.Leftover)
}

// oldCDIHookMain stands in for NVIDIA's nvidia-cdi-hook, and for nvidia-ctk
// hook.
func oldCDIHookMain(args []string) int {
	os.Clearenv()
	return hookResult(cdihook.RunOld(args, os.Stdin, shim.Leftover))
}

// hookResult tells a person what went wrong, and notes, one line each.
func hookResult(notes []string, err error) int {
	if err == nil && len(notes) == 0 {
		return 0
	}
	out, parent := os.Stderr, ""
	if stderrIsNull() {
		parent = parentPid()
		// Opened anew, a pipe or a terminal is the same again.
		if fd, err := unix.Open("/proc/"+parent+"/fd/2", unix.O_WRONLY|unix.O_APPEND|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err == nil {
			out = os.NewFile(uintptr(fd), "the runtime's standard error")
		}
	}
	for _, n := range notes {
		fmt.Fprintln(out, "davit: note: "+n)
	}
	if err == nil {
		return 0
	}
	msg := "davit: " + err.Error()
	fmt.Fprintln(out, msg)
	// podman shows the log if it has one line, else that pipe.
	if info, serr := out.Stat(); parent != "" && serr == nil && info.Mode()&os.ModeNamedPipe != 0 {
		if text, err := os.ReadFile("/proc/" + parent + "/cmdline"); err == nil {
			if args := strings.Split(string(text), "\x00"); len(args) > 1 {
				toLog(shim.ParseArgs(args[1:]), msg)
			}
		}
	}
	return 1
}

// stderrIsNull: crun gives its hooks the null device, and tells a person no
// more than that a hook failed. But its own process in the container, which is
// this one's parent, has the container's standard error, and its log is what
// podman shows.
func stderrIsNull() bool {
	var st unix.Stat_t
	return unix.Fstat(2, &st) != nil || st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}

// parentPid is the parent's number as /proc has it, which may be of another pid
// namespace than this process; "" if that is not to be found out.
func parentPid() string {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return ""
	}
	// pid (name) state ppid …
	if f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])); len(f) > 1 {
		return f[1]
	}
	return ""
}
