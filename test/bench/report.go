// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"davit/test/bench/rounds"
)

// report is all that was measured.
type report struct {
	head   []string
	groups []group
	many   []many
	single []single
	notes  []string
}

// table has a title, a head and rows; the first column is text, the others are
// set to the right.
type table struct {
	title string
	head  []string
	rows  [][]string
}

func (r *report) tables() []table {
	var list []table
	for _, g := range r.groups {
		list = append(list, g.table())
	}
	if len(r.many) > 0 {
		t := table{title: fmt.Sprintf("Many containers, %d at a time, 1 GPU", atOnce), head: []string{"runtime", "plain", "floor", "davit", "× floor", "reach"}}
		for _, m := range r.many {
			t.rows = append(t.rows, []string{m.runtime, fmt.Sprintf("%.0f ms", m.plain), fmt.Sprintf("%.0f ms", m.floor), fmt.Sprintf("%.0f ms", m.davit),
				ratio(m.davit, m.floor), verdict(m.davit/m.floor, 1.1, "×")})
		}
		list = append(list, t)
	}
	if len(r.single) > 0 {
		t := table{title: "Beside", head: []string{"what", "measured", "reach"}}
		for _, s := range r.single {
			t.rows = append(t.rows, []string{s.name, s.value, s.reach})
		}
		list = append(list, t)
	}
	return list
}

// column takes one figure out of each round.
func (g *group) column(i int, of func(phases) float64) []float64 {
	var v []float64
	for _, p := range g.taken[i] {
		v = append(v, of(p))
	}
	return v
}

func (g *group) find(name string) int {
	return slices.IndexFunc(g.variants, func(v variant) bool { return v.name == name })
}

func createOf(p phases) float64 { return p.create }

// table gives a row for each variant: medians in milliseconds, as multiples
// of the plain runtime, and the median distance to the floor.
func (g *group) table() table {
	n := 0
	if len(g.taken) > 0 {
		n = len(g.taken[0])
	}
	t := table{
		title: fmt.Sprintf("%s, medians of %d rounds in ms", g.runtime, n),
		head:  []string{"case", "create", "× plain", "above floor", "reach", "start", "above", "delete", "above", "life", "× plain", "× floor"},
	}
	parts := []func(phases) float64{createOf, func(p phases) float64 { return p.start }, func(p phases) float64 { return p.delete }, phases.life}
	plain := g.find(plainName)
	for i, v := range g.variants {
		floor := g.find(v.below)
		var med, above [4]float64
		var base [4]float64
		for k, of := range parts {
			med[k] = rounds.Median(g.column(i, of))
			if plain >= 0 {
				base[k] = rounds.Median(g.column(plain, of))
			}
			if floor >= 0 {
				above[k] = rounds.Above(g.column(i, of), g.column(floor, of))
			}
		}
		signed := func(k int) string {
			if floor < 0 {
				return ""
			}
			return fmt.Sprintf("%+.2f", above[k])
		}
		reach, times := "", ""
		if floor >= 0 {
			times = ratio(med[3], rounds.Median(g.column(floor, phases.life)))
			if v.reach > 0 {
				reach = verdict(above[0], v.reach, "")
			}
		}
		t.rows = append(t.rows, []string{v.name, fmt.Sprintf("%.2f", med[0]), ratio(med[0], base[0]), signed(0), reach,
			fmt.Sprintf("%.2f", med[1]), signed(1), fmt.Sprintf("%.2f", med[2]), signed(2), fmt.Sprintf("%.2f", med[3]), ratio(med[3], base[3]), times})
	}
	return t
}

func ratio(a, b float64) string {
	if b == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", a/b)
}

// verdict says what was to be reached, and whether it was.
func verdict(value, limit float64, unit string) string {
	word := "yes"
	if value > limit {
		word = "no"
	}
	return fmt.Sprintf("≤ %g%s %s", limit, unit, word)
}

func (r *report) text() string {
	var b strings.Builder
	for _, h := range r.head {
		b.WriteString(h + "\n")
	}
	for _, t := range r.tables() {
		b.WriteString("\n" + t.title + "\n" + t.aligned())
	}
	for _, n := range r.notes {
		b.WriteString("note: " + n + "\n")
	}
	return b.String()
}

// aligned gives the table for a terminal.
func (t *table) aligned() string {
	lines := append([][]string{t.head}, t.rows...)
	width := make([]int, len(t.head))
	for _, l := range lines {
		for i, c := range l {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for _, l := range lines {
		var line strings.Builder
		for i, c := range l {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			switch {
			case i == 0:
				line.WriteString(c + pad)
			default:
				line.WriteString("  " + pad + c)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

func (r *report) markdown() string {
	var b strings.Builder
	for _, h := range r.head {
		b.WriteString("- " + h + "\n")
	}
	for _, t := range r.tables() {
		b.WriteString("\n**" + t.title + "**\n\n| " + strings.Join(t.head, " | ") + " |\n| ---")
		b.WriteString(strings.Repeat(" | ---:", len(t.head)-1) + " |\n")
		for _, l := range t.rows {
			b.WriteString("| " + strings.Join(l, " | ") + " |\n")
		}
	}
	if len(r.notes) > 0 {
		b.WriteString("\n")
	}
	for _, n := range r.notes {
		b.WriteString("- note: " + strings.Join(strings.Fields(n), " ") + "\n")
	}
	return b.String()
}
