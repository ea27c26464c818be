// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"davit/internal/finding"
)

// Faults in the forms in which people write them: id:line or id:file:line of
// all findings that are errors or warnings. The first file is linted.
func TestVariants(t *testing.T) {
	const cuda = "FROM nvidia/cuda:12.4.1-base-ubuntu22.04\n"
	tests := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"package through ARG", f("FROM ubuntu:22.04\nARG V=550\nRUN apt-get update && apt-get install -y nvidia-driver-${V}\n"), "driver-package-in-image:3"},
		{"package through ENV and default", f("FROM ubuntu:22.04\nRUN apt-get install -y nvidia-utils-${V:-535}-server\n"), "driver-package-in-image:2"},
		{"package through an ARG without value", f("FROM ubuntu:22.04\nARG V\nRUN apt-get install -y libnvidia-compute-$V\n"), "driver-package-in-image:3"},
		{"package through a shell variable", f("FROM ubuntu:22.04\nRUN PKGS=\"curl nvidia-utils-550\"; apt-get update; \\\n    apt-get install -y $PKGS\n"), "driver-package-in-image:3"},
		{"package through a loop", f("FROM ubuntu:22.04\nRUN for p in curl libcuda1; do apt-get install -y $p; done\n"), "driver-package-in-image:2"},
		{"package in a here-document", f("FROM ubuntu:22.04\nRUN <<EOF\napt-get update\napt-get install -y \\\n  nvidia-driver-550\nEOF\n"), "driver-package-in-image:5"},
		{"package in a here-document for bash", f("FROM ubuntu:22.04\nRUN bash -e <<'EOF'\napt-get update\napt-get install -y nvidia-driver-550\nEOF\n"), "driver-package-in-image:4"},
		{"package in sh -c", f("FROM ubuntu:22.04\nRUN [\"bash\", \"-c\", \"apt-get install -y nvidia-smi\"]\n"), "driver-package-in-image:2"},
		{"sudo and env", f("FROM ubuntu:22.04\nRUN sudo -E env DEBIAN_FRONTEND=noninteractive apt-get -qq install nvidia-headless-550-server\n"), "driver-package-in-image:2"},
		{"xargs", f("FROM ubuntu:22.04\nRUN echo nvidia-driver-550 | xargs apt-get install -y curl nvidia-settings\n"), "driver-package-in-image:2"},
		{"braces", f("FROM ubuntu:22.04\nSHELL [\"/bin/bash\", \"-c\"]\nRUN apt-get install -y libnvidia-{compute,gl}-550\n"), "driver-package-in-image:3 driver-package-in-image:3"},
		{"dnf", f("FROM rockylinux:9\nRUN dnf install -y nvidia-driver-cuda kmod-nvidia-latest-dkms\n"), "driver-package-in-image:2 driver-package-in-image:2"},
		{"dnf module", f("FROM rockylinux:9\nRUN dnf -y module install nvidia-driver:latest-dkms\n"), "driver-package-in-image:2"},
		{"pacman", f("FROM archlinux:latest\nRUN pacman -Syu --noconfirm nvidia-utils\n"), "driver-package-in-image:2"},
		{"zypper", f("FROM opensuse/leap:15.6\nRUN zypper --non-interactive install nvidia-compute-G06\n"), "driver-package-in-image:2"},
		{"deb of the driver", f("FROM ubuntu:22.04\nCOPY libnvidia-compute-550_550.54.14_amd64.deb /tmp/\nRUN apt-get install -y /tmp/libnvidia-compute-550_550.54.14_amd64.deb\n"), "driver-package-in-image:3"},
		{"script", map[string]string{"Dockerfile": "FROM ubuntu:22.04\nCOPY scripts/ /opt/scripts/\nRUN /opt/scripts/setup.sh\n", "scripts/setup.sh": "#!/bin/bash\nset -e\napt-get update\napt-get install -y nvidia-driver-550\n"}, "driver-package-in-image:scripts/setup.sh:4"},
		{"script, in the workdir", map[string]string{"Dockerfile": "FROM ubuntu:22.04\nWORKDIR /w\nCOPY install.sh .\nRUN chmod +x install.sh && ./install.sh\n", "install.sh": "sh ./NVIDIA-Linux-x86_64-550.54.14.run -s\n"}, "driver-installer-in-image:install.sh:1"},
		{"script, bound", map[string]string{"Dockerfile": "FROM ubuntu:22.04\nRUN --mount=type=bind,source=ci,target=/ci bash /ci/a.sh\n", "ci/a.sh": "modprobe nvidia\n"}, "kernel-module-in-image:ci/a.sh:1"},
		{"script by here-document", f("FROM ubuntu:22.04\nCOPY <<EOF /a.sh\napt-get install -y nvidia-driver-550\nEOF\nRUN sh /a.sh\n"), "driver-package-in-image:5"},
		{"build stage is a note", f("FROM ubuntu:22.04 AS b\nRUN apt-get update && apt-get install -y nvidia-driver-550\nFROM ubuntu:22.04\nCOPY --from=b /x /x\n"), ""},
		{"stage that is the base of the last", f("FROM ubuntu:22.04 AS b\nRUN apt-get update && apt-get install -y nvidia-driver-550\nFROM b\nCMD x\n"), "driver-package-in-image:2"},
		{"removed package", f("FROM ubuntu:22.04\nRUN apt-get remove -y nvidia-driver-550\nRUN apt-get install -y curl nvidia-driver-550-\n"), ""},
		{"meta packages", f("FROM ubuntu:22.04\nRUN apt-get install -y cuda=12.4.1-1\nRUN apt-get install -y cuda-drivers-550\nRUN apt-get install -y cuda-runtime-12-4 cuda-nvcc-12-4\n"), "cuda-metapackage-pulls-driver:2 cuda-metapackage-pulls-driver:4 driver-package-in-image:3"},
		{"word cuda elsewhere", f("FROM ubuntu:22.04\nRUN mkdir -p /opt/cuda && cd cuda || true\nRUN pip install cuda-python\nCMD x\n"), ""},
		{"recommended only", f("FROM debian:12\nRUN apt-get update && apt-get install -y --no-install-recommends libmagma2\n"), ""},
		{"recommended", f("FROM debian:12\nRUN apt-get update && apt-get install -y libmagma2\n"), "package-pulls-driver-libraries:2"},
		{"Debian's toolkit", f("FROM debian:12\nRUN apt-get update && apt-get install -y nvidia-cuda-toolkit\n"), "package-pulls-driver-libraries:2"},
		{"run file with ARG in its name", f("FROM ubuntu:22.04\nARG V\nRUN wget https://x/NVIDIA-Linux-x86_64-$V.run && bash ./NVIDIA-Linux-x86_64-$V.run --no-kernel-modules\n"), "driver-installer-in-image:3"},
		{"run file executed itself", f("FROM ubuntu:22.04\nCOPY NVIDIA-Linux-x86_64-535.129.03.run /tmp/d.run\nRUN chmod +x /tmp/NVIDIA-Linux-x86_64-535.129.03.run && /tmp/NVIDIA-Linux-x86_64-535.129.03.run -s\n"), "driver-installer-in-image:3"},
		{"CUDA run file", f("FROM ubuntu:22.04\nRUN wget https://x/cuda_12.4.1_550.54.15_linux.run && sh cuda_12.4.1_550.54.15_linux.run --silent --driver --toolkit\n"), "cuda-installer-with-driver:2"},
		{"CUDA run file, toolkit only", f("FROM ubuntu:22.04\nRUN sh cuda_12.4.1_550.54.15_linux.run --silent --toolkit\n"), ""},
		{"copied library", f(cuda + "COPY --from=nvidia/cuda:12.4.1-devel-ubuntu22.04 /usr/bin/nvidia-smi /usr/bin/\n"), "driver-library-in-image:2"},
		{"link to the driver's own name", f(cuda + "RUN ln -s /usr/lib/x86_64-linux-gnu/libcuda.so.1 /usr/lib/x86_64-linux-gnu/libcuda.so\n"), ""},
		{"stubs by ld.so.conf", f("FROM nvidia/cuda:12.4.1-devel-ubuntu22.04\nRUN echo /usr/local/cuda/lib64/stubs > /etc/ld.so.conf.d/z.conf && ldconfig\n"), "stub-library-in-final-stage:2"},
		{"NVML's stub", f("FROM nvidia/cuda:12.4.1-devel-ubuntu22.04\nRUN cp /usr/local/cuda/lib64/stubs/libnvidia-ml.so /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1\n"), "stub-library-in-final-stage:2"},
		{"stubs inherited", f("FROM nvidia/cuda:12.4.1-devel-ubuntu22.04 AS a\nENV LD_LIBRARY_PATH $LD_LIBRARY_PATH:/usr/local/cuda/lib64/stubs\nFROM a\nCMD x\n"), "stub-library-in-final-stage:2"},
		{"stubs for one command", f("FROM nvidia/cuda:12.4.1-devel-ubuntu22.04\nRUN export LD_LIBRARY_PATH=/usr/local/cuda/lib64/stubs && make\n"), ""},
		{"stubs in bashrc", f("FROM nvidia/cuda:12.4.1-devel-ubuntu22.04\nRUN echo 'export LD_LIBRARY_PATH=/usr/local/cuda/lib64/stubs' >> ~/.bashrc\n"), "stub-library-in-final-stage:2"},
		{"tags", f("ARG V=11.0\nFROM nvidia/cuda:${V}-base AS a\nFROM nvcr.io/nvidia/cuda:12.3.1-base-ubuntu22.04 AS b\nFROM docker.io/nvidia/cuda:latest\n"), "base-image-end-of-life:3 base-image-without-tag:4 retired-base-image:2"},
		{"tag without a system", f("FROM nvidia/cuda:12.4.1-base\n"), "retired-base-image:1"},
		{"tag newer than the lists", f("FROM nvidia/cuda:13.9.1-base-ubuntu26.04\n"), ""},
		{"mirror", f("FROM registry.example/nvidia/cuda:10.2-base\n"), ""},
		{"digest", f("FROM nvidia/cuda@sha256:0123456789012345678901234567890123456789012345678901234567890123\n"), ""},
		{"musl with a GPU package", f("FROM alpine:3.20\nENV NVIDIA_VISIBLE_DEVICES=all\nCMD [\"nvidia-smi\"]\n"), "musl-image:1"},
		{"musl in a build stage", f("FROM alpine:3.20 AS b\nRUN make\n" + cuda + "COPY --from=b /x /x\nCMD x\n"), ""},
		{"+cpu wheel", f(cuda + "RUN pip install torch==2.6.0+cpu -f https://download.pytorch.org/whl/torch_stable.html\n"), "cpu-only-framework:2"},
		{"CPU index in a requirements file", map[string]string{"Dockerfile": cuda + "COPY requirements.txt /tmp/\nRUN pip install -r /tmp/requirements.txt\n", "requirements.txt": "--index-url https://download.pytorch.org/whl/cpu\ntorch==2.6.0\n"}, "cpu-only-framework:requirements.txt:2"},
		{"CPU index by ENV", f(cuda + "ENV PIP_INDEX_URL=https://download.pytorch.org/whl/cpu\nRUN python3 -m pip install torch\n"), "cpu-only-framework:3"},
		{"conda's cpuonly", f(cuda + "RUN conda install -y -c pytorch pytorch cpuonly\n"), "cpu-only-framework:2"},
		{"both onnxruntimes over steps", map[string]string{"Dockerfile": "FROM nvidia/cuda:12.4.1-cudnn-runtime-ubuntu22.04\nCOPY req /req\nRUN pip install onnxruntime-gpu\nRUN pip install -r /req/a.txt\n", "req/a.txt": "-r b.txt\nnumpy\n", "req/b.txt": "onnxruntime>=1.17 # x\n"}, "onnxruntime-conflict:req/b.txt:1"},
		{"TensorFlow without its extra", f("FROM python:3.11-slim\nENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\nRUN pip install tensorflow==2.16.1\n"), "cpu-only-framework:3"},
		{"TensorFlow and runtime without cuDNN", f("FROM nvidia/cuda:11.8.0-runtime-ubuntu22.04\nRUN apt-get update && apt-get install -y python3-pip\nRUN pip install tensorflow==2.12.0\n"), "framework-cuda-mismatch:1"},
		{"onnxruntime-gpu for another major", f("FROM nvidia/cuda:11.8.0-cudnn8-runtime-ubuntu22.04\nRUN pip install onnxruntime-gpu==1.20.1\n"), "framework-cuda-mismatch:1"},
		{"GPU in a build, conditional", f(cuda + "RUN which nvidia-smi && echo yes\nRUN if [ -e /dev/nvidia0 ]; then nvidia-smi; fi\nRUN nvidia-smi; true\n"), "gpu-used-during-build:4"},
		{"GPU in a build, by substitution", f(cuda + "RUN ARCH=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader) && echo $ARCH\n"), "gpu-used-during-build:2"},
		{"GPU in a build, Python here-document", f(cuda + "RUN python3 <<EOF\nimport torch\nassert torch.cuda.is_available()\nEOF\n"), "gpu-used-during-build:2"},
		{"GPU in a build stage", f(cuda + "RUN nvidia-smi || exit 1\n"), "gpu-used-during-build:2"},
		{"capability misspelt", f("FROM ubuntu:24.04\nENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utlity\nCMD x\n"), "capability-unknown:2"},
		{"video with the default list", f(cuda + "CMD ffmpeg -c:v h264_nvenc /x.mp4\n"), "capability-video-missing:1"},
		{"video in a start script", map[string]string{"Dockerfile": cuda + "COPY run.sh /run.sh\nENTRYPOINT [\"/run.sh\"]\n", "run.sh": "#!/bin/sh\nexec ffmpeg -c:v hevc_nvenc \"$@\"\n"}, "capability-video-missing:1"},
		{"escape directive", f("# escape=`\nFROM ubuntu:22.04\nRUN apt-get update && `\n    apt-get install -y `\n    nvidia-driver-550\n"), "driver-package-in-image:5"},
		{"context above the Dockerfile", map[string]string{"docker/gpu/Dockerfile": cuda + "COPY req.txt /\nRUN pip install -r /req.txt\n", "req.txt": "onnxruntime\nonnxruntime-gpu\n"}, "onnxruntime-conflict:req.txt:1"},
		{"values without end", f("FROM ubuntu:22.04\nENV A=aaaaaaaaaaaaaaaa\n" + strings.Repeat("ENV A=$A$A$A$A\n", 60) + "RUN X=$A; " + strings.Repeat("X=$X$X;", 60) + " apt-get install -y nvidia-driver-550 {1..99999999} $X\n"), "driver-package-in-image:63"},
		{"ignored", f("FROM ubuntu:22.04\n# davit: ignore=driver-package-in-image we test drivers\nRUN apt-get update && \\\n    apt-get install -y nvidia-driver-550\n"), ""},
		{"ignored in the file", f("# davit: ignore-file=driver-package-in-image,kernel-module-in-image a driver container\nFROM ubuntu:22.04\nRUN apt-get update\nRUN apt-get install -y nvidia-driver-550\n"), ""},
		{"ignore of another rule", f("FROM ubuntu:22.04\n# davit: ignore=musl-image why\nRUN apt-get install -y nvidia-driver-550\n"), "driver-package-in-image:3"},
		{"old key", f("FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nRUN apt-key del 7fa2af80 && apt-get update\nADD https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2004/x86_64/7fa2af80.pub /k\n"), "repository-key-retired:3"},
		{"limits by an anchor", map[string]string{"compose.yaml": "x-gpu: &gpu\n  limits:\n    devices: [{driver: nvidia, count: 1, capabilities: [gpu]}]\nservices:\n  a:\n    image: x\n    deploy:\n      resources: *gpu\n"}, "compose-devices-misplaced:3"},
		{"merged service", map[string]string{"compose.yaml": "x-a: &a\n  deploy:\n    resources:\n      reservations:\n        devices:\n          - capabilities: [gpu]\nservices:\n  b:\n    <<: *a\n    image: nvidia/cuda:11.0-base\n"}, "compose-count-missing:6 retired-base-image:10"},
		{"gpus", map[string]string{"compose.yaml": "services:\n  a: {image: x, gpus: 1}\n  b:\n    image: x\n    gpus: all\n"}, "compose-gpus-short-form:2 compose-gpus-short-form:5"},
		{"good compose", map[string]string{"compose.yaml": "services:\n  a:\n    image: vllm/vllm-openai:v0.8.5\n    ipc: host\n    deploy:\n      resources:\n        reservations:\n          devices:\n            - driver: nvidia\n              count: all\n              capabilities: [gpu]\n  b:\n    image: redis:7-alpine\n  c:\n    image: x\n    devices: [\"nvidia.com/gpu=all\", \"/dev/nvidia0\"]\n"}, ""},
		{"deployment", map[string]string{"d.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  template:\n    spec:\n      containers:\n        - name: a\n          image: nvidia/cuda:11.0-base\n          resources:\n            requests: {nvidia.com/gpu: 1}\n            limits: {nvidia.com/gpu: 2}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"}, "kubernetes-gpu-request-invalid:11 retired-base-image:9"},
		{"half a GPU", map[string]string{"p.yml": "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n    - name: a\n      image: x\n      resources:\n        limits:\n          nvidia.com/gpu: 0.5\n"}, "kubernetes-gpu-request-invalid:9"},
		{"exporter", map[string]string{"p.yml": "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: dcgm-exporter}\nspec:\n  template:\n    spec:\n      containers:\n        - name: exporter\n          image: x\n          env: [{name: NVIDIA_VISIBLE_DEVICES, value: all}]\n"}, ""},
		{"devcontainer in two strings", map[string]string{"devcontainer.json": "{\n\t/* a */ \"runArgs\": [\"--gpus\", \"all\"],\n}\n"}, ""},
		{"daemon.json", map[string]string{"daemon.json": "{\n  \"runtimes\": {\"nvidia\": {\"path\": \"x\"}},\n  \"default-runtime\": \"nvidia\"\n}\n"}, ""},
		{"daemon.json with a comma", map[string]string{"daemon.json": "{\n  \"log-level\": \"info\",\n}\n"}, "daemon-json-invalid:3"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := newLinter(t, Options{Threshold: finding.Warning, Read: func(name string) ([]byte, error) {
				if text, ok := test.files[name]; ok {
					return []byte(text), nil
				}
				return nil, os.ErrNotExist
			}})
			name := "Dockerfile"
			if _, ok := test.files[name]; !ok {
				for n := range test.files {
					if k := KindOf(n, []byte(test.files[n])); k != Requirements && k != Unknown && k != Script {
						name = n
					}
				}
			}
			var got []string
			list := l.File(name, []byte(test.files[name]))
			for _, x := range list {
				at := fmt.Sprintf("%s:%d", x.ID, x.Line)
				if x.File != name {
					at = fmt.Sprintf("%s:%s:%d", x.ID, x.File, x.Line)
				}
				// Variants are about one rule each.
				if x.ID != "apt-without-update" {
					got = append(got, at)
				}
			}
			slices.Sort(got)
			if s := strings.Join(got, " "); s != test.want {
				t.Errorf("got %q, want %q:%s", s, test.want, show(list))
			}
		})
	}
}

func f(text string) map[string]string { return map[string]string{"Dockerfile": text} }
