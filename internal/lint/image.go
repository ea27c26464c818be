// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"davit/internal/knowledge"
)

// base is what is known of an image by its name.
type base struct {
	ref, repo, tag string
	cuda           bool          // nvidia/cuda
	known          knowledge.Tag // of nvidia/cuda
	system         string        // ubuntu22.04, debian12, or empty
	musl           bool
	brings         bool // CUDA libraries are in it
	gpu            bool // somebody who takes it wants a GPU
}

var muslTag = regexp.MustCompile(`(^|-)(alpine|musl|busybox)([0-9.]|-|$)`)
var gpuTag = regexp.MustCompile(`(^|[-_.])(gpu|cuda[0-9.]*|cu[0-9]{2,3}|cudnn[0-9]*|devel-gpu)([-_.]|$)`)
var digits = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*`)

// codenames of Debian and Ubuntu.
var codenames = map[string]string{"trusty": "ubuntu14.04", "xenial": "ubuntu16.04", "bionic": "ubuntu18.04", "focal": "ubuntu20.04", "jammy": "ubuntu22.04", "noble": "ubuntu24.04",
	"jessie": "debian8", "stretch": "debian9", "buster": "debian10", "bullseye": "debian11", "bookworm": "debian12", "trixie": "debian13"}

func imageOf(ref string) base {
	b := base{ref: ref}
	name, _, _ := strings.Cut(ref, "@")
	b.repo = name
	if at := strings.LastIndex(name, ":"); at > strings.LastIndex(name, "/") {
		b.repo, b.tag = name[:at], name[at+1:]
	}
	for _, p := range []string{"docker.io/", "index.docker.io/", "registry.hub.docker.com/", "mirror.gcr.io/"} {
		b.repo = strings.TrimPrefix(b.repo, p)
	}
	b.repo = strings.TrimPrefix(b.repo, "library/")
	last := b.repo[strings.LastIndex(b.repo, "/")+1:]
	switch {
	case b.repo == "nvidia/cuda" || b.repo == "nvcr.io/nvidia/cuda":
		b.cuda, b.gpu, b.brings = true, true, true
		b.known, _ = knowledge.ImageTag(b.tag)
		b.system = b.known.Distro
	case strings.HasPrefix(b.repo, "nvcr.io/"), strings.HasPrefix(b.repo, "nvidia/"):
		b.gpu, b.brings = true, true
	case last == "alpine" || last == "busybox" || ref == "scratch" || strings.Contains(b.repo, "distroless/static") || strings.Contains(b.repo, "chainguard/static"):
		b.musl = true
	}
	if !b.gpu && gpuTag.MatchString(b.tag) {
		b.gpu, b.brings = true, true
	}
	if !b.cuda && muslTag.MatchString(b.tag) {
		b.musl = true
	}
	if b.system == "" {
		b.system = systemOf(last, b.tag)
	}
	return b
}

// systemOf tells a distribution and its version from an image's name.
func systemOf(name, tag string) string {
	if v := digits.FindString(tag); v != "" {
		switch name {
		case "ubuntu":
			if strings.Count(v, ".") > 0 {
				return "ubuntu" + strings.Join(strings.SplitN(v, ".", 3)[:2], ".")
			}
		case "debian", "centos", "ubi7", "ubi8", "ubi9", "rockylinux", "almalinux", "fedora":
			major, _, _ := strings.Cut(v, ".")
			return name + major
		}
	}
	for _, part := range strings.FieldsFunc(tag, func(r rune) bool { return r == '-' || r == '_' || r == '.' }) {
		if s, ok := codenames[part]; ok {
			return s
		}
	}
	if i := strings.Index(tag, "ubuntu"); i >= 0 {
		if v := digits.FindString(tag[i+len("ubuntu"):]); v != "" {
			if len(v) == 4 && !strings.Contains(v, ".") {
				v = v[:2] + "." + v[2:]
			}
			return "ubuntu" + v
		}
	}
	return ""
}

// root is the image at the bottom of a stage.
func (s *stage) root() base {
	for s.parent != nil {
		s = s.parent
	}
	return imageOf(s.base)
}

// bottom is the stage whose FROM names the image.
func (s *stage) bottom() *stage {
	for s.parent != nil {
		s = s.parent
	}
	return s
}

// lineage is the stage and those it is made from, first first.
func (s *stage) lineage() (list []*stage) {
	for ; s != nil; s = s.parent {
		list = append(list, s)
	}
	slices.Reverse(list)
	return list
}

// shipped are the stages that become images: the last, those nobody uses, and
// those that are copied whole; each with its lineage.
func (d *dockerfile) shipped() (leaves []*stage, all map[*stage]bool) {
	used := map[*stage]bool{}
	for _, s := range d.stages {
		if s.parent != nil {
			used[s.parent] = true
		}
		for _, u := range s.uses {
			used[u] = true
		}
	}
	all = map[*stage]bool{}
	for i, s := range d.stages {
		if used[s] && i < len(d.stages)-1 {
			continue
		}
		leaves = append(leaves, s)
		for _, x := range s.lineage() {
			all[x] = true
			for _, w := range x.whole {
				for _, y := range w.lineage() {
					all[y] = true
				}
			}
		}
	}
	return leaves, all
}

// replacement says which living tags do what a tag did: the nearest and the
// newest of CUDA 12, best for old and for new drivers.
func replacement(t knowledge.Tag) (tag string, text string) {
	flavour := t.Flavour
	if flavour == "" {
		flavour = "base"
	}
	living := knowledge.LivingTags(flavour, t.CuDNN)
	if len(living) == 0 {
		return "", "a living tag of nvidia/cuda"
	}
	best := func(ok func(knowledge.Tag) bool) string {
		for _, c := range living {
			if ok(c) {
				return c.Name
			}
		}
		return ""
	}
	family := strings.TrimRight(t.Distro, "0123456789.")
	if family == "" {
		family = "ubuntu"
	}
	system := func(c knowledge.Tag, exact bool) bool {
		if exact {
			return c.Distro == t.Distro
		}
		if family == "centos" {
			return strings.HasPrefix(c.Distro, "rockylinux")
		}
		return strings.HasPrefix(c.Distro, family)
	}
	minor := minorOf(t.CUDA)
	major, _, _ := strings.Cut(t.CUDA, ".")
	for _, try := range []func(knowledge.Tag) bool{
		func(c knowledge.Tag) bool { return minorOf(c.CUDA) == minor && system(c, true) },
		func(c knowledge.Tag) bool { return minorOf(c.CUDA) == minor && system(c, false) },
		func(c knowledge.Tag) bool { return strings.HasPrefix(c.CUDA, major+".") && system(c, true) },
		func(c knowledge.Tag) bool { return strings.HasPrefix(c.CUDA, major+".") && system(c, false) },
	} {
		if tag = best(try); tag != "" && major != "" {
			return tag, fmt.Sprintf("nvidia/cuda:%s has the nearest CUDA", tag)
		}
	}
	old := best(func(c knowledge.Tag) bool {
		return strings.HasPrefix(c.CUDA, "11.8") && strings.HasPrefix(c.Distro, "ubuntu")
	})
	tag = best(func(c knowledge.Tag) bool { return strings.HasPrefix(c.CUDA, "12.9") && c.Distro == "ubuntu24.04" })
	if strings.HasPrefix(t.CUDA, "1") && old != "" {
		return tag, fmt.Sprintf("nvidia/cuda:%s (host driver 525 or newer), or for older hosts nvidia/cuda:%s (450 or newer)", tag, old)
	}
	return tag, fmt.Sprintf("nvidia/cuda:%s (host driver 525 or newer)", tag)
}

func minorOf(cuda string) string {
	parts := strings.SplitN(cuda, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}
