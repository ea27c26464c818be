// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"davit/internal/finding"
)

func TestFix(t *testing.T) {
	tests := []struct{ name, file, in, want string }{
		{"brute force", "Dockerfile", "", "FROM nvidia/cuda:12.9.1-devel-ubuntu24.04\nENV NVIDIA_VISIBLE_DEVICES=all\nENV NVIDIA_DRIVER_CAPABILITIES=compute,utility\nLABEL purpose=\"gpu by hand\"\nRUN apt-get update && apt-get install -y build-essential\n"},
		{"packages on lines of their own", "Dockerfile",
			"FROM ubuntu:22.04\n# tools\nRUN apt-get update \\\n && apt-get install -y --no-install-recommends \\\n      python3 \\\n      # the driver\n      nvidia-driver-550 \\\n      nvidia-utils-550 \\\n && rm -rf /var/lib/apt/lists/*\nCMD [\"python3\"]\n",
			"FROM ubuntu:22.04\nENV NVIDIA_VISIBLE_DEVICES=all\nENV NVIDIA_DRIVER_CAPABILITIES=compute,utility\n# tools\nRUN apt-get update \\\n && apt-get install -y --no-install-recommends \\\n      python3 \\\n      # the driver\n && rm -rf /var/lib/apt/lists/*\nCMD [\"python3\"]\n"},
		{"the last package", "Dockerfile",
			"FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nRUN apt-get update && apt-get install -y \\\n    curl \\\n    nvidia-utils-550\nCMD [\"x\"]\n",
			"FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nRUN apt-get update && apt-get install -y \\\n    curl\nCMD [\"x\"]\n"},
		{"the only package", "Dockerfile",
			"FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nRUN apt-get update && apt-get install -y nvidia-utils-550 && rm -rf /var/lib/apt/lists/*\nRUN useradd a\n",
			"FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nRUN useradd a\n"},
		{"one step of a chain", "Dockerfile",
			"FROM ubuntu:24.04\nRUN apt-get update && apt-get install -y curl \\\n && curl -O https://x/NVIDIA-Linux-x86_64-550.54.14.run \\\n && sh NVIDIA-Linux-x86_64-550.54.14.run -s --no-kernel-module \\\n && useradd app\nCMD [\"vulkaninfo\"]\n",
			"FROM ubuntu:24.04\nENV NVIDIA_VISIBLE_DEVICES=all\nENV NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics\nRUN apt-get update && apt-get install -y curl \\\n && useradd app\nCMD [\"vulkaninfo\"]\n"},
		{"meta package", "Dockerfile", "FROM ubuntu:22.04\nRUN apt-get update && apt-get install -y cuda-12-4=12.4.1-1 gcc\nENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\nCMD x\n", "FROM ubuntu:22.04\nRUN apt-get update && apt-get install -y cuda-toolkit-12-4 gcc\nENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\nCMD x\n"},
		{"stubs", "Dockerfile", "FROM nvidia/cuda:12.4.1-devel-ubuntu22.04\nENV LD_LIBRARY_PATH=/usr/local/cuda/lib64/stubs:/opt/lib:${LD_LIBRARY_PATH}\nRUN ln -s /usr/local/cuda/lib64/stubs/libcuda.so /usr/lib/x86_64-linux-gnu/libcuda.so.1 && make\n", "FROM nvidia/cuda:12.4.1-devel-ubuntu22.04\nENV LD_LIBRARY_PATH=/opt/lib:${LD_LIBRARY_PATH}\nRUN make\n"},
		{"capability", "Dockerfile", "FROM debian:12-slim\nENV NVIDIA_VISIBLE_DEVICES=all \\\n    NVIDIA_DRIVER_CAPABILITIES=\"compute,utility\"\nCMD [\"ffmpeg\", \"-c:v\", \"h264_nvenc\"]\n", "FROM debian:12-slim\nENV NVIDIA_VISIBLE_DEVICES=all \\\n    NVIDIA_DRIVER_CAPABILITIES=\"compute,utility,video\"\nCMD [\"ffmpeg\", \"-c:v\", \"h264_nvenc\"]\n"},
		{"CPU index", "Dockerfile", "FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nRUN pip install torch --index-url https://download.pytorch.org/whl/cpu\n", "FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nRUN pip install torch --index-url https://download.pytorch.org/whl/cu124\n"},
		{"nothing to do", "Dockerfile", "FROM golang:1.26 AS b\nRUN go build\n", "FROM golang:1.26 AS b\nRUN go build\n"},
		{"ignored", "Dockerfile", "FROM ubuntu:22.04\n# davit: ignore=driver-package-in-image this is a driver container\nRUN apt-get update && apt-get install -y nvidia-utils-550\n", "FROM ubuntu:22.04\n# davit: ignore=driver-package-in-image this is a driver container\nRUN apt-get update && apt-get install -y nvidia-utils-550\n"},
		{"compose", "compose.yaml", "services:\n  a:\n    image: x\n    deploy:\n      resources:\n        reservations:\n          devices:\n            - driver: nvidia # here\n              capabilities: [gpu]\n", "services:\n  a:\n    image: x\n    deploy:\n      resources:\n        reservations:\n          devices:\n            - driver: nvidia # here\n              count: all\n              capabilities: [gpu]\n"},
		{"devcontainer", "devcontainer.json", "{ // c\n \"runArgs\": [\"--gpus all\",],\n}\n", "{ // c\n \"runArgs\": [\"--gpus=all\",],\n}\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.in == "" {
				text, err := os.ReadFile(filepath.Join("testdata/cases/201-tutorial-brute-force/Dockerfile"))
				if err != nil {
					t.Fatal(err)
				}
				test.in = string(text)
			}
			l := newLinter(t, Options{})
			got := l.Fix(test.file, []byte(test.in))
			if string(got.Text) != test.want {
				t.Errorf("got\n%s\nwant\n%s", got.Text, test.want)
			}
			if errs := slices.DeleteFunc(l.File(test.file, got.Text), func(f finding.Finding) bool { return f.Severity != finding.Error }); len(errs) > 0 {
				t.Errorf("errors are left:%s", show(errs))
			}
			if again := l.Fix(test.file, got.Text); string(again.Text) != string(got.Text) {
				t.Errorf("a second time gives\n%s", again.Text)
			}
			if (len(got.Notes) > 0) != (test.in != test.want) {
				t.Errorf("notes %s", strings.Join(got.Notes, "; "))
			}
		})
	}
}
