// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

// repeated gives a text again and again, up to size bytes.
type repeated struct {
	text []byte
	left int
	at   int
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), r.left)], r.text[r.at:])
	r.at = (r.at + n) % len(r.text)
	r.left -= n
	return n, nil
}

func ordinaryLog() []byte {
	var b bytes.Buffer
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 4000 {
		switch rng.IntN(4) {
		case 0:
			fmt.Fprintf(&b, "2025-03-0%d 10:%02d:%02d INFO epoch %d step %d loss %.4f lr 3e-4 gpu_mem 12.3G\n", i%9+1, i%60, i%60, i/100, i, rng.Float64())
		case 1:
			fmt.Fprintf(&b, "10.0.%d.%d - - [01/Mar/2025:10:00:00 +0000] \"GET /api/items/%d HTTP/1.1\" 200 %d \"-\" \"Mozilla/5.0\"\n", i%256, i%251, i, rng.IntN(9000))
		case 2:
			fmt.Fprintf(&b, "Mar  1 10:00:00 node7 kernel: [%d.%06d] eth0: link up, 10000 Mbps, full duplex\n", i, i)
		default:
			fmt.Fprintf(&b, "{\"level\":\"info\",\"msg\":\"container started\",\"id\":\"%016x\",\"device\":\"cuda\"}\n", rng.Uint64())
		}
	}
	return b.Bytes()
}

func BenchmarkRead(b *testing.B) {
	book, err := testBook()
	if err != nil {
		b.Fatal(err)
	}
	text := ordinaryLog()
	b.SetBytes(64 << 20)
	for b.Loop() {
		if err := book.open(nil).Read("", &repeated{text: text, left: 64 << 20}); err != nil {
			b.Fatal(err)
		}
	}
}

// The worst: every line is one that rules look at.
func BenchmarkReadTrouble(b *testing.B) {
	book, err := testBook()
	if err != nil {
		b.Fatal(err)
	}
	text := []byte("Mar  1 10:00:00 node7 kernel: NVRM: Xid (PCI:0000:41:00): 31, pid=1234, name=python, Ch 00000008\n")
	b.SetBytes(64 << 20)
	for b.Loop() {
		if err := book.open(nil).Read("", &repeated{text: text, left: 64 << 20}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		if _, err := New(Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// Memory does not grow with the log, whatever its lines are.
func TestConstantMemory(t *testing.T) {
	book, err := testBook()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"ordinary":     ordinaryLog(),
		"trouble":      []byte("NVRM: Xid (PCI:0000:41:00): 31, pid=1, name=x\n$ docker run --rm x nvidia-smi\n550.120 driver version: 550.120\n"),
		"one line":     bytes.Repeat([]byte("no kernel image "), 100),
		"carriage":     []byte("10%|#   | 1/10\r"),
		"binary":       {0, 0xff, 0x1b, '[', 0xfe, 3, '\\', '"'},
		"only escapes": []byte("\x1b[0m\x1b[1;31m"),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			l := book.open(nil)
			runtime.GC()
			runtime.ReadMemStats(&before)
			if err := l.Read("", &repeated{text: text, left: 24 << 20}); err != nil {
				t.Fatal(err)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
				t.Errorf("holds %d bytes more after 24 MiB", grown)
			}
			l.Findings()
		})
	}
}

// The answer does not depend on how the reader cuts the log.
func TestPieces(t *testing.T) {
	noise := strings.Repeat("ordinary line of a program that works\n", 9000)
	for _, k := range kinds[:20] {
		text := noise + k.log + "\n" + noise
		for _, r := range []io.Reader{strings.NewReader(text), iotest.OneByteReader(strings.NewReader(k.log)), iotest.HalfReader(strings.NewReader(text)), iotest.DataErrReader(strings.NewReader(text))} {
			book, err := testBook()
			if err != nil {
				t.Fatal(err)
			}
			l := book.open(nil)
			if err := l.Read("", r); err != nil {
				t.Fatal(err)
			}
			if id := l.Findings()[0].ID; id != k.id {
				t.Errorf("got %s, want %s", id, k.id)
			}
		}
	}
}

// A cause at any place of a log is found, with its right line.
func TestPlaces(t *testing.T) {
	for _, at := range []int{0, 1, pieceSize - 40, pieceSize - 1, pieceSize, pieceSize + behind, 2*pieceSize + ahead, 700000} {
		lines := at / 10
		text := strings.Repeat("123456789\n", lines) + "Failed to initialize NVML: Unknown Error\n" + strings.Repeat("123456789\n", 30000)
		f := read(t, text).Findings()[0]
		if f.ID != "gpu-lost-systemd-reload" || f.Line != lines+1 {
			t.Errorf("at %d: %s, line %d, want %d", at, f.ID, f.Line, lines+1)
		}
		long := strings.Repeat("x", at) + " Failed to initialize NVML: Unknown Error " + strings.Repeat("y", 400000)
		f = read(t, long).Findings()[0]
		if f.ID != "gpu-lost-systemd-reload" || f.Line != 1 || len(f.Because[0].Value) > 400 {
			t.Errorf("in a long line at %d: %s, line %d, %d bytes shown", at, f.ID, f.Line, len(f.Because[0].Value))
		}
	}
}

func TestReaderFails(t *testing.T) {
	l := read(t, "")
	want := errors.New("disk on fire")
	if err := l.Read("", io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(want))); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func FuzzExplain(f *testing.F) {
	for _, k := range kinds {
		f.Add([]byte(k.log))
	}
	f.Add([]byte("\xff\xfe\x00"))
	f.Add([]byte("\x1b]8;;x\x1b\\NVRM: Xid (PCI:0000:41:00): 79\x1b"))
	book, err := testBook()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l := book.open(nil)
		if err := l.Read("x", bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		list := l.Findings()
		if len(list) == 0 {
			t.Fatal("no answer")
		}
		for _, x := range list {
			if x.ID == "" || x.Summary == "" || x.Severity == "" {
				t.Fatalf("incomplete: %+v", x)
			}
			if x.Line > bytes.Count(data, []byte{'\n'})+1 && !bytes.HasPrefix(data, []byte{0xff, 0xfe}) && !bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
				t.Fatalf("line %d of a log with fewer", x.Line)
			}
			for _, e := range x.Because {
				if strings.ContainsAny(e.Value, "\x1b\n\r\x00") {
					t.Fatalf("evidence with control characters: %q", e.Value)
				}
			}
		}
		// The same, byte by byte.
		if len(data) < 2000 {
			again := book.open(nil)
			if err := again.Read("x", iotest.OneByteReader(bytes.NewReader(data))); err != nil {
				t.Fatal(err)
			}
			if id := again.Findings()[0].ID; id != list[0].ID {
				t.Fatalf("%s in pieces, %s at once", id, list[0].ID)
			}
		}
	})
}
