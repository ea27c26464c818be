// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"golang.org/x/sys/unix"

	"davit/internal/nvidia"
	"davit/internal/rootfs"
)

const (
	// quiet is how long nothing must happen before a pass: an installation
	// changes hundreds of files. patience is how long it waits at most.
	quiet    = 100 * time.Millisecond
	patience = 500 * time.Millisecond
	// safety is the time between passes when nothing happens at all, for what
	// gives no event.
	safety = 30 * time.Second
)

// afterUevent are the times between passes that follow an event of the
// kernel: it tells of a module before the module has made its entries in
// /proc.
var afterUevent = []time.Duration{300 * time.Millisecond, 600 * time.Millisecond, 2 * time.Second}

// Pass is one round of looking.
type Pass struct {
	Result
	// Err is what could not be done; it is tried again at the next event.
	Err error
	// Notes are what a person should know of the watching itself.
	Notes  []string
	Status Status
}

// Run keeps the host in the folder dir true until ctx ends, which is no error.
// It tells of each pass, the first right at the beginning. It runs in the
// calling goroutine alone. An error means that nothing can be watched.
func Run(ctx context.Context, dir string, o Options, report func(Pass)) error {
	l := &loop{dir: dir, o: o, report: report, uevents: -1, status: newStatus(), buf: make([]byte, 16<<10)}
	var err error
	if l.watches, err = openWatches(); err != nil {
		return err
	}
	defer unix.Close(l.watches.fd)
	if l.uevents, err = openUevents(); err != nil {
		l.notes = append(l.notes, err.Error()+": modules and cards that come or go are noticed by their nodes, or within "+safety.String())
	} else {
		defer unix.Close(l.uevents)
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("open an event descriptor: %w", err)
	}
	defer unix.Close(stop)
	told := make(chan struct{})
	release := context.AfterFunc(ctx, func() {
		_, _ = unix.Write(stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		close(told)
	})
	defer func() {
		if !release() {
			<-told // before the descriptor is closed, and its number another's
		}
	}()

	// What happens while the first pass looks must not be missed.
	l.watch(nil)
	l.pass(time.Now())
	for ctx.Err() == nil {
		if err := l.wait(stop); err != nil {
			return err
		}
		now := time.Now()
		if ctx.Err() != nil || now.Before(l.due) {
			continue
		}
		if l.closedOnly && l.same() {
			l.rest(now)
			continue
		}
		l.pass(now)
	}
	return nil
}

type loop struct {
	dir     string
	o       Options
	report  func(Pass)
	watches *watches
	uevents int
	buf     []byte
	notes   []string
	told    string // the last note about what cannot be watched
	status  Status

	due        time.Time       // of the next pass
	first      time.Time       // the first event since the last pass; zero for none
	closedOnly bool            // the events were of the control node alone
	follow     []time.Duration // passes to come, after the due one
	seen       nvidia.Identity // by the last pass
	seenWell   bool            // the last pass had no error
}

// wait waits for events until a pass is due, and sets when that is.
func (l *loop) wait(stop int) error {
	fds := []unix.PollFd{{Fd: int32(stop), Events: unix.POLLIN}, {Fd: int32(l.watches.fd), Events: unix.POLLIN}, {Fd: int32(l.uevents), Events: unix.POLLIN}}
	// Rounded up: a wait that ends too early would be repeated at once.
	timeout := int(max(time.Until(l.due), 0)/time.Millisecond) + 1
	n, err := unix.Poll(fds, timeout)
	if errors.Is(err, unix.EINTR) || n == 0 && err == nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wait for events: %w", err)
	}
	if fds[1].Revents != 0 {
		changed, closed, err := l.watches.read(l.buf)
		if err != nil {
			return err
		}
		if changed || closed {
			l.event(time.Now(), !changed)
		}
	}
	if fds[2].Revents != 0 {
		concerns, err := readUevents(l.uevents, l.buf)
		if err != nil {
			return err
		}
		if concerns {
			l.status.Uevents++
			l.follow = afterUevent
			l.event(time.Now(), false)
		}
	}
	return nil
}

// event notes that something happened.
func (l *loop) event(now time.Time, closedOnly bool) {
	if l.first.IsZero() {
		l.first, l.closedOnly = now, true
	}
	l.closedOnly = l.closedOnly && closedOnly
	l.due = now.Add(quiet)
	if last := l.first.Add(patience); last.Before(l.due) {
		l.due = last
	}
}

// rest waits for the next event after a pass, or for passes to come.
func (l *loop) rest(now time.Time) {
	l.first, l.closedOnly = time.Time{}, false
	l.due = now.Add(safety)
	if len(l.follow) > 0 {
		l.due, l.follow = now.Add(l.follow[0]), l.follow[1:]
	}
}

// same says, by a handful of small reads, that the driver shows what the last
// pass saw. On busy hosts programs let go of the control node all the time.
func (l *loop) same() bool {
	host, err := rootfs.Open(l.dir)
	if err != nil || !l.seenWell {
		return false
	}
	id, err := nvidia.ReadIdentity(host)
	return err == nil && reflect.DeepEqual(id, l.seen)
}

// watch sets what is watched by what was found; it says whether that is more
// than before.
func (l *loop) watch(f *nvidia.Facts) bool {
	host, err := rootfs.Open(l.dir)
	if err != nil {
		return false
	}
	added, err := l.watches.set(wishesFor(host, f, l.o))
	if err != nil {
		note := err.Error()
		if errors.Is(err, unix.ENOSPC) {
			note += " (fs.inotify.max_user_watches is used up)"
		}
		if note += ": changes there are noticed within " + safety.String(); note != l.told {
			l.notes, l.told = append(l.notes, note), note
		}
	}
	return added
}

// pass looks once, and once more if there is more to watch now.
func (l *loop) pass(now time.Time) {
	p := Pass{}
	if host, err := rootfs.Open(l.dir); err != nil {
		p.Err = err
	} else {
		p.Result, p.Err = Reconcile(host, l.o)
	}
	l.seenWell = p.Err == nil
	if p.Facts != nil {
		l.seen = p.Facts.Identity()
	}
	l.rest(now)
	if l.watch(p.Facts) {
		l.event(time.Now(), false)
	}
	l.status.count(p, time.Now())
	p.Status, p.Notes, l.notes = l.status.copy(), l.notes, nil
	l.report(p)
}
