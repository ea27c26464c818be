// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"davit/internal/loader"
	"davit/internal/rootfs"
)

var update = flag.Bool("update", false, "with DAVIT_LOADERS: write the caches that the real ldconfigs make to testdata")

// image is a root folder with a real loader and ldconfig, and libraries that
// tell by the word they return which of them was loaded.
type image struct {
	*testing.T
	dir     string
	version string // of glibc
	triplet string
	loader  string
}

// The folders of the driver's libraries are none of the loader's default ones,
// so that only the cache can lead there.
const (
	driver   = "/opt/driver/lib"
	driver32 = "/opt/driver/lib32"
	loader32 = "/lib32/ld-linux.so.2"
)

// probe is what programs ask for.
var probe = []string{"libcuda.so.1", "libcuda.so", "libpython3.11.so.1.0", "libnvidia-ml.so.1", "libv.so.9", "libv.so.10", "libv.so.100", "libv1.so"}

// TestRealLoader asks real loaders what they make of a merged cache.
func TestRealLoader(t *testing.T) {
	roots := os.Getenv("DAVIT_LOADERS")
	if roots == "" {
		t.Skip("no real loaders: run test/e2e/loaders.sh OUTDIR, then set DAVIT_LOADERS=OUTDIR")
	}
	if os.Getuid() != 0 {
		t.Skip("chroot into the loaders' roots needs root")
	}
	dirs, err := filepath.Glob(filepath.Join(roots, "glibc-*"))
	if err != nil || len(dirs) < 3 {
		t.Fatalf("%s has %d loaders, want 3 or more: run test/e2e/loaders.sh %s", roots, len(dirs), roots)
	}
	for _, dir := range dirs {
		version := strings.TrimPrefix(filepath.Base(dir), "glibc-")
		formats := []string{"default", "compat", "new"}
		if version != "2.31" { // whose -c old writes names that are off by 4
			formats = append(formats, "old")
		}
		filled := newImage(t, dir, version)
		filled.fill()
		t.Run(version+"/no cache", func(t *testing.T) { newImage(t, filled.dir, version).checkNoCache() })
		for _, format := range formats {
			t.Run(version+"/"+format, func(t *testing.T) {
				newImage(t, filled.dir, version).check(format)
			})
		}
	}
}

func newImage(t *testing.T, from, version string) *image {
	im := &image{T: t, dir: filepath.Join(t.TempDir(), "root"), version: version}
	switch runtime.GOARCH {
	case "amd64":
		im.triplet, im.loader = "x86_64-linux-gnu", "/lib64/ld-linux-x86-64.so.2"
	case "arm64":
		im.triplet, im.loader = "aarch64-linux-gnu", "/lib/ld-linux-aarch64.so.1"
	default:
		t.Skipf("NVIDIA has no driver for %s", runtime.GOARCH)
	}
	im.run("cp", "-a", from, im.dir)
	return im
}

func (im *image) run(name string, args ...string) string {
	im.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		im.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (im *image) chroot(args ...string) string {
	im.Helper()
	return im.run("chroot", append([]string{im.dir}, args...)...)
}

func (im *image) write(p, text string) string {
	im.Helper()
	p = filepath.Join(im.dir, p)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		im.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		im.Fatal(err)
	}
	return p
}

// library makes the library p that returns word, and gives its path outside.
func (im *image) library(p, soname, word string, flags ...string) string {
	im.Helper()
	out := im.write(p, "")
	c := im.write("/tmp/lib.c", `const char *which(void) { return "`+word+`"; }`)
	im.run("gcc", append([]string{"-shared", "-fPIC", "-nostdlib", "-Wl,-soname," + soname, "-o", out, c}, flags...)...)
	return out
}

// fill makes the image: two Pythons, the first of which only a forgotten .conf
// file put first; stale driver libraries in every place that a loader prefers;
// the driver's own; and a program that opens libraries.
func (im *image) fill() {
	im.library("/usr/lib/"+im.triplet+"/libpython3.11.so.1.0", "libpython3.11.so.1.0", "python of the distribution")
	im.library("/opt/py/lib/libpython3.11.so.1.0", "libpython3.11.so.1.0", "python of the image")
	im.write("/etc/ld.so.conf.d/000-forgotten.conf", "/opt/py/lib\n/opt/stale\n")
	for _, sub := range im.hwcaps() {
		im.library("/opt/stale/"+sub+"/libcuda.so.1", "libcuda.so.1", "stale in "+sub)
		im.library("/usr/lib/"+im.triplet+"/"+sub+"/libcuda.so.1", "libcuda.so.1", "stale in "+sub)
	}
	im.library("/opt/stale/libcuda.so.1", "libcuda.so.1", "stale")
	im.run("ln", "-s", "libcuda.so.1", im.dir+"/opt/stale/libcuda.so")
	for _, name := range probe[4:] { // the order of which is not that of letters
		im.library("/opt/py/lib/"+name, name, name)
	}
	im.library("/opt/stale/libnvidia-gpucomp.so.550.54", "libnvidia-gpucomp.so.550.54", "stale")

	cuda := im.library(driver+"/libcuda.so.1", "libcuda.so.1", "driver")
	im.library(driver+"/libnvidia-ml.so.1", "libnvidia-ml.so.1", "driver")
	im.library("/opt/needs.so", "needs.so", "", "-Wl,--no-as-needed", cuda)
	if im.has32() {
		cuda32 := im.library(driver32+"/libcuda.so.1", "libcuda.so.1", "driver", "-m32")
		im.library("/opt/needs32.so", "needs.so", "", "-m32", "-Wl,--no-as-needed", cuda32)
	}
	im.program()
}

// program makes /opt/probe, which opens each library of probe.
func (im *image) program() {
	// Against libraries made for this, whose functions have no version, so
	// that the program runs with each glibc. dlopen is in libdl up to 2.33.
	libc := im.library("/tmp/stub/libc.so.6", "libc.so.6", "")
	stub := im.write("/tmp/stub.c", "void *dlopen(const char *n, int f) { return 0; }\nvoid *dlsym(void *h, const char *n) { return 0; }\n"+
		"long write(int f, const void *b, unsigned long n) { return 0; }\nvoid _exit(int c) { for (;;); }\n")
	libdl := filepath.Join(filepath.Dir(libc), "libdl.so.2")
	im.run("gcc", "-shared", "-fPIC", "-nostdlib", "-fno-builtin", "-Wl,-soname,libdl.so.2", "-o", libdl, stub)
	c := im.write("/tmp/probe.c", `
void *dlopen(const char *, int);
void *dlsym(void *, const char *);
long write(int, const void *, unsigned long);
void _exit(int);
static void say(const char *s) { unsigned long n = 0; while (s[n]) n++; write(1, s, n); }
static const char *names[] = {"`+strings.Join(probe, `", "`)+`"};
#ifdef __x86_64__
__attribute__((force_align_arg_pointer))
#endif
void _start(void) {
	for (unsigned long i = 0; i < sizeof names / sizeof *names; i++) {
		void *h = dlopen(names[i], 2);
		const char *(*which)(void) = h ? (const char *(*)(void))dlsym(h, "which") : 0;
		say(names[i]); say(": "); say(which ? which() : "not found"); say("\n");
	}
	_exit(0);
}
`)
	im.run("gcc", "-nostdlib", "-nostartfiles", "-fno-builtin", "-fno-stack-protector", "-Wl,--no-as-needed",
		"-Wl,-dynamic-linker,"+im.loader, "-o", im.dir+"/opt/probe", c, libdl, libc)
}

// hwcaps are the folders that this image's loader prefers on every machine of
// the kind, for glibc before 2.33 by the older mechanism.
func (im *image) hwcaps() []string {
	switch {
	case runtime.GOARCH != "amd64":
		return []string{"tls", "atomics"}
	case im.version < "2.33":
		return []string{"tls", "x86_64", "haswell", "tls/haswell/x86_64"}
	}
	return []string{"glibc-hwcaps/x86-64-v2", "glibc-hwcaps/x86-64-v3"}
}

// loaded runs the program: what it gets by each name.
func (im *image) loaded() map[string]string {
	im.Helper()
	got := map[string]string{}
	for line := range strings.Lines(im.chroot("/opt/probe")) {
		name, word, _ := strings.Cut(strings.TrimSpace(line), ": ")
		got[name] = word
	}
	return got
}

// listed is what ldconfig -p tells of the cache, without its first and last line.
func (im *image) listed() []string {
	im.Helper()
	var lines []string
	for line := range strings.Lines(im.chroot("/sbin/ldconfig", "-p")) {
		if strings.HasPrefix(line, "\t") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func (im *image) check(format string) {
	var args []string
	if format != "default" {
		args = []string{"-c", format}
	}
	im.chroot(append([]string{"/sbin/ldconfig"}, args...)...)
	if err := os.Remove(im.dir + "/etc/ld.so.conf.d/000-forgotten.conf"); err != nil {
		im.Fatal(err)
	}
	im.keep(format)

	// Without a merge the program gets the stale library: else this proves nothing.
	before := im.loaded()
	if !strings.HasPrefix(before["libcuda.so.1"], "stale") || before["libpython3.11.so.1.0"] != "python of the image" || before["libnvidia-ml.so.1"] != "not found" {
		im.Fatalf("before the merge: %v", before)
	}
	linesBefore := im.listed()

	h, err := rootfs.OpenHandle(im.dir)
	if err != nil {
		im.Fatal(err)
	}
	defer h.Close()
	l := loader.Inspect(h, runtime.GOARCH)
	if want := "/usr/lib/" + im.triplet; l.Libc != loader.Glibc || l.Dir != want || !l.Cache {
		im.Fatalf("Inspect = %+v, want glibc in %s with a cache", l, want)
	}
	add := []loader.Entry{
		{Name: "libcuda.so.1", Path: driver + "/libcuda.so.1"},
		{Name: "libcuda.so", Path: driver + "/libcuda.so.1"},
		{Name: "libnvidia-ml.so.1", Path: driver + "/libnvidia-ml.so.1"},
		{Name: "libcuda.so.1", Path: driver32 + "/libcuda.so.1", Flags: loader.FlagsI386},
	}
	data, err := loader.ReadCache(h)
	if err != nil {
		im.Fatal(err)
	}
	stale := func(e loader.Entry) bool { return strings.HasPrefix(e.Name, "libnvidia-gpucomp.so.") }
	merged, err := loader.Merge(data, runtime.GOARCH, add, stale)
	if err != nil {
		im.Fatal(err)
	}
	if err := h.WriteFile(loader.CachePath, merged, 0o644); err != nil {
		im.Fatal(err)
	}

	after := im.loaded()
	want := map[string]string{"libcuda.so.1": "driver", "libcuda.so": "driver", "libnvidia-ml.so.1": "driver", "libpython3.11.so.1.0": "python of the image"}
	for _, name := range probe[4:] {
		want[name] = name
	}
	for name, word := range want {
		if after[name] != word {
			im.Errorf("a program that opens %s gets %q, want %q", name, after[name], word)
		}
	}
	im.checkList(linesBefore)
	im.checkNeeded()
}

// checkNoCache: in an image without a cache, what lies in Layout.Dir is found.
func (im *image) checkNoCache() {
	h, err := rootfs.OpenHandle(im.dir)
	if err != nil {
		im.Fatal(err)
	}
	defer h.Close()
	l := loader.Inspect(h, runtime.GOARCH)
	if l.Cache {
		im.Fatalf("Inspect = %+v, want no cache", l)
	}
	im.library(l.Dir+"/libnvidia-ml.so.1", "libnvidia-ml.so.1", "driver")
	if got := im.loaded()["libnvidia-ml.so.1"]; got != "driver" {
		im.Errorf("a program that opens libnvidia-ml.so.1 gets %q, want the driver's in %s", got, l.Dir)
	}
}

// checkList compares what ldconfig -p lists with what it listed before.
func (im *image) checkList(before []string) {
	before = slices.DeleteFunc(before, func(l string) bool { return strings.HasPrefix(l, "libnvidia-gpucomp.so.") })
	after := im.listed()
	ours := slices.DeleteFunc(slices.Clone(after), func(l string) bool { return !strings.Contains(l, "/opt/driver/") })
	theirs := slices.DeleteFunc(after, func(l string) bool { return strings.Contains(l, "/opt/driver/") })
	if len(ours) != 4 || !slices.Equal(before, theirs) {
		im.Errorf("ldconfig -p lists %d of ours, want 4, and of the image\n%s\nwant\n%s", len(ours), strings.Join(theirs, "\n"), strings.Join(before, "\n"))
	}
}

// checkNeeded asks the loader, and the 32-bit one if there is any, what a
// program linked with libcuda gets.
func (im *image) checkNeeded() {
	if out := im.chroot(im.loader, "--list", "/opt/needs.so"); !strings.Contains(out, "libcuda.so.1 => "+driver+"/libcuda.so.1") {
		im.Errorf("%s --list:\n%s", im.loader, out)
	}
	if !im.has32() {
		im.Logf("no 32-bit loader in this image")
		return
	}
	if out := im.chroot(loader32, "--list", "/opt/needs32.so"); !strings.Contains(out, "libcuda.so.1 => "+driver32+"/libcuda.so.1") {
		im.Errorf("%s --list:\n%s", loader32, out)
	}
}

func (im *image) has32() bool {
	_, err := os.Stat(im.dir + "/usr" + loader32)
	return err == nil
}

// keep writes the cache to testdata if that was asked for.
func (im *image) keep(format string) {
	if !*update || runtime.GOARCH != "amd64" || format == "new" || (format != "default" && im.version != "2.36") {
		return
	}
	data, err := os.ReadFile(im.dir + "/etc/ld.so.cache")
	if err != nil {
		im.Fatal(err)
	}
	name := "glibc-" + im.version + ".cache"
	if format != "default" {
		name = "glibc-" + im.version + "-" + format + ".cache"
	}
	if err := os.WriteFile(filepath.Join("testdata", name), data, 0o644); err != nil {
		im.Fatal(err)
	}
}
