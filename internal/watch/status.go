// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"
)

// Status is what Run has done and seen so far.
type Status struct {
	Driver     string
	GPUs, MIGs int
	// Spec says that there is a spec and it is true.
	Spec               bool
	Passes, Errors     uint64
	Uevents            uint64 // that concerned davit
	Changes            map[Kind]uint64
	LastPass, LastGood time.Time // the last pass, and the last without an error
}

func newStatus() Status { return Status{Changes: map[Kind]uint64{Spec: 0, Link: 0, Node: 0}} }

func (s *Status) copy() Status {
	c := *s
	c.Changes = maps.Clone(s.Changes)
	return c
}

func (s *Status) count(p Pass, now time.Time) {
	s.Passes++
	s.LastPass = now
	for _, c := range p.Changes {
		s.Changes[c.Kind]++
	}
	if p.Facts != nil {
		s.Driver = p.Facts.Driver.Version
		s.GPUs, s.MIGs = count(p.Facts)
	}
	s.Spec = p.Err == nil && p.Refused == ""
	if p.Err != nil {
		s.Errors++
	} else {
		s.LastGood = now
	}
}

// Metrics is the status in the text format that Prometheus reads.
func (s Status) Metrics() string {
	var b strings.Builder
	put := func(name, kind, help string, value any, labels ...string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
		l := ""
		if len(labels) == 2 {
			l = "{" + labels[0] + "=" + strconv.Quote(labels[1]) + "}"
		}
		fmt.Fprintf(&b, "%s%s %v\n", name, l, value)
	}
	spec := 0
	if s.Spec {
		spec = 1
	}
	loaded := 0
	if s.Driver != "" {
		loaded = 1
	}
	put("davit_driver_info", "gauge", "1 if the kernel module nvidia is loaded, with its version.", loaded, "version", s.Driver)
	put("davit_gpus", "gauge", "GPUs that the driver shows.", s.GPUs)
	put("davit_mig_devices", "gauge", "MIG devices that the driver shows.", s.MIGs)
	put("davit_cdi_spec_true", "gauge", "1 if containers can have GPUs and the CDI spec is true.", spec)
	put("davit_watch_passes_total", "counter", "Rounds of looking.", s.Passes)
	put("davit_watch_errors_total", "counter", "Rounds that could not do all.", s.Errors)
	put("davit_watch_uevents_total", "counter", "Batches of the kernel's events about NVIDIA's devices and modules.", s.Uevents)
	const changes = "davit_watch_changes_total"
	fmt.Fprintf(&b, "# HELP %s Things that were not true and were made true.\n# TYPE %s counter\n", changes, changes)
	for _, k := range []Kind{Link, Node, Spec} {
		fmt.Fprintf(&b, "%s{what=%q} %d\n", changes, string(k), s.Changes[k])
	}
	put("davit_watch_last_pass_timestamp_seconds", "gauge", "When davit looked last.", unixSeconds(s.LastPass))
	put("davit_watch_last_success_timestamp_seconds", "gauge", "When davit looked last and all was true afterwards.", unixSeconds(s.LastGood))
	return b.String()
}

func unixSeconds(t time.Time) string {
	if t.IsZero() {
		return "0"
	}
	return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64)
}
