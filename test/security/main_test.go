// SPDX-License-Identifier: Apache-2.0

// Package security attacks davit-runtime as root: hostile images, links that
// change during the start, hostile environments, caches and configurations; and
// it breaks things under it: kills, full disks, damaged state, drivers that
// change. Each container is started by runc, once through the shim and once
// with the prestart hook, over a simulated GPU host.
//
// The package has tests alone. cves_test.go says which test stands for which
// published hole of NVIDIA's toolkit.
package security

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"davit/internal/simulate"

	"golang.org/x/sys/unix"
)

// boxEnv marks the second start of the test program, in a mount namespace of
// its own: what others mount meanwhile does not show, and nothing stays.
const boxEnv = "DAVIT_TEST_SECURITY_BOX"

// built is what all tests share; whyNot says why there is nothing.
var built struct {
	dir    string // holds the programs under the names that engines call
	host   string // a simulated host with two GPUs, which no test changes
	whyNot string
}

func TestMain(m *testing.M) {
	if os.Getenv(boxEnv) == "" {
		if built.whyNot = lacking(); built.whyNot == "" {
			program, err := exec.LookPath("unshare")
			if err == nil {
				args := append([]string{program, "--mount", "--propagation", "private", os.Args[0]}, os.Args[1:]...)
				err = unix.Exec(program, args, append(os.Environ(), boxEnv+"=1"))
			}
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run()) // all tests are skipped
	}
	os.Exit(inBox(m))
}

func inBox(m *testing.M) int {
	dir, err := os.MkdirTemp("", "davit-security-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	built.dir, built.host = dir, filepath.Join(dir, "host")
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// lacking says in one sentence what these tests need and have not.
func lacking() string {
	if os.Getuid() != 0 {
		return "these tests start containers and need root"
	}
	for _, p := range []string{"runc", "unshare", "go"} {
		if _, err := exec.LookPath(p); err != nil {
			return "these tests need " + p + ", which is not installed"
		}
	}
	if _, err := findBusybox(); err != nil {
		return err.Error()
	}
	if err := exec.Command("unshare", "--mount", "true").Run(); err != nil {
		return "these tests need mount namespaces, and unshare cannot make one here"
	}
	return ""
}

func findBusybox() (string, error) {
	for _, p := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		// A static one runs with no libraries at all; LD_PRELOAD of nothing shows a dynamic one.
		cmd := exec.Command(p, "true")
		cmd.Env = []string{"LD_PRELOAD=/nowhere.so"}
		if out, err := cmd.CombinedOutput(); err == nil && len(out) == 0 {
			return p, nil
		}
	}
	return "", errors.New("these tests need a static busybox (Debian's package busybox-static)")
}

// The names of the programs.
const (
	shimName = "nvidia-container-runtime"
	hookName = "nvidia-container-runtime-hook"
)

// build makes the programs, static as they are shipped, and the host.
func build(dir string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, shimName), "davit/cmd/davit-runtime")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build davit-runtime: %w\n%s", err, out)
	}
	if err := os.Link(filepath.Join(dir, shimName), filepath.Join(dir, hookName)); err != nil {
		return err
	}
	_, err := simulate.Make(built.host, simulate.Options{GPUs: 2})
	return err
}

// needBox skips a test where nothing can be started.
func needBox(t *testing.T) {
	t.Helper()
	if built.whyNot != "" {
		t.Skip(built.whyNot)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte(text), 0o644))
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	return string(text)
}

// mountinfo is this namespace's mounts; nobody else has it.
func mountinfo(t *testing.T) string { return read(t, "/proc/self/mountinfo") }

// mountTmpfs mounts a small file system until the end of the test.
func mountTmpfs(t *testing.T, dir, options string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, options))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}
