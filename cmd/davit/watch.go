// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"davit/internal/cdi"
	"davit/internal/config"
	"davit/internal/rootfs"
	"davit/internal/watch"
)

// watchFlags are what watch was asked for.
type watchFlags struct {
	root, spec, capabilities, metrics string
	options                           watch.Options
	once                              bool
}

func newWatch() *cobra.Command {
	var w watchFlags
	o := &w.options
	c := &cobra.Command{
		Use:   "watch",
		Short: "Keep CDI specs, /dev/char links and remembered facts true as the host changes",
		Long: "Waits for the kernel and the file system to tell of a driver that was loaded, upgraded\n" +
			"or removed, of GPUs and MIG devices that came or went, and of files that others\n" +
			"removed; then makes true what was written for the host before. One line on standard\n" +
			"output for each change. Ends at SIGTERM.\n\n" +
			"The spec is removed while no container could have a GPU: an unknown device is a\n" +
			"clearer error than a spec whose files are gone.",
		Example: "  davit watch\n  davit watch --once --create-device-nodes\n  davit watch --metrics 127.0.0.1:9417",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return w.run(c) },
	}
	f := c.Flags()
	f.StringVar(&w.root, "root", "/", rootFlagUsage+"; the spec is written below it too")
	f.StringVar(&w.spec, "spec", "/etc/cdi/nvidia.yaml", "the CDI spec's file, .yaml or .json; empty for none")
	f.BoolVar(&o.Nodes, "create-device-nodes", false, "make device nodes that are missing, with the numbers of /proc/devices")
	f.BoolVar(&w.once, "once", false, "make all true and end")
	f.StringVar(&w.metrics, "metrics", "", "address and port for Prometheus, such as 127.0.0.1:9417; by default none")
	f.StringVar(&w.capabilities, "capabilities", strings.Join(cdi.DefaultCapabilities(), ","), "driver capabilities that every container gets by the spec; or all")
	f.StringSliceVar(&o.CDI.Names, "device-name-strategy", cdi.Strategies[:3], "names of devices: "+strings.Join(cdi.Strategies, ", "))
	f.BoolVar(&o.CDI.NoHooks, "no-hooks", false, "no hook in the spec; see davit cdi generate")
	f.BoolVar(&o.CDI.AutoAllow, "buildkit-auto-allow", false, "let builds have the devices without an entitlement; needs CDI 0.6.0")
	f.StringVar(&o.CDI.HookPath, "hook-path", "", "davit-runtime on the host; by default the one beside this program")
	return c
}

func (w *watchFlags) run(c *cobra.Command) error {
	dir, err := w.complete()
	if err != nil {
		return err
	}
	log := &watchLog{w: c.OutOrStdout()}
	if w.once {
		host, err := rootfs.Open(dir)
		if err != nil {
			return &exitError{exitNoAnswer, err}
		}
		r, err := watch.Reconcile(host, w.options)
		log.pass(watch.Pass{Result: r})
		if err != nil {
			return &exitError{exitErrors, err}
		}
		return nil
	}
	debug.SetGCPercent(20) // little memory for the price of a little time, once in a while
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var status atomic.Pointer[watch.Status]
	if w.metrics != "" {
		l, err := net.Listen("tcp", w.metrics)
		if err != nil {
			return &exitError{exitErrors, fmt.Errorf("--metrics: %w", err)}
		}
		defer serveMetrics(l, &status)()
	}
	err = watch.Run(ctx, dir, w.options, func(p watch.Pass) {
		log.pass(p)
		status.Store(&p.Status)
		if p.Status.Passes == 1 {
			ready()
		}
	})
	if err != nil {
		return &exitError{exitNoAnswer, err}
	}
	return nil
}

// complete sets the options from flags and configuration, and gives the
// folder that stands for the host.
func (w *watchFlags) complete() (dir string, err error) {
	host, err := rootfs.Open(w.root)
	if err != nil {
		return "", &exitError{exitNoAnswer, err}
	}
	conf, err := loadConfig(host)
	if err != nil {
		return "", &exitError{exitErrors, err}
	}
	dir = host.Dir()
	if conf.HostRoot != "" {
		dir = host.Host(conf.HostRoot)
	}
	o := &w.options
	if o.CDI.Capabilities, err = cdi.ParseCapabilities(w.capabilities); err != nil {
		return "", &exitError{exitUsage, fmt.Errorf("--capabilities: %w", err)}
	}
	if w.spec != "" {
		if !filepath.IsAbs(w.spec) || cdi.FormatOf(w.spec) == "" {
			return "", &exitError{exitUsage, fmt.Errorf("--spec %q: want a whole path that ends in .yaml or .json", w.spec)}
		}
		if o.Spec, err = host.Place(w.spec); err != nil {
			return "", &exitError{exitNoAnswer, err}
		}
	}
	if o.CDI.HookPath == "" {
		o.CDI.HookPath = runtimePath()
	}
	if conf.StateDir != config.Default().StateDir {
		o.CDI.StateDir = conf.StateDir
	}
	if o.StateDir, err = host.Place(conf.StateDir); err != nil {
		return "", &exitError{exitNoAnswer, err}
	}
	o.DriverRoot, o.Version = conf.DriverRoot, version
	return dir, nil
}

// watchLog prints what is new: each change, and what cannot be done when it
// becomes so.
type watchLog struct {
	w            io.Writer
	refused, err string
}

func (l *watchLog) pass(p watch.Pass) {
	for _, n := range p.Notes {
		fmt.Fprintln(l.w, "note: "+n)
	}
	removed := false
	for _, c := range p.Changes {
		fmt.Fprintln(l.w, oneLine(c.String()))
		removed = removed || c.Kind == watch.Spec
	}
	if p.Refused != l.refused && p.Refused != "" && !removed {
		fmt.Fprintln(l.w, oneLine("no CDI spec: "+p.Refused))
	}
	l.refused = p.Refused
	text := ""
	if p.Err != nil {
		text = p.Err.Error()
	}
	if text != l.err && text != "" {
		fmt.Fprintln(l.w, oneLine("error: "+text))
	}
	l.err = text
}

// serveMetrics answers GET /metrics until end is called.
func serveMetrics(l net.Listener, status *atomic.Pointer[watch.Status]) (end func()) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		s := status.Load()
		if s == nil {
			http.Error(w, "not looked yet", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = io.WriteString(w, s.Metrics())
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
	go func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "davit: metrics: "+err.Error())
		}
	}()
	return func() { _ = server.Close() }
}

// ready tells systemd that all is true now, so that engines may start.
func ready() {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("READY=1"))
}
