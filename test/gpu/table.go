// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// outcome is one cell.
type outcome struct {
	cell     string
	bad      bool
	evidence string
}

var (
	good = outcome{cell: "ok"}
	none = outcome{cell: "–"}
)

// simulated: a simulated host cannot show this.
var simulated = outcome{cell: "simulated"}

func failed(format string, args ...any) outcome {
	return outcome{cell: "FAIL", bad: true, evidence: fmt.Sprintf(format, args...)}
}

// because fails with all that is known of a container.
func (r result) because(format string, args ...any) outcome {
	o := failed(format, args...)
	o.evidence += fmt.Sprintf("\nexit status %d after %s", r.code, r.took.Round(time.Millisecond))
	for _, part := range []struct{ name, text string }{{"stdout", r.out}, {"stderr", r.err}, {"trace", r.trace}} {
		if text := strings.TrimSpace(part.text); text != "" {
			o.evidence += "\n" + part.name + ": " + text
		}
	}
	return o
}

type row struct {
	name  string
	cells []outcome
}

func (r row) short() string {
	var cells []string
	for _, c := range r.cells {
		cells = append(cells, c.cell)
	}
	return strings.Join(cells, "  ")
}

// table is what is printed.
type table struct {
	head    []string
	broken  int // columns that a real host should have had
	columns []string
	rows    []row
}

func newTable(h *host, l *lab) *table {
	t := &table{}
	for _, c := range l.columns {
		t.columns = append(t.columns, c.name)
	}
	var u unix.Utsname
	_ = unix.Uname(&u)
	cgroup := "v1"
	var fs unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		cgroup = "v2"
	}
	line := func(key, format string, args ...any) {
		t.head = append(t.head, fmt.Sprintf("%-9s ", key+":")+fmt.Sprintf(format, args...))
	}
	line("date", "%s", time.Now().UTC().Format("2006-01-02 15:04 UTC"))
	if h.sim {
		line("host", "simulated (it computes nothing)")
	}
	line("driver", "%s", h.driver)
	for _, g := range h.gpus {
		line(fmt.Sprintf("GPU %d", g.index), "%s, %s, node %s", g.name, g.bus, g.node)
	}
	line("kernel", "Linux %s, cgroup %s, %s", unix.ByteSliceToString(u.Release[:]), cgroup, osName())
	for _, c := range []string{"runc", "crun"} {
		out := strings.ReplaceAll(strings.TrimSpace(l.command(shortTime, nil, l.path("runtimes/bin", c), "--version").all()), "\n", ", ")
		line(c, "%s", cut(out, 90))
	}
	if l.docker != nil {
		line("docker", "%s", l.docker.version)
	}
	version := strings.TrimSpace(l.command(shortTime, nil, l.path("bin/davit-runtime"), "--version").all())
	line("davit", "%s", version)
	if l.torch != "" {
		line("PyTorch", "%s", l.torch)
	}
	for _, c := range l.columns {
		if c.broken != nil {
			line("note", "%s is left out: %s", c.name, cut(c.broken.Error(), 300))
			if !h.sim {
				t.broken++
			}
		}
	}
	return t
}

func osName() string {
	text, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return "unknown system"
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

func (t *table) add(r row) { t.rows = append(t.rows, r) }

// text is the table with its columns aligned.
func (t *table) text() string {
	lines := [][]string{append([]string{"check"}, t.columns...)}
	for _, r := range t.rows {
		line := []string{r.name}
		for _, c := range r.cells {
			line = append(line, c.cell)
		}
		lines = append(lines, line)
	}
	width := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, c := range line {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for n, line := range lines {
		for i, c := range line {
			b.WriteString(c)
			if i < len(line)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(c)+2))
			}
		}
		b.WriteByte('\n')
		if n == 0 {
			for i, w := range width {
				b.WriteString(strings.Repeat("-", w))
				if i < len(width)-1 {
					b.WriteString("  ")
				}
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// markdown is the same for a document.
func (t *table) markdown() string {
	var b strings.Builder
	for _, h := range t.head {
		b.WriteString("- " + h + "\n")
	}
	b.WriteString("\n| check | " + strings.Join(t.columns, " | ") + " |\n|" + strings.Repeat(" --- |", len(t.columns)+1) + "\n")
	for _, r := range t.rows {
		b.WriteString("| " + r.name)
		for _, c := range r.cells {
			b.WriteString(" | " + c.cell)
		}
		b.WriteString(" |\n")
	}
	return b.String()
}

// evidence tells of each bad cell, as much as fits.
func (t *table) evidence(each, all int) string {
	var b strings.Builder
	for _, r := range t.rows {
		for i, c := range r.cells {
			if !c.bad {
				continue
			}
			text := strings.ReplaceAll(strings.TrimSpace(c.evidence), "\n", "\n    ")
			if b.Len() > all {
				text = "see gpu-evidence.txt"
			}
			fmt.Fprintf(&b, "%s, %s: %s\n    %s\n", c.cell, t.columns[i], r.name, cut(text, each))
		}
	}
	return b.String()
}

// finish prints the table and gives the exit status.
func (t *table) finish(w io.Writer) int {
	good, bad := 0, t.broken
	for _, r := range t.rows {
		for _, c := range r.cells {
			if c.bad {
				bad++
			} else if c.cell == "ok" {
				good++
			}
		}
	}
	fmt.Fprintf(w, "\n%s\n%d ok, %d failed\n", t.text(), good, bad)
	if bad > 0 {
		fmt.Fprint(w, "\n"+t.evidence(700, 2500))
	}
	if bad > 0 || good == 0 {
		return 1
	}
	return 0
}

// save writes what is known so far into a folder, if there is one.
func (t *table) save(out string, l *lab) {
	if out == "" {
		return
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(out, name), []byte(text), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	write("gpu-table.md", t.markdown())
	write("gpu-table.txt", strings.Join(t.head, "\n")+"\n\n"+t.text())
	write("gpu-evidence.txt", t.evidence(100000, 10<<20))
	for _, c := range l.columns {
		write("gpu-trace-"+strings.ReplaceAll(c.name, " ", "-")+".log", cut(tail(c.debug, 0), 1<<20))
	}
}
