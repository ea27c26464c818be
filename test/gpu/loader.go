// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// loaderChecks look at which file a program really loaded.
func loaderChecks() []check {
	list := []check{
		{name: "loader: a CUDA process has the host's libcuda, by inode", run: func(c *column) outcome {
			return c.loads(c.start(container{image: "debian", gpus: "all", args: []string{"/davit/cudacheck", "list"}}), "/usr/lib/x86_64-linux-gnu/libcuda.so.1")
		}},
		{name: "loader: libcuda.so, the name without a number, too", run: func(c *column) outcome {
			return c.loads(c.start(container{image: "debian", gpus: "all", args: []string{"/davit/cudadev", "list"}}), "/usr/lib/x86_64-linux-gnu/libcuda.so")
		}},
		{name: "loader: not the stale driver that the image has", run: func(c *column) outcome {
			before := c.start(container{image: "stale", args: []string{"/davit/cudacheck", "list"}})
			if !strings.Contains(before.out, "cuInit returned 418") {
				return before.because("without davit the stale libcuda should be loaded, or this proves nothing")
			}
			if o := c.loads(c.start(container{image: "stale", gpus: "all", args: []string{"/davit/cudacheck", "list"}}), ""); o.bad {
				return o
			}
			return c.loads(c.start(container{image: "stale", gpus: "all", args: []string{"/davit/cudadev", "list"}}), "")
		}},
	}
	for _, image := range []string{"debian", "oldglibc", "newglibc", "fedora"} {
		list = append(list, check{name: "ldconfig -p: image's entries kept, in order: " + image, run: func(c *column) outcome {
			return c.cacheKept(image)
		}})
	}
	return list
}

var mapLine = regexp.MustCompile(`(?m)^map (\d+) (\S*libcuda\.so\S*)$`)

// loads checks in cudacheck's output that libcuda is the host's file, at this
// path if one is given.
func (c *column) loads(r result, path string) outcome {
	if o := c.sees(r, c.host.all()...); o.bad {
		return o
	}
	found := mapLine.FindAllStringSubmatch(r.out, -1)
	if len(found) != 1 {
		return r.because("want one libcuda in the process")
	}
	var inode uint64
	_, _ = fmt.Sscan(found[0][1], &inode)
	if c.host.inodes[inode] == "" {
		return r.because("%s has inode %d; the host's libcuda: %v", found[0][2], inode, c.host.inodes)
	}
	if path != "" && found[0][2] != path {
		return r.because("it is at %s, not at %s", found[0][2], path)
	}
	return good
}

func (c *column) cacheKept(image string) outcome {
	lines := func(r result) (list []string) {
		for line := range strings.Lines(r.out) {
			if strings.Contains(line, " => ") {
				list = append(list, strings.TrimSpace(line))
			}
		}
		return list
	}
	before := c.start(container{image: image, args: []string{"ldconfig", "-p"}})
	after := c.start(container{image: image, gpus: "all", args: []string{"ldconfig", "-p"}})
	if before.code != 0 || after.code != 0 {
		return after.because("ldconfig -p fails; before: %s", before.all())
	}
	old, now := lines(before), lines(after)
	k := 0
	for _, line := range now {
		if k < len(old) && line == old[k] {
			k++
		}
	}
	if k < len(old) || len(old) == 0 {
		return after.because("%d entries before; this one is not where it was: %s", len(old), strings.Join(old[min(k, len(old)):], "; "))
	}
	for _, name := range []string{"libcuda.so.1 ", "libnvidia-ml.so.1 "} {
		if !slices.ContainsFunc(now, func(l string) bool { return strings.HasPrefix(l, name) }) {
			return after.because("no entry for %s", name)
		}
	}
	return good
}

// nothingLeft starts containers that live, fail and are refused, and compares
// the host before and after.
func nothingLeft(c *column) outcome {
	before, cg := mountTable(), cgroupFolders()
	for i := range 10 {
		k := container{image: "debian", gpus: "all", args: []string{"/bin/true"}, readonly: i%2 == 0}
		switch i % 5 {
		case 3:
			k.args = []string{"/no/such/program"}
		case 4:
			k.gpus = "99"
		}
		c.start(k)
	}
	// Docker cleans up a moment after docker run ends.
	waitFor(5*time.Second, func() bool {
		return len(missingFrom(before, mountTable()))+len(missingFrom(cg, cgroupFolders())) == 0
	})
	if extra := missingFrom(before, mountTable()); len(extra) > 0 {
		return failed("mounts that were not there before:\n%s", strings.Join(extra, "\n"))
	}
	if extra := missingFrom(cg, cgroupFolders()); len(extra) > 0 {
		return failed("cgroups that were not there before:\n%s", strings.Join(extra, "\n"))
	}
	if !c.docker {
		if left := names(c.root); len(left) > 0 {
			return failed("the runtime still knows %v", left)
		}
	}
	return c.stateFiles()
}

var contentName = regexp.MustCompile(`^([a-z]+-)?[0-9a-f]{16,64}$`)

// stateFiles checks that davit's state is nothing but files named by a hash, so
// that starts do not pile them up.
func (c *column) stateFiles() outcome {
	dir := c.path("state/davit")
	count := 0
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		count++
		if !contentName.MatchString(d.Name()) {
			return fmt.Errorf("%s is not named by a hash", p)
		}
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		return failed("%v", err)
	}
	if count > 20 {
		return failed("%d files in %s", count, dir)
	}
	return good
}

// mountTable is what /proc/self/mountinfo tells, less the numbers of mounts.
func mountTable() (lines []string) {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 {
			lines = append(lines, strings.Join(f[2:], " "))
		}
	}
	return lines
}

// cgroupFolders are those of our containers.
func cgroupFolders() (list []string) {
	own := fmt.Sprintf("davit-gpu-%d-*", os.Getpid())
	for _, pattern := range []string{"/sys/fs/cgroup/" + own, "/sys/fs/cgroup/*/" + own, "/sys/fs/cgroup/" + dockerCgroup + "/*", "/sys/fs/cgroup/*/" + dockerCgroup + "/*"} {
		found, _ := filepath.Glob(pattern)
		for _, f := range found {
			var st unix.Stat_t
			if unix.Stat(f, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
				list = append(list, f)
			}
		}
	}
	return list
}
