// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strconv"
	"strings"
)

// value is the right side of a key: a string, a boolean, a list of strings,
// or something that no key of ours has.
type value struct {
	str   string
	items []string
	kind  byte // 's', 'b', 'l', 'o'
}

func (v value) text(to *string) error {
	if v.kind != 's' {
		return fmt.Errorf("want a string in quotes")
	}
	*to = v.str
	return nil
}

func (v value) boolean(to *bool) error {
	if v.kind != 'b' {
		return fmt.Errorf("want true or false")
	}
	*to = v.str == "true"
	return nil
}

// list takes a list, or a string with commas, as NVIDIA's file has both.
func (v value) list(to *[]string) error {
	switch v.kind {
	case 'l':
		*to = v.items
	case 's':
		*to = nil
		for s := range strings.SplitSeq(v.str, ",") {
			if s = strings.TrimSpace(s); s != "" {
				*to = append(*to, s)
			}
		}
	default:
		return fmt.Errorf("want a list of strings")
	}
	return nil
}

// parseTOML reads the part of TOML that config.toml uses, so that the program
// on the hot path need not link a whole TOML library: tables, bare, quoted and
// dotted keys, strings, booleans, numbers and lists of these. It calls set
// with the full dotted key. Inline tables, dates, multi-line strings and
// arrays of tables are errors that name the line.
func parseTOML(text string, set func(key string, v value) error) error {
	p := tomlParser{text: strings.ReplaceAll(text, "\r\n", "\n"), line: 1}
	table := ""
	for {
		p.blank(true)
		if p.text == "" {
			return nil
		}
		line := p.line
		if p.text[0] == '[' {
			p.text = p.text[1:]
			if strings.HasPrefix(p.text, "[") {
				return p.errorf("arrays of tables are not used in this file")
			}
			name, err := p.key()
			if err != nil {
				return err
			}
			if !strings.HasPrefix(p.text, "]") {
				return p.errorf("want ] after the table's name")
			}
			p.text = p.text[1:]
			table = name + "."
		} else {
			key, err := p.key()
			if err != nil {
				return err
			}
			if !strings.HasPrefix(p.text, "=") {
				return p.errorf("want = after %q", key)
			}
			p.text = p.text[1:]
			p.blank(false)
			v, err := p.value()
			if err != nil {
				return err
			}
			if err := set(table+key, v); err != nil {
				return fmt.Errorf("line %d: %s%s: %w", line, table, key, err)
			}
		}
		p.blank(false)
		if p.text != "" && p.text[0] != '\n' {
			return p.errorf("unexpected %q", firstWord(p.text))
		}
	}
}

type tomlParser struct {
	text string
	line int
}

func (p *tomlParser) errorf(format string, args ...any) error {
	return fmt.Errorf("line %d: "+format, append([]any{p.line}, args...)...)
}

func firstWord(s string) string {
	if i := strings.IndexAny(s, " \t\n"); i > 0 {
		s = s[:i]
	}
	if len(s) > 40 {
		s = s[:40]
	}
	return s
}

// blank skips spaces and comments, and line ends if lines is set.
func (p *tomlParser) blank(lines bool) {
	for p.text != "" {
		switch c := p.text[0]; {
		case c == ' ' || c == '\t':
			p.text = p.text[1:]
		case c == '#':
			if i := strings.IndexByte(p.text, '\n'); i >= 0 {
				p.text = p.text[i:]
			} else {
				p.text = ""
			}
		case c == '\n' && lines:
			p.line++
			p.text = p.text[1:]
		default:
			return
		}
	}
}

// key reads a.b."c" and the blanks around.
func (p *tomlParser) key() (string, error) {
	var parts []string
	for {
		p.blank(false)
		switch {
		case strings.HasPrefix(p.text, `"`) || strings.HasPrefix(p.text, "'"):
			s, err := p.quoted()
			if err != nil {
				return "", err
			}
			parts = append(parts, s)
		default:
			n := 0
			for n < len(p.text) && (p.text[n] == '-' || p.text[n] == '_' || p.text[n] >= '0' && p.text[n] <= '9' ||
				p.text[n]|0x20 >= 'a' && p.text[n]|0x20 <= 'z') {
				n++
			}
			if n == 0 {
				return "", p.errorf("want a key, got %q", firstWord(p.text))
			}
			parts = append(parts, p.text[:n])
			p.text = p.text[n:]
		}
		p.blank(false)
		if !strings.HasPrefix(p.text, ".") {
			return strings.Join(parts, "."), nil
		}
		p.text = p.text[1:]
	}
}

func (p *tomlParser) quoted() (string, error) {
	q := p.text[0]
	if strings.HasPrefix(p.text, `"""`) || strings.HasPrefix(p.text, "'''") {
		return "", p.errorf("multi-line strings are not used in this file")
	}
	for i := 1; i < len(p.text) && p.text[i] != '\n'; i++ {
		switch {
		case p.text[i] == '\\' && q == '"':
			i++
		case p.text[i] == q:
			raw := p.text[:i+1]
			p.text = p.text[i+1:]
			if q == '\'' {
				return raw[1 : len(raw)-1], nil
			}
			s, err := strconv.Unquote(raw)
			if err != nil {
				return "", p.errorf("%s is not a string", raw)
			}
			return s, nil
		}
	}
	return "", p.errorf("the string has no closing quote")
}

func (p *tomlParser) value() (value, error) {
	switch {
	case p.text == "" || p.text[0] == '\n':
		return value{}, p.errorf("the value is missing")
	case p.text[0] == '"' || p.text[0] == '\'':
		s, err := p.quoted()
		return value{str: s, kind: 's'}, err
	case p.text[0] == '[':
		return p.array()
	case p.text[0] == '{':
		return value{}, p.errorf("inline tables are not used in this file")
	}
	n := strings.IndexAny(p.text, " \t\n,]#")
	if n < 0 {
		n = len(p.text)
	}
	word := p.text[:n]
	p.text = p.text[n:]
	if word == "true" || word == "false" {
		return value{str: word, kind: 'b'}, nil
	}
	if _, err := strconv.ParseFloat(strings.ReplaceAll(word, "_", ""), 64); err != nil {
		return value{}, p.errorf("%q is no value; strings stand in quotes", word)
	}
	return value{str: word, kind: 'o'}, nil
}

// maxNesting bounds lists in lists.
const maxNesting = 16

func (p *tomlParser) array() (value, error) {
	v := value{kind: 'l'}
	for depth := 0; ; {
		p.blank(true)
		switch {
		case p.text == "":
			return v, p.errorf("the list has no closing bracket")
		case p.text[0] == '[':
			if depth++; depth > maxNesting {
				return v, p.errorf("lists are nested too deeply")
			}
			p.text = p.text[1:]
		case p.text[0] == ']':
			p.text = p.text[1:]
			if depth--; depth == 0 {
				return v, nil
			}
		case p.text[0] == ',':
			p.text = p.text[1:]
		default:
			item, err := p.value()
			if err != nil {
				return v, err
			}
			if item.kind != 's' {
				v.kind = 'o'
			}
			v.items = append(v.items, item.str)
		}
	}
}
