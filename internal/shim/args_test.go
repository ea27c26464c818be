// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"strings"
	"testing"
)

func TestParseArgs(t *testing.T) {
	for _, tt := range []struct {
		name, args string
		want       Invocation
	}{
		{"docker's create", "--root /run/docker/runtime-runc/moby --log /b/log.json --log-format json create --bundle /b --pid-file /b/init.pid ID",
			Invocation{Verb: "create", Bundle: "/b", Log: "/b/log.json", LogFormat: "json"}},
		{"with the systemd cgroup driver", "--log /l --log-format json --systemd-cgroup create --bundle /b ID", Invocation{Verb: "create", Bundle: "/b", Log: "/l", LogFormat: "json"}},
		{"BuildKit's run", "--log /x/log.json --log-format json run --bundle /x --keep ID", Invocation{Verb: "run", Bundle: "/x", Log: "/x/log.json", LogFormat: "json"}},
		{"podman's create", "create --bundle /b --pid-file /p ID", Invocation{Verb: "create", Bundle: "/b"}},
		{"values behind =", "--log=/l --log-format=json create --bundle=/b ID", Invocation{Verb: "create", Bundle: "/b", Log: "/l", LogFormat: "json"}},
		{"short flag", "create -b /b ID", Invocation{Verb: "create", Bundle: "/b"}},
		{"one dash, as Go's flag package takes it", "create -bundle /b ID", Invocation{Verb: "create", Bundle: "/b"}},
		{"no bundle", "run ID", Invocation{Verb: "run"}},
		{"start", "--root /r start ID", Invocation{Verb: "start"}},
		{"a container named create is not created", "--root /r delete create", Invocation{Verb: "delete"}},
		{"the value of a flag is no verb", "--root create --log run state ID", Invocation{Verb: "state", Log: "run"}},
		{"the value of an unknown flag is passed over", "--new-flag value create --bundle /b ID", Invocation{Verb: "create", Bundle: "/b"}},
		{"a container named run with a flag's value", "create --pid-file run -b /b run", Invocation{Verb: "create", Bundle: "/b"}},
		{"version", "--version", Invocation{}},
		{"features", "features", Invocation{Verb: "features"}},
		{"nothing", "", Invocation{}},
		{"a flag without its value", "create --bundle", Invocation{Verb: "create"}},
		{"crun", "--cgroup-manager systemd --log-level debug create -b /b ID", Invocation{Verb: "create", Bundle: "/b"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := ParseArgs(strings.Fields(tt.args)); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func FuzzParseArgs(f *testing.F) {
	f.Add("--root /r create --bundle /b ID")
	f.Fuzz(func(t *testing.T, args string) {
		list := strings.Split(args, " ")
		inv := ParseArgs(list)
		if inv.Verb != "" && !verbs[inv.Verb] {
			t.Errorf("%q is no verb", inv.Verb)
		}
	})
}
