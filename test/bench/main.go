// SPDX-License-Identifier: Apache-2.0

// Command bench measures what a GPU costs the start of a container: davit
// against the plain runtime and against the floor of each way, on simulated
// hosts, in rounds that take all cases in turn. docs/performance.md says what
// the columns mean. It is a measure, not a test: it passes no judgement by its
// exit status. As root.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// settings are the flags.
type settings struct {
	bin, runtimes, peer string
	only                string
	rounds              int
	containers          int
	quick, instructions bool
	deadline            time.Duration
	markdown, svg       string
	commit              string
}

func main() {
	s := settings{}
	flag.StringVar(&s.bin, "bin", "bin", "folder of davit and davit-runtime, and of floor (test/gpu/floor)")
	flag.StringVar(&s.runtimes, "runtimes", "", "folder with bin/runc, bin/crun and lib; by default this machine's own")
	flag.StringVar(&s.peer, "peer", os.Getenv("PEER_DIR"), "folder with NVIDIA's nvidia-container-runtime, nvidia-ctk, nvidia-cdi-hook, to be measured beside ($PEER_DIR)")
	flag.StringVar(&s.only, "only", "", "only cases and measures whose name holds one of these texts, with semicolons between (and what they are compared with)")
	flag.IntVar(&s.rounds, "rounds", 0, "rounds (default 40, with --quick 8)")
	flag.IntVar(&s.containers, "containers", 0, "containers started 16 at a time (default 200, with --quick 48)")
	flag.BoolVar(&s.quick, "quick", false, "fewer rounds and containers: some minutes in all")
	flag.BoolVar(&s.instructions, "instructions", false, "count instructions by callgrind as well")
	flag.DurationVar(&s.deadline, "deadline", 0, "stop after the round that is under way then (default none, with --quick 4m)")
	flag.StringVar(&s.markdown, "markdown", "", "write the tables to this file as well")
	flag.StringVar(&s.svg, "svg", "", "write a plot of the overhead against GPUs and libraries to this file")
	flag.StringVar(&s.commit, "commit", "", "what was built, for the table's head")
	flag.Parse()
	s.defaults()
	if err := run(s); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (s *settings) defaults() {
	set := func(v *int, quick, whole int) {
		switch {
		case *v > 0:
		case s.quick:
			*v = quick
		default:
			*v = whole
		}
	}
	set(&s.rounds, 8, 40)
	set(&s.containers, 48, 200)
	if s.deadline == 0 && s.quick {
		s.deadline = 4 * time.Minute
	}
}

// wanted says whether a case or a measure is asked for.
func (s *settings) wanted(name string) bool {
	for o := range strings.SplitSeq(s.only, ";") {
		if strings.Contains(name, o) {
			return true
		}
	}
	return false
}

// inside tells the process in the namespace its folder.
const inside = "DAVIT_BENCH_INSIDE"

func run(s settings) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("starting containers needs root")
	}
	if dir := os.Getenv(inside); dir != "" {
		return measure(s, dir)
	}
	dir, err := os.MkdirTemp("", "davit-bench-")
	if err != nil {
		return err
	}
	defer os.Remove(dir) // empty: the rest was in the namespace
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// A mount namespace of its own, so that nothing is left mounted.
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	return cmd.Run()
}

// measure does all of it in the folder dir of a mount namespace of its own.
func measure(s settings, dir string) error {
	ctx := context.Background()
	if s.deadline > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.deadline)
		defer cancel()
	}
	b, err := newBox(s, dir)
	if err != nil {
		return err
	}
	defer b.close()
	var r report
	r.head = b.machine()
	for _, rt := range b.low {
		g, err := b.lives(ctx, rt)
		if err != nil {
			return fmt.Errorf("%s: %w", rt.name, err)
		}
		r.groups = append(r.groups, g)
	}
	if r.many, err = b.manyAtOnce(ctx); err != nil {
		return err
	}
	if r.single, err = b.singles(ctx); err != nil {
		return err
	}
	r.notes = b.notes
	fmt.Print(r.text())
	if s.markdown != "" {
		if err := writeOut(s.markdown, r.markdown()); err != nil {
			return err
		}
	}
	if s.svg != "" {
		return writeOut(s.svg, r.plot())
	}
	return nil
}

func writeOut(file, text string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}
