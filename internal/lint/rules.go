// SPDX-License-Identifier: Apache-2.0

package lint

import "davit/internal/finding"

// Rule is one thing that lint looks for. Its page in docs/rules is made from
// it.
type Rule struct {
	ID       string
	Severity finding.Severity // a finding of it may be milder
	Group    string
	Title    string
	Why      string // one sentence
	Right    string
	Bad      string // an example: a Dockerfile, or what For says
	Good     string
	For      string // Dockerfile, compose.yaml, pod.yaml, devcontainer.json, daemon.json
	Except   string // when it is no fault
	Fix      bool   // --fix mends it
	Sources  string
}

// The groups of rules.
const (
	groupDriver    = "driver in the image"
	groupPath      = "library paths"
	groupBase      = "base image"
	groupFramework = "frameworks"
	groupEnv       = "environment"
	groupBuild     = "build"
	groupRepo      = "repositories and keys"
	groupSpec      = "run specifications"
	groupLayer     = "layers and steps"
)

// Rules gives all rules, by group.
func Rules() []Rule {
	var all []Rule
	for _, list := range [][]Rule{driverRules(), pathRules(), baseRules(), frameworkRules(), envRules(), buildRules(), repoRules(), specRules(), layerRules()} {
		for _, r := range list {
			if r.For == "" {
				r.For = "Dockerfile"
			}
			all = append(all, r)
		}
	}
	return all
}

func driverRules() []Rule {
	return []Rule{
		{ID: "driver-installer-in-image", Severity: finding.Error, Group: groupDriver, Fix: true, Title: "The driver's installer is run in the image",
			Why:    "The user part of a driver must equal the kernel module of the host to the last digit, so an image that holds one fits one host until its next update, and its files stand where the host's are to be mounted.",
			Right:  "Leave the step out: the host's driver is injected at run time (--gpus all). What was missing is a driver capability: graphics for Vulkan, EGL and OpenGL, video for NVENC and NVDEC, utility for nvidia-smi.",
			Bad:    "FROM ubuntu:24.04\nRUN curl -fsSLO https://us.download.nvidia.com/XFree86/Linux-x86_64/560.35.03/NVIDIA-Linux-x86_64-560.35.03.run \\\n && sh NVIDIA-Linux-x86_64-560.35.03.run --silent --no-kernel-module\n",
			Good:   "FROM ubuntu:24.04\nENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics\nCMD [\"vulkaninfo\"]\n",
			Except: "driver containers, images of virtual machines and of system containers: write an ignore directive", Sources: "NVIDIA/nvidia-docker issues 417, 871, 1350; NVIDIA/nvidia-container-toolkit issue 16"},
		{ID: "driver-package-in-image", Severity: finding.Error, Group: groupDriver, Fix: true, Title: "A package of the driver is installed",
			Why:   "The package's libraries fit one kernel module only, and they clash with the files of the host that are mounted over them (\"file exists\", \"driver/library version mismatch\").",
			Right: "Leave the package out: libcuda, NVML and nvidia-smi come from the host; nvidia-smi needs the capability utility.",
			Bad:   "FROM ubuntu:22.04\nRUN apt-get update && apt-get install -y nvidia-utils-550\nCMD [\"nvidia-smi\"]\n", Good: "FROM ubuntu:22.04\nENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\nCMD [\"nvidia-smi\"]\n",
			Except: "in a build stage it is a note only", Sources: "NVIDIA/nvidia-docker issues 825, 843, 871, 1287, 1731"},
		{ID: "cuda-metapackage-pulls-driver", Severity: finding.Error, Group: groupDriver, Fix: true, Title: "A CUDA package that depends on the driver",
			Why:   "The packages cuda, cuda-X-Y, cuda-runtime-X-Y and cuda-demo-suite-X-Y depend on cuda-drivers, so the driver comes into the image with them.",
			Right: "cuda-toolkit-X-Y to compile, cuda-libraries-X-Y to run, or the few packages that are needed.",
			Bad:   "FROM ubuntu:22.04\nRUN apt-get update && apt-get install -y cuda-12-4\n", Good: "FROM ubuntu:22.04\nRUN apt-get update && apt-get install -y cuda-toolkit-12-4\n",
			Sources: "NVIDIA CUDA installation guide; apache/mxnet PR 16952; NVIDIA/nvidia-docker issue 1393"},
		{ID: "package-pulls-driver-libraries", Severity: finding.Warning, Group: groupDriver, Fix: true, Title: "A package that depends on driver libraries",
			Why:   "The package looks harmless and depends on libraries of the driver, which then stand in the image in one fixed version.",
			Right: "Take the package that has no such dependency.",
			Bad:   "FROM ubuntu:22.04\nRUN apt-get update && apt-get install -y nvidia-opencl-dev\n", Good: "FROM ubuntu:22.04\nRUN apt-get update && apt-get install -y ocl-icd-opencl-dev opencl-headers\n",
			Except: "packages that only recommend the driver, with --no-install-recommends", Sources: "Debian package index; NVIDIA/nvidia-container-toolkit issue 371; BIOP/BIOP-desktop issue 2"},
		{ID: "host-installer-in-image", Severity: finding.Warning, Group: groupDriver, Title: "An installer that is meant for hosts",
			Why:   "The script installs a driver where it finds or expects a GPU, so the image depends on the machine that built it.",
			Right: "Take the program from its archive or image, or use the script's switch that leaves the driver out.",
			Bad:   "FROM ubuntu:24.04\nRUN curl -fsSL https://ollama.com/install.sh | sh\n", Good: "FROM ollama/ollama:0.5.7\n",
			Sources: "E4S-Project/e4s issue 172; ollama/ollama issues 1091, 6626; lambdal/lambda-stack-dockerfiles issue 15"},
		{ID: "cuda-installer-with-driver", Severity: finding.Error, Group: groupDriver, Fix: true, Title: "The CUDA run file installs its driver too",
			Why:   "Without --toolkit the run file also installs the driver whose version is the second number in its name.",
			Right: "--silent --toolkit --override, or packages, or a devel tag of nvidia/cuda.",
			Bad:   "FROM ubuntu:22.04\nRUN sh cuda_12.4.1_550.54.15_linux.run --silent\n", Good: "FROM ubuntu:22.04\nRUN sh cuda_12.4.1_550.54.15_linux.run --silent --toolkit --override\n", Sources: "NVIDIA CUDA installation guide, run file; NVIDIA/nvidia-docker issue 871"},
		{ID: "driver-library-in-image", Severity: finding.Error, Group: groupDriver, Fix: true, Title: "Driver files are copied into the image",
			Why:   "A copied libcuda, NVML or nvidia-smi ties the image to one driver and hides or blocks the one that is injected.",
			Right: "Leave the copy out; for linking use the stubs of a devel tag in a build stage.",
			Bad:   "FROM debian:12-slim\nCOPY libcuda.so.1 /usr/lib/x86_64-linux-gnu/\n", Good: "FROM debian:12-slim\nENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\nCMD [\"/app\"]\n",
			Except: "/usr/local/cuda/compat, stubs in a build stage, and a link libcuda.so to libcuda.so.1", Sources: "NVIDIA/nvidia-docker issues 37, 76, 856, 1504"},
		{ID: "kernel-module-in-image", Severity: finding.Warning, Group: groupDriver, Fix: true, Title: "Kernel modules are built or loaded in the image",
			Why:   "A container has no kernel of its own, and uname while building is that of the build machine.",
			Right: "Install the module on the host.",
			Bad:   "FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nRUN modprobe nvidia\n", Good: "FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nCMD [\"nvidia-smi\"]\n", Except: "driver containers", Sources: "NVIDIA/nvidia-docker issue 871"},
		{ID: "container-toolkit-in-image", Severity: finding.Info, Group: groupDriver, Title: "A container toolkit in an application image",
			Why: "It belongs to the host, where containers are started.", Right: "Install it on the host.",
			Bad: "FROM ubuntu:22.04\nRUN apt-get update && apt-get install -y nvidia-container-toolkit\n", Good: "FROM docker:27-dind\nRUN apt-get update && apt-get install -y nvidia-container-toolkit\n",
			Except: "images that start containers themselves", Sources: "NVIDIA/nvidia-container-toolkit, threads"},
	}
}

func pathRules() []Rule {
	return []Rule{
		{ID: "stub-library-in-final-stage", Severity: finding.Error, Group: groupPath, Fix: true, Title: "Stub libraries where programs find them at run time",
			Why:   "The stub libcuda.so only serves the linker; loaded at run time in place of the driver it fails with CUDA error 34.",
			Right: "LIBRARY_PATH, or -L…/stubs for the linker; no link named libcuda.so.1 outside the stubs folder of a build stage.",
			Bad:   "FROM nvidia/cuda:12.4.1-devel-ubuntu22.04\nENV LD_LIBRARY_PATH=/usr/local/cuda/lib64/stubs:$LD_LIBRARY_PATH\n", Good: "FROM nvidia/cuda:12.4.1-devel-ubuntu22.04\nENV LIBRARY_PATH=/usr/local/cuda/lib64/stubs\n",
			Except: "a build stage, or a link that the same or a later step removes", Sources: "NVIDIA/nvidia-docker issues 37, 1139; NVIDIA/warp issue 219; NVIDIA/nvidia-container-toolkit issues 185, 668"},
		{ID: "compat-library-forced", Severity: finding.Warning, Group: groupPath, Fix: true, Title: "The compatibility library is forced on the library path",
			Why:   "The libcuda of cuda-compat works with listed driver branches on data-center GPUs only; forced on the path it gives errors 803 and 804 elsewhere and hides a newer driver.",
			Right: "Take the folder off the path; the runtime mounts or uses it where it fits.",
			Bad:   "FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nENV LD_LIBRARY_PATH=/usr/local/cuda/compat:$LD_LIBRARY_PATH\n", Good: "FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nENV LD_LIBRARY_PATH=/opt/app/lib:$LD_LIBRARY_PATH\n",
			Except: "images for one known set of data-center hosts", Sources: "NVIDIA/nvidia-docker issue 1256; microsoft/onnxruntime issue 21435; gpustack/gpustack issue 1254"},
		{ID: "library-path-overwritten", Severity: finding.Warning, Group: groupPath, Fix: true, Title: "LD_LIBRARY_PATH loses the value of the base",
			Why:   "The base image lists /usr/local/nvidia/lib64 there, where some platforms mount the driver; the new value drops it.",
			Right: "Append ${LD_LIBRARY_PATH}.",
			Bad:   "FROM nvidia/cuda:12.4.1-runtime-ubuntu22.04\nENV LD_LIBRARY_PATH=/opt/app/lib\n", Good: "FROM nvidia/cuda:12.4.1-runtime-ubuntu22.04\nENV LD_LIBRARY_PATH=/opt/app/lib:${LD_LIBRARY_PATH}\n", Sources: "NVIDIA container-images/cuda, environment of the base images"},
		{ID: "cuda-twice-in-image", Severity: finding.Info, Group: groupPath, Title: "CUDA is in the base image and again in the wheels",
			Why:   "The wheels of torch, JAX and vLLM bring their own CUDA, so the libraries of the base are not used, double the image and come first on the library path.",
			Right: "A slim Python image with the two NVIDIA variables, or a base tag.",
			Bad:   "FROM nvidia/cuda:12.4.1-cudnn-runtime-ubuntu22.04\nRUN apt-get update && apt-get install -y python3-pip\nRUN pip install torch\n", Good: "FROM python:3.12-slim\nENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\nRUN pip install torch\n",
			Except: "images that compile CUDA code", Sources: "JAX installation page; NVIDIA/tensorflow issue 110"},
	}
}

func baseRules() []Rule {
	return []Rule{
		{ID: "retired-base-image", Severity: finding.Error, Group: groupBase, Fix: true, Title: "The tag no longer exists",
			Why:   "NVIDIA removed the tag from the registry, so the build stops at its first line.",
			Right: "A living tag of the same flavour.",
			Bad:   "FROM nvidia/cuda:10.2-base\nCMD nvidia-smi\n", Good: "FROM nvidia/cuda:12.9.1-base-ubuntu24.04\nCMD nvidia-smi\n",
			Except: "a mirror of one's own that kept a copy", Sources: "NVIDIA container-images/cuda tag lists; NVIDIA/nvidia-docker issues 1735, 1768, 1790"},
		{ID: "base-image-without-tag", Severity: finding.Error, Group: groupBase, Fix: true, Title: "nvidia/cuda without a tag",
			Why: "nvidia/cuda has had no tag latest since January 2021.", Right: "Name CUDA version, flavour and system.",
			Bad: "FROM nvidia/cuda\n", Good: "FROM nvidia/cuda:12.9.1-base-ubuntu24.04\n", Sources: "NVIDIA/nvidia-docker issue 1454"},
		{ID: "base-image-end-of-life", Severity: finding.Warning, Group: groupBase, Fix: true, Title: "The base image is past its end of life",
			Why: "It gets no fixes any more, and tags of nvidia/cuda are deleted some months later.", Right: "A living tag.",
			Bad: "FROM ubuntu:18.04\nENV NVIDIA_VISIBLE_DEVICES=all\nCMD [\"nvidia-smi\"]\n", Good: "FROM ubuntu:24.04\nENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\nCMD [\"nvidia-smi\"]\n", Sources: "NVIDIA container-images/cuda doc/support-policy.md; release pages of the systems"},
		{ID: "musl-image", Severity: finding.Warning, Group: groupBase, Title: "A base image without glibc",
			Why:   "The driver's libraries and nvidia-smi are glibc programs; on musl they are \"not found\" although the files are there.",
			Right: "A glibc base (Debian, Ubuntu, a slim tag); gcompat helps some programs only.",
			Bad:   "FROM python:3.12-alpine\nENV NVIDIA_VISIBLE_DEVICES=all\nCMD [\"python\", \"/job.py\"]\n", Good: "FROM python:3.12-slim\nENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\nCMD [\"python\", \"/job.py\"]\n",
			Except: "build stages, and images that ask for no GPU", Sources: "NVIDIA/nvidia-docker issue 509; NVIDIA/nvidia-container-toolkit issues 243, 1526"},
		{ID: "devel-in-final-stage", Severity: finding.Info, Group: groupBase, Title: "The compiler is shipped with the program",
			Why: "A devel tag has several GB of compiler and headers that the finished program does not use.", Right: "Build in a devel stage, copy the result into a base or runtime stage.",
			Bad:    "FROM nvidia/cuda:12.4.1-devel-ubuntu22.04\nCOPY . /src\nRUN make -C /src\nENTRYPOINT [\"/src/sim\"]\n",
			Good:   "FROM nvidia/cuda:12.4.1-devel-ubuntu22.04 AS build\nCOPY . /src\nRUN make -C /src\nFROM nvidia/cuda:12.4.1-base-ubuntu22.04\nCOPY --from=build /src/sim /usr/local/bin/sim\nENTRYPOINT [\"sim\"]\n",
			Except: "programs that compile at run time, images for developers", Sources: "NVIDIA/nvidia-docker issue 12; tensorflow/serving issue 2202"},
		{ID: "image-lacks-cuda-part", Severity: finding.Error, Group: groupBase, Title: "The flavour of the base lacks what is used",
			Why: "base has the runtime library only, runtime adds the math libraries, devel adds nvcc and headers, tags with cudnn add cuDNN.", Right: "The flavour that has it.",
			Bad: "FROM nvidia/cuda:12.4.1-runtime-ubuntu22.04\nCOPY a.cu /\nRUN nvcc -o /a /a.cu\n", Good: "FROM nvidia/cuda:12.4.1-devel-ubuntu22.04\nCOPY a.cu /\nRUN nvcc -o /a /a.cu\n",
			Except: "nvcc from packages, pip or conda", Sources: "NVIDIA container-images/cuda, Dockerfiles"},
		{ID: "jetson-image", Severity: finding.Warning, Group: groupBase, Title: "A Jetson image for another machine",
			Why: "l4t images need the Linux for Tegra of a Jetson.", Right: "An image of the same program for servers.",
			Bad: "FROM --platform=linux/amd64 nvcr.io/nvidia/l4t-base:r36.2.0\n", Good: "FROM nvcr.io/nvidia/l4t-base:r36.2.0\n", Sources: "NVIDIA L4T container pages"},
	}
}

func frameworkRules() []Rule {
	return []Rule{
		{ID: "cpu-only-framework", Severity: finding.Error, Group: groupFramework, Fix: true, Title: "The CPU build of a framework in a GPU image",
			Why: "The package has no CUDA code, so the GPU stays unused on every machine.", Right: "The index, package or tag with CUDA, or a small base image if CPU is meant.",
			Bad:    "FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nRUN apt-get update && apt-get install -y python3-pip\nRUN pip install torch --index-url https://download.pytorch.org/whl/cpu\n",
			Good:   "FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nRUN apt-get update && apt-get install -y python3-pip\nRUN pip install torch --index-url https://download.pytorch.org/whl/cu124\n",
			Except: "an index chosen by a build argument; images that show no wish for a GPU", Sources: "pytorch/pytorch issues 12773, 21259; tensorflow/tensorflow issues 62412, 66750; microsoft/onnxruntime issue 23833"},
		{ID: "framework-cuda-mismatch", Severity: finding.Error, Group: groupFramework, Title: "Framework and base image do not fit",
			Why: "The framework opens CUDA and cuDNN libraries of one version by name; where the image has others or none, the GPU is skipped.", Right: "The pair of the framework's table, or wheels that bring CUDA on a slim Python image.",
			Bad:    "FROM nvidia/cuda:12.2.2-base-ubuntu22.04\nRUN apt-get update && apt-get install -y python3-pip\nRUN pip install tensorflow==2.11.0\n",
			Good:   "FROM python:3.11-slim\nENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\nRUN pip install \"tensorflow[and-cuda]==2.15.1\"\n",
			Except: "CUDA and cuDNN from other packages", Sources: "tensorflow.org build table; onnxruntime CUDA execution provider page; tensorflow/tensorflow issues 38164, 45930"},
		{ID: "onnxruntime-conflict", Severity: finding.Error, Group: groupFramework, Title: "onnxruntime and onnxruntime-gpu together",
			Why: "Both packages own the same files; the one that was installed last wins, and the CPU one has no CUDA provider.", Right: "Only onnxruntime-gpu.",
			Bad:  "FROM nvidia/cuda:12.4.1-cudnn-runtime-ubuntu22.04\nRUN apt-get update && apt-get install -y python3-pip\nRUN pip install onnxruntime-gpu onnxruntime\n",
			Good: "FROM nvidia/cuda:12.4.1-cudnn-runtime-ubuntu22.04\nRUN apt-get update && apt-get install -y python3-pip\nRUN pip install onnxruntime-gpu\n", Sources: "microsoft/onnxruntime issue 23833"},
		{ID: "two-cuda-versions", Severity: finding.Warning, Group: groupFramework, Title: "Wheels of two CUDA majors in one environment",
			Why: "Libraries of two majors get mixed in one process.", Right: "One source of CUDA.",
			Bad:  "FROM python:3.11-slim\nENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\nRUN pip install nvidia-cublas-cu11 cupy-cuda12x\n",
			Good: "FROM python:3.11-slim\nENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\nRUN pip install \"cupy-cuda12x[ctk]\"\n", Sources: "NVIDIA/tensorflow issue 110; tensorflow/tensorflow issue 61468"},
		{ID: "torch-installed-twice", Severity: finding.Warning, Group: groupFramework, Title: "A later step replaces the chosen torch",
			Why: "The second install has another version or no index, so pip swaps the CUDA build that was chosen before.", Right: "One step, or the same pin and --index-url in both.",
			Bad:  "FROM python:3.11-slim\nENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\nRUN pip install torch==2.6.0 --index-url https://download.pytorch.org/whl/cu118\nRUN pip install torch==2.7.0 transformers\n",
			Good: "FROM python:3.11-slim\nENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\nRUN pip install torch==2.6.0 --index-url https://download.pytorch.org/whl/cu118\nRUN pip install transformers\n", Sources: "behaviour of pip's resolver"},
	}
}
