// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"davit/internal/rootfs"
)

// tree makes a root: "path" is a small file, "path/" a folder, "path -> target"
// a link, "path |" a FIFO.
func tree(t testing.TB, lines ...string) *rootfs.Handle {
	t.Helper()
	dir := t.TempDir()
	for _, line := range lines {
		name, target, link := strings.Cut(line, " -> ")
		name, fifo := strings.CutSuffix(name, " |")
		p := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		switch {
		case err != nil:
		case link:
			err = os.Symlink(target, p)
		case fifo:
			err = unix.Mkfifo(p, 0o644)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(p, 0o755)
		default:
			err = os.WriteFile(p, []byte(name), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	h, err := rootfs.OpenHandle(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

var merged = []string{"usr/lib/", "usr/lib64/", "lib -> usr/lib", "lib64 -> usr/lib64"}

func TestInspect(t *testing.T) {
	with := func(lines ...string) []string { return append(append([]string{}, merged...), lines...) }
	const multiarch = "/usr/lib/x86_64-linux-gnu"
	for _, tc := range []struct {
		name string
		arch string
		tree []string
		want Layout
	}{
		{"debian, all in /usr", "amd64", with(
			"usr/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
			"usr/lib64/ld-linux-x86-64.so.2 -> ../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "etc/ld.so.cache"),
			Layout{Libc: Glibc, Dir: multiarch, Cache: true}},
		{"debian, /lib apart, the loader alone in /lib64", "amd64", []string{
			"usr/lib/x86_64-linux-gnu/", "usr/lib64/", "lib/x86_64-linux-gnu/libc-2.31.so", "lib/x86_64-linux-gnu/libc.so.6 -> libc-2.31.so",
			"lib/x86_64-linux-gnu/ld-2.31.so", "lib64/ld-linux-x86-64.so.2 -> /lib/x86_64-linux-gnu/ld-2.31.so"},
			Layout{Libc: Glibc, Dir: multiarch}},
		{"debian arm64", "arm64", []string{"usr/lib/aarch64-linux-gnu/libc.so.6", "lib -> usr/lib", "etc/ld.so.cache"},
			Layout{Libc: Glibc, Dir: "/usr/lib/aarch64-linux-gnu", Cache: true}},
		{"debian with i386", "amd64", with(
			"usr/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/i386-linux-gnu/libc.so.6", "usr/lib/i386-linux-gnu/ld-linux.so.2",
			"usr/lib/ld-linux.so.2 -> i386-linux-gnu/ld-linux.so.2"),
			Layout{Libc: Glibc, Dir: multiarch, Dir32: "/usr/lib/i386-linux-gnu"}},
		{"debian with libc6-i386", "amd64", with(
			"usr/lib/x86_64-linux-gnu/libc.so.6", "usr/lib32/libc.so.6", "usr/lib32/ld-linux.so.2", "usr/lib/ld-linux.so.2 -> ../lib32/ld-linux.so.2"),
			Layout{Libc: Glibc, Dir: multiarch, Dir32: "/usr/lib32"}},
		{"fedora", "amd64", with("usr/lib64/libc.so.6", "usr/lib64/ld-linux-x86-64.so.2", "etc/ld.so.cache"),
			Layout{Libc: Glibc, Dir: "/usr/lib64", Cache: true}},
		{"fedora with glibc.i686", "amd64", with("usr/lib64/libc.so.6", "usr/lib64/ld-linux-x86-64.so.2", "usr/lib/libc.so.6", "usr/lib/ld-linux.so.2"),
			Layout{Libc: Glibc, Dir: "/usr/lib64", Dir32: "/usr/lib"}},
		{"fedora arm64", "arm64", with("usr/lib64/libc.so.6", "usr/lib/ld-linux-aarch64.so.1"),
			Layout{Libc: Glibc, Dir: "/usr/lib64"}},
		{"suse, /lib64 apart", "amd64", []string{"usr/lib64/", "usr/lib/", "lib64/libc.so.6", "lib64/ld-linux-x86-64.so.2"},
			Layout{Libc: Glibc, Dir: "/usr/lib64"}},
		{"arch", "amd64", []string{"usr/lib/libc.so.6", "usr/lib/ld-linux-x86-64.so.2", "usr/lib64 -> lib", "lib -> usr/lib", "lib64 -> usr/lib", "etc/ld.so.cache"},
			Layout{Libc: Glibc, Dir: "/usr/lib", Cache: true}},
		{"arch with multilib", "amd64", []string{"usr/lib/libc.so.6", "usr/lib/ld-linux-x86-64.so.2", "usr/lib64 -> lib", "lib -> usr/lib", "lib64 -> usr/lib",
			"usr/lib32/libc.so.6", "usr/lib32/ld-linux.so.2", "usr/lib/ld-linux.so.2 -> ../lib32/ld-linux.so.2"},
			Layout{Libc: Glibc, Dir: "/usr/lib", Dir32: "/usr/lib32"}},
		{"glibc without lib64", "arm64", []string{"usr/lib/libc.so.6", "usr/lib/ld-linux-aarch64.so.1", "lib -> usr/lib"},
			Layout{Libc: Glibc, Dir: "/usr/lib"}},
		{"loader alone, libc elsewhere", "amd64", with("usr/lib64/ld-linux-x86-64.so.2", "opt/lib/libc.so.6"),
			Layout{Libc: Glibc, Dir: "/usr/lib64"}},
		{"nixos", "amd64", []string{"nix/store/abc-glibc-2.40/lib/libc.so.6", "bin/sh -> /nix/store/bash"},
			Layout{Libc: Glibc, Dir: "/usr/lib64"}},
		{"alpine", "amd64", []string{"lib/ld-musl-x86_64.so.1", "lib/libc.musl-x86_64.so.1 -> ld-musl-x86_64.so.1", "usr/lib/"},
			Layout{Libc: Musl, Dir: "/usr/lib"}},
		{"alpine arm64", "arm64", []string{"lib/ld-musl-aarch64.so.1"},
			Layout{Libc: Musl, Dir: "/usr/lib"}},
		{"alpine with the glibc names of libc6-compat", "amd64", []string{"usr/lib/ld-musl-x86_64.so.1", "lib -> usr/lib",
			"lib64/ld-linux-x86-64.so.2 -> /lib/ld-musl-x86_64.so.1", "usr/lib/libc.so.6 -> ld-musl-x86_64.so.1"},
			Layout{Libc: Musl, Dir: "/usr/lib"}},
		{"debian with musl beside", "amd64", with("usr/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/ld-musl-x86_64.so.1"),
			Layout{Libc: Glibc, Dir: multiarch}},
		{"busybox", "amd64", []string{"bin/busybox", "etc/ld.so.cache"},
			Layout{Libc: None, Dir: "/usr/lib64"}},
		{"empty", "amd64", nil, Layout{Libc: None, Dir: "/usr/lib64"}},
		{"no machine of NVIDIA's", "riscv64", with("usr/lib64/libc.so.6"), Layout{Libc: None, Dir: "/usr/lib64"}},
		{"links out of the root", "amd64", []string{"usr/lib -> ../../../../../../../../usr/lib", "lib64 -> /../../../../lib64", "etc -> /../../../../etc"},
			Layout{Libc: None, Dir: "/usr/lib64"}},
		{"links in a circle", "amd64", []string{"usr -> usr", "lib64 -> lib", "lib -> lib64", "etc/ld.so.cache -> ld.so.cache"},
			Layout{Libc: None, Dir: "/usr/lib64"}},
		{"FIFOs and folders under the names of files", "amd64", []string{"usr/lib/x86_64-linux-gnu/libc.so.6 |", "usr/lib64/libc.so.6/",
			"lib64/ld-linux-x86-64.so.2 |", "lib/ld-musl-x86_64.so.1 |", "lib/ld-linux.so.2 |", "etc/ld.so.cache |"},
			Layout{Libc: None, Dir: "/usr/lib64"}},
		{"a cache that is a FIFO", "amd64", []string{"usr/lib64/libc.so.6", "etc/ld.so.cache |"},
			Layout{Libc: Glibc, Dir: "/usr/lib64"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Inspect(tree(t, tc.tree...), tc.arch); got != tc.want {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

func TestReadCache(t *testing.T) {
	h := tree(t, "etc/ld.so.cache")
	if data, err := ReadCache(h); err != nil || string(data) != "etc/ld.so.cache" {
		t.Errorf("%q, error %v", data, err)
	}
	if _, err := ReadCache(tree(t)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no cache: error %v", err)
	}
	done := make(chan error, 1)
	fifo := tree(t, "etc/ld.so.cache |")
	go func() { _, err := ReadCache(fifo); done <- err }()
	select {
	case err := <-done:
		if !errors.Is(err, rootfs.ErrNotRegular) {
			t.Errorf("FIFO: error %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("a FIFO blocks")
	}
	if _, err := ReadCache(tree(t, "etc/ld.so.cache -> /../../../../../../../../../../etc/passwd")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("link out of the root: error %v", err)
	}
	huge := tree(t, "etc/ld.so.cache")
	if err := os.Truncate(filepath.Join(huge.Name(), CachePath), maxCache+1); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadCache(huge); !errors.Is(err, rootfs.ErrTooLarge) {
		t.Errorf("huge: error %v", err)
	}
}

func BenchmarkInspect(b *testing.B) {
	h := tree(b, append(merged, "usr/lib/x86_64-linux-gnu/libc.so.6", "usr/lib64/ld-linux-x86-64.so.2", "etc/ld.so.cache")...)
	for b.Loop() {
		Inspect(h, "amd64")
	}
}
