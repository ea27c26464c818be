// SPDX-License-Identifier: Apache-2.0

package knowledge

import (
	_ "embed"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

//go:embed images.tags.csv
var tagTable string

// Tag is one tag of nvidia/cuda, taken apart.
type Tag struct {
	Name        string
	CUDA        string // 12.4.1, or 12.4 of old tags
	Flavour     string // base, runtime, devel
	CuDNN       bool
	CuDNNMajor  string // what the tag's name or the table says, or empty
	Distro      string // ubuntu22.04, or empty
	State       string // alive, doomed, gone, seen, unknown; empty where the table does not have it
	AbsentSince string // of a tag that is gone, the day from which lists lack it
}

// ImagesAsOf is the date of the table of tags.
func ImagesAsOf() string { return asOf(tagTable) }

var tagForm = regexp.MustCompile(`^(\d+\.\d+(?:\.\d+)?)-(?:(cudnn)(\d*)-|tensorrt-)?(base|runtime|devel)(?:-(cudnn)(\d*))?(?:-([a-z]+[0-9.]*))?(?:-rc)?$`)

// ImageTag takes a tag of nvidia/cuda apart and says what is known of it; not
// ok is a name that is none of its tags' form.
func ImageTag(name string) (Tag, bool) {
	t, ok := tagParts(name)
	if at := strings.Index(tagTable, "\n"+name+","); ok && at >= 0 {
		line, _, _ := strings.Cut(tagTable[at+1:], "\n")
		t.row(strings.Split(line, ","))
	}
	return t, ok
}

func tagParts(name string) (Tag, bool) {
	m := tagForm.FindStringSubmatch(name)
	if m == nil {
		return Tag{Name: name}, false
	}
	return Tag{Name: name, CUDA: m[1], Flavour: m[4], Distro: m[7], CuDNN: m[2]+m[5] != "", CuDNNMajor: m[3] + m[6]}, true
}

func (t *Tag) row(fields []string) {
	if len(fields) < 5 {
		return
	}
	t.State, t.AbsentSince = fields[1], fields[3]
	if t.CuDNNMajor == "" {
		t.CuDNNMajor, _, _ = strings.Cut(fields[2], ".")
	}
}

// NewestCUDA is the newest CUDA version in the lists: what is newer may exist.
const NewestCUDA = "13.1.0"

// LivingTags are the tags of a flavour that are supported, on a system that is
// too, newest first. cudnn asks for those with cuDNN.
func LivingTags(flavour string, cudnn bool) (tags []Tag) {
	for line := range strings.Lines(tagTable) {
		name, rest, _ := strings.Cut(line, ",")
		if !strings.HasPrefix(rest, "alive,") || !strings.Contains(name, "-"+flavour+"-") {
			continue
		}
		t, ok := tagParts(name)
		t.row(strings.Split(strings.TrimSpace(line), ","))
		if ok && t.Flavour == flavour && t.CuDNN == cudnn && strings.Count(t.CUDA, ".") == 2 && EndOfLife(t.Distro) == "" {
			tags = append(tags, t)
		}
	}
	slices.SortStableFunc(tags, func(a, b Tag) int { return CompareVersions(b.CUDA, a.CUDA) })
	return tags
}

// Living systems that nvidia/cuda is published for, best first, and the day
// on which others ended.
var ended = map[string]string{
	"ubuntu14.04": "2019-04", "ubuntu16.04": "2021-04", "ubuntu17.04": "2018-01", "ubuntu18.04": "2023-05", "ubuntu20.04": "2025-05",
	"ubuntu12.04": "2017-04", "ubuntu21.04": "2022-01", "ubuntu21.10": "2022-07", "ubuntu22.10": "2023-07", "ubuntu23.04": "2024-01",
	"ubuntu23.10": "2024-07", "ubuntu24.10": "2025-07", "ubuntu25.04": "2026-01", "ubuntu19.04": "2020-01", "ubuntu19.10": "2020-07", "ubuntu20.10": "2021-07",
	"centos5": "2017-03", "centos6": "2020-11", "centos7": "2024-06", "centos8": "2021-12", "ubi7": "2024-06",
	"debian7": "2018-05", "debian8": "2020-06", "debian9": "2022-06", "debian10": "2024-06", "cm2": "2025-07",
}

// EndOfLife is the month in which a system got its last public updates, or
// empty where it still gets them or is not known. system is a name such as
// ubuntu18.04, debian9, centos7.
func EndOfLife(system string) string { return ended[system] }

// CompareVersions compares dotted numbers; what is no number counts as 0.
func CompareVersions(a, b string) int {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(x), len(y)) {
		var m, n int
		if i < len(x) {
			m, _ = strconv.Atoi(x[i])
		}
		if i < len(y) {
			n, _ = strconv.Atoi(y[i])
		}
		if m != n {
			return m - n
		}
	}
	return 0
}
