// SPDX-License-Identifier: Apache-2.0

package request

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// value is a variable of the environment.
type value struct {
	text string
	set  bool
}

// variable is a value with its name.
type variable struct {
	name string
	value
}

// environment is the part of a container's environment that matters.
type environment struct {
	visible, capabilities         value
	cudaVersion, requireCUDA      value
	disableRequire                value
	gds, mofed, gdrcopy, nvswitch value
	imex, migConfig, migMonitor   value
	requires, swarm               []variable // swarm in the order of the policy
}

// legacy says whether the image is from before NVIDIA_REQUIRE_CUDA.
func (e *environment) legacy() bool { return e.cudaVersion.text != "" && e.requireCUDA.text == "" }

// scanEnv reads the environment once; of repeated names the last counts, as in
// the programs that read it. Entries without "=" are no variables.
func scanEnv(env, swarm []string) environment {
	var e environment
	for _, name := range swarm {
		if name != "" {
			e.swarm = append(e.swarm, variable{name: name})
		}
	}
	for _, entry := range env {
		name, text, ok := strings.Cut(entry, "=")
		if !ok {
			continue
		}
		for i := range e.swarm {
			if e.swarm[i].name == name {
				e.swarm[i].value = value{text, true}
			}
		}
		if !strings.HasPrefix(name, "NVIDIA_") {
			if name == "CUDA_VERSION" {
				e.cudaVersion = value{text, true}
			}
			continue
		}
		if at := e.field(name); at != nil {
			*at = value{text, true}
		}
		if strings.HasPrefix(name, requirePrefix) && !strings.HasPrefix(name, jetpackPrefix) {
			e.require(name, text)
		}
	}
	return e
}

// field is where the value of a name goes; nil for a name that means nothing
// here.
func (e *environment) field(name string) *value {
	switch name {
	case visibleDevices:
		return &e.visible
	case "NVIDIA_DRIVER_CAPABILITIES":
		return &e.capabilities
	case "NVIDIA_REQUIRE_CUDA":
		return &e.requireCUDA
	case "NVIDIA_DISABLE_REQUIRE":
		return &e.disableRequire
	case "NVIDIA_GDS":
		return &e.gds
	case "NVIDIA_MOFED":
		return &e.mofed
	case "NVIDIA_GDRCOPY":
		return &e.gdrcopy
	case "NVIDIA_NVSWITCH":
		return &e.nvswitch
	case "NVIDIA_IMEX_CHANNELS":
		return &e.imex
	case "NVIDIA_MIG_CONFIG_DEVICES":
		return &e.migConfig
	case "NVIDIA_MIG_MONITOR_DEVICES":
		return &e.migMonitor
	}
	return nil
}

func (e *environment) require(name, text string) {
	for i := range e.requires {
		if e.requires[i].name == name {
			e.requires[i].text = text
			return
		}
	}
	e.requires = append(e.requires, variable{name, value{text, true}})
}

// show makes foreign text fit for a message of one line.
func show(s string) string {
	const limit = 80
	if len(s) > limit {
		cut := limit
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// nearest gives the choice that a misspelt word was meant for, "" if none is
// near.
func nearest(word string, choices []string) string {
	if len(word) > 32 {
		return ""
	}
	best, at := "", 4 // more than three changes are another word
	for _, c := range choices {
		if d := Distance(word, c); d < at && d < len(c) {
			best, at = c, d
		}
	}
	return best
}

// Distance is the number of bytes to change, add or drop to make one word of
// another (Levenshtein): how far a misspelt name is from a valid one.
func Distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d++
			}
			diagonal = row[j+1]
			row[j+1] = min(d, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
