// SPDX-License-Identifier: Apache-2.0

package oci

import "testing"

func TestHookEnv(t *testing.T) {
	for _, test := range []struct{ config, want string }{
		{`{}`, ""},
		{`{"process":{"env":["A=image"]},"hooks":{"prestart":[{"path":"/usr/bin/nvidia-container-runtime-hook"}]}}`, ""},
		{`{"hooks":{"prestart":[{"path":"/usr/bin/other","env":["A=other"]},{"path":"/usr/bin/nvidia-container-runtime-hook","env":["AB=x","A=1","A=2=3",7]}]}}`, "2=3"},
		{`{"hooks":{"createRuntime":[{"path":"nvidia-container-toolkit","env":["A="]}]}}`, ""},
		{`{"hooks":{"prestart":{"path":"nvidia-container-toolkit","env":["A=1"]},"createContainer":7}}`, ""},
	} {
		s, err := Parse([]byte(test.config))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.HookEnv("A"); got != test.want {
			t.Errorf("%s: %q, want %q", test.config, got, test.want)
		}
	}
}
