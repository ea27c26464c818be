// SPDX-License-Identifier: Apache-2.0

package security

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// swapped are the places that a racing process exchanges with a link out of the
// root, again and again, by renameat2(RENAME_EXCHANGE): at every moment there
// is one or the other.
var swapped = []string{"/usr", "/usr/lib", "/usr/lib/x86_64-linux-gnu", "/lib64", "/etc", "/etc/ld.so.cache", "/dev", "/usr/bin", "/run", "/usr/lib/x86_64-linux-gnu/libcuda.so.1"}

// swap exchanges p with a link to target until stop is called.
func swap(t *testing.T, p, target string) (stop func() (rounds int)) {
	t.Helper()
	other := p + ".swap"
	must(t, os.Symlink(target, other))
	done := make(chan struct{})
	var wg sync.WaitGroup
	rounds := 0
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE) == nil {
				rounds++
			}
		}
	})
	return func() int {
		close(done)
		wg.Wait()
		if rounds%2 != 0 { // leave it as it was
			_ = unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE)
		}
		os.Remove(other)
		return rounds
	}
}

// TestRaces starts containers while a place in their image is exchanged.
//
// Who can change a root that a container is only being started on already
// shares it with another container. The hook answers for itself alone. In the
// shim's way runc makes the mounts, and up to 1.1.13 makes empty files and
// folders outside of the root in such a race (CVE-2024-45310), with any volume
// and without davit; that much is allowed here, and nothing else.
func TestRaces(t *testing.T) {
	bothWays(t, func(t *testing.T, way string) {
		starts := 110
		if testing.Short() {
			starts = 10
		}
		c := newContainer(t, way)
		k := newCanary(t, c.dir)
		write(t, filepath.Join(c.root, "usr/lib/x86_64-linux-gnu/libcuda.so.1"), "")
		c.script = strings.Split(lookAround, "find")[0] + "timeout 2 cat /etc/ld.so.cache /usr/lib/x86_64-linux-gnu/lib* | timeout 2 grep CANARY; :"
		well, failed, rounds := 0, map[string]int{}, 0
		for i := range starts {
			place := swapped[i%len(swapped)]
			if place == "/dev" && way == shimWay {
				continue // runc itself follows a link at /dev out of the root; see TestImages
			}
			stop := swap(t, filepath.Join(c.root, place), k.dir)
			c.writeConfig()
			s := c.again()
			rounds += stop()
			if strings.Contains(s.out, "CANARY") {
				t.Fatalf("%s: the container sees the host's files: %s", place, s)
			}
			if s.err == nil && strings.Contains(s.out, "GPU0") {
				well++
			} else {
				_, line, _ := strings.Cut(s.errs, "davit: ")
				failed[place]++
				if strings.Count(strings.TrimRight(line, "\n"), "\n") > 0 {
					t.Errorf("%s: more than one line: %s", place, s)
				}
				if !strings.Contains(s.errs, "davit: ") && !strings.HasPrefix(s.errs, "runc ") && strings.TrimSpace(s.errs) != "" && s.err != nil && !strings.Contains(s.out, "UP") {
					t.Errorf("%s: neither davit's line nor runc's: %s", place, s)
				}
			}
			raceCheck(t, k, way, place)
			if t.Failed() {
				return
			}
		}
		t.Logf("%d starts went well, failed %v, %d exchanges", well, failed, rounds)
		if rounds < starts*10 {
			t.Errorf("only %d exchanges: no race", rounds)
		}
		if well == 0 {
			t.Error("no start went well")
		}
		// Quiet again, the container is right.
		c.script = lookAround
		checkRight(t, c.start())
	})
}

// raceCheck is canary.check, but for runc's own empty files and folders.
func raceCheck(t *testing.T, k *canary, way, place string) {
	t.Helper()
	if way == hookWay && place != "/dev" {
		k.check()
		return
	}
	known := map[string]bool{}
	for line := range strings.Lines(k.before) {
		known[strings.Fields(line)[0]] = true
	}
	for line := range strings.Lines(listing(t, k.dir)) {
		p := strings.Fields(line)[0]
		if known[p] {
			continue
		}
		var st unix.Stat_t
		if unix.Lstat(p, &st) != nil {
			continue // below a folder that was just removed
		}
		if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFREG && st.Size == 0 || kind == unix.S_IFDIR {
			t.Logf("%s: runc made %s", place, strings.TrimPrefix(p, k.dir))
			_ = os.RemoveAll(p)
			continue
		} else if place == "/dev" && !strings.Contains(p, "nvidia") {
			_ = os.RemoveAll(p)
			continue
		}
		t.Errorf("%s: made outside of the root: %s", place, line)
	}
	for _, e := range events(t, k.watch) {
		if e.mask&(unix.IN_MODIFY|unix.IN_ACCESS) != 0 && e.mask&unix.IN_ISDIR == 0 {
			t.Errorf("%s: outside of the root: %s", place, e.in(k.names))
		}
	}
	if after := mountinfo(t); after != k.mounts {
		t.Errorf("the host's mounts changed\nbefore:\n%s\nafter:\n%s", k.mounts, after)
	}
	k.restart()
}
