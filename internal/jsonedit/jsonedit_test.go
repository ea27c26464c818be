// SPDX-License-Identifier: Apache-2.0

package jsonedit

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
)

func mustParse(t testing.TB, text string) *Doc {
	t.Helper()
	d, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return d
}

func TestSyntaxErrorsNameThePlace(t *testing.T) {
	tests := []struct {
		name, text   string
		line, column int
		msg          string
	}{
		{"an empty text", "", 1, 1, "the text ends where a value should stand"},
		{"white space alone", " \n ", 2, 2, "the text ends where a value should stand"},
		{"a byte order mark", "\xef\xbb\xbf{}", 1, 1, "byte order mark"},
		{"a comment", "{\n  // why\n}", 2, 3, "JSON has no comments"},
		{"a comment behind a value", "{\"a\": 1 # why\n}", 1, 9, "JSON has no comments"},
		{"a brace too many", "{\n  \"a\": 1\n  },\n  \"b\": 2\n}", 3, 4, "one closing brace too many"},
		{"a text behind the value", "{} {}", 1, 4, "goes on"},
		{"a missing comma", "{\n\t\"a\": 1\n\t\"b\": 2}", 3, 2, "a comma is missing before this key"},
		{"a comma too many in an object", "{\"a\": 1,\n}", 2, 1, "a comma stands before the closing brace"},
		{"a comma too many in an array", "[1,]", 1, 4, "a comma stands before the closing bracket"},
		{"a key without quotes", "{a: 1}", 1, 2, "a key in double quotes"},
		{"single quotes", "['a']", 1, 2, "double quotes"},
		{"a missing colon", "{\"a\" 1}", 1, 6, "a colon"},
		{"a missing value", "{\"a\": }", 1, 7, "a value should stand before '}'"},
		{"a word that is none", "[yes]", 1, 2, "a value should stand here"},
		{"half a word", "[tru]", 1, 2, "true, false and null"},
		{"an object that does not end", "{\"a\": 1", 1, 8, "a closing brace is missing"},
		{"an array that does not end", "[1", 1, 3, "a closing bracket is missing"},
		{"a string that does not end", "\"a", 1, 3, "ends inside a string"},
		{"a string over two lines", "[\"a\n\"]", 1, 4, "closing quote is missing"},
		{"an escape that is none", `["\x"]`, 1, 3, "backslash"},
		{"half an escape", `["\u12g4"]`, 1, 3, "hexadecimal"},
		{"a leading zero", "[01]", 1, 3, "does not begin with 0"},
		{"a minus alone", "[-]", 1, 3, "minus"},
		{"a point without digits", "[1.]", 1, 4, "point"},
		{"an exponent without digits", "[1e+]", 1, 5, "exponent"},
		{"columns count characters", "[\"äöü\" x]", 1, 8, "a comma or a closing bracket"},
		{"513 levels", strings.Repeat("[", 513), 1, 513, "512 levels"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.text))
			var at *SyntaxError
			if !errors.As(err, &at) {
				t.Fatalf("error %v", err)
			}
			if at.Line != tt.line || at.Column != tt.column || !strings.Contains(at.Msg, tt.msg) {
				t.Errorf("%v, want line %d, column %d: %s", err, tt.line, tt.column, tt.msg)
			}
		})
	}
	if _, err := Parse([]byte(strings.Repeat("[", 512) + strings.Repeat("]", 512))); err != nil {
		t.Errorf("512 levels: %v", err)
	}
}

func TestReading(t *testing.T) {
	d := mustParse(t, `{"a": {"b": [10, "x\u00e9\n\ud83d\ude00\ud800", true, null]}, "a\"": 1.5, "dup": 1, "dup": 2, "big": 92233720368547758070}`)
	get := func(path ...string) Value {
		v, ok := d.Get(path...)
		if !ok {
			t.Fatalf("no %v", path)
		}
		return v
	}
	if n, err := get("a", "b", "0").Int(); n != 10 || err != nil {
		t.Error(n, err)
	}
	if s, err := get("a", "b", "1").String(); s != "xé\n😀\ufffd" || err != nil {
		t.Errorf("%q %v", s, err)
	}
	if b, err := get("a", "b", "2").Bool(); !b || err != nil {
		t.Error(b, err)
	}
	if k := get("a", "b", "3").Kind(); k != Null {
		t.Error(k)
	}
	if n, err := get("dup").Int(); n != 2 || err != nil {
		t.Errorf("of repeated keys the last counts: %d %v", n, err)
	}
	if raw := get(`a"`).Raw(); string(raw) != "1.5" {
		t.Errorf("%s", raw)
	}
	if n := get("a", "b").Len(); n != 4 {
		t.Error(n)
	}
	var keys []string
	for _, m := range d.Root().Members() {
		keys = append(keys, m.Key)
	}
	if !reflect.DeepEqual(keys, []string{"a", `a"`, "dup", "dup", "big"}) {
		t.Errorf("%q", keys)
	}
	for _, path := range [][]string{{"x"}, {"a", "b", "4"}, {"a", "b", "-1"}, {"a", "b", "01"}, {"a", "b", "0", "x"}, {"dup", "0"}} {
		if _, ok := d.Get(path...); ok {
			t.Errorf("there is a %v", path)
		}
	}
	for _, err := range []error{
		second(get("a").String()), second(get("a").Int()), second(get("a").Bool()),
		second(get(`a"`).Int()), second(get("big").Int()), second(Value{}.String()),
	} {
		if err == nil || !strings.HasPrefix(err.Error(), "line ") {
			t.Errorf("error %v", err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// An edit of the tests: "append PATH RAW", "set PATH RAW", "delete PATH",
// "elem N PATH"; the parts of a path stand with dots between.
func apply(d *Doc, edit string) error {
	f := strings.SplitN(edit, " ", 3)
	path := strings.Split(f[1], ".")
	switch f[0] {
	case "append":
		return d.Append([]byte(f[2]), path...)
	case "set":
		return d.Set([]byte(f[2]), path...)
	case "delete":
		return d.Delete(path...)
	}
	return d.DeleteElem(int(f[1][0]-'0'), strings.Split(f[2], ".")...)
}

func TestEdits(t *testing.T) {
	tests := []struct {
		name, text string
		edits      string // a line each
		want       string
	}{
		{"no edit keeps every byte", " {\"a\" :1 ,\r\n\"a\":[ ]}\n", "", " {\"a\" :1 ,\r\n\"a\":[ ]}\n"},
		{"compact text stays compact", `{"m":[{"a":1}],"z":0}`, "append m {\"b\":2}", `{"m":[{"a":1},{"b":2}],"z":0}`},
		{"two elements keep their order", `{"m":[1]}`, "append m 2\nappend m 3", `{"m":[1,2,3]}`},
		{"an empty array is filled", `{"m":[]}`, "append m 2\nappend m 3", `{"m":[2,3]}`},
		{"a missing array is made", `{"a":1}`, "append x.y.z 2\nappend x.y.z 3", `{"a":1,"x":{"y":{"z":[2,3]}}}`},
		{"null counts as missing", `{"x":null}`, "append x.y 2", `{"x":{"y":[2]}}`},
		{"null counts as a missing array", `{"x":{"y": null}}`, "append x.y 2", `{"x":{"y": [2]}}`},
		{"unknown and repeated keys stay", `{"?":1e0,"?":"\u0041","m":[ ]}`, "set n 1", `{"?":1e0,"?":"\u0041","m":[ ],"n":1}`},
		{"of repeated keys the last is changed", `{"a":1,"a":2}`, "set a 3", `{"a":1,"a":3}`},
		{"all of a repeated key are deleted", `{"a":1,"b":0,"a":2}`, "delete a", `{"b":0}`},
		{"blanks within a line are kept", `{ "a": 1 }`, "set b 2", `{ "a": 1, "b": 2 }`},
		{"blanks of an array are kept", `{ "a": [1, 2] }`, "append a 3", `{ "a": [1, 2, 3] }`},
		{"one element tells by the text around", `{"a": [1]}`, "append a 3", `{"a": [1, 3]}`},
		{"indentation is that of the brothers", "{\n\t\"a\": 1\n}\n", "set b 2", "{\n\t\"a\": 1,\n\t\"b\": 2\n}\n"},
		{"new objects are indented", "{\n  \"a\": 1\n}\n", "set b.c 2\nappend b.d 3", "{\n  \"a\": 1,\n  \"b\": {\n    \"c\": 2,\n    \"d\": [\n      3\n    ]\n  }\n}\n"},
		{"an empty object inside is opened", "{\n    \"a\": {}\n}", "set a.b 2", "{\n    \"a\": {\n        \"b\": 2\n    }\n}"},
		{"carriage returns are kept", "{\r\n  \"a\": 1\r\n}\r\n", "set b 2", "{\r\n  \"a\": 1,\r\n  \"b\": 2\r\n}\r\n"},
		{"a blank line is not repeated", "{\n  \"a\": 1,\n\n  \"c\": 1\n}", "set b 2", "{\n  \"a\": 1,\n\n  \"c\": 1,\n  \"b\": 2\n}"},
		{"brothers within a line have a brother within a line", "{\n\t\"r\": {\n\t\t\"x\": { \"p\": 1, \"q\": [] }\n\t}\n}", "set r.y.p 2\nset r.y.q []", "{\n\t\"r\": {\n\t\t\"x\": { \"p\": 1, \"q\": [] },\n\t\t\"y\": { \"p\": 2, \"q\": [] }\n\t}\n}"},
		{"an empty text in one line stays so", `{}`, "set a.b 1", `{"a":{"b":1}}`},
		{"an empty text with a line break is laid out", "{}\n", "set a.b 1", "{\n  \"a\": {\n    \"b\": 1\n  }\n}\n"},
		{"an empty text over two lines is laid out", "{\n}", "set a 1", "{\n  \"a\": 1\n}"},
		{"the first of three goes", "{\n  \"a\": 1,\n  \"b\": 2,\n  \"c\": 3\n}", "delete a", "{\n  \"b\": 2,\n  \"c\": 3\n}"},
		{"the middle of three goes", "{\n  \"a\": 1,\n  \"b\": 2,\n  \"c\": 3\n}", "delete b", "{\n  \"a\": 1,\n  \"c\": 3\n}"},
		{"the last of three goes", "{\n  \"a\": 1,\n  \"b\": 2,\n  \"c\": 3\n}", "delete c", "{\n  \"a\": 1,\n  \"b\": 2\n}"},
		{"the only one goes", "{\n  \"a\": 1\n}", "delete a", "{}"},
		{"the only one goes and another comes", "{\n  \"a\": 1\n}", "delete a\nset b 2", "{\n  \"b\": 2\n}"},
		{"elements count as in the old text", `[[0,1,2,3]]`, "elem 1 0\nelem 2 0\nappend 0 9", `[[0,3,9]]`},
		{"deleting what is not there does nothing", `{"a":1}`, "delete b.c\ndelete x", `{"a":1}`},
		{"an added key can be deleted", `{"a":1}`, "set b 1\ndelete b", `{"a":1}`},
		{"an added key can be set again", `{"a":1}`, "set b 1\nset b 2", `{"a":1,"b":2}`},
		{"a deleted key can be set again, at the end", `{"a":1,"b":2}`, "delete a\nset a 3", `{"b":2,"a":3}`},
		{"edits can go into what was set", `{"a":1}`, "set a {\"x\":[1]}\nappend a.x 2", `{"a":{"x":[1,2]}}`},
		{"edits can go into what was appended", `{"a":[]}`, "append a {\"x\":[1]}\nset b 1", `{"a":[{"x":[1]}],"b":1}`},
		{"an element can be set", `{"a":[1,2]}`, "set a.1 3", `{"a":[1,3]}`},
		{"a key with an escape is found", `{"\u0061":[1]}`, "append a 2", `{"\u0061":[1,2]}`},
		{"edits at several depths", `{"a":{"b":{"c":1}},"d":2}`, "set a.b.c 9\nset a.x 8\ndelete d\nset a.b.e 7", `{"a":{"b":{"c":9,"e":7},"x":8}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := mustParse(t, tt.text)
			for edit := range strings.SplitSeq(tt.edits, "\n") {
				if edit == "" {
					continue
				}
				if err := apply(d, edit); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // Bytes changes nothing
				if got := string(d.Bytes()); got != tt.want {
					t.Fatalf("got\n%s\nwant\n%s", got, tt.want)
				}
			}
		})
	}
}

func TestEditsThatCannotBe(t *testing.T) {
	for edit, want := range map[string]string{
		"append s 1":    "s is a string, not an array",
		"append o 1":    "o is an object, not an array",
		"append s.x 1":  `s is a string, so there can be no "x" in it`,
		"append a.7 1":  "a has no element 7",
		"set a.7 1":     "a has no element 7",
		"set s.x.y 1":   "s is a string",
		"set o.x {":     "not JSON",
		"append a  1":   "not JSON",
		"append a 1,2":  "not JSON",
		"elem 7 a":      "a has no element 7",
		"elem 0 o":      "not an array",
		"elem 0 x":      "there is no x",
		"set o.x 'a'":   "not JSON",
		"append a.x 1 ": "not JSON",
	} {
		t.Run(edit, func(t *testing.T) {
			const text = `{"s":"", "o":{}, "a":[1]}`
			d := mustParse(t, text)
			err := apply(d, edit)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q", err, want)
			}
			if got := string(d.Bytes()); got != text {
				t.Errorf("a refused edit changed the text: %s", got)
			}
		})
	}
	d := mustParse(t, "{}")
	if d.Set([]byte("[1]")) != nil || string(d.Bytes()) != "[1]" {
		t.Errorf("the outermost value cannot be set: %s", d.Bytes())
	}
	if d.Delete() == nil {
		t.Error("the outermost value was deleted")
	}
}

func TestQuote(t *testing.T) {
	for s, want := range map[string]string{
		"":             `""`,
		"a\"b\\c":      `"a\"b\\c"`,
		"\n\r\t\x01é😀": `"\n\r\t\u0001é😀"`,
		"a\xffb\xff":   "\"a\ufffdb\ufffd\"",
		"\ufffd":       "\"\ufffd\"",
	} {
		if got := string(Quote(s)); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"{}", `{"a":[1,2.5e-3,"\ud83d\ude00",null,true]}`, "[01]", `"\ud800\u0041"`, "\"\xff\xc3\"", "[1,]", "{\"a\":1,\"a\":2}", " 1 ", "\xef\xbb\xbf1", `{"\u0061":-0}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse(data)
		if (err == nil) != json.Valid(data) {
			if err != nil && strings.Contains(err.Error(), "512 levels") {
				return
			}
			t.Fatalf("Parse: %v, json.Valid: %v", err, json.Valid(data))
		}
		if err != nil {
			if at := err.(*SyntaxError); at.Line < 1 || at.Column < 1 || at.Offset > len(data) || at.Msg == "" || strings.Contains(at.Error(), "\n") {
				t.Fatalf("%#v", at)
			}
			return
		}
		if got, want := plain(t, d.Root()), decode(t, data); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %#v, want %#v", got, want)
		}
		if got := d.Bytes(); !bytes.Equal(got, data) {
			t.Fatalf("%q", got)
		}
	})
}

func decode(t *testing.T, data []byte) any {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// plain makes what encoding/json would.
func plain(t *testing.T, v Value) any {
	switch v.Kind() {
	case Null:
		return nil
	case Bool:
		b, err := v.Bool()
		if err != nil {
			t.Fatal(err)
		}
		return b
	case Number:
		return json.Number(v.Raw())
	case String:
		s, err := v.String()
		if err != nil {
			t.Fatal(err)
		}
		return s
	case Array:
		list := []any{}
		for _, e := range v.Elems() {
			list = append(list, plain(t, e))
		}
		return list
	case Object:
		m := map[string]any{}
		for _, member := range v.Members() {
			k, e := member.Key, member.Value
			m[k] = plain(t, e)
			if got, ok := v.Get(k); !ok || got.Kind() == None {
				t.Fatalf("no member %q", k)
			}
		}
		return m
	}
	t.Fatal("a value of no kind")
	return nil
}

func FuzzQuote(f *testing.F) {
	f.Add("a\"\\\n\x00\xff é😀\u2028")
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(Quote(s), &got); err != nil || got != strings.ToValidUTF8(s, "\ufffd") && len(got) < len(s) {
			t.Fatalf("%q: %q %v", s, got, err)
		}
		d := mustParse(t, string(Quote(s)))
		if mine, err := d.Root().String(); err != nil || mine != got {
			t.Fatalf("%q, want %q, %v", mine, got, err)
		}
	})
}

// FuzzEdit does two edits and compares with the same done to decoded values.
func FuzzEdit(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":null}],"c":{}}`), byte(0), "a", "1", byte(1), "c.x", `{"y":[2]}`)
	f.Add([]byte("{\n\t\"a\": {\"b\": []},\n\t\"a\": 1\n}\n"), byte(2), "a", "", byte(0), "a.b", "null")
	f.Add([]byte(`{"a":1}`), byte(1), "a", `{"x":[]}`, byte(0), "a.x", "5")
	f.Add([]byte(`[[1,2,3]]`), byte(2), "0.1", "", byte(0), "0", "[]")
	f.Fuzz(func(t *testing.T, data []byte, op1 byte, path1, raw1 string, op2 byte, path2, raw2 string) {
		d, err := Parse(data)
		if err != nil {
			return
		}
		want := decode(t, data)
		for _, e := range []struct {
			op        byte
			path, raw string
		}{{op1, path1, raw1}, {op2, path2, raw2}} {
			path := strings.Split(strings.ToValidUTF8(e.path, "?"), ".")
			before := d.Bytes()
			var err error
			switch e.op % 3 {
			case 0:
				err = d.Append([]byte(e.raw), path...)
			case 1:
				err = d.Set([]byte(e.raw), path...)
			case 2:
				// Deleted elements leave the numbers of the others as they were; the model cannot.
				if v, ok := d.Get(path[:len(path)-1]...); ok && v.Kind() == Array {
					continue
				}
				err = d.Delete(path...)
			}
			if err != nil {
				if !bytes.Equal(before, d.Bytes()) {
					t.Fatalf("refused with %v, but changed %q to %q", err, before, d.Bytes())
				}
				continue
			}
			var raw any
			if e.op%3 != 2 {
				raw = decode(t, []byte(e.raw))
			}
			want = model(want, e.op%3, path, raw)
			after := d.Bytes()
			if !json.Valid(after) {
				t.Fatalf("not JSON: %q from %q", after, before)
			}
			if got := decode(t, after); !reflect.DeepEqual(got, want) {
				t.Fatalf("%q became %q, which is %v, want %v", before, after, got, want)
			}
			if e.op%3 == 0 && !bytes.Contains(data, []byte("null")) && !strings.Contains(e.raw+raw1, "null") {
				if prefix, suffix := common(before, after); prefix+suffix < len(before) {
					t.Fatalf("more than an insertion: %q became %q", before, after)
				}
			}
		}
	})
}

func common(a, b []byte) (prefix, suffix int) {
	for prefix < len(a) && prefix < len(b) && a[prefix] == b[prefix] {
		prefix++
	}
	for suffix < len(a) && suffix < len(b) && a[len(a)-1-suffix] == b[len(b)-1-suffix] {
		suffix++
	}
	return prefix, suffix
}

// model does an edit to decoded values.
func model(v any, op byte, path []string, raw any) any {
	if len(path) == 0 {
		if op == 0 {
			list, _ := v.([]any)
			return append(list, raw)
		}
		return raw
	}
	if v == nil && op != 2 {
		v = map[string]any{}
	}
	switch v := v.(type) {
	case map[string]any:
		old, ok := v[path[0]]
		if op == 2 {
			if len(path) == 1 {
				delete(v, path[0])
			} else if ok {
				v[path[0]] = model(old, op, path[1:], raw)
			}
			return v
		}
		v[path[0]] = model(old, op, path[1:], raw)
		return v
	case []any:
		if k, ok := index(path[0]); ok && k < len(v) {
			v[k] = model(v[k], op, path[1:], raw)
		}
		return v
	}
	return v
}

func BenchmarkConfig(b *testing.B) {
	data, err := os.ReadFile("testdata/docker-config.json")
	if err != nil {
		b.Fatal(err)
	}
	mount := []byte(`{"destination":"/usr/lib/x86_64-linux-gnu/libcuda.so.1","type":"bind","source":"/usr/lib/x86_64-linux-gnu/libcuda.so.550.120","options":["bind","ro","nosuid","nodev","rprivate"]}`)
	device := []byte(`{"path":"/dev/nvidia0","type":"c","major":195,"minor":0,"fileMode":438,"uid":0,"gid":0}`)
	allow := []byte(`{"allow":true,"type":"c","major":195,"minor":0,"access":"rw"}`)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		d, err := Parse(data)
		if err != nil {
			b.Fatal(err)
		}
		if d.Append(mount, "mounts") != nil || d.Append(device, "linux", "devices") != nil || d.Append(allow, "linux", "resources", "devices") != nil {
			b.Fatal("append")
		}
		if len(d.Bytes()) < len(data) {
			b.Fatal("bytes")
		}
	}
}
