// SPDX-License-Identifier: Apache-2.0

package knowledge

import (
	"slices"
	"strings"
	"testing"
)

// Every tag parses, and its state is one of the known.
func TestTagTable(t *testing.T) {
	n := 0
	for line := range strings.Lines(tagTable) {
		fields := strings.Split(strings.TrimSpace(line), ",")
		if strings.HasPrefix(line, "#") || fields[0] == "tag" {
			continue
		}
		n++
		tag, ok := ImageTag(fields[0])
		if !ok || tag.CUDA == "" || tag.Flavour == "" {
			t.Errorf("tag %q does not parse: %+v", fields[0], tag)
		}
		if !slices.Contains([]string{"alive", "doomed", "gone", "seen", "unknown"}, tag.State) {
			t.Errorf("tag %q has state %q", fields[0], tag.State)
		}
		if tag.CuDNN && tag.CuDNNMajor == "" && tag.State == "alive" {
			t.Errorf("living tag %q has cuDNN of no known version", fields[0])
		}
	}
	if n < 2000 || ImagesAsOf() == "" {
		t.Errorf("%d tags, as of %q", n, ImagesAsOf())
	}
}

func TestImageTag(t *testing.T) {
	tests := []struct {
		name string
		want Tag
		ok   bool
	}{
		{"12.4.1-cudnn-runtime-ubuntu22.04", Tag{CUDA: "12.4.1", Flavour: "runtime", CuDNN: true, CuDNNMajor: "9", Distro: "ubuntu22.04", State: "alive"}, true},
		{"10.2-base", Tag{CUDA: "10.2", Flavour: "base", State: "gone", AbsentSince: "2021-03-02"}, true},
		{"12.3.1-base-ubuntu20.04", Tag{CUDA: "12.3.1", Flavour: "base", Distro: "ubuntu20.04", State: "doomed"}, true},
		{"99.9.9-base-ubuntu30.04", Tag{CUDA: "99.9.9", Flavour: "base", Distro: "ubuntu30.04"}, true},
		{"latest", Tag{}, false},
		{"", Tag{}, false},
	}
	for _, test := range tests {
		test.want.Name = test.name
		if got, ok := ImageTag(test.name); got != test.want || ok != test.ok {
			t.Errorf("%s: %+v %v", test.name, got, ok)
		}
	}
}

func TestLivingTags(t *testing.T) {
	for _, flavour := range []string{"base", "runtime", "devel"} {
		list := LivingTags(flavour, false)
		if len(list) < 20 {
			t.Errorf("%d living %s tags", len(list), flavour)
		}
		for i, tag := range list {
			if tag.State != "alive" || tag.CuDNN || tag.Flavour != flavour || i > 0 && CompareVersions(list[i-1].CUDA, tag.CUDA) < 0 {
				t.Errorf("%s: %+v", flavour, tag)
			}
		}
	}
	if len(LivingTags("runtime", true)) == 0 || len(LivingTags("base", true)) != 0 {
		t.Error("cuDNN tags")
	}
}

func TestDriverPackages(t *testing.T) {
	all, err := ReadDriverPackages()
	if err != nil {
		t.Fatal(err)
	}
	for name, kind := range map[string]string{
		"nvidia-driver-550": "driver", "nvidia-driver-*": "driver", "nvidia-driver-550-server-open": "driver", "nvidia-headless-no-dkms-535": "driver", "nvidia-utils-550": "driver", "libnvidia-compute-535-server": "driver",
		"libcuda1": "driver", "nvidia-smi": "driver", "libnvidia-ml1": "driver", "kmod-nvidia-latest-dkms": "driver", "nvidia-driver-cuda": "driver", "cuda-drivers": "driver", "cuda-drivers-550": "driver", "nvidia-compute-G06": "driver", "xorg-x11-drv-nvidia-cuda": "driver",
		"cuda": "meta", "cuda-12-4": "meta", "cuda-runtime-12-4": "meta", "cuda-demo-suite-12-4": "meta",
		"nvidia-opencl-dev": "pulls", "nvidia-cuda-toolkit": "pulls", "gpustat": "pulls", "libmagma2": "recommends",
		"cuda-toolkit-12-4": "", "cuda-nvcc-12-4": "", "cuda-libraries-12-4": "", "cuda-cudart-dev-12-4": "", "cuda-keyring": "", "cuda-compat-12-4": "", "libcublas-12-4": "", "libnvidia-container1": "", "nvidia-container-toolkit": "",
		"libnvidia-egl-wayland1": "", "ocl-icd-opencl-dev": "", "libcudnn9-cuda-12": "", "python3": "", "nvidia": "", "cuda-nsight-compute-12-4": "", "libnccl2": "", "nvidia-ml-py": "", "*": "",
	} {
		got := ""
		if p := all.Find(name); p != nil {
			got = p.Kind
			if p.Source == "" || len(p.Source) < 10 {
				t.Errorf("%s has no source", name)
			}
		}
		if got != kind {
			t.Errorf("%s is %q, want %q", name, got, kind)
		}
	}
}

func TestBuilds(t *testing.T) {
	if b, ok := TensorFlowBuild("2.3.1"); !ok || b.CUDA != "10.1" || b.CuDNN != "7.6" || b.Brings != "" {
		t.Errorf("TensorFlow 2.3.1: %+v", b)
	}
	if b, ok := TensorFlowBuild(""); !ok || b.Brings != "and-cuda" {
		t.Errorf("newest TensorFlow: %+v", b)
	}
	if _, ok := TensorFlowBuild("9.9"); ok {
		t.Error("a TensorFlow that does not exist")
	}
	for version, cuda := range map[string]string{"1.20.1": "12", "1.18.0": "11.8", "1.5.2": "10.2", "": "12"} {
		if b, ok := ONNXRuntimeBuild(version); !ok || b.CUDA != cuda {
			t.Errorf("onnxruntime %s: %+v", version, b)
		}
	}
	wheels := TorchWheels("2.9.1")
	if len(wheels) != 3 || !slices.ContainsFunc(wheels, func(w TorchWheel) bool { return w.Tag == "cu128" && w.Default && w.Driver == "525.60.13" }) {
		t.Errorf("torch 2.9.1: %+v", wheels)
	}
	for line := range strings.Lines(torchTable) {
		fields := strings.Split(strings.TrimSpace(line), ",")
		if strings.HasPrefix(line, "#") || fields[0] == "torch" {
			continue
		}
		if len(fields) != 7 || fields[5] == "" || fields[2] != "cu"+strings.ReplaceAll(fields[1], ".", "") {
			t.Errorf("row %q: every wheel has a floor and a tag of its CUDA", line)
		}
	}
}
