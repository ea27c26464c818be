// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"davit/test/bench/rounds"
)

// phases are the milliseconds of one container's life; end is from the start
// to the end of its program.
type phases struct{ create, start, end, delete float64 }

func (p phases) life() float64 { return p.create + p.start + p.end + p.delete }

// invoked is what an engine would call for a variant.
type invoked struct {
	program string
	env     []string
}

func (b *box) invoked(rt lowRuntime, v variant) (invoked, error) {
	switch {
	case v.way == "empty", v.way == "shim" && v.floor:
		return invoked{b.path("bin/floor-shim"), []string{"LOWRT=" + rt.path}}, nil
	case v.way == "shim":
		conf, err := b.config(rt.path, v)
		return invoked{b.path("bin/nvidia-container-runtime"), []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + conf}}, err
	case v.way == "peer", v.way == "peer-cdi":
		dir, err := b.peerConfig(rt, v)
		return invoked{filepath.Join(b.peer, "nvidia-container-runtime"), []string{"XDG_CONFIG_HOME=" + dir}}, err
	}
	return invoked{rt.path, nil}, nil
}

// life takes one container of a variant from create to delete.
func (b *box) life(rt lowRuntime, v variant) (phases, error) {
	text, err := b.text(rt, v)
	if err != nil {
		return phases{}, err
	}
	return b.lifeOf(rt, v, text)
}

func (b *box) lifeOf(rt lowRuntime, v variant, text []byte) (phases, error) {
	how, err := b.invoked(rt, v)
	if err != nil {
		return phases{}, err
	}
	d, err := b.place(text, v)
	if err != nil {
		return phases{}, err
	}
	defer d.close()
	if v.again {
		if _, err := b.phases(rt, how, d); err != nil {
			return phases{}, err
		}
		if err := d.write(); err != nil {
			return phases{}, err
		}
	}
	if v.first {
		if err := b.forget(); err != nil {
			return phases{}, err
		}
	}
	return b.phases(rt, how, d)
}

// forget throws the facts away that davit keeps. The loader caches that the
// floor of read-only roots mounts stay.
func (b *box) forget() error {
	files, err := filepath.Glob(b.path("state/davit/facts-*"))
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

// phases creates, starts and deletes the container of a bundle.
func (b *box) phases(rt lowRuntime, how invoked, d *bundle) (p phases, err error) {
	// To a file: the container holds it after the runtime has ended.
	out, err := os.Create(filepath.Join(d.dir, "log"))
	if err != nil {
		return p, err
	}
	defer out.Close()
	call := func(took *float64, args ...string) error {
		cmd := b.command(how.program, append([]string{"--root", rt.root}, args...)...)
		cmd.Env = append(append([]string{}, b.env...), how.env...)
		cmd.Stdout, cmd.Stderr = out, out
		begin := time.Now()
		err := cmd.Run()
		*took = milliseconds(time.Since(begin))
		if err != nil {
			said, _ := os.ReadFile(out.Name())
			return fmt.Errorf("%s %s: %w: %s", filepath.Base(how.program), args[0], err, strings.TrimSpace(string(said)))
		}
		return nil
	}
	defer func() {
		if err != nil {
			_ = b.command(rt.path, "--root", rt.root, "delete", "--force", d.id).Run()
		}
	}()
	pidFile := filepath.Join(d.dir, "pid")
	if err := call(&p.create, "create", "--bundle", d.dir, "--pid-file", pidFile, d.id); err != nil {
		return p, err
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return p, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return p, err
	}
	if err := call(&p.start, "start", d.id); err != nil {
		return p, err
	}
	begin := time.Now()
	if err := ended(pid); err != nil {
		return p, err
	}
	p.end = milliseconds(time.Since(begin))
	return p, call(&p.delete, "delete", d.id)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// ended waits for the end of a container's program, which is a child of this
// process since the runtime has ended.
func ended(pid int) error {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for the container's program: %w", err)
		case status.ExitStatus() != 0:
			return fmt.Errorf("the container's program ended with status %d", status.ExitStatus())
		default:
			return nil
		}
	}
}

// group is what was measured with one runtime.
type group struct {
	runtime  string
	variants []variant
	taken    [][]phases // by variant and round
}

// lives takes all variants in turn.
func (b *box) lives(ctx context.Context, rt lowRuntime) (group, error) {
	g := group{runtime: rt.name}
	texts := map[string][]byte{}
	for _, v := range b.variants() {
		text, err := b.text(rt, v)
		if err == nil && strings.HasPrefix(v.way, "peer") {
			_, err = b.lifeOf(rt, v, text)
		}
		if err != nil {
			b.note(fmt.Sprintf("left out, %s %s: %v", rt.name, v.name, err))
			continue
		}
		texts[v.name] = text
		g.variants = append(g.variants, v)
	}
	// Each runtime may take a third of the time, the rest is for what follows.
	share := time.Time{}
	if end, ok := ctx.Deadline(); ok {
		left := time.Until(end)
		if rt.name == b.low[0].name {
			left /= 3
		} else {
			left /= 2
		}
		share = time.Now().Add(left)
	}
	more := func() bool { return share.IsZero() || time.Now().Before(share) }
	var err error
	g.taken, err = rounds.Interleave(len(g.variants), 2, b.rounds, more, func(i int) (phases, error) {
		v := g.variants[i]
		p, err := b.lifeOf(rt, v, texts[v.name])
		if err != nil {
			err = fmt.Errorf("%s: %w", v.name, err)
		}
		return p, err
	})
	return g, err
}

// atOnce is how many containers are under way together.
const atOnce = 16

// many is how long many containers took that were started together.
type many struct {
	runtime             string
	plain, floor, davit float64 // milliseconds
}

// manyAtOnce starts many containers with one GPU, 16 at a time.
func (b *box) manyAtOnce(ctx context.Context) ([]many, error) {
	if !b.wanted("many at once") {
		return nil, nil
	}
	var list []many
	for _, rt := range b.low {
		variants := []variant{
			{name: "plain", way: "plain", cache: 1500},
			{name: "floor", way: "shim", floor: true, gpus: 1, cache: 1500},
			{name: "davit", way: "shim", gpus: 1, cache: 1500},
		}
		// A second time backwards: the mean of both is free of a steady drift.
		took, err := rounds.Interleave(len(variants), 0, 2, func() bool { return ctx.Err() == nil }, func(i int) (float64, error) {
			return b.burst(rt, variants[i])
		})
		if err != nil {
			return nil, fmt.Errorf("%s, %d at once: %w", rt.name, atOnce, err)
		}
		if len(took[0]) == 0 {
			b.note("no time was left for many at once with " + rt.name)
			continue
		}
		list = append(list, many{rt.name, rounds.Median(took[0]), rounds.Median(took[1]), rounds.Median(took[2])})
	}
	return list, nil
}

func (b *box) burst(rt lowRuntime, v variant) (float64, error) {
	text, err := b.text(rt, v)
	if err != nil {
		return 0, err
	}
	how, err := b.invoked(rt, v)
	if err != nil {
		return 0, err
	}
	bundles := make(chan *bundle, b.containers)
	defer func() {
		for d := range bundles {
			d.close()
		}
	}()
	all := make([]*bundle, b.containers)
	for i := range all {
		if all[i], err = b.place(text, v); err != nil {
			close(bundles)
			return 0, err
		}
	}
	for _, d := range all {
		bundles <- d
	}
	close(bundles)
	var wait sync.WaitGroup
	errs := make([]error, atOnce)
	begin := time.Now()
	for i := range atOnce {
		wait.Go(func() {
			for d := range bundles {
				if _, err := b.phases(rt, how, d); err != nil {
					errs[i] = err
				}
			}
		})
	}
	wait.Wait()
	took := milliseconds(time.Since(begin))
	for _, d := range all {
		d.close()
	}
	return took, errors.Join(errs...)
}
