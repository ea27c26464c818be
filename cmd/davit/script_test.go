// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"davit": main, "nvidia-ctk": main, "nvidia-container-cli": main})
}

// Every file in testdata is one behaviour of the command line, named
// subject-behaviour.
func TestScripts(t *testing.T) {
	hosts, err := filepath.Abs("../../testdata/hosts")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE") != "",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOSTS", hosts)
			e.Setenv("NVIDIA_CTK_CONFIG_FILE_PATH", "")
			return nil
		},
	})
}
