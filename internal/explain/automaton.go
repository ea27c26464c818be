// SPDX-License-Identifier: Apache-2.0

package explain

// automaton finds many literals in one pass over a text, whatever their number
// (Aho and Corasick). It sees letters without their case. Newlines lead back to
// the start, so that no literal is found across lines.
type automaton struct {
	class  [256]uint8
	shift  uint     // a state is its number << shift
	next   []uint32 // next state of s for byte b: next[s|class[b]]
	first  uint32   // the first of the states that end a literal; they come last
	output [][]uint16
}

// build makes an automaton for lower-case literals; a match is reported by the
// index of its literal.
func build(literals []string) *automaton {
	a := &automaton{}
	classes := uint8(1) // 0 is every byte that no literal has
	for _, l := range literals {
		for _, c := range []byte(l) {
			if a.class[c] == 0 {
				a.class[c] = classes
				classes++
			}
		}
	}
	for c := byte('a'); c <= 'z'; c++ {
		a.class[c-'a'+'A'] = a.class[c]
	}
	for 1<<a.shift < int(classes) {
		a.shift++
	}
	width := 1 << a.shift

	// The trie.
	most := 1
	for _, l := range literals {
		most += len(l)
	}
	next := make([]uint32, width, most*width)
	output := make([][]uint16, 1, most)
	for i, l := range literals {
		s := uint32(0)
		for _, c := range []byte(l) {
			at := s<<a.shift | uint32(a.class[c])
			if next[at] == 0 {
				next[at] = uint32(len(output))
				next = next[:len(next)+width]
				output = append(output, nil)
			}
			s = next[at]
		}
		output[s] = append(output[s], uint16(i))
	}

	// Links to the longest suffix that is a prefix too, breadth first.
	fail := make([]uint32, len(output))
	queue := make([]uint32, 0, len(output))
	for c := range width {
		if s := next[c]; s != 0 {
			queue = append(queue, s)
		}
	}
	for i := 0; i < len(queue); i++ {
		s := queue[i]
		output[s] = append(output[s], output[fail[s]]...)
		for c := range width {
			at := s<<a.shift | uint32(c)
			onward := next[fail[s]<<a.shift|uint32(c)]
			if t := next[at]; t != 0 {
				fail[t] = onward
				queue = append(queue, t)
			} else {
				next[at] = onward
			}
		}
	}
	a.renumber(next, output)
	return a
}

// renumber puts the states that end a literal last, so that scanning asks one
// comparison for each byte.
func (a *automaton) renumber(next []uint32, output [][]uint16) {
	to := make([]uint32, len(output))
	n := uint32(0)
	for s := range output {
		if len(output[s]) == 0 {
			to[s] = n
			n++
		}
	}
	a.first = n << a.shift
	for s := range output {
		if len(output[s]) > 0 {
			to[s] = n
			n++
		}
	}
	width := uint32(1) << a.shift
	a.next = make([]uint32, len(next))
	a.output = make([][]uint16, len(output))
	for s := range output {
		a.output[to[s]] = output[s]
		for c := range width {
			a.next[to[s]<<a.shift|c] = to[next[uint32(s)<<a.shift|c]] << a.shift
		}
	}
}

// scan calls found with the index of a literal and the offset behind it, for
// each literal in text; state is that in which an earlier piece ended.
func (a *automaton) scan(text []byte, state uint32, found func(literal uint16, end int)) uint32 {
	next, class, first := a.next, &a.class, a.first
	s := state
	for i, b := range text {
		s = next[s|uint32(class[b])]
		if s >= first {
			for _, l := range a.output[s>>a.shift] {
				found(l, i+1)
			}
		}
	}
	return s
}
