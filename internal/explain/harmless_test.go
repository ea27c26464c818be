// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// Writers of logs as programs write them when all goes well, with the
// warnings and failures of everyday life that have nothing to do with a GPU.
var writers = map[string]func(*rand.Rand) string{
	"build":    buildLog,
	"web":      webLog,
	"training": trainingLog,
	"apt":      aptLog,
	"boot":     bootLog,
	"tests":    testLog,
	"cluster":  clusterLog,
	"media":    mediaLog,
}

func pick(r *rand.Rand, list ...string) string { return list[r.IntN(len(list))] }

func lines(r *rand.Rand, least, most int, line func(i int) string) string {
	var b strings.Builder
	for i := range least + r.IntN(most-least) {
		b.WriteString(line(i) + "\n")
	}
	return b.String()
}

func buildLog(r *rand.Rand) string {
	head := fmt.Sprintf("#1 [internal] load build definition from Dockerfile\n#1 transferring dockerfile: %dB done\n#2 [internal] load metadata for docker.io/%s\n",
		r.IntN(4000), pick(r, "nvidia/cuda:12.6.3-runtime-ubuntu24.04", "library/python:3.12-slim", "library/golang:1.25", "pytorch/pytorch:2.5.1-cuda12.4-cudnn9-runtime", "library/alpine:3.20"))
	return head + lines(r, 20, 200, func(i int) string {
		return pick(r,
			fmt.Sprintf("#%d [%d/9] RUN apt-get update && apt-get install -y --no-install-recommends git curl", i, i%9+1),
			fmt.Sprintf("#%d %d.%03d Get:%d http://deb.example.org/debian bookworm/main amd64 libc6-dev amd64 2.36-9 [1904 kB]", i, i, r.IntN(999), i),
			fmt.Sprintf("#%d CACHED", i),
			fmt.Sprintf("[ %d%%] Building CUDA object src/CMakeFiles/k.dir/kernel_%d.cu.o", i%100, i),
			"warning: variable 'x' set but not used [-Wunused-but-set-variable]",
			"nvcc warning : incompatible redefinition for option 'compiler-bindir'",
			"-- Found CUDAToolkit: /usr/local/cuda/include (found version \"12.6.77\")",
			"-- Looking for pthread_create - not found",
			"npm WARN deprecated inflight@1.0.6: This module is not supported",
			"debconf: delaying package configuration, since apt-utils is not installed",
			"#12 exporting layers 3.2s done",
			"Successfully installed numpy-2.1.0 torch-2.5.1 nvidia-cudnn-cu12-9.1.0.70 nvidia-cublas-cu12-12.4.5.8",
			"make[2]: *** [Makefile:12: foo.o] Error 1",
			"error: command 'gcc' failed with exit code 1",
			"fatal: not a git repository (or any of the parent directories): .git",
			"/usr/bin/ld: cannot find -lfoo: No such file or directory",
		)
	})
}

func webLog(r *rand.Rand) string {
	return lines(r, 50, 300, func(i int) string {
		return pick(r,
			fmt.Sprintf("10.1.%d.%d - - [0%d/Mar/2025:10:00:00 +0000] \"GET /gpu/%d?device=cuda HTTP/1.1\" %s %d", i%255, i%200, i%9+1, i, pick(r, "200", "304", "404", "500", "503", "804"), r.IntN(90000)),
			"2025/03/01 10:00:00 [error] 31#31: *1 connect() failed (111: Connection refused) while connecting to upstream",
			"2025/03/01 10:00:00 [error] 31#31: *7 open() \"/srv/www/favicon.ico\" failed (2: No such file or directory)",
			fmt.Sprintf("level=error msg=\"request failed\" code=%s err=\"context deadline exceeded\" path=/v1/items/%d", pick(r, "100", "35", "802", "803", "999", "34"), i),
			"Error: EACCES: permission denied, open '/var/log/app.log'",
			"panic: runtime error: invalid memory address or nil pointer dereference",
			"psycopg2.OperationalError: could not connect to server: Connection timed out",
			fmt.Sprintf("ERROR 1045 (28000): Access denied for user 'root'@'10.0.0.%d'", i%250),
			"write /var/lib/app/data: no space left on device",
			"OSError: [Errno 28] No space left on device: '/var/tmp/upload'",
			"Segmentation fault (core dumped)",
			"worker 7 exited with code 137 (out of memory)",
			"unknown flag: --verbosity",
			"exec: \"gunicorn\": executable file not found in $PATH",
		)
	})
}

func trainingLog(r *rand.Rand) string {
	head := pick(r,
		"Using device: cuda:0\n",
		fmt.Sprintf("GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-%08x-0000-4000-8000-000000000001)\n", r.Uint32()),
		"I tensorflow/core/common_runtime/gpu/gpu_device.cc:1639] Created device /job:localhost/replica:0/task:0/device:GPU:0 with 38000 MB memory\n",
		"2024-02-02 10:00:00: I successful NUMA node read from SysFS had negative value (-1), but there must be at least one NUMA node, so returning NUMA node zero.\n",
		"| NVIDIA-SMI 550.120      Driver Version: 550.120      CUDA Version: 12.4     |\n",
		"Using TensorFlow backend.\n", "seed 1\n")
	return head + lines(r, 50, 400, func(i int) string {
		return pick(r,
			fmt.Sprintf("epoch %d: loss %.4f acc %.3f  [%d/%d]", i, r.Float64(), r.Float64(), i, 800),
			fmt.Sprintf(" %d%%|████      | %d/%d [00:%02d<00:10, %d.%dit/s]", i%100, i, 400, i%60, i%30, i%9),
			"FutureWarning: `clean_up_tokenization_spaces` was not set.",
			"This TensorFlow binary is optimized to use available CPU instructions in performance-critical operations.",
			"TF-TRT Warning: Could not find TensorRT",
			"oneDNN custom operations are on. You may see slightly different numerical results",
			"Unable to register cuDNN factory: Attempting to register factory for plugin cuDNN when one has already been registered",
			"NCCL INFO NET/Plugin: No plugin found (libnccl-net.so), using internal implementation",
			"NCCL INFO NET/IB : No device found.",
			"NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM",
			"NCCL version 2.21.5+cuda12.4",
			"UserWarning: This DataLoader will create 16 worker processes in total. Our suggested max number of worker in current system is 8",
			"torch.cuda.is_available() = True",
			fmt.Sprintf("saved checkpoint to /data/ckpt-%d.pt", i),
			"WARNING: loss is nan, skipping step",
			fmt.Sprintf("gpu mem 31.%dG util 98%%", i%9),
			"KeyError: 'labels'",
			"ValueError: shapes (3,4) and (5,6) not aligned",
		)
	})
}

func aptLog(r *rand.Rand) string {
	return lines(r, 30, 200, func(i int) string {
		return pick(r,
			fmt.Sprintf("Get:%d http://archive.ubuntu.com/ubuntu noble-updates/main amd64 Packages [%d kB]", i, r.IntN(900)),
			"Hit:4 https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2404/x86_64  InRelease",
			fmt.Sprintf("Unpacking libnvidia-compute-550:amd64 (550.120-0ubuntu%d) over (550.107.02-0ubuntu1) ...", i%4),
			"Setting up nvidia-container-toolkit (1.17.4-1) ...",
			"Setting up nvidia-driver-550 (550.120-0ubuntu0.24.04.1) ...",
			"Processing triggers for libc-bin (2.39-0ubuntu8.3) ...",
			"W: Target Packages (main/binary-amd64/Packages) is configured multiple times in /etc/apt/sources.list:1",
			"E: Unable to locate package foo-bar",
			"W: GPG error: http://ppa.launchpad.net noble InRelease: NO_PUBKEY 1234567890ABCDEF",
			"dpkg: warning: unable to delete old directory '/usr/lib/foo': Directory not empty",
			"update-initramfs: Generating /boot/initrd.img-6.8.0-49-generic",
			"Loading new nvidia-550.120 DKMS files...",
			"Building for 6.8.0-49-generic",
			"nvidia.ko:\nRunning module version sanity check.\n - Original module\n   - No original module exists within this kernel",
			"depmod....",
			"The following packages were automatically installed and are no longer required:",
		)
	})
}

func bootLog(r *rand.Rand) string {
	return lines(r, 60, 300, func(i int) string {
		t := fmt.Sprintf("[%5d.%06d] ", i, r.IntN(999999))
		return t + pick(r,
			"pci 0000:01:00.0: [10de:2204] type 00 class 0x030000",
			"nvidia: loading out-of-tree module taints kernel.",
			"nvidia: module license 'NVIDIA' taints kernel.",
			"nvidia-nvlink: Nvlink Core is being initialized, major device number 511",
			"nvidia 0000:01:00.0: vgaarb: VGA decodes changed: olddecodes=io+mem,decodes=none:owns=io+mem",
			"NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.120  Fri Sep 13 10:10:01 UTC 2024",
			"nvidia-modeset: Loading NVIDIA Kernel Mode Setting Driver for UNIX platforms  550.120",
			"[drm] [nvidia-drm] [GPU ID 0x00000100] Loading driver",
			"nvidia-uvm: Loaded the UVM driver, major device number 509.",
			"ACPI BIOS Error (bug): Could not resolve symbol [\\_SB.PCI0], AE_NOT_FOUND",
			"usb 1-2: device descriptor read/64, error -71",
			"EXT4-fs (nvme0n1p2): mounted filesystem with ordered data mode.",
			"systemd[1]: Started Docker Application Container Engine.",
			"systemd[1]: Reloading.",
			"audit: type=1400 apparmor=\"STATUS\" operation=\"profile_load\" name=\"docker-default\"",
			"i915 0000:00:02.0: [drm] *ERROR* GT0: GUC: load failed",
			"ata1: SError: { PHYRdyChg CommWake }",
			"x86/cpu: SGX disabled by BIOS.",
			"PM: suspend exit",
			"Bluetooth: hci0: Failed to load firmware file (-2)",
			"audit: type=1400 avc:  denied  { read } for  pid=812 comm=\"httpd\" name=\"index.html\" scontext=system_u:system_r:httpd_t:s0",
		)
	})
}

func testLog(r *rand.Rand) string {
	return lines(r, 40, 300, func(i int) string {
		return pick(r,
			fmt.Sprintf("--- FAIL: TestThing%d (0.0%ds)", i, i%9),
			fmt.Sprintf("ok  \tdavit/internal/plan\t0.%03ds", r.IntN(999)),
			fmt.Sprintf("tests/test_cuda.py::test_%d SKIPPED (needs a GPU)", i),
			fmt.Sprintf("tests/test_gpu.py::test_%d PASSED", i),
			"    got error 35, want 100",
			"    expected 803 got 804",
			"AssertionError: 12 != 13",
			"--- PASS: TestRun/docker_run_without_gpus (0.01s)",
			"E   TypeError: unsupported operand type(s) for +: 'int' and 'str'",
			"=== RUN   TestPermissionDenied",
			"    x_test.go:12: open /tmp/x: permission denied",
			"collected 212 items / 3 deselected",
			"INFO Starting 8 workers",
			"exit status 34",
			"fatal error: all goroutines are asleep - deadlock!",
		)
	})
}

func clusterLog(r *rand.Rand) string {
	return lines(r, 40, 250, func(i int) string {
		return pick(r,
			fmt.Sprintf("Normal  Scheduled  %ds  default-scheduler  Successfully assigned ml/train-%d to node-7", i, i),
			"Normal  Pulled     10s  kubelet            Container image \"nvcr.io/nvidia/pytorch:24.10-py3\" already present on machine",
			"Registered device plugin for 'nvidia.com/gpu' with Kubelet",
			"I0301 10:00:00.000000       1 main.go:317] Retrieving plugins.",
			"Warning  BackOff  12s  kubelet  Back-off restarting failed container",
			"Warning  Unhealthy  3s  kubelet  Readiness probe failed: HTTP probe failed with statuscode: 503",
			"Warning  FailedMount  9s  kubelet  MountVolume.SetUp failed for volume \"x\" : secret \"y\" not found",
			"0/5 nodes are available: 5 Insufficient memory. preemption: 0/5 nodes are available",
			"time=\"2025-03-01T10:00:00Z\" level=info msg=\"Using low-level runtime /usr/bin/runc\"",
			"time=\"2025-03-01T10:00:00Z\" level=info msg=\"Auto-detected mode as 'legacy'\"",
			"time=\"2025-03-01T10:00:00Z\" level=warning msg=\"cleaning up after shim disconnected\" namespace=k8s.io",
			"failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"/app/start.sh\": permission denied: unknown",
			"docker: Error response from daemon: Conflict. The container name \"/x\" is already in use.",
			"Error response from daemon: pull access denied for foo/bar, repository does not exist",
			"    nvidia.com/gpu:     8",
			"docker run --rm --gpus all debian nvidia-smi -L",
			"error validating data: unknown field \"spec.foo\"",
			"no runtime for \"gvisor\" is configured",
		)
	})
}

func mediaLog(r *rand.Rand) string {
	return lines(r, 30, 200, func(i int) string {
		return pick(r,
			fmt.Sprintf("frame=%5d fps= 30 q=28.0 size=    %dkB time=00:00:%02d.00 bitrate=2000.0kbits/s speed=1.0x", i*30, i*100, i%60),
			"Stream #0:0: Video: h264 (High), yuv420p(tv, bt709), 1920x1080, 30 fps",
			"[libx264 @ 0x55d0] using cpu capabilities: MMX2 SSE2Fast SSSE3 SSE4.2 AVX FMA3 BMI2 AVX2",
			"[mp4 @ 0x55d0] Application provided duration: -1 / timestamp: 1 is out of range",
			"Stream mapping:\n  Stream #0:0 -> #0:0 (h264 (native) -> h264 (h264_nvenc))",
			"[aac @ 0x1] Qavg: 1032.1",
			"OpenGL renderer string: NVIDIA GeForce RTX 4090/PCIe/SSE2",
			"[swscaler @ 0x1] deprecated pixel format used, make sure you did set range correctly",
			"Error while decoding stream #0:1: Invalid data found when processing input",
			"x.mp4: No such file or directory",
		)
	})
}

// Five hundred logs without any trouble of a GPU give no finding.
func TestHarmlessLogs(t *testing.T) {
	n := 0
	for round := range 63 {
		for name, write := range writers {
			r := rand.New(rand.NewPCG(uint64(round), uint64(len(name))))
			text := write(r)
			n++
			for _, f := range read(t, text).Findings() {
				if f.ID != NoProblem && f.ID != Unknown {
					t.Errorf("%s, round %d: %s at line %d: %s", name, round, f.ID, f.Line, f.Because[0].Value)
				}
			}
		}
	}
	if n < 500 {
		t.Errorf("only %d logs", n)
	}
}
