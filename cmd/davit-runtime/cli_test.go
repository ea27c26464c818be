// SPDX-License-Identifier: Apache-2.0

package main

import (
	"reflect"
	"strings"
	"testing"

	"davit/internal/config"
)

// configure is cliMain up to the request.
func configure(t *testing.T, line string) (cliJob, error) {
	t.Helper()
	o, rest, err := parseOptions(strings.Fields(line), cliGlobal, true)
	if err != nil {
		return cliJob{}, err
	}
	if len(rest) == 0 || rest[0] != "configure" {
		t.Fatalf("%s: the command is %q", line, rest)
	}
	own, roots, err := parseOptions(rest[1:], cliConfigure, false)
	if err != nil {
		return cliJob{}, err
	}
	return newCLIJob(o, own, roots)
}

func TestConfigureRequest(t *testing.T) {
	for _, tt := range []struct {
		line    string
		devices []string
		all     bool
		caps    string
		reqs    int
	}{
		{"--load-kmods configure --device=0 --compute --compat32 --graphics --utility --video --display --pid=7 /r", []string{"0"}, false, "compat32,compute,display,graphics,utility,video", 0},
		{"configure -p7 -d all -cu -r cuda>=9 --require brand=tesla /r", nil, true, "compute,utility", 2},
		{"-k -u -r /drv -d /tmp/log configure /r --pid 7 --device=0,GPU-1 --device 0", []string{"0", "GPU-1"}, false, "", 0},
		{"--user=root:video configure --ldconfig=@/sbin/ldconfig --no-cgroups --display --device=0 -- /r", []string{"0"}, false, "display,graphics", 0},
	} {
		j, err := configure(t, tt.line)
		if err != nil {
			t.Errorf("%s: %v", tt.line, err)
			continue
		}
		r, err := j.request(config.Default())
		if err != nil || !r.Asked || r.All != tt.all || r.None || !reflect.DeepEqual(r.Devices, tt.devices) ||
			strings.Join(r.Capabilities, ",") != tt.caps || len(r.Requirements) != tt.reqs {
			t.Errorf("%s: got %+v, %v", tt.line, r, err)
		}
	}
	j, err := configure(t, "configure --utility /r")
	if err != nil {
		t.Fatal(err)
	}
	if r, err := j.request(config.Default()); err != nil || !r.None {
		t.Errorf("without --device: got %+v, %v, want the driver alone", r, err)
	}
}

func TestConfigureRefuses(t *testing.T) {
	for line, want := range map[string]string{
		"configure":                              "one root file system",
		"configure /a /b":                        "one root file system",
		"configure rootfs":                       "absolute",
		"configure --pid=1 /./":                  "host's own",
		"configure --pid=0 /r":                   "--pid",
		"configure --pid=x /r":                   "--pid",
		"configure --compute=yes /r":             "--compute takes no value",
		"configure --device":                     "--device needs a value",
		"configure -d":                           "-d needs a value",
		"configure --mig-config=0 /r":            "only all",
		"configure --gpu=0 /r":                   "unknown option --gpu",
		"--frob configure /r":                    "unknown option --frob",
		"configure -Z /r":                        "unknown option -Z",
		"configure --no-devbind --device=0 /r":   "--no-cgroups",
		"--debug=log configure --device=0 /root": "--debug",
	} {
		if _, err := configure(t, line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", line, err, want)
		}
	}
}

func TestConfigureSpeaksOfOptions(t *testing.T) {
	j, err := configure(t, "configure --device=0 --imex-channel=x /r")
	if err != nil {
		t.Fatal(err)
	}
	_, err = j.request(config.Default())
	if err == nil || strings.Contains(err.Error(), "environment") || strings.Contains(err.Error(), "NVIDIA_") || !strings.Contains(err.Error(), "--imex-channel=x") {
		t.Errorf("got %v", err)
	}
}

func FuzzParseOptions(f *testing.F) {
	f.Add("-k --debug=x configure -d0 --pid 7 -- /r")
	f.Add("configure -cuvg --user= -")
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, " ")
		_, rest, err := parseOptions(args, cliGlobal, true)
		if err == nil && len(rest) > 0 {
			_, _, _ = parseOptions(rest[1:], cliConfigure, false)
		}
	})
}
