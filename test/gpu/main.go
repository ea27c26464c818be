// SPDX-License-Identifier: Apache-2.0

// Command gpu is the acceptance run on a real GPU. It starts containers with
// runc, crun and, where it was brought along, docker, by davit's shim and by
// davit's hook, looks from the inside at what they got, and prints one table.
// Its second face, `gpu probe`, is the program that looks from the inside: it is
// static and runs in every image.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "probe" {
		probe(os.Args[2:])
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "run" {
		os.Args = append(os.Args[:1], os.Args[2:]...)
	}
	os.Exit(run())
}

// settings are the command line's.
type settings struct {
	work     string
	hostRoot string
	deadline time.Duration
	only     string
	columns  string
	rounds   int
}

func run() int {
	var s settings
	flag.StringVar(&s.work, "work", "", "folder with what pack.sh made, unpacked; containers live in it too")
	flag.StringVar(&s.hostRoot, "host-root", "", "a simulated host")
	flag.DurationVar(&s.deadline, "deadline", 7*time.Minute, "when to skip what is left")
	flag.StringVar(&s.only, "only", "", "only checks whose name holds this")
	flag.StringVar(&s.columns, "columns", "", "only these columns, with commas between")
	flag.IntVar(&s.rounds, "rounds", 25, "rounds of time measurement; 0 for none")
	flag.Parse()
	if os.Getuid() != 0 || s.work == "" {
		fmt.Fprintln(os.Stderr, "run test/gpu/run.sh as root")
		return 64
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, s.deadline)
	defer cancel()

	h, err := readHost(s)
	if err != nil {
		fmt.Fprintln(os.Stderr, "the host:", err)
		return 1
	}
	l, err := newLab(ctx, s, h)
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		return 1
	}
	defer l.close()
	t := newTable(h, l)
	for _, line := range t.head {
		fmt.Println(line)
	}
	out := os.Getenv("OUT")
	progress := os.Stderr
	if out != "" { // standard output is for the table, and what is saved survives a timeout
		if f, err := os.Create(filepath.Join(out, "gpu-progress.txt")); err == nil {
			defer f.Close()
			progress = f
		}
	}
	for _, c := range append(checks(h), timings()...) {
		if s.only != "" && !strings.Contains(c.name, s.only) {
			continue
		}
		start := time.Now()
		r := row{name: c.name}
		for _, col := range l.columns {
			r.cells = append(r.cells, guarded(ctx, c, col))
		}
		t.add(r)
		fmt.Fprintf(progress, "%5.1fs  %-58s %s\n", time.Since(start).Seconds(), r.name, r.short())
		t.save(out, l)
	}
	l.close()
	t.save(out, l)
	return t.finish(os.Stdout)
}

// guarded runs one check in one column; whatever happens, the next one runs.
func guarded(ctx context.Context, c check, col *column) (o outcome) {
	defer func() {
		if p := recover(); p != nil {
			o = failed("the check itself broke: %v", p)
		}
	}()
	switch {
	case col.broken != nil:
		return outcome{cell: "–"}
	case ctx.Err() != nil:
		return outcome{cell: "skipped", bad: true, evidence: "no time was left"}
	case c.ways != "" && !strings.Contains(c.ways, col.way):
		return outcome{cell: "–"}
	case c.noDocker && col.docker:
		return outcome{cell: "–"}
	}
	return c.run(col)
}

// wanted tells whether a column was asked for.
func (s settings) wanted(name string) bool {
	if s.columns == "" {
		return true
	}
	for _, c := range strings.Split(s.columns, ",") {
		if strings.TrimSpace(c) == name {
			return true
		}
	}
	return false
}

func (s settings) path(elem ...string) string {
	return filepath.Join(append([]string{s.work}, elem...)...)
}
