// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// probe runs inside a container and prints one fact a line:
//
//	nodes            node PATH MAJOR:MINOR OPEN      for each NVIDIA node
//	mknod=MAJOR:MINOR mknod MAJOR:MINOR OPEN         of a node made for it
//	ls=DIR           ls DIR NAME...
//	cat=FILE         cat FILE | LINE                 for each line
//	find=NAME        find NAME PATH...               in folders of libraries and programs
//	write=PATH       write PATH RESULT
//	sleep            waits a minute
//
// OPEN and RESULT are ok or the name of an error, such as EPERM.
func probe(asks []string) {
	for _, ask := range asks {
		verb, arg, _ := strings.Cut(ask, "=")
		switch verb {
		case "nodes":
			probeNodes()
		case "mknod":
			fmt.Printf("mknod %s %s\n", arg, probeMknod(arg))
		case "ls":
			names, err := os.ReadDir(arg)
			line := "ls " + arg
			for _, n := range names {
				line += " " + n.Name()
			}
			if err != nil {
				line += " " + errName(err)
			}
			fmt.Println(line)
		case "cat":
			text, err := os.ReadFile(arg)
			if err != nil {
				fmt.Printf("cat %s %s\n", arg, errName(err))
			}
			for line := range strings.Lines(string(text)) {
				fmt.Printf("cat %s | %s\n", arg, strings.TrimSpace(line))
			}
		case "find":
			probeFind(arg)
		case "sleep":
			time.Sleep(time.Minute)
		case "write":
			f, err := os.OpenFile(arg, os.O_WRONLY|os.O_CREATE, 0o644)
			if err == nil {
				f.Close()
			}
			fmt.Printf("write %s %s\n", arg, errName(err))
		default:
			fmt.Printf("probe: what is %q?\n", ask)
			os.Exit(64)
		}
	}
	fmt.Println("probe: ok")
}

func errName(err error) string {
	var no syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &no):
		return unix.ErrnoName(no)
	}
	return err.Error()
}

func tryOpen(path string) string {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return errName(err)
}

func probeNodes() {
	paths, _ := filepath.Glob("/dev/nvidia*")
	more, _ := filepath.Glob("/dev/nvidia-caps/*")
	paths = append(paths, more...)
	sort.Strings(paths)
	for _, p := range paths {
		var st unix.Stat_t
		if unix.Lstat(p, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
			continue
		}
		fmt.Printf("node %s %d:%d %s\n", p, unix.Major(st.Rdev), unix.Minor(st.Rdev), tryOpen(p))
	}
}

// probeMknod makes a node where nodes work, below /dev, and opens it.
func probeMknod(number string) string {
	major, minor, _ := strings.Cut(number, ":")
	ma, err1 := strconv.ParseUint(major, 10, 32)
	mi, err2 := strconv.ParseUint(minor, 10, 32)
	if err1 != nil || err2 != nil {
		return "what number is that?"
	}
	p := "/dev/davit-probe"
	if err := unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(uint32(ma), uint32(mi)))); err != nil {
		return "mknod-" + errName(err)
	}
	defer os.Remove(p)
	return tryOpen(p)
}

var probeDirs = []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/lib/x86_64-linux-gnu", "/lib64", "/lib", "/usr/bin", "/usr/local/bin", "/bin"}

func probeFind(name string) {
	line := "find " + name
	for _, d := range probeDirs {
		if info, err := os.Stat(d + "/" + name); err == nil && info.Size() > 0 {
			line += " " + d + "/" + name
		}
	}
	fmt.Println(line)
}
