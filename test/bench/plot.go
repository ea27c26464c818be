// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"html"
	"strings"

	"davit/test/bench/rounds"
)

// bar is one case of the plot: what create takes above the plain runtime, in
// milliseconds, with davit and at the floor.
type bar struct {
	label        string
	davit, floor float64
}

// bars are the cases of one runtime that show the growth: with GPUs at all
// capabilities, and with libraries at one GPU.
func (g *group) bars() (gpus, libraries []bar) {
	plain := g.find(plainName)
	take := func(label, name string) []bar {
		i := g.find(name)
		if i < 0 || plain < 0 || len(g.taken[i]) == 0 {
			return nil
		}
		base := g.column(plain, createOf)
		b := bar{label: label, davit: rounds.Above(g.column(i, createOf), base)}
		if f := g.find(g.variants[i].below); f >= 0 {
			b.floor = rounds.Above(g.column(f, createOf), base)
		}
		return []bar{b}
	}
	gpus = append(gpus, take("0", "shim, no GPU")...)
	gpus = append(gpus, take("1", "shim, 1 GPU, all")...)
	gpus = append(gpus, take("8", "shim, 8 GPUs, all")...)
	gpus = append(gpus, take("16", "shim, 16 GPUs, all")...)
	libraries = append(libraries, take("utility", "shim, 1 GPU, utility")...)
	libraries = append(libraries, take("default", "shim, 1 GPU")...)
	libraries = append(libraries, take("all", "shim, 1 GPU, all")...)
	return gpus, libraries
}

// Sizes of the plot in pixels.
const (
	panelWidth, panelHeight = 320, 190
	panelLeft, panelTop     = 48, 56
	barWidth                = 22
)

// plot draws the overhead of create above the plain runtime, a panel for each
// runtime and kind of growth. It reads well on light and on dark pages.
func (r *report) plot() string {
	var b strings.Builder
	width, height := panelLeft+2*panelWidth+16, panelTop+len(r.groups)*(panelHeight+64)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" role="img" aria-label="create above the plain runtime">`+"\n", width, height, width, height)
	b.WriteString("<style>text{fill:#444}.line{stroke:#999}.davit{fill:#2a7f62}.floor{fill:#a9b8c6}@media(prefers-color-scheme:dark){text{fill:#ccc}.line{stroke:#777}}</style>\n")
	fmt.Fprintf(&b, `<text x="8" y="20" font-size="14">create above the plain runtime, ms (shim; simulated host)</text>`+"\n")
	fmt.Fprintf(&b, `<rect class="davit" x="8" y="30" width="12" height="12"/><text x="26" y="40">davit</text><rect class="floor" x="76" y="30" width="12" height="12"/><text x="94" y="40">floor: the same edits, empty program</text>`+"\n")
	for row, g := range r.groups {
		gpus, libraries := g.bars()
		top := panelTop + row*(panelHeight+64)
		panel(&b, panelLeft, top, g.runtime+", all capabilities: GPUs", gpus)
		panel(&b, panelLeft+panelWidth, top, g.runtime+", 1 GPU: libraries by capability", libraries)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func panel(b *strings.Builder, left, top int, title string, bars []bar) {
	highest := 1.0
	for _, v := range bars {
		highest = max(highest, v.davit, v.floor)
	}
	step := tick(highest)
	scale := func(v float64) float64 { return max(0, v) / highest * (panelHeight - 24) }
	bottom := top + panelHeight
	fmt.Fprintf(b, `<text x="%d" y="%d">%s</text>`+"\n", left, top+12, html.EscapeString(title))
	for v := 0.0; v <= highest; v += step {
		y := float64(bottom) - scale(v)
		fmt.Fprintf(b, `<line class="line" stroke-width="0.5" x1="%d" y1="%.1f" x2="%d" y2="%.1f"/><text x="%d" y="%.1f" text-anchor="end">%g</text>`+"\n",
			left, y, left+panelWidth-40, y, left-6, y+4, v)
	}
	for i, v := range bars {
		x := left + 20 + i*(panelWidth-60)/max(len(bars), 1)
		for k, c := range []struct {
			class string
			value float64
		}{{"floor", v.floor}, {"davit", v.davit}} {
			h := scale(c.value)
			fmt.Fprintf(b, `<rect class="%s" x="%d" y="%.1f" width="%d" height="%.1f"><title>%s: %.2f ms</title></rect>`+"\n",
				c.class, x+k*barWidth, float64(bottom)-h, barWidth-2, h, c.class, c.value)
		}
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", x+barWidth, bottom+18, html.EscapeString(v.label))
	}
}

// tick is a round distance between marks, of which there are at most six.
func tick(highest float64) float64 {
	for step := 0.1; ; step *= 10 {
		for _, f := range []float64{1, 2, 5} {
			if highest/(step*f) <= 6 {
				return step * f
			}
		}
	}
}
