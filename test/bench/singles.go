// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"davit/internal/nvidia"
	"davit/internal/rootfs"
	"davit/test/bench/rounds"
)

// single is a measure beside the lives of containers.
type single struct{ name, value, reach string }

// singles are all of them that can be taken here.
func (b *box) singles(ctx context.Context) ([]single, error) {
	var list []single
	for _, m := range []struct {
		name string
		take func() ([]single, error)
	}{{"facts", b.facts}, {"commands", b.commands}, {"system calls", b.calls}, {"instructions", b.counted}} {
		if !b.wanted(m.name) {
			continue
		}
		if ctx.Err() != nil {
			b.note("no time was left for " + m.name)
			continue
		}
		s, err := m.take()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		list = append(list, s...)
	}
	return list, nil
}

// facts times the reading of a host inside this process.
func (b *box) facts() ([]single, error) {
	host, err := rootfs.Open(b.hosts[8].Dir)
	if err != nil {
		return nil, err
	}
	dir := b.path("state/facts")
	takes := []func() error{
		func() error { _, err := nvidia.Read(host, nvidia.Options{}); return err },
		func() error { _, err := nvidia.ReadCached(host, nvidia.Options{}, dir, "bench"); return err },
	}
	took, err := rounds.Interleave(len(takes), 3, 60, nil, func(i int) (float64, error) {
		begin := time.Now()
		err := takes[i]()
		return milliseconds(time.Since(begin)), err
	})
	if err != nil {
		return nil, err
	}
	return []single{
		{"facts of 8 GPUs, nothing kept", ms(rounds.Median(took[0])), "10 ms"},
		{"facts of 8 GPUs, kept", ms(rounds.Median(took[1])), "0.5 ms"},
	}, nil
}

func ms(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) + " ms" }

// commands times programs from their start to their end.
func (b *box) commands() ([]single, error) {
	host := b.hosts[8].Dir
	list := []struct {
		name, reach string
		args        []string
		fine        int // an exit status that is no failure, beside 0
	}{
		{"a static program that does nothing", "", []string{"end"}, 0},
		{"an empty static Go program", "", []string{"floor-hook"}, 0},
		{"davit-runtime --version", "", []string{"davit-runtime", "--version"}, 0},
		{"davit cdi generate", "12 ms", []string{"davit", "cdi", "generate", "--root", host}, 0},
		{"davit list", "", []string{"davit", "list", "--root", host}, 0},
		{"davit doctor", "", []string{"davit", "doctor", "--root", host}, 2},
	}
	run := func(args []string, fine int) error {
		cmd := b.command(b.path("bin", args[0]), args[1:]...)
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState.ExitCode() != fine {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	kept := list[:0]
	for _, c := range list {
		if err := run(c.args, c.fine); err != nil {
			b.note("left out: " + strings.TrimSpace(err.Error()))
			continue
		}
		kept = append(kept, c)
	}
	took, err := rounds.Interleave(len(kept), 1, 20, nil, func(i int) (float64, error) {
		begin := time.Now()
		err := run(kept[i].args, kept[i].fine)
		return milliseconds(time.Since(begin)), err
	})
	if err != nil {
		return nil, err
	}
	var out []single
	for i, c := range kept {
		out = append(out, single{c.name, ms(rounds.Median(took[i])), c.reach})
	}
	return out, nil
}

// alone is davit's part of one create, with a program that ends at once (or
// one that cannot be executed) as the low-level runtime.
type alone struct {
	name  string
	v     variant
	floor bool // the empty program in davit's place
}

func aloneCases() []alone {
	return []alone{
		{"empty program", variant{way: "plain", cache: 1500}, true},
		{"shim, start", variant{way: "plain", cache: 1500}, false}, // not create
		{"shim, no GPU", variant{way: "plain", cache: 1500}, false},
		{"shim, 1 GPU", variant{way: "shim", gpus: 1, cache: 1500}, false},
		{"shim, 8 GPUs, all", variant{way: "shim", gpus: 8, caps: "all", cache: 1500}, false},
		{"shim, 16 GPUs, all", variant{way: "shim", gpus: 16, caps: "all", cache: 1500}, false},
		{"shim, 8 GPUs, all, first start", variant{way: "shim", gpus: 8, caps: "all", cache: 1500, first: true}, false},
	}
}

// under runs davit's part of a create under a tool.
func (b *box) under(a alone, low string, tool ...string) ([]byte, error) {
	text, err := b.text(b.low[0], variant{way: "plain", gpus: a.v.gpus, caps: a.v.caps})
	if err != nil {
		return nil, err
	}
	d, err := b.place(text, a.v)
	if err != nil {
		return nil, err
	}
	defer d.close()
	conf, err := b.config(low, a.v)
	if err != nil {
		return nil, err
	}
	if a.v.first {
		if err := b.forget(); err != nil {
			return nil, err
		}
	}
	program := b.path("bin/nvidia-container-runtime")
	if a.floor {
		program = b.path("bin/floor-shim")
	}
	args := append(tool[1:len(tool):len(tool)], program)
	if a.name == "shim, start" {
		args = append(args, "start", d.id)
	} else {
		args = append(args, "create", "--bundle", d.dir, d.id)
	}
	cmd := b.command(tool[0], args...)
	// Threads' signals to each other are noise, and callgrind cannot count them.
	cmd.Env = append(cmd.Env, "NVIDIA_CTK_CONFIG_FILE_PATH="+conf, "LOWRT="+low, "GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=1")
	return cmd.CombinedOutput()
}

// calls counts system calls and executed programs by strace.
func (b *box) calls() ([]single, error) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		b.note("no strace here: system calls are not counted")
		return nil, nil
	}
	var list []single
	file := b.path("strace")
	count := func(name string, run func() ([]byte, error)) error {
		if out, err := run(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, out)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		c := countCalls(string(text))
		list = append(list, single{"system calls: " + name, fmt.Sprintf("%d, programs %d", c.all, c.execs), ""})
		return nil
	}
	for _, a := range aloneCases() {
		// Twice, for the first makes what is kept.
		for range 2 {
			if out, err := b.under(a, b.path("bin/end"), strace, "-f", "-c", "-o", file); err != nil {
				return nil, fmt.Errorf("%s: %w: %s", a.name, err, out)
			}
		}
		if err := count(a.name+", davit's part", func() ([]byte, error) {
			return b.under(a, b.path("bin/end"), strace, "-f", "-c", "-o", file)
		}); err != nil {
			return nil, err
		}
	}
	err = count("davit cdi generate", func() ([]byte, error) {
		return b.command(strace, "-f", "-c", "-o", file, b.path("bin/davit"), "cdi", "generate", "--root", b.hosts[8].Dir).CombinedOutput()
	})
	if err != nil {
		return nil, err
	}
	list[len(list)-1].reach = "1500"
	for _, rt := range b.low {
		for _, v := range b.variants() {
			if v.name != plainName && v.name != "shim floor, 1 GPU" && v.name != "shim, 1 GPU" && v.name != "hook, 1 GPU" && v.name != "cdi, 1 GPU" {
				continue
			}
			if err := count(rt.name+" create, "+v.name, func() ([]byte, error) { return b.createUnder(rt, v, strace, file) }); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

// createUnder creates and deletes a container, the first under strace.
func (b *box) createUnder(rt lowRuntime, v variant, strace, file string) ([]byte, error) {
	text, err := b.text(rt, v)
	if err != nil {
		return nil, err
	}
	how, err := b.invoked(rt, v)
	if err != nil {
		return nil, err
	}
	d, err := b.place(text, v)
	if err != nil {
		return nil, err
	}
	defer d.close()
	log, err := os.Create(filepath.Join(d.dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := b.command(strace, "-f", "-c", "-o", file, how.program, "--root", rt.root, "create", "--bundle", d.dir, d.id)
	cmd.Env = append(cmd.Env, how.env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	// strace stays until the container that it follows has ended.
	made := func() error {
		for range 200 {
			if out, err := b.command(rt.path, "--root", rt.root, "state", d.id).Output(); err == nil && strings.Contains(string(out), `"created"`) {
				return nil
			}
			time.Sleep(50 * time.Millisecond)
		}
		return fmt.Errorf("not created within 10 seconds")
	}()
	_ = b.command(rt.path, "--root", rt.root, "delete", "--force", d.id).Run()
	err = cmd.Wait()
	said, _ := os.ReadFile(log.Name())
	if made != nil {
		return said, made
	}
	return said, err
}

// called are numbers of system calls.
type called struct{ all, execs int }

// countCalls reads the table of strace -c, less those calls by which threads
// wait for each other.
func countCalls(text string) called {
	var c called
	for line := range strings.Lines(text) {
		// % time, seconds, usecs/call, calls, [errors,] name
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		n, err := strconv.Atoi(f[3])
		if err != nil {
			continue
		}
		switch f[len(f)-1] {
		case "total":
		case "nanosleep", "futex", "sched_yield": // as the schedulers like it: noise
		case "execve", "execveat":
			c.execs += n
			if len(f) == 6 {
				if failed, err := strconv.Atoi(f[4]); err == nil {
					c.execs -= failed
				}
			}
			c.all += n
		default:
			c.all += n
		}
	}
	return c
}

// counted counts instructions by callgrind. Go's scheduler makes the number
// differ a little from run to run, so it is the least of some.
func (b *box) counted() ([]single, error) {
	if !b.instructions {
		return nil, nil
	}
	valgrind, err := exec.LookPath("valgrind")
	if err != nil {
		b.note("no valgrind here: instructions are not counted")
		return nil, nil
	}
	// Callgrind writes its sum when the program ends, so it must not become
	// another: this one cannot be executed.
	low := b.path("bin/not-executable")
	if err := os.WriteFile(low, []byte("\x7fELF"), 0o755); err != nil {
		return nil, err
	}
	var list []single
	for _, a := range aloneCases() {
		least := 0
		for range 6 {
			// It ends with an error, as it must.
			out, _ := b.under(a, low, valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null")
			n := collected(string(out))
			if n == 0 {
				return nil, fmt.Errorf("%s: no number from callgrind: %s", a.name, out)
			}
			if least == 0 || n < least {
				least = n
			}
		}
		list = append(list, single{"instructions: " + a.name + ", davit's part", fmt.Sprintf("%.2f million", float64(least)/1e6), ""})
	}
	return list, nil
}

// collected finds callgrind's sum in what valgrind prints.
func collected(text string) int {
	for line := range strings.Lines(text) {
		if _, after, ok := strings.Cut(line, "Collected : "); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(after))
			return n
		}
	}
	return 0
}
