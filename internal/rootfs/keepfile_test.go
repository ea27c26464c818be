// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKeepFile(t *testing.T) {
	dir := t.TempDir()
	p, data := filepath.Join(dir, "new/file"), []byte("content\n")
	if err := KeepFile(p, data, 0o644); err != nil {
		t.Fatal(err)
	}
	first, err := os.Stat(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := KeepFile(p, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if again, err := os.Stat(p); err != nil || !os.SameFile(first, again) {
		t.Errorf("a whole file was replaced: %v", err)
	}
	outside := filepath.Join(dir, "outside")
	if err := os.WriteFile(outside, data, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func() error{
		"same size": func() error { return os.WriteFile(p, []byte("CONTENT\n"), 0o644) },
		"longer":    func() error { return os.WriteFile(p, []byte("content\n\n"), 0o644) },
		"writable":  func() error { return os.WriteFile(p, data, 0o644) },
		"link":      func() error { return os.Symlink(outside, p) },
		"folder":    func() error { return os.MkdirAll(p+"/x", 0o755) },
		"FIFO":      func() error { return unix.Mkfifo(p, 0o644) },
	} {
		if err := os.RemoveAll(p); err != nil {
			t.Fatal(err)
		}
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if name == "writable" {
			if err := os.Chmod(p, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		if err := KeepFile(p, data, 0o644); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil || st.Mode != unix.S_IFREG|0o644 {
			t.Errorf("%s: mode %o, %v", name, st.Mode, err)
		}
		if got, err := os.ReadFile(p); err != nil || string(got) != string(data) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
