// SPDX-License-Identifier: Apache-2.0

// Package shim stands in for the low-level runtime: it reads the runtime's
// arguments, edits the bundle of a container that asks for a GPU, and leaves
// the rest to the runtime.
package shim

import "strings"

// Invocation is what the shim understands of the runtime's arguments.
type Invocation struct {
	Verb      string // create, run, start …; "" if there is none
	Bundle    string // of create and run; "" means the working folder
	Log       string // --log: where the engine reads error messages
	LogFormat string // text or json
}

// withValue are the global flags, of runc and crun, that take a value in the
// next argument.
var withValue = map[string]bool{
	"log": true, "log-format": true, "root": true, "criu": true, "rootless": true,
	"log-level": true, "cgroup-manager": true, "config": true, "host": true, "platform": true,
}

// verbs are the commands of runc and crun. Another first word may be the
// value of a flag that is not known here.
var verbs = map[string]bool{
	"checkpoint": true, "create": true, "delete": true, "events": true, "exec": true, "features": true, "help": true,
	"init": true, "kill": true, "list": true, "mounts": true, "pause": true, "ps": true, "restore": true, "resume": true,
	"run": true, "spec": true, "start": true, "state": true, "update": true,
}

// ParseArgs reads the arguments behind the program's name. It never fails:
// what it does not know it leaves to the runtime.
func ParseArgs(args []string) Invocation {
	var inv Invocation
	for i := 0; i < len(args); i++ {
		name, val, hasVal := flag(args[i])
		switch {
		case name == "" && inv.Verb == "":
			if verbs[args[i]] {
				inv.Verb = args[i]
			}
		case inv.Verb == "" && withValue[name]:
			if !hasVal && i+1 < len(args) {
				i++
				val = args[i]
			}
			switch name {
			case "log":
				inv.Log = val
			case "log-format":
				inv.LogFormat = val
			}
		case inv.Verb != "" && (name == "bundle" || name == "b"):
			if !hasVal && i+1 < len(args) {
				i++
				val = args[i]
			}
			inv.Bundle = val
		case inv.Verb != "" && (name == "console-socket" || name == "pid-file" || name == "preserve-fds" || name == "config" || name == "f"):
			if !hasVal {
				i++
			}
		}
	}
	return inv
}

// flag splits -name, --name and --name=value.
func flag(arg string) (name, val string, hasVal bool) {
	if len(arg) < 2 || arg[0] != '-' {
		return "", "", false
	}
	arg = strings.TrimPrefix(arg[1:], "-")
	name, val, hasVal = strings.Cut(arg, "=")
	return name, val, hasVal
}
