// SPDX-License-Identifier: Apache-2.0

package simulate_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"davit/internal/simulate"
)

// onHost runs a script as on a machine whose /dev has the host's nodes and
// nothing else of a GPU: in a mount namespace of its own.
func onHost(t *testing.T, h simulate.Host, script string, args ...string) (string, int) {
	t.Helper()
	const enter = `set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 none /mnt
cp -a "$1"/dev/. /mnt/
for n in null zero urandom; do cp -a /dev/$n /mnt/$n; done
mount --move /mnt /dev
export LD_LIBRARY_PATH="$1/usr/lib/x86_64-linux-gnu" PATH="$1/usr/bin:$PATH"
shift
set +e
`
	cmd := exec.Command("unshare", append([]string{"-m", "sh", "-c", enter + script, "sh", h.Dir}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func needNodes(t *testing.T) simulate.Host {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("runs the amd64 programs")
	}
	if _, err := os.Stat("/lib64/ld-linux-x86-64.so.2"); err != nil {
		t.Skip("needs glibc's loader")
	}
	if out, err := exec.Command("unshare", "-m", "true").CombinedOutput(); err != nil {
		t.Skipf("needs a mount namespace: %v %s", err, out)
	}
	h, err := simulate.Make(filepath.Join(t.TempDir(), "host"), simulate.Options{GPUs: 3, Model: "H100,T4,RTX-4090",
		Driver: "550.120", Seed: t.Name(), Arch: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Notes) > 0 {
		t.Skipf("the nodes here are not such as to test with: %s", h.Notes)
	}
	return h
}

func TestNvidiaSMI(t *testing.T) {
	h := needNodes(t)
	line := func(as int, gpu int) string {
		return fmt.Sprintf("GPU %d: %s (UUID: %s)\n", as, h.GPUs[gpu].Name, h.GPUs[gpu].UUID)
	}
	const failed = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.\n\n"
	for _, c := range []struct {
		name, script string
		rc           int
		want         string
	}{
		{"all", "nvidia-smi -L", 0, line(0, 0) + line(1, 1) + line(2, 2)},
		{"without a GPU's node", "rm /dev/nvidia1; nvidia-smi -L", 0, line(0, 0) + line(1, 2)},
		{"with a node that does not open", "rm /dev/nvidia0; mknod /dev/nvidia0 c 511 77; nvidia-smi -L", 0, line(0, 1) + line(1, 2)},
		{"without GPUs", "rm /dev/nvidia[0-9]; nvidia-smi -L", 6, "No devices were found\n"},
		{"without GPUs, table", "rm /dev/nvidia[0-9]; nvidia-smi", 6, "No devices were found\n"},
		{"without the control node", "rm /dev/nvidiactl; nvidia-smi", 9, failed},
		{"query", "nvidia-smi --query-gpu=index,name,uuid,memory.total,driver_version --format=csv,noheader", 0,
			fmt.Sprintf("0, NVIDIA H100 80GB HBM3, %s, 81559 MiB, 550.120\n1, Tesla T4, %s, 15360 MiB, 550.120\n2, NVIDIA GeForce RTX 4090, %s, 24564 MiB, 550.120\n",
				h.GPUs[0].UUID, h.GPUs[1].UUID, h.GPUs[2].UUID)},
		{"query with a header", "rm /dev/nvidia[12]; nvidia-smi --query-gpu=pci.bus_id,memory.total,compute_cap --format=csv,nounits", 0,
			"pci.bus_id, memory.total [MiB], compute_cap\n00000000:18:00.0, 81559, 9.0\n"},
		{"unknown field", "nvidia-smi --query-gpu=colour --format=csv", 2, "Field \"colour\" is not a valid field to query.\n\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, rc := onHost(t, h, c.script)
			if out != c.want || rc != c.rc {
				t.Errorf("status %d, want %d:\n%s\nwant:\n%s", rc, c.rc, out, c.want)
			}
		})
	}
	t.Run("table", func(t *testing.T) {
		out, rc := onHost(t, h, "nvidia-smi")
		if rc != 0 {
			t.Fatal(rc, out)
		}
		for _, want := range []string{
			"| NVIDIA-SMI 550.120                Driver Version: 550.120        CUDA Version: 12.4     |\n",
			"|   0  NVIDIA H100 80GB HBM3         Off  |   00000000:18:00.0 Off |                  N/A |\n",
			"|       0MiB /  15360MiB |", "simulated",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
		for l := range strings.Lines(out) {
			if n := len(l); n != 1 && n != 92 {
				t.Errorf("a line of %d characters: %s", n-1, l)
			}
		}
	})
}

const ask = `
import ctypes, sys
from ctypes import *
cu = CDLL("libcuda.so.1")
v = c_int()
assert cu.cuDriverGetVersion(byref(v)) == 0
print("version", v.value)
n = c_int(-1)
assert cu.cuDeviceGetCount(byref(n)) == 3, "works without cuInit"
rc = cu.cuInit(0)
print("cuInit", rc)
if rc == 0:
    cu.cuDeviceGetCount(byref(n))
    for i in range(n.value):
        d, name, total, uuid, bus, major, minor = c_int(), create_string_buffer(100), c_size_t(), create_string_buffer(16), create_string_buffer(20), c_int(), c_int()
        for rc in (cu.cuDeviceGet(byref(d), i), cu.cuDeviceGetName(name, 100, d), cu.cuDeviceTotalMem_v2(byref(total), d), cu.cuDeviceGetUuid_v2(uuid, d),
                   cu.cuDeviceGetPCIBusId(bus, 20, d), cu.cuDeviceGetAttribute(byref(major), 75, d), cu.cuDeviceGetAttribute(byref(minor), 76, d)):
            assert rc == 0, rc
        print(i, name.value.decode(), total.value >> 20, uuid.raw.hex(), bus.value.decode(), "%d.%d" % (major.value, minor.value))
    ctx, fn, s = c_void_p(), c_void_p(), c_char_p()
    print("ctx", cu.cuCtxCreate_v2(byref(ctx), 0, 0), "mem", cu.cuMemAlloc_v2(byref(ctx), c_size_t(4)), "get", cu.cuDeviceGet(byref(d), n.value))
    assert cu.cuGetErrorName(801, byref(s)) == 0 and s.value == b"CUDA_ERROR_NOT_SUPPORTED", s.value
    assert cu.cuGetProcAddress_v2(b"cuDeviceGetCount", byref(fn), 12040, c_uint64(0), None) == 0
    assert CFUNCTYPE(c_int, c_void_p)(fn.value)(byref(n)) == 0
ml = CDLL("libnvidia-ml.so.1")
s = create_string_buffer(96)
assert ml.nvmlSystemGetDriverVersion(s, 96) == 1, "works without nvmlInit"
rc = ml.nvmlInit_v2()
print("nvmlInit", rc)
if rc == 0:
    h = c_void_p()
    ml.nvmlDeviceGetCount_v2(byref(n))
    for i in range(n.value):
        h, m, mem, pci = c_void_p(), c_uint(), (c_uint64 * 3)(), create_string_buffer(68)
        assert ml.nvmlDeviceGetHandleByIndex_v2(i, byref(h)) == 0
        assert ml.nvmlDeviceGetName(h, s, 4) == 7
        assert ml.nvmlDeviceGetName(h, s, 96) == 0
        name = s.value.decode()
        assert ml.nvmlDeviceGetUUID(h, s, 96) == 0 and ml.nvmlDeviceGetMinorNumber(h, byref(m)) == 0
        assert ml.nvmlDeviceGetMemoryInfo(h, mem) == 0 and ml.nvmlDeviceGetPciInfo_v3(h, pci) == 0
        print(i, name, s.value.decode(), m.value, mem[0] >> 20, pci.raw[36:].rstrip(b"\0").decode())
        h2 = c_void_p()
        assert ml.nvmlDeviceGetHandleByUUID(s.value, byref(h2)) == 0 and h2.value == h.value
        assert ml.nvmlDeviceGetHandleByPciBusId_v2(pci.raw[36:].rstrip(b"\0").lower(), byref(h2)) == 0 and h2.value == h.value
    assert ml.nvmlDeviceGetHandleByIndex_v2(n.value, byref(h)) == 2
    assert ml.nvmlShutdown() == 0 and ml.nvmlShutdown() == 1
`

func TestLibrariesFindWhatOpens(t *testing.T) {
	h := needNodes(t)
	if out, err := exec.Command("python3", "-c", "import ctypes").CombinedOutput(); err != nil {
		t.Skipf("needs python3 with ctypes: %v %s", err, out)
	}
	cuda := func(as, gpu int) string {
		g := h.GPUs[gpu]
		raw := strings.ReplaceAll(strings.TrimPrefix(g.UUID, "GPU-"), "-", "")
		return fmt.Sprintf("%d %s %d %s %s %s\n", as, g.Name, g.MemoryMiB, raw, g.BusID, g.Arch)
	}
	nvml := func(as, gpu int) string {
		g := h.GPUs[gpu]
		return fmt.Sprintf("%d %s %s %d %d 0000%s\n", as, g.Name, g.UUID, g.Minor, g.MemoryMiB, strings.ToUpper(g.BusID))
	}
	const version, ok = "version 12040\n", "ctx 801 mem 801 get 101\n"
	for _, c := range []struct{ name, before, want string }{
		{"all", "", version + "cuInit 0\n" + cuda(0, 0) + cuda(1, 1) + cuda(2, 2) + ok + "nvmlInit 0\n" + nvml(0, 0) + nvml(1, 1) + nvml(2, 2)},
		{"one", "rm /dev/nvidia0 /dev/nvidia2", version + "cuInit 0\n" + cuda(0, 1) + ok + "nvmlInit 0\n" + nvml(0, 1)},
		{"none", "rm /dev/nvidia[0-9]", version + "cuInit 100\nnvmlInit 0\n"},
		{"no control node", "rm /dev/nvidiactl", version + "cuInit 100\nnvmlInit 9\n"},
		{"no memory node", "rm /dev/nvidia-uvm", version + "cuInit 999\nnvmlInit 0\n" + nvml(0, 0) + nvml(1, 1) + nvml(2, 2)},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, rc := onHost(t, h, c.before+"\npython3 -c \"$1\"", ask)
			if out != c.want || rc != 0 {
				t.Errorf("status %d:\n%s\nwant:\n%s", rc, out, c.want)
			}
		})
	}
}

// A real loader loads every library of the driver, by its SONAME.
func TestLibrariesLoad(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("loads the amd64 libraries")
	}
	if out, err := exec.Command("python3", "-c", "import ctypes").CombinedOutput(); err != nil {
		t.Skipf("needs python3 with ctypes: %v %s", err, out)
	}
	h, err := simulate.Make(filepath.Join(t.TempDir(), "host"), simulate.Options{Arch: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	lib := filepath.Join(h.Dir, "usr/lib/x86_64-linux-gnu")
	cmd := exec.Command("python3", "-c", `
import ctypes, os, sys
n = 0
for f in sorted(os.listdir(sys.argv[1])):
    p = os.path.join(sys.argv[1], f)
    if os.path.isdir(p): continue
    try: ctypes.CDLL(f)
    except OSError as e: print(f, e)
    n += 1
print(n > 60)
`, lib)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+lib)
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "True\n" {
		t.Errorf("%v\n%s", err, out)
	}
}

// glibc's ldconfig reads the loader cache and the names in all libraries, those
// for other machines too.
func TestLdconfigAgrees(t *testing.T) {
	ldconfig, err := exec.LookPath("/sbin/ldconfig")
	if err != nil {
		t.Skip("needs ldconfig")
	}
	h, err := simulate.Make(filepath.Join(t.TempDir(), "host"), simulate.Options{Arch: "amd64", Compat32: true, CacheEntries: 1500})
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(ldconfig, "-p", "-C", filepath.Join(h.Dir, "etc/ld.so.cache")).CombinedOutput()
	if err != nil {
		t.Fatal(err, string(out))
	}
	for _, want := range []string{"1500 libs found in cache",
		"\tlibcuda.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libcuda.so.1\n",
		"\tlibcuda.so.1 (libc6) => /lib/i386-linux-gnu/libcuda.so.1\n"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("no %q in %.2000s", want, out)
		}
	}
	// It finds the same SONAMEs in the libraries by itself.
	cache := filepath.Join(t.TempDir(), "cache")
	conf := filepath.Join(t.TempDir(), "conf")
	dirs := h.Dir + "/usr/lib/x86_64-linux-gnu\n" + h.Dir + "/usr/lib/i386-linux-gnu\n"
	if err := os.WriteFile(conf, []byte(dirs), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(ldconfig, "-X", "-f", conf, "-C", cache).CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%v %s", err, out)
	}
	out, err = exec.Command(ldconfig, "-p", "-C", cache).CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\tlibnvidia-nvvm.so.4 (libc6,x86-64) => " + h.Dir + "/usr/lib/x86_64-linux-gnu/libnvidia-nvvm.so.4\n",
		"\tlibnvidia-glcore.so.580.159.04 (libc6,x86-64) => ",
		"\tlibcuda.so.1 (libc6) => " + h.Dir + "/usr/lib/i386-linux-gnu/libcuda.so.1\n"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("no %q in %.2000s", want, out)
		}
	}
}
