// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"

	"davit/internal/knowledge"
)

const (
	pieceSize = 256 << 10
	behind    = 8 << 10 // of what was read already is kept for looking back
	ahead     = 8 << 10 // is left for the next piece, to look forward to

	windowBefore = 700 // of a line, around what was found in it
	windowAfter  = 900

	maxTries = 20000 // of a rule; then it has had its chance
	maxHits  = 4     // of a rule without facts; more say nothing new
	maxFacts = 32    // values of a fact
)

// Read takes in a log. It may be called for several logs of one trouble.
func (l *Log) Read(name string, r io.Reader) error {
	r, err := narrow(r)
	if err != nil {
		return err
	}
	s := &scanner{log: l, name: name, line: 1}
	for _, rule := range l.rules {
		rule.file, rule.line, rule.at, rule.hitLine = name, 0, -1, 0
	}
	in := &plainReader{r: r}
	buf := make([]byte, 0, behind+pieceSize+ahead)
	for eof := false; !eof; {
		for len(buf)+readSize <= cap(buf) && !eof {
			if buf, err = in.appendTo(buf); errors.Is(err, io.EOF) {
				eof = true
			} else if err != nil {
				return err
			}
		}
		limit := len(buf)
		if !eof {
			limit -= ahead
			if i := bytes.LastIndexByte(buf[s.done:limit], '\n'); i >= 0 {
				limit = s.done + i + 1
			}
		}
		s.scan(buf, limit)
		keep := max(0, limit-behind)
		s.offset += int64(keep)
		s.done = limit - keep
		s.counted -= keep
		buf = buf[:copy(buf, buf[keep:])]
	}
	return nil
}

// A plainReader reads without colours.
type plainReader struct {
	r    io.Reader
	raw  []byte
	rest int // bytes at the start of raw: a sequence that was cut off
}

const readSize = 64 << 10

// appendTo appends at most readSize bytes to buf; with io.EOF it has appended
// the last ones.
func (p *plainReader) appendTo(buf []byte) ([]byte, error) {
	if p.raw == nil {
		p.raw = make([]byte, readSize)
	}
	n, err := p.r.Read(p.raw[p.rest:])
	text := p.raw[:p.rest+n]
	p.rest = 0
	i := bytes.LastIndexByte(text, 0x1b)
	if i < 0 {
		return append(buf, text...), err
	}
	if i >= len(text)-32 && err == nil && n > 0 {
		buf = stripColours(buf, text[:i])
		p.rest = copy(p.raw, text[i:])
		return buf, nil
	}
	return stripColours(buf, text), err
}

// A scanner is the state between the pieces of one log.
type scanner struct {
	log     *Log
	name    string
	state   uint32
	offset  int64 // of buf[0] in the log
	done    int   // bytes of buf that were scanned
	line    int   // number of the line at counted
	counted int
}

func (s *scanner) scan(buf []byte, limit int) {
	base := s.done
	s.state = s.log.auto.scan(buf[base:limit], s.state, func(literal uint16, end int) {
		end += base
		s.line += bytes.Count(buf[s.counted:end], []byte{'\n'})
		s.counted = end
		var w *window
		for _, i := range s.log.owners[literal] {
			r := s.log.rules[i]
			if r.tries >= maxTries || r.hitLine == s.line || r.Kind != knowledge.Fact && r.matched >= maxHits && r.Match == "" {
				continue
			}
			at := s.offset + int64(end)
			if r.line == s.line && at < r.at+64 {
				continue
			}
			r.line, r.at = s.line, at
			if w == nil {
				w = s.window(buf, end)
			}
			s.try(r, w)
		}
	})
	s.line += bytes.Count(buf[s.counted:limit], []byte{'\n'})
	s.counted = limit
}

// A window is what is around a literal that was found.
type window struct {
	raw    string // the line, or what is near in a long one
	at     int    // of the literal's end in it
	text   string // plain
	joined string // with its neighbours, where the kernel broke a sentence
	next   []string
	buf    []byte
	end    int // of raw in buf
	start  int
}

func isBreak(b byte) bool { return b == '\n' || b == '\r' }

func (s *scanner) window(buf []byte, end int) *window {
	from, to := max(0, end-windowBefore), min(len(buf), end+windowAfter)
	for i := end - 1; i >= from; i-- {
		if isBreak(buf[i]) {
			from = i + 1
			break
		}
	}
	for i := end; i < to; i++ {
		if isBreak(buf[i]) {
			to = i
			break
		}
	}
	raw := string(buf[from:to])
	return &window{raw: raw, at: end - from, text: plain(raw), buf: buf, start: from, end: to}
}

// following gives up to n lines behind the window.
func (w *window) following(n int) []string {
	for p := w.end; len(w.next) < n && p < len(w.buf); {
		i := bytes.IndexByte(w.buf[p:], '\n')
		if i < 0 {
			break
		}
		p += i + 1
		end := bytes.IndexByte(w.buf[p:min(len(w.buf), p+2000)], '\n')
		if end < 0 {
			end = min(len(w.buf)-p, 2000)
		}
		if end == 0 && p >= len(w.buf) {
			break
		}
		w.next = append(w.next, plain(string(w.buf[p:p+end])))
	}
	return w.next[:min(n, len(w.next))]
}

var nvrm = regexp.MustCompile(`^.*?NVRM: *`)

// join puts together the lines over which the kernel broke one sentence, each
// with its own time and prefix.
func (w *window) join() string {
	if w.joined != "" {
		return w.joined
	}
	lines := []string{nvrm.ReplaceAllString(w.text, "NVRM: ")}
	for p, n := w.start, 0; p > 0 && n < 8; n++ {
		from := bytes.LastIndexByte(w.buf[:p-1], '\n') + 1
		prev := plain(string(w.buf[from:p]))
		if p-from > 1000 || !strings.Contains(prev, "NVRM:") {
			break
		}
		lines = append([]string{nvrm.ReplaceAllString(prev, "")}, lines...)
		p = from
	}
	for _, next := range w.following(5) {
		if !strings.Contains(next, "NVRM:") {
			break
		}
		lines = append(lines, nvrm.ReplaceAllString(next, ""))
	}
	w.joined = strings.Join(lines, " ")
	return w.joined
}

func (s *scanner) try(r *rule, w *window) {
	r.tries++
	if !r.compiled {
		r.compile()
	}
	text := w.text
	if r.Join {
		text = w.join()
	}
	if r.unless != nil && r.unless.MatchString(text) {
		return
	}
	vars := map[string]string{}
	if r.match != nil && !groups(r.match, text, vars) {
		return
	}
	if r.after != nil {
		ok := groups(r.after, text, vars)
		for _, next := range w.following(4) {
			if ok || isPrompt(next) {
				break
			}
			ok = groups(r.after, next, vars)
		}
		if !ok && (r.Kind == knowledge.Fact || r.match == nil) {
			return
		}
	}
	s.log.take(s, r, w, vars)
}

// isPrompt: a line on which the next command was typed.
func isPrompt(line string) bool {
	return strings.HasPrefix(line, "$ ") || strings.HasPrefix(line, "# ") || strings.Contains(line, ":~$ ")
}

// groups puts what the named groups hold into vars; a name may have a 2 or 3
// behind it, because a name stands only once in an expression.
func groups(re *regexp.Regexp, text string, vars map[string]string) bool {
	m := re.FindStringSubmatch(text)
	if m == nil {
		return false
	}
	for i, name := range re.SubexpNames() {
		if name != "" && m[i] != "" && len(m[i]) < 400 {
			vars[strings.ReplaceAll(strings.TrimRight(name, "23"), "_", "-")] = m[i]
		}
	}
	return true
}

func (l *Log) take(s *scanner, r *rule, w *window, vars map[string]string) {
	r.matched++
	r.hitLine = s.line
	l.order++
	f := fact{order: l.order, file: s.name, line: s.line, text: shown(w.raw, w.at)}
	set := func(name, value string) {
		list := l.facts[name]
		for _, old := range list {
			if old.value == value {
				return
			}
		}
		if len(list) < maxFacts {
			f.value = value
			l.facts[name] = append(list, f)
		}
	}
	for _, name := range append([]string{r.Name}, r.Set...) {
		if _, ok := l.flags[name]; !ok {
			l.flags[name] = f
		}
	}
	if r.Kind == knowledge.Fact {
		for name, value := range vars {
			set(name, value)
		}
		if r.Name == "run" {
			l.takeRun(f, w)
		}
		return
	}
	same := 0
	for _, h := range l.hits {
		if h.rule == r {
			if same++; same >= 16 || sameVars(h.vars, vars) {
				return
			}
		}
	}
	l.hits = append(l.hits, &hit{r, l.order, s.name, s.line, f.text, vars})
}

func sameVars(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}
