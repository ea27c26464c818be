// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"io"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// plain makes text of a log comparable: without colours, with quotes and
// escapes undone however often an engine wrapped them, spaces as one.
func plain(s string) string {
	s = stripEscapes(s)
	for range 6 { // older engines escape three times
		u := unescape(s)
		if u == s {
			break
		}
		s = u
	}
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool {
		return r == ' ' || r < 0x20 || r == 0x7f || r == 0xa0
	}), " ")
}

var quotes = strings.NewReplacer("‘", "'", "’", "'", "“", `"`, "”", `"`, "`", "'", "&quot;", `"`, "&#34;", `"`, "&#39;", "'", "&gt;", ">", "&lt;", "<", "&amp;", "&")

// unescape undoes one layer of escapes.
func unescape(s string) string {
	if strings.ContainsAny(s, "`&") || strings.Contains(s, "\xe2\x80") {
		s = quotes.Replace(s)
	}
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch c := s[i]; c {
		case '"', '\'', '\\', '/':
			b.WriteByte(c)
		case 'n', 't', 'r':
			b.WriteByte(' ')
		case 'u':
			if r, ok := hex(s[i+1:], 4); ok && r >= 0x20 && r < 0x7f {
				b.WriteRune(r)
				i += 4
				continue
			} else if ok && r == 0x1b {
				b.WriteByte(0x1b)
				i += 4
				continue
			}
			b.WriteString(`\u`)
		case 'x':
			if r, ok := hex(s[i+1:], 2); ok && (r >= 0x20 && r < 0x7f || r == 0x1b) {
				b.WriteByte(byte(r))
				i += 2
				continue
			}
			b.WriteString(`\x`)
		default:
			b.WriteByte('\\')
			b.WriteByte(c)
		}
	}
	return stripEscapes(b.String())
}

func hex(s string, n int) (r rune, ok bool) {
	if len(s) < n {
		return 0, false
	}
	for _, c := range []byte(s[:n]) {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

func stripEscapes(s string) string {
	if strings.IndexByte(s, 0x1b) < 0 {
		return s
	}
	return string(stripColours(nil, []byte(s)))
}

// stripColours appends text to dst without the sequences by which programs
// colour and move on a terminal.
func stripColours(dst, text []byte) []byte {
	for {
		i := bytes.IndexByte(text, 0x1b)
		if i < 0 {
			return append(dst, text...)
		}
		dst = append(dst, text[:i]...)
		text = text[i+1:]
		if len(text) == 0 {
			return dst
		}
		switch text[0] {
		case '[':
			j := 1
			for j < len(text) && j < 32 && text[j] >= 0x20 && text[j] < 0x40 {
				j++
			}
			if j < len(text) && text[j] >= 0x40 && text[j] < 0x7f {
				j++
			}
			text = text[j:]
		case ']': // a title or link, up to BEL or ESC \
			j := bytes.IndexAny(text[:min(len(text), 512)], "\a\x1b\n")
			switch {
			case j < 0:
			case text[j] == '\a':
				text = text[j+1:]
			default:
				text = text[j:]
			}
		case '(', ')':
			text = text[min(2, len(text)):]
		case '\n':
		default:
			text = text[1:]
		}
	}
}

// shown is a line as evidence: without colours and control characters, not
// longer than a person reads, around the place at.
func shown(line string, at int) string {
	const most = 300
	at = max(0, min(at, len(line)))
	from := 0
	if len(line) > most && at > most-60 {
		from = at - most/2
	}
	for from > 0 && from < len(line) && !utf8.RuneStart(line[from]) {
		from++
	}
	to := min(len(line), from+most)
	for to < len(line) && to > from && !utf8.RuneStart(line[to]) {
		to--
	}
	s := strings.ToValidUTF8(stripEscapes(line[from:to]), "?")
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0x200e && r <= 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return ' '
		}
		return r
	}, s))
	if from > 0 {
		s = "…" + s
	}
	if to < len(line) {
		s += "…"
	}
	return s
}

// narrow reads UTF-16 as UTF-8: what PowerShell writes with ">" and wsl.exe
// prints. Anything else passes as it is.
func narrow(r io.Reader) (io.Reader, error) {
	head := make([]byte, 2)
	n, err := io.ReadFull(r, head)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return bytes.NewReader(head[:n]), nil
	}
	if err != nil {
		return nil, err
	}
	switch {
	case head[0] == 0xff && head[1] == 0xfe:
		return &wide{r: r}, nil
	case head[0] == 0xfe && head[1] == 0xff:
		return &wide{r: r, big: true}, nil
	}
	return io.MultiReader(bytes.NewReader(head), r), nil
}

type wide struct {
	r   io.Reader
	big bool
	in  []byte // not yet decoded
	out []byte
	err error
}

func (w *wide) Read(p []byte) (int, error) {
	for len(w.out) == 0 && w.err == nil {
		buf := make([]byte, 32<<10)
		n, err := w.r.Read(buf)
		w.in, w.err = append(w.in, buf[:n]...), err
		var units []uint16
		for len(w.in) >= 2 {
			u := uint16(w.in[0]) | uint16(w.in[1])<<8
			if w.big {
				u = u>>8 | u<<8
			}
			units = append(units, u)
			w.in = w.in[2:]
		}
		w.out = append(w.out, string(utf16.Decode(units))...)
	}
	n := copy(p, w.out)
	w.out = w.out[n:]
	if n == 0 {
		return 0, w.err
	}
	return n, nil
}
