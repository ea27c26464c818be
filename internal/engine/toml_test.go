// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"davit/internal/rootfs"
)

func TestTOMLSet(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
		value          any
		path           []string
	}{
		{"empty", "", "\n[a.b]\n  c = true\n", true, []string{"a", "b", "c"}},
		{"table", "[a.b]\n", "[a.b]\n  c = \"x\"\n", "x", []string{"a", "b", "c"}},
		{"table without a line break", "[a]", "[a]\nc = true\n", true, []string{"a", "c"}},
		{"table with a comment", "[a] # why\nd=1\n", "[a] # why\nc = true\nd=1\n", true, []string{"a", "c"}},
		{"indent of its keys", "\t[a]\n\t\t\td = 1\n", "\t[a]\n\t\t\tc = true\n\t\t\td = 1\n", true, []string{"a", "c"}},
		{"indent of its header", "\t[a]\n\n[b]\n", "\t[a]\n\t  c = true\n\n[b]\n", true, []string{"a", "c"}},
		{"windows", "[a]\r\nd = 1\r\n", "[a]\r\nc = true\nd = 1\r\n", true, []string{"a", "c"}},
		{"in place", "[a]\nc = 'old' # kept\n", "[a]\nc = \"new\" # kept\n", "new", []string{"a", "c"}},
		{"in place, dotted", "a.c = false\n", "a.c = true\n", true, []string{"a", "c"}},
		{"in place, several lines", "[a]\nc = \"\"\"x\ny\"\"\" # z\n", "[a]\nc = \"n\" # z\n", "n", []string{"a", "c"}},
		{"the same", "[a]\nc = 'x'\n", "[a]\nc = 'x'\n", "x", []string{"a", "c"}},
		{"quoted keys", "[p.'x.y'.z]\nd=1\n", "[p.'x.y'.z]\nc = true\nd=1\n", true, []string{"p", "x.y", "z", "c"}},
		{"a key that needs quotes", "q=1", "q=1\n\n[\"x.y\".\"a\\\"b\"]\n  c = true\n", true, []string{"x.y", `a"b`, "c"}},
		{"root", "# top\n[a]\n", "c = \"x\"\n# top\n[a]\n", "x", []string{"c"}},
		{"no end of line in a value that looks like a header", "[a]\nx = \"\"\"\n[b]\n\"\"\"\n", "[a]\nx = \"\"\"\n[b]\n\"\"\"\n\n[b]\n  c = true\n", true, []string{"b", "c"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := parseTOML("f", []byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			if err := d.set(c.value, c.path...); err != nil {
				t.Fatal(err)
			}
			if string(d.text) != c.want {
				t.Errorf("got\n%q\nwant\n%q", d.text, c.want)
			}
		})
	}
}

func TestTOMLErrors(t *testing.T) {
	for _, c := range []struct {
		in           string
		line, column int
	}{{"a = \n", 1, 5}, {"[a]\nb = 1\nb = 2\n", 3, 1}, {"x = 1\n[y\n", 2, 3}} {
		_, err := parseTOML("f", []byte(c.in))
		var at *ConfigError
		if !errors.As(err, &at) {
			t.Errorf("%q: %v is no ConfigError", c.in, err)
		} else if at.Line != c.line || at.Column != c.column {
			t.Errorf("%q: %v, want %d:%d", c.in, err, c.line, c.column)
		}
	}
	for _, in := range []string{"a = {b = {}}\n", "[[a]]\nb = 1\n", "a = 1\n", "a.b.d = 1\n[x]\n", "[a]\nb = [1]\n", "[a]\nb = {c = [1]}\n"} {
		d, err := parseTOML("f", []byte(in))
		if err != nil {
			t.Fatal(err)
		}
		if err := d.set(true, "a", "b", "c"); err == nil {
			t.Errorf("%q: set succeeded:\n%s", in, d.text)
		}
		if string(d.text) != in || len(d.changes) > 0 {
			t.Errorf("%q: changed to %q in spite of an error", in, d.text)
		}
	}
}

// FuzzTOML sets keys in any text: the rest keeps its meaning, each line that is
// not the key's own stays byte for byte, and it is there afterwards.
func FuzzTOML(f *testing.F) {
	for _, s := range []string{"", "a = 1", "[a]\nb = 2 # x\n", "[a.b]\r\nc = '''x\n'''\n", "a.b.c = false\n", "a = {b = 1}\n", "[[a]]\n", "[plugins.'io.x'.a]\n k = [\n1,\n]\n"} {
		f.Add([]byte(s), "a", "b", "c")
	}
	f.Fuzz(func(t *testing.T, text []byte, x, y, z string) {
		d, err := parseTOML("f", text)
		if err != nil {
			return
		}
		before := copied(d.values)
		if err := d.set(true, x, y, z); err != nil {
			if !bytes.Equal(d.text, text) {
				t.Fatalf("changed in spite of %v", err)
			}
			return
		}
		if v, _ := d.get(x, y, z); v != true {
			t.Fatalf("not set in %q", d.text)
		}
		again, err := parseTOML("f", d.text)
		if err != nil {
			t.Fatalf("%q: %v", d.text, err)
		}
		// Whatever was there is there still.
		var holds func(old, now map[string]any, path []string)
		holds = func(old, now map[string]any, path []string) {
			for k, v := range old {
				p := append(append([]string{}, path...), k)
				if reflect.DeepEqual(p, []string{x, y, z}) {
					continue
				}
				if sub, ok := v.(map[string]any); ok {
					n, _ := now[k].(map[string]any)
					holds(sub, n, p)
				} else if !reflect.DeepEqual(v, now[k]) && len(dotted(p)) < 1000 && !hasNaN(v) {
					t.Fatalf("%v was %v, is %v", p, v, now[k])
				}
			}
		}
		holds(before, again.values, nil)
		n := len(d.changes)
		if err := d.set(true, x, y, z); err != nil || len(d.changes) != n {
			t.Fatalf("the second set changed something: %v", err)
		}
	})
}

func hasNaN(v any) bool { return !reflect.DeepEqual(v, v) }

// FuzzContainerd plans for any text, and takes it back.
func FuzzContainerd(f *testing.F) {
	for _, s := range []string{"", "version = 2\n", "version = 3\n[plugins]\n", "[plugins.cri]\nenable_cdi = false", "disabled_plugins = ['cri']\nversion = 2\n",
		"version = 2\nimports = ['/etc/containerd/*.toml', 3]\n", "version = 'x'\n", "version = 2\nplugins = 3\n"} {
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, byDefault bool) {
		dir := t.TempDir()
		file := filepath.Join(dir, containerdFile)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, text, 0o644)); err != nil {
			t.Fatal(err)
		}
		root, err := rootfs.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		p, err := PlanContainerd(root, RuntimeOptions{Default: byDefault})
		if err != nil {
			return
		}
		if err := p.Write(root); err != nil {
			t.Fatal(err)
		}
		if again, err := PlanContainerd(root, RuntimeOptions{Default: byDefault}); err != nil || again.Changed() {
			t.Fatalf("not settled: %v, %v\n%s", err, again.Changes, p.Now)
		}
		if !p.Changed() {
			return
		}
		list, err := Written(root, "containerd")
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range list {
			if w.Path != p.Path {
				continue
			}
			u, err := w.PlanUndo(root)
			if err != nil {
				t.Fatal(err)
			}
			if err := u.Apply(); err != nil {
				t.Fatal(err)
			}
			if !u.Exact {
				t.Fatalf("undo is not exact for\n%q\n%q", text, p.Now)
			}
			break
		}
		if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, text) {
			t.Fatalf("after undo: %q (%v), before %q", now, err, text)
		}
	})
}

func TestReversed(t *testing.T) {
	for _, c := range []struct{ before, written, now, want string }{
		{"a\nb\n", "a\nX\nb\n", "a\nX\nb\nc\n", "a\nb\nc\n"},
		{"a\nb\n", "a\nB\n", "z\na\nB\n", "z\na\nb\n"},
		{"a", "a\nX\n", "a\nX\nc\n", "a\nc\n"},
		{"", "v\nX\n", "v\nX\nmine\n", "mine\n"},
	} {
		got, ok := reversed([]byte(c.before), []byte(c.written), []byte(c.now))
		if !ok || string(got) != c.want {
			t.Errorf("%q: %q, %v, want %q", c.now, got, ok, c.want)
		}
	}
	for _, now := range []string{"a\nY\nb\n", "a\nX\nX\nb\n"} {
		if got, ok := reversed([]byte("a\nb\n"), []byte("a\nX\nb\n"), []byte(now)); ok {
			t.Errorf("%q gave %q", now, got)
		}
	}
}
