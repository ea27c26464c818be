// SPDX-License-Identifier: Apache-2.0

package knowledge

import (
	_ "embed"
	"strings"
)

//go:embed frameworks.tensorflow.csv
var tensorflowTable string

//go:embed frameworks.torch.csv
var torchTable string

//go:embed frameworks.onnxruntime.csv
var onnxruntimeTable string

// Build is what one release of a framework was built for.
type Build struct {
	Package, Version string
	CUDA             string // 12.5; the major decides from CUDA 11 on
	CuDNN            string
	Python           string
	Brings           string // the extra that brings CUDA and cuDNN as wheels, or empty
}

// TensorFlowBuild gives the release of a version such as 2.3.1, or the newest
// for an empty one; not ok is one that the table does not have.
func TensorFlowBuild(version string) (Build, bool) {
	table, err := rows("frameworks.tensorflow.csv", tensorflowTable)
	if err != nil || len(table) == 0 {
		return Build{}, false
	}
	for _, r := range table {
		if len(r) == 7 && (version == "" || minor(r[1]) == minor(version)) {
			return Build{Package: r[0], Version: r[1], Python: r[2], CUDA: r[3], CuDNN: r[4], Brings: r[5]}, true
		}
	}
	return Build{}, false
}

// ONNXRuntimeBuild gives the same for onnxruntime-gpu as it is on PyPI.
func ONNXRuntimeBuild(version string) (Build, bool) {
	table, err := rows("frameworks.onnxruntime.csv", onnxruntimeTable)
	if err != nil {
		return Build{}, false
	}
	for _, r := range table {
		if len(r) != 5 {
			continue
		}
		fits := version == "" || CompareVersions(minor(version), r[0]) >= 0 && (r[1] == "" || CompareVersions(minor(version), r[1]) <= 0)
		if fits {
			return Build{Package: "onnxruntime-gpu", Version: r[0], CUDA: r[2], CuDNN: r[3]}, true
		}
	}
	return Build{}, false
}

// TorchWheel is one build of a PyTorch version.
type TorchWheel struct {
	Version, CUDA, Tag string // 2.9.1, 12.8, cu128
	Default            bool   // what PyPI gives
	SM                 string // compute capabilities, as the table has them
	Driver             string // the oldest driver
}

// TorchWheels are the builds of a version such as 2.9.1, or of the newest for
// an empty one.
func TorchWheels(version string) (wheels []TorchWheel) {
	table, err := rows("frameworks.torch.csv", torchTable)
	if err != nil || len(table) == 0 {
		return nil
	}
	if version == "" {
		version = table[len(table)-1][0]
	}
	for _, r := range table {
		if len(r) == 7 && r[0] == version {
			wheels = append(wheels, TorchWheel{Version: r[0], CUDA: r[1], Tag: r[2], Default: r[3] == "yes", SM: r[4], Driver: r[5]})
		}
	}
	return wheels
}

// minor is the first two numbers of a version.
func minor(version string) string {
	parts := strings.SplitN(version, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}
