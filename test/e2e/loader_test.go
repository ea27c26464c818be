// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"slices"
	"strings"
	"testing"
)

// resolve asks the image's own loader what a program that opens a library by
// name gets, as dlopen finds it, and what is in that file.
const resolve = `for n in libcuda.so.1 libcuda.so libnvidia-ml.so.1; do
p=$(LD_PRELOAD=$n LD_TRACE_LOADED_OBJECTS=1 /bin/true | sed -n "s|.*[[:space:]]$n => \([^ ]*\) .*|\1|p")
echo "$n at $p is $(sha256sum <"$p" | cut -d' ' -f1)"
done`

// testLoader checks with real loaders which library a program gets.
func testLoader(t *testing.T, b *box, h *host) {
	cuda, ml := h.library(t, "libcuda.so."), h.library(t, "libnvidia-ml.so.")
	modes := []struct {
		name string
		args []string
	}{
		{"hook", []string{"--gpus", "all"}},
		{"shim", []string{"--runtime", "nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all", "-e", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"}},
	}
	for _, mode := range modes {
		for _, image := range []string{"debian", "oldglibc", "newglibc", "fedora", "cuda-base", "stale"} {
			t.Run(mode.name+"-"+image, func(t *testing.T) {
				t.Parallel()
				r := b.run(append(slices.Clone(mode.args), "localhost/"+image, "bash", "-c", resolve)...)
				r.ok(t)
				for name, sum := range map[string]string{"libcuda.so.1": cuda, "libcuda.so": cuda, "libnvidia-ml.so.1": ml} {
					found := false
					for line := range strings.Lines(r.out) {
						found = found || strings.HasPrefix(line, name+" at /") && strings.HasSuffix(line, "is "+sum+"\n")
					}
					if !found {
						t.Errorf("%s is not the host's:\n%s", name, r.out)
					}
				}
			})
			t.Run(mode.name+"-"+image+"-cache", func(t *testing.T) {
				t.Parallel()
				print := []string{"localhost/" + image, "ldconfig", "-p"}
				before, after := b.run(print...), b.run(append(slices.Clone(mode.args), print...)...)
				before.ok(t)
				after.ok(t, "libcuda.so.1", "libnvidia-ml.so.1")
				keepsOrder(t, cacheLines(before.out), cacheLines(after.out))
			})
		}
		t.Run(mode.name+"-distroless", func(t *testing.T) {
			t.Parallel()
			b.run(append(slices.Clone(mode.args), "localhost/distroless", "--preload", "libcuda.so.1", "--list", "/usr/bin/nvidia-smi")...).
				ok(t, "libcuda.so.1 => /", "libnvidia-ml.so.1 => /")
		})
		t.Run(mode.name+"-two-pythons", func(t *testing.T) {
			t.Parallel()
			version := []string{"localhost/twopythons", "python3", "-c", `import ctypes
l = ctypes.CDLL("libpython3.11.so.1.0"); l.Py_GetVersion.restype = ctypes.c_char_p; print(l.Py_GetVersion())`}
			b.run(version...).ok(t, "3.11.9")
			b.run(append(slices.Clone(mode.args), version...)...).ok(t, "3.11.9")
		})
		t.Run(mode.name+"-stale-by-ctypes", func(t *testing.T) {
			t.Parallel()
			b.run(append(slices.Clone(mode.args), "localhost/stale", "python3", "-c", `import ctypes
l = ctypes.CDLL("libcuda.so.1"); v = ctypes.c_int(); print(l.cuInit(0), l.cuDriverGetVersion(ctypes.byref(v)), v.value)`)...).ok(t, "0 0 12040")
		})
		t.Run(mode.name+"-stale-nvidia-smi", func(t *testing.T) {
			t.Parallel()
			b.run(append(slices.Clone(mode.args), "localhost/stale", "nvidia-smi", "-L")...).lists(t, h.gpus...)
		})
	}
	t.Run("stale-image-has-stale-libraries", func(t *testing.T) {
		t.Parallel() // or the tests above prove nothing
		r := b.run("localhost/stale", "bash", "-c", resolve)
		r.ok(t, "libcuda.so.1 at /")
		if strings.Contains(r.out, cuda) {
			t.Error("the stale image has the host's driver")
		}
	})
}

// cacheLines are the entries of ldconfig -p.
func cacheLines(out string) (lines []string) {
	for line := range strings.Lines(out) {
		if strings.Contains(line, " => ") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// keepsOrder fails the test unless all lines of before are in after, in the
// same order.
func keepsOrder(t *testing.T, before, after []string) {
	t.Helper()
	rest := after
	for _, line := range before {
		i := slices.Index(rest, line)
		if i < 0 {
			t.Errorf("the image's entry %q is gone or out of its order in:\n%s", line, strings.Join(after, "\n"))
			return
		}
		rest = rest[i+1:]
	}
	if len(before) == 0 || len(after) <= len(before) {
		t.Errorf("the cache had %d entries and has %d", len(before), len(after))
	}
}
