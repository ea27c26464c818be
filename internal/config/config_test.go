// SPDX-License-Identifier: Apache-2.0

package config

import (
	"reflect"
	"strings"
	"testing"
)

// nvidiaDefault is the shape of the file that NVIDIA's toolkit installs.
const nvidiaDefault = `#accept-nvidia-visible-devices-as-volume-mounts = false
#accept-nvidia-visible-devices-envvar-when-unprivileged = true
disable-require = false
supported-driver-capabilities = "compat32,compute,display,graphics,ngx,utility,video"
#swarm-resource = "DOCKER_RESOURCE_GPU"

[nvidia-container-cli]
#debug = "/var/log/nvidia-container-toolkit.log"
environment = []
ldconfig = "@/sbin/ldconfig"
load-kmods = true
no-cgroups = true
root = "/run/nvidia/driver"

[nvidia-container-runtime]
log-level = "info"
mode = "auto"
runtimes = [
    "docker-runc", # a comment
    'runc',
]

[nvidia-container-runtime.modes.cdi]
annotation-prefixes = ["cdi.k8s.io/", "nvidia.cdi.k8s.io/"]
[nvidia-container-runtime."modes".csv]
mount-spec-path = "/etc/nvidia-container-runtime/host-files-for-container.d"
[some.future.table]
number = 1_000
nested = [[1, 2], [3]]
`

func TestParseReadsTheFileOfNVIDIAsToolkit(t *testing.T) {
	c, err := Parse([]byte(nvidiaDefault))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.SupportedCapabilities = []string{"compat32", "compute", "display", "graphics", "ngx", "utility", "video"}
	want.DriverRoot = "/run/nvidia/driver"
	want.NoCgroups = true
	want.Runtimes = []string{"docker-runc", "runc"}
	want.AnnotationPrefixes = []string{"cdi.k8s.io/", "nvidia.cdi.k8s.io/"}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestParseSettings(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       func(*Config)
	}{
		{"an empty file means the defaults", "", func(*Config) {}},
		{"the older key means privileged", "accept-nvidia-visible-devices-envvar-when-unprivileged = false", func(c *Config) { c.AcceptEnv = "privileged" }},
		{"davit's own key wins over the older one", "accept-nvidia-visible-devices-envvar-when-unprivileged = false\naccept-visible-devices-env = \"never\"", func(c *Config) { c.AcceptEnv = "never" }},
		{"a string with commas is a list", `swarm-resource = "A, B"`, func(c *Config) { c.SwarmResources = []string{"A", "B"} }},
		{"dotted keys", `nvidia-container-cli.root = "/x"`, func(c *Config) { c.DriverRoot = "/x" }},
		{"Windows line ends", "[features]\r\nignore-imex-channel-requests = true\r\n", func(c *Config) { c.IgnoreIMEX = true }},
		{"groups off", "[features]\nno-additional-gids-for-device-nodes = true", func(c *Config) { c.AdditionalGIDs = false }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := Default()
			tt.want(&want)
			if got, err := Parse([]byte(tt.text)); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, %v\nwant %+v", got, err, want)
			}
		})
	}
}

func TestParseErrorsNameTheLine(t *testing.T) {
	for text, want := range map[string]string{
		"a = 1\nb = \"x":                            "line 2: the string has no closing quote",
		"\n\ndisable-require = yes":                 `line 3: "yes" is no value; strings stand in quotes`,
		"disable-require = \"true\"":                "line 1: disable-require: want true or false",
		"accept-visible-devices-env = \"somtimes\"": `line 1: accept-visible-devices-env: "somtimes" is none of auto, always, privileged, never, refuse`,
		"[a\nb = 1":                                 "line 1: want ] after the table's name",
		"[[a]]":                                     "line 1: arrays of tables are not used in this file",
		"a = [\"x\"":                                "line 1: the list has no closing bracket",
		"a = true b":                                `line 1: unexpected "b"`,
		"= 1":                                       `line 1: want a key, got "="`,
		"[nvidia-container-runtime]\nruntimes = []": "nvidia-container-runtime.runtimes is empty",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(nvidiaDefault)
	f.Add("a = [[[")
	f.Fuzz(func(t *testing.T, text string) { _, _ = Parse([]byte(text)) })
}
