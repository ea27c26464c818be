// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"davit/internal/watch"
)

func TestServeMetrics(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var status atomic.Pointer[watch.Status]
	end := serveMetrics(l, &status)
	defer end()
	get := func(path string) (int, string, string) {
		t.Helper()
		r, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, r.Header.Get("Content-Type"), string(text)
	}
	if code, _, _ := get("/metrics"); code != http.StatusServiceUnavailable {
		t.Errorf("before the first pass: %d", code)
	}
	status.Store(&watch.Status{Driver: "550.120", GPUs: 3})
	code, kind, text := get("/metrics")
	if code != http.StatusOK || !strings.HasPrefix(kind, "text/plain; version=0.0.4") || !strings.Contains(text, "\ndavit_gpus 3\n") {
		t.Errorf("%d %s\n%s", code, kind, text)
	}
	if code, _, _ := get("/"); code != http.StatusNotFound {
		t.Errorf("another path: %d", code)
	}
}

func TestReady(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", name)
	ready()
	if err := l.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, err := l.Read(buf); err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	t.Setenv("NOTIFY_SOCKET", "")
	ready() // without systemd
}

// TestWatchLog: a state is told when it begins, not at each pass, and always
// in one line.
func TestWatchLog(t *testing.T) {
	var b bytes.Buffer
	l := &watchLog{w: &b}
	refused := watch.Pass{Result: watch.Result{Refused: "no driver"}}
	failed := watch.Pass{Err: errors.Join(errors.New("one"), errors.New("two"))}
	removed := watch.Pass{Result: watch.Result{Refused: "gone", Changes: []watch.Change{{Kind: watch.Spec, Path: "/x", Did: "removed: gone"}}}}
	for _, p := range []watch.Pass{refused, refused, failed, failed, {}, failed, removed, removed} {
		l.pass(p)
	}
	const want = "no CDI spec: no driver\nerror: one two\nerror: one two\n/x: removed: gone\n/x: removed: gone\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

// TestWatchUnit: the service's command line is one that davit takes.
func TestWatchUnit(t *testing.T) {
	text, err := os.ReadFile("../../packaging/systemd/davit-watch.service")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		args, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart=/usr/bin/davit ")
		if !ok {
			continue
		}
		list := strings.Fields(strings.Replace(args, "$DAVIT_WATCH_OPTIONS", "--metrics 127.0.0.1:9417 --capabilities all", 1))
		c, rest, err := newRoot().Find(list)
		if err != nil || c.Name() != "watch" {
			t.Fatalf("%q: %v", args, err)
		}
		if err := c.ParseFlags(rest); err != nil || c.Flags().NArg() != 0 {
			t.Errorf("%q: %v %q", args, err, c.Flags().Args())
		}
		return
	}
	t.Error("no ExecStart")
}
