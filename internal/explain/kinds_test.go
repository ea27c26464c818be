// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"strings"
	"testing"
)

// Logs of many kinds, written in other words than the samples of the rules,
// and the finding that a person who knows would give.
var kinds = []struct{ id, log string }{
	{"docker-from-snap", `ERROR: for ollama  Cannot start service ollama: could not select device driver "nvidia" with capabilities: [[gpu]]
$ which docker
/snap/bin/docker`},
	{"docker-from-snap", `$ docker run --runtime=nvidia --rm debian nvidia-smi
docker: Error response from daemon: Unknown runtime specified nvidia.
$ snap list docker
Name    Version  Rev   Tracking       Publisher   Notes
docker  24.0.5   2915  latest/stable  canonical✓  -`},
	{"docker-desktop-has-no-gpu", `$ docker context ls
NAME              DESCRIPTION  DOCKER ENDPOINT
default                        unix:///var/run/docker.sock
desktop-linux *   Docker Desktop   unix:///home/u/.docker/desktop/docker.sock
$ docker run --rm --gpus all ubuntu nvidia-smi
docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].`},
	{"engine-cdi-disabled", `Error response from daemon: could not select device driver "cdi" with capabilities: []
$ docker version --format '{{.Server.Version}}'
27.3.1`},
	{"engine-has-no-gpu-driver", `Traceback (most recent call last):
docker.errors.APIError: 500 Server Error for http+docker://localhost/v1.43/containers/ab/start: Internal Server Error ("could not select device driver "" with capabilities: [[gpu, compute]]")`},
	{"runtime-not-registered", `Error response from daemon: unknown or invalid runtime name: nvidia
$ docker info | grep Runtimes
 Runtimes: io.containerd.runc.v2 runc`},
	{"rootless-engine-reads-other-config", `$ docker context show
rootless
$ docker run --rm --runtime nvidia debian nvidia-smi
docker: Error response from daemon: unknown or invalid runtime name: nvidia.`},
	{"default-runtime-undefined", `$ cat /etc/docker/daemon.json
{"default-runtime": "nvidia"}
$ docker run --rm debian true
docker: Error response from daemon: unknown or invalid runtime name: nvidia`},
	{"daemon-json-invalid", `dockerd[911]: unable to configure the Docker daemon with file /etc/docker/daemon.json: invalid character '"' after object key:value pair`},
	{"runtime-binary-missing", `docker: Error response from daemon: failed to create shim task: OCI runtime create failed: unable to retrieve OCI runtime error (open /run/containerd/io.containerd.runtime.v2.task/moby/3f/log.json: no such file or directory): fork/exec /usr/bin/nvidia-container-runtime: no such file or directory: unknown.`},
	{"low-level-runtime-not-found", `Error: container create failed: time="2025-10-02T10:00:00Z" level=error msg="error constructing low-level runtime: error locating runtime: no runtime binary found from candidate list: [runc]"`},
	{"podman-behind-docker-command", `Emulate Docker CLI using podman. Create /etc/containers/nodocker to quiet msg.
Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all`},
	{"gpus-flag-comma-quoting", `$ docker run --gpus device=0,1 ubuntu nvidia-smi
docker: Error response from daemon: cannot set both Count and DeviceIDs on device request.`},
	{"container-without-gpu-request", `$ docker run -it --rm \
    -v $PWD:/data \
    pytorch/pytorch:2.3.0-cuda12.1-cudnn8-runtime python train.py
RuntimeError: Found no NVIDIA driver on your system.`},
	{"driver-libraries-not-found", `[17:02:11] starting with gpu
docker: Error response from daemon: failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: error running prestart hook #0: exit status 1, stdout: , stderr: Auto-detected mode as 'legacy'
nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot open shared object file: no such file or directory
Missing device driver, re-trying without GPU
W: Could not find cuda drivers on your machine, GPU will not be used.`},
	{"gpus-flag-with-cdi-mode", `level=error msg="error running hook #0: error running hook: exit status 1, stdout: , stderr: invoking the NVIDIA Container Runtime Hook directly (e.g. specifying the docker --gpus flag) is not supported. Please use the NVIDIA Container Runtime (e.g. specify the --runtime=nvidia flag) instead."`},
	{"template-braces-in-environment", `FATA[0001] failed to create shim task: OCI runtime create failed: error running hook #0: exit status 1, stderr: containerd: template: oci-hook:1: unexpected "}" in operand: unknown`},
	{"driver-library-mismatch", `Failed to initialize NVML: Driver/library version mismatch
NVML library version: 550.163
$ cat /proc/driver/nvidia/version
NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.120  Fri Sep 13 10:10:01 UTC 2024`},
	{"driver-library-mismatch", `[ 8123.1] NVRM: API mismatch: the client has the version 550.163.01, but
[ 8123.1] NVRM: this kernel module has the version 550.120.  Please
[ 8123.1] NVRM: make sure that this kernel module and all NVIDIA driver
[ 8123.1] NVRM: components have the same version.`},
	{"driver-not-loaded", `docker: Error response from daemon: ... nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown.`},
	{"secure-boot-rejects-module", `$ sudo modprobe nvidia
modprobe: ERROR: could not insert 'nvidia': Key was rejected by service
$ mokutil --sb-state
SecureBoot enabled
$ nvidia-smi
NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.`},
	{"nouveau-owns-gpu", `NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.
$ lspci -nnk -d 10de:
01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GA106 [10de:2503] (rev a1)
	Kernel driver in use: nouveau
	Kernel modules: nouveau`},
	{"uvm-not-loaded", `$ nvidia-smi -L
GPU 0: Tesla T4 (UUID: GPU-00000000-0000-4000-8000-000000000001)
$ python -c 'import torch; torch.zeros(1).cuda()'
RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env variable CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero.
$ ls /dev/nvidia-uvm
ls: cannot access '/dev/nvidia-uvm': No such file or directory`},
	{"cdi-spec-wrong-device-number", `# grep nvidia /proc/devices
195 nvidia
510 nvidia-uvm
# podman run --rm --device nvidia.com/gpu=all cuda-test ls -l /dev/nvidia-uvm
crw-rw-rw- 1 root root 508, 0 Mar  1 10:00 /dev/nvidia-uvm
# podman run --rm --device nvidia.com/gpu=all cuda-test
cuInit: CUDA_ERROR_UNKNOWN (999)`},
	{"device-nodes-group-only", `$ docker run --rm -u 1000 --gpus all app nvidia-smi
Failed to initialize NVML: Insufficient Permissions
$ ls -l /dev/nvidia0
crw-rw---- 1 root video 195, 0 Jan 10 08:00 /dev/nvidia0`},
	{"gpu-fell-off-bus", `Unable to determine the device handle for GPU0000:0B:00.0: Unknown Error`},
	{"gpu-fell-off-bus", `Nov 02 03:14:15 node kernel: NVRM: Xid (PCI:0000:0b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.
Nov 02 03:14:15 node kernel: NVRM: GPU 0000:0b:00.0: GPU has fallen off the bus.
Nov 02 03:14:20 node kernel: NVRM: Xid (PCI:0000:0b:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)
RuntimeError: CUDA error: unspecified launch failure`},
	{"driver-slow-persistence-off", `stderr: nvidia-container-cli: initialization error: driver rpc error: timed out\\n\""": unknown`},
	{"image-needs-newer-driver", `Error: failed to start containers: process_linux.go:545: container init caused: Running hook #0:: error running hook: exit status 1, stdout: , stderr: nvidia-container-cli: requirement error: unsatisfied condition: cuda>=11.7, please update your driver to a newer version, or use an earlier cuda container`},
	{"image-contains-driver-libraries", `nvidia-container-cli: mount error: file creation failed: /home/docker/overlay2/cafe/merged/usr/bin/nvidia-smi: file exists`},
	{"user-mount-hides-run", `nvidia-container-cli: mount error: file creation failed: /mnt/docker/overlay2/ff/merged/var/run/nvidia-persistenced/socket: no such device or address`},
	{"ldconfig-killed-by-seccomp", `nvidia-container-cli: ldcache error: process /sbin/ldconfig.real terminated with signal 31`},
	{"ldconfig-path-wrong", `nvidia-container-cli: ldcache error: open failed: /sbin/ldconfig.real: no such file or directory`},
	{"host-has-no-ldconfig", `nvidia-container-cli: ldcache error: open failed: /sbin/ldconfig: no such file or directory`},
	{"rootless-hook-cannot-set-device-rules", `nvidia-container-cli: mount error: open failed: /sys/fs/cgroup/devices/user.slice/user-1000.slice/devices.allow: permission denied`},
	{"nested-container-cannot-set-device-rules", `root@ct101:~# systemd-detect-virt
lxc
root@ct101:~# docker run --rm --gpus all debian nvidia-smi
nvidia-container-cli: mount error: write error: /sys/fs/cgroup/devices/docker/ab/devices.allow: operation not permitted`},
	{"kernel-without-device-filters", `nvidia-container-cli: mount error: failed to add device rules: unable to find any existing device filters attached to the cgroup: bpf_prog_query(BPF_CGROUP_DEVICE) failed: function not implemented`},
	{"device-filter-refused-by-kernel", `mount error: failed to add device rules: unable to generate new device filter program from existing programs: unable to create new device filters program: load program: permission denied: 0: (61) r2 = *(u32 *)(r1 +0)`},
	{"requested-gpu-does-not-exist", `docker run --rm --gpus '"device=4"' x
nvidia-container-cli: device error: 4: unknown device: unknown.`},
	{"volume-mount-list-half-configured", `nvidia-container-cli: device error: /var/run/nvidia-container-devices: unknown device: unknown`},
	{"driver-root-missing", `nvidia-container-cli: initialization error: change root failed: no such file or directory: unknown`},
	{"nested-gpu-subset", `nvidia-container-cli: mount error: stat failed: /proc/driver/nvidia/gpus/0000:41:00.0: no such file or directory`},
	{"proc-hidden-from-hook", `nvidia-container-cli: container error: stat failed: /proc/1533: no such file or directory
$ findmnt -no OPTIONS /proc
rw,nosuid,nodev,noexec,relatime,hidepid=2`},
	{"cdi-spec-too-new-for-engine", `$ podman --log-level=debug run --rm --device nvidia.com/gpu=all ubi9 true
DEBU[0000] CDI registry: failed to load CDI Spec "/etc/cdi/nvidia.yaml": failed to unmarshal CDI Spec: error unmarshaling JSON: while decoding JSON: json: unknown field "additionalGids"
Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all`},
	{"cdi-spec-not-readable", `$ ls -l /etc/cdi
-rw------- 1 root root 9312 Feb  1 09:00 nvidia.yaml
$ podman run --rm --device nvidia.com/gpu=all ubi9 nvidia-smi
Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all`},
	{"cdi-device-conflict", `level=warning msg="CDI: conflicting device \"nvidia.com/gpu=all\" (conflicting Specs \"/etc/cdi/nvidia.yaml\", \"/etc/cdi/nvidia-container-toolkit.json\")"
Error: unresolvable CDI devices nvidia.com/gpu=all`},
	{"cdi-spec-stale", `Error: OCI runtime error: crun: cannot stat '/usr/lib/x86_64-linux-gnu/libEGL_nvidia.so.535.183.01': No such file or directory`},
	{"cdi-spec-stale", `Error response from daemon: failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: error mounting "/usr/lib64/libcuda.so.550.54.14" to rootfs at "/usr/lib64/libcuda.so.550.54.14": mount src=/usr/lib64/libcuda.so.550.54.14, dst=/usr/lib64/libcuda.so.550.54.14, flags=MS_BIND|MS_REC: no such file or directory`},
	{"cdi-spec-stale", `CDI device injection failed: failed to inject devices: failed to stat CDI host device "/dev/dri/card2": no such file or directory`},
	{"cdi-generation-failed", `failed to create task: unresolvable CDI devices runtime.nvidia.com/gpu=all`},
	{"mig-changed-after-cdi-spec", `Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=MIG-0929581a-2be6-5dec-bf34-0954c6c529a6`},
	{"operator-driver-not-ready", `failed to create containerd container: CDI device injection failed: unresolvable CDI devices management.nvidia.com/gpu=all`},
	{"rootless-engine-hides-var-run", `$ docker info -f '{{.SecurityOptions}}'
[name=seccomp,profile=builtin name=rootless name=cgroupns]
$ ls /var/run/cdi/nvidia.yaml
/var/run/cdi/nvidia.yaml
docker: Error response from daemon: CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all`},
	{"engine-too-old-for-cdi", `STEP 3/4: RUN nvidia-smi
Error: getting info of source device nvidia.com/gpu=all: stat nvidia.com/gpu=all: no such file or directory`},
	{"gpu-lost-container-update", `$ docker exec t nvidia-smi -L
GPU 0: NVIDIA A30 (UUID: GPU-7c1e2b90-51aa-4d0e-9f6b-0a4f9d0c1b22)
$ docker update --cpus 8 t
t
$ docker exec t nvidia-smi -L
Failed to initialize NVML: Unknown Error`},
	{"no-cgroups-with-system-engine", `$ docker run --rm --gpus all ubuntu nvidia-smi
Failed to initialize NVML: Unknown Error
$ grep no-cgroups /etc/nvidia-container-runtime/config.toml
no-cgroups = true`},
	{"gpu-lost-after-suspend", `kernel: PM: suspend exit
>>> torch.cuda.is_available()
CUDA initialization: CUDA unknown error - this may be due to an incorrectly set up environment
False`},
	{"cuda-compat-does-not-fit-driver", `terminate called after throwing: CUDA error 803: system has unsupported display driver / cuda driver combination`},
	{"stub-library-at-run-time", `$ echo $LD_LIBRARY_PATH
/usr/local/cuda/lib64/stubs:/usr/local/cuda/lib64
E tensorflow/stream_executor/cuda/cuda_driver.cc:271] failed call to cuInit: UNKNOWN ERROR (34)`},
	{"driver-too-old-for-cuda", `RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx`},
	{"cuda-visible-devices-hides-all", `$ env | grep CUDA_VIS
CUDA_VISIBLE_DEVICES=
RuntimeError: No CUDA GPUs are available`},
	{"binary-lacks-gpu-architecture", `GPU 0: Tesla P100-PCIE-16GB (UUID: GPU-00000000-0000-4000-8000-000000000001)
Tesla P100-PCIE-16GB with CUDA capability sm_60 is not compatible with the current PyTorch installation.
The current PyTorch install supports CUDA capabilities sm_75 sm_80 sm_86 sm_90 sm_100 sm_120.`},
	{"profiling-needs-permission", `==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance Counters on the target device 0. For instructions on enabling permissions see https://developer.nvidia.com/ERR_NVGPUCTRPERM`},
	{"framework-built-without-cuda", `>>> import onnxruntime as ort; ort.get_available_providers()
['AzureExecutionProvider', 'CPUExecutionProvider']
UserWarning: Specified provider 'CUDAExecutionProvider' is not in available provider names.Available providers: 'AzureExecutionProvider, CPUExecutionProvider'`},
	{"framework-built-without-cuda", `$ docker run --rm --gpus all tensorflow/tensorflow:2.15.0 python train.py
2024-01-01 00:00:00.1: I external/local_tsl/tsl/cuda/cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU will not be used.`},
	{"cudnn-missing-in-image", `W tensorflow/stream_executor/platform/default/dso_loader.cc:64] Could not load dynamic library 'libcudnn.so.8'; dlerror: libcudnn.so.8: cannot open shared object file: No such file or directory; LD_LIBRARY_PATH: /usr/local/nvidia/lib:/usr/local/nvidia/lib64
W tensorflow/core/common_runtime/gpu/gpu_device.cc:1850] Cannot dlopen some GPU libraries. Please make sure the missing libraries mentioned above are installed properly if you would like to use GPU. Skipping registering GPU devices...
W Could not load dynamic library 'libnvinfer.so.7'; dlerror: libnvinfer.so.7: cannot open shared object file`},
	{"musl-image-without-glibc-loader", `$ docker run --rm --gpus all alpine:3.20 nvidia-smi
docker: Error response from daemon: failed to create task: exec /usr/bin/nvidia-smi: no such file or directory`},
	{"shared-memory-too-small", `ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).
RuntimeError: DataLoader worker (pid(s) 1234) exited unexpectedly`},
	{"image-for-other-architecture", `WARNING: The requested image's platform (linux/amd64) does not match the detected host platform (linux/arm64/v8) and no specific platform was requested
exec /opt/nvidia/nvidia_entrypoint.sh: exec format error`},
	{"image-tag-removed", `Unable to find image 'nvidia/cuda:11.0-base' locally
docker: Error response from daemon: manifest for nvidia/cuda:11.0-base not found: manifest unknown: manifest unknown.`},
	{"repository-key-rotated", `Err:1 https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2004/x86_64  InRelease
  The following signatures couldn't be verified because the public key is not available: NO_PUBKEY A4B469963BF863CC`},
	{"injected-library-needs-newer-glibc", `python3: /lib/aarch64-linux-gnu/libc.so.6: version 'GLIBC_2.34' not found (required by /usr/lib/aarch64-linux-gnu/tegra/libnvrm_gpu.so)`},
	{"gpu-used-during-build", `#9 [5/7] RUN nvidia-smi
#9 0.312 /bin/sh: 1: nvidia-smi: not found
ERROR: failed to solve: process "/bin/sh -c nvidia-smi" did not complete successfully: exit code: 127`},
	{"build-device-not-allowed", `ERROR: failed to build: granting entitlement device is not allowed by build daemon configuration`},
	{"compose-too-old", `ERROR: The Compose file './docker-compose.yml' is invalid because:
services.app.deploy.resources.reservations value Additional properties are not allowed ('devices' was unexpected)`},
	{"compose-devices-under-limits", `services.llm.deploy.resources.limits Additional property devices is not allowed`},
	{"selinux-denies-device", `kernel: audit: type=1400 audit(1700000000.1:77): avc:  denied  { open } for pid=999 comm="python3" path="/dev/nvidiactl" dev="devtmpfs" scontext=system_u:system_r:container_t:s0:c1,c2 tcontext=system_u:object_r:xserver_misc_device_t:s0 tclass=chr_file permissive=0`},
	{"containerd-runtime-missing", `Warning  FailedCreatePodSandBox  3s  kubelet  Failed to create pod sandbox: rpc error: code = Unknown desc = failed to get sandbox runtime: no runtime for "nvidia" is configured`},
	{"k3s-runtime-missing", `Failed to create pod sandbox: rpc error: code = Unknown desc = failed to get sandbox runtime: no runtime for "nvidia" is configured
$ ls /var/lib/rancher/k3s/agent/etc/containerd
config.toml`},
	{"containerd-cri-disabled", `[ERROR CRI]: container runtime is not running: output: time="2024-01-01T00:00:00Z" level=fatal msg="validate service connection: CRI v1 runtime API is not implemented for endpoint \"unix:///run/containerd/containerd.sock\": rpc error: code = Unimplemented desc = unknown service runtime.v1.RuntimeService"`},
	{"device-plugin-without-gpu-runtime", `I0101 main.go:256] Retrieving plugins.
E0101 factory.go:68] Failed to initialize NVML: ERROR_LIBRARY_NOT_FOUND.
E0101 factory.go:69] If this is a GPU node, did you set the docker default runtime to "nvidia"?
I0101 No devices found. Waiting indefinitely.`},
	{"no-node-offers-gpu", `Warning  FailedScheduling  default-scheduler  0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2 Insufficient nvidia.com/gpu.`},
	{"host-lacks-video-library", `[h264_nvenc @ 0x1] Cannot load libnvidia-encode.so.1
$ docker exec jf env | grep NVIDIA
NVIDIA_DRIVER_CAPABILITIES=compute,video,utility`},
	{"vulkan-icd-missing", `Cannot create Vulkan instance.
This problem is often caused by a faulty installation of the Vulkan driver
ERROR at vulkaninfo.h:688: vkCreateInstance failed with ERROR_INCOMPATIBLE_DRIVER`},
	{"vulkan-driver-cannot-load", `ERROR: [Loader Message] Code 0 : loader_scanned_icd_add: Could not get 'vkCreateInstance' via 'vk_icdGetInstanceProcAddr' for ICD libGLX_nvidia.so.0
vkCreateInstance failed with ERROR_INCOMPATIBLE_DRIVER`},
	{"software-rendering", `OpenGL renderer string: llvmpipe (LLVM 17.0.6, 256 bits)`},
	{"wsl-no-adapter", `nvidia-container-cli: initialization error: WSL environment detected but no adapters were found`},
	{"wsl-gpu-access-blocked", `Failed to initialize NVML: GPU access blocked by the operating system
Failed to properly shut down NVML: GPU access blocked by the operating system`},
	{"no-problem", `/sbin/ldconfig.real: /usr/lib/wsl/lib/libcuda.so.1 is not a symbolic link

Processing triggers for libc-bin (2.35-0ubuntu3) ...`},
	{"no-problem", `I tensorflow/stream_executor/cuda/cuda_gpu_executor.cc:975] successful NUMA node read from SysFS had negative value (-1), but there must be at least one NUMA node, so returning NUMA node zero
W TF-TRT Warning: Could not find TensorRT
I Created device /job:localhost/replica:0/task:0/device:GPU:0 with 13775 MB memory`},
	{"no-problem", `time="2025-01-01T00:00:00Z" level=info msg="Auto-detected mode as 'legacy'"`},
	{"jetson-nodes-not-allowed", `NvRmMemInitNvmap failed with Permission denied
549: Memory Manager Not supported
CUDA error: no CUDA-capable device is detected`},
	{"repository-listed-twice", `E: Conflicting values set for option Signed-By regarding source https://nvidia.github.io/libnvidia-container/stable/ubuntu18.04/amd64/ /: /usr/share/keyrings/nvidia-container-toolkit-keyring.gpg != `},
	{"imex-channel-missing", `failed to stat CDI host device "/dev/nvidia-caps-imex-channels/channel3": no such file or directory`},
	{"visible-devices-env-refused", `stderr: insufficient privileges to read device list from NVIDIA_VISIBLE_DEVICES envvar: unknown`},
	{"unknown", `nginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)`},
	{"unknown", ""},
	{"unknown", `panic: runtime error: index out of range [3] with length 3`},
	{"program-fault-on-gpu", `kernel: NVRM: Xid (PCI:0000:17:00): 31, pid=4242, name=python, Ch 00000008, intr 00000000. MMU Fault
RuntimeError: CUDA error: an illegal memory access was encountered`},
	{"gpu-memory-error", `[Mon Feb  3 10:00:00 2025] NVRM: Xid (PCI:0000:3b:00): 48, pid=1, name=x, DBE (double bit error) occurred`},
	{"gpu-needs-proprietary-module", `[   12.1] NVRM: The NVIDIA GPU 0000:01:00.0 (PCI ID: 10de:1b80)
[   12.1] NVRM: installed in this system is not supported by open
[   12.1] NVRM: nvidia.ko because it does not include the required GPU
[   12.1] NVRM: System Processor (GSP).`},
	{"driver-does-not-know-gpu", `[   12.1] NVRM: The NVIDIA Tesla P100 GPU installed in this system is
[   12.1] NVRM: not supported by the NVIDIA 590.48.01 driver release.`},
	{"fabric-manager-not-running", `RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() that might have already set an error? Error 802: system not yet initialized (Triggered internally at ../c10/cuda/CUDAFunctions.cpp:108.)`},
	{"gpu-index-not-in-container", `$ echo $NVIDIA_VISIBLE_DEVICES
3
RuntimeError: CUDA error: invalid device ordinal`},
	{"apparmor-profile-refused", `OCI runtime create failed: runc create failed: unable to start container process: error during container init: unable to apply apparmor profile: apparmor failed to apply profile: write /proc/self/attr/apparmor/exec: permission denied`},
}

func TestKinds(t *testing.T) {
	for _, k := range kinds {
		f := read(t, k.log).Findings()[0]
		if f.ID != k.id {
			t.Errorf("got %s, want %s for\n%s\n(%s)", f.ID, k.id, k.log, f.Summary)
		}
		if k.id != "unknown" && k.id != "no-problem" {
			checkWhole(t, strings.SplitN(k.log, "\n", 2)[0], f)
		}
	}
}

// What the same text means in different company.
var contexts = []struct{ id, log string }{
	{"uvm-not-loaded", `time=2024-05-01 level=INFO source=gpu.go msg="unable to load cuda driver library" library=/usr/lib/x86_64-linux-gnu/libcuda.so.535.161.08 error="cuda driver library init failure: 999"
cuInit err: 999`},
	{"fabric-manager-not-running", `NCCL WARN Cuda failure 802 'system not yet initialized'`},
	{"runtime-without-visible-devices", `$ docker run --rm --runtime=nvidia ubuntu:24.04 nvidia-smi
docker: Error response from daemon: failed to create task: exec: "nvidia-smi": executable file not found in $PATH`},
	{"utility-capability-missing", `$ docker run --rm --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute ubuntu nvidia-smi
exec: "nvidia-smi": executable file not found in $PATH`},
	{"nvidia-smi-not-given", `$ docker run --rm --gpus all ubuntu nvidia-smi
exec: "nvidia-smi": executable file not found in $PATH`},
	{"framework-built-without-cuda", `root@c:/# nvidia-smi -L
GPU 0: NVIDIA L4 (UUID: GPU-12121212-3434-5656-7878-909090909090)
root@c:/# python -c "import tensorflow as tf; print(tf.config.list_physical_devices('GPU'))"
I cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU will not be used.
[]`},
	{"driver-unhealthy", `nvidia-container-cli: initialization error: nvml error: unknown error`},
	{"no-gpu-in-container", `RuntimeError: Unable to initialize backend 'cuda': FAILED_PRECONDITION: No visible GPU devices.`},
	{"binary-lacks-gpu-architecture", `RuntimeError: cuda runtime error (48) : no kernel image is available for execution on the device at /pytorch/aten/src/THC/THCGeneral.cpp:405`},
	{"unknown", `CUDA error handling module loaded in 12 ms
2024-01-01 collected 100 samples`},
	{"gpus-flag-comma-quoting", `$ docker run --rm --gpus device=2,3 app
docker: Error response from daemon: cannot set both Count and DeviceIDs on device request`},
	{"unknown", `Mar 11 06:25:38 node7 systemd[1]: Reloading...
Mar 11 06:25:38 node7 kernel: PM: suspend exit
$ docker run --rm debian true`},
	{"device-nodes-missing", `docker: Error response from daemon: error gathering device information while adding custom device "/dev/nvidia0": no such file or directory.`},
	{"wsl-linux-driver-installed", `$ uname -r
5.15.153.1-microsoft-standard-WSL2
$ nvidia-smi
NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.
$ dpkg -l | grep nvidia-utils
ii  nvidia-utils-535  535.183.01-0ubuntu1  amd64`},
	{"driver-module-not-built", `NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.
$ sudo modprobe nvidia
modprobe: FATAL: Module nvidia not found in directory /lib/modules/6.8.0-50-generic`},
	{"cuda-compat-does-not-fit-driver", `$ docker run --rm --gpus all -e LD_LIBRARY_PATH=/usr/local/cuda/compat app
Error 803: system has unsupported display driver / cuda driver combination`},
	{"gpu-xid", `NVRM: Xid (PCI:0000:17:00): 39, pid=1, name=x, Ch 00000001`},
	{"image-has-other-driver-version", `$ nvidia-smi -L
GPU 0: NVIDIA RTX A4000 (UUID: GPU-00000000-0000-4000-8000-000000000001)
$ docker run --rm --gpus all registry.example/app:3 nvidia-smi -L
Failed to initialize NVML: Driver/library version mismatch
NVML library version: 535.183`},
	{"driver-library-mismatch", `$ docker exec job nvidia-smi
Failed to initialize NVML: Driver/library version mismatch
$ grep -h upgrade /var/log/unattended-upgrades/unattended-upgrades.log
unattended-upgrades: Packages that will be upgraded: libnvidia-compute-550`},
	{"container-without-gpu-request", `| NVIDIA-SMI 550.144.03   Driver Version: 550.144.03   CUDA Version: 12.4 |
$ docker run --rm app:1
CUDA error 35: CUDA driver version is insufficient for CUDA runtime version`},
	{"driver-too-old-for-cuda", `$ docker run --rm --gpus all app:1
CUDA driver version is insufficient for CUDA runtime version
$ docker run --rm --gpus all debian nvidia-smi | sed -n 3p
| NVIDIA-SMI 470.256.02   Driver Version: 470.256.02   CUDA Version: 11.4     |`},
	{"mig-enabled-without-instance", `RuntimeError: CUDA error: no CUDA-capable device is detected
$ nvidia-smi
|  No MIG devices found                                                       |`},
	{"mig-one-device-per-process", `$ nvidia-smi -L
GPU 0: NVIDIA A100 80GB PCIe (UUID: GPU-932bfb2c-849a-2a22-1e84-9eff6bc02b39)
  MIG 3g.40gb     Device  0: (UUID: MIG-0929581a-2be6-5dec-bf34-0954c6c529a6)
  MIG 3g.40gb     Device  1: (UUID: MIG-3adbed3a-d03d-549f-a016-ba1fd7359f23)
$ python -c "import torch; print(torch.cuda.device_count())"
1`},
	{"cuda-visible-devices-hides-all", `$ echo $CUDA_VISIBLE_DEVICES; env | grep CUDA
CUDA_VISIBLE_DEVICES=7
RuntimeError: cuda runtime error (38) : no CUDA-capable device is detected`},
	{"no-problem", `+-----------------------------------------------------------------------------+
| NVIDIA-SMI 535.161.07   Driver Version: 535.161.07   CUDA Version: 12.2     |
|  No running processes found                                                 |`},
	{"no-problem", `[    9.1] nvidia: loading out-of-tree module taints kernel.
[    9.1] nvidia: module license 'NVIDIA' taints kernel.
[    9.2] NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.120  Fri Sep 13 10:10:01 UTC 2024`},
	{"device-plugin-without-gpu-runtime", `Loading NVML
Failed to initialize NVML: could not load NVML library.
If this is a GPU node, did you set the docker default runtime to ` + "`nvidia`?" + `
You can check the prerequisites at: https://github.com/NVIDIA/k8s-device-plugin#prerequisites`},
	{"cli-binary-missing", `FATA[0000] exec: "nvidia-container-cli": executable file not found in $PATH`},
	{"hook-binary-missing", `docker: Error response from daemon: OCI runtime create failed: container_linux.go:345: starting container process caused "process_linux.go:430: container init caused \"process_linux.go:413: running prestart hook 0 caused \\\"exec: \\\\\\\"nvidia-container-runtime-hook\\\\\\\": executable file not found in $PATH\\\"\"": unknown.`},
	{"driver-libraries-not-found", `docker: Error response from daemon: OCI runtime create failed: container_linux.go:349: starting container process caused "process_linux.go:449: container init caused \"process_linux.go:432: running prestart hook 0 caused \\\"error running hook: exit status 1, stdout: , stderr: nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot open shared object file: no such file or directory\\\\n\\\"\"": unknown.`},
	{"engine-has-no-gpu-driver", "\xff\xfed\x00o\x00c\x00k\x00e\x00r\x00:\x00 \x00c\x00o\x00u\x00l\x00d\x00 \x00n\x00o\x00t\x00 \x00s\x00e\x00l\x00e\x00c\x00t\x00 \x00d\x00e\x00v\x00i\x00c\x00e\x00 \x00d\x00r\x00i\x00v\x00e\x00r\x00 \x00\"\x00\"\x00"},
	{"no-problem", `2024-05-01 10:00:00 W Could not load dynamic library 'libnvinfer.so.7'; dlerror: libnvinfer.so.7: cannot open shared object file: No such file or directory
2024-05-01 10:00:00 W TF-TRT Warning: Cannot dlopen some TensorRT libraries. If you would like to use Nvidia GPU with TensorRT, please make sure the missing libraries mentioned above are installed properly.
Epoch 1/10`},
	{"gpu-memory-full", `step 100 loss 1.2
torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 23.69 GiB total capacity)
RuntimeError: CUDA error: unspecified launch failure`},
}

// Commands are those of the engine in the log.
func TestEngines(t *testing.T) {
	const cause = "nvidia-container-cli: ldcache error: process /sbin/ldconfig.real terminated with signal 31"
	for _, c := range []struct{ log, want, not string }{
		{"$ docker run --rm --gpus all x\n" + cause, "systemctl restart docker", "podman"},
		{"$ podman run --rm --device nvidia.com/gpu=all x\n" + cause, "davit setup podman", "docker"},
		{"Warning Failed kubelet Error: " + cause, "systemctl restart containerd", "docker"},
		{"/var/lib/rancher/k3s/agent\nWarning Failed kubelet Error: " + cause, "systemctl restart k3s", "docker"},
	} {
		f := read(t, c.log).Findings()[0]
		got := strings.Join(f.Remediation.Commands, "\n")
		if !strings.Contains(got, c.want) || strings.Contains(got, c.not) {
			t.Errorf("for %q: %s", c.log, got)
		}
	}
}

func TestContexts(t *testing.T) {
	for _, k := range contexts {
		if f := read(t, k.log).Findings()[0]; f.ID != k.id {
			t.Errorf("got %s, want %s for\n%s\n(%s)", f.ID, k.id, k.log, f.Summary)
		}
	}
}
