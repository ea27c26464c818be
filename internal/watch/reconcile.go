// SPDX-License-Identifier: Apache-2.0

// Package watch keeps true what others read of a host's driver: the CDI spec,
// the links in /dev/char, device nodes, and the remembered facts.
//
// Reconcile makes all of it true once and knows no time; Run calls it when the
// kernel or the file system tells of a change.
package watch

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"davit/internal/cdi"
	"davit/internal/nvidia"
	"davit/internal/plan"
	"davit/internal/rootfs"
)

// Options say what to keep true. Spec, StateDir and CDI.HookPath are paths of
// this machine, also where the host is a folder.
type Options struct {
	// Spec is the CDI spec's file, .yaml or .json; "" for none.
	Spec string
	// CDI is what the spec holds. Layout and HostRoot are set from the host.
	CDI cdi.Options
	// DriverRoot is as in nvidia.Options.
	DriverRoot string
	// StateDir is the folder of the remembered facts, "" for none. Version is
	// davit's: facts that another version wrote are not used.
	StateDir, Version string
	// Nodes makes device nodes that are missing or have another driver's
	// number. Without it nodes are never touched.
	Nodes bool
}

// Kind is what a change was made to.
type Kind string

// The kinds of changes.
const (
	Spec Kind = "spec"
	Link Kind = "link"
	Node Kind = "node"
)

// Change is one thing that was not true and is now.
type Change struct {
	Kind Kind
	Path string // on this machine
	Did  string // one line: what was done, and why
}

func (c Change) String() string { return c.Path + ": " + c.Did }

// Result is what a Reconcile did and saw.
type Result struct {
	Changes []Change
	// Facts are those of the host, nil if they could not be read.
	Facts *nvidia.Facts
	// Refused is why no container could have a GPU now, and there is no spec
	// therefore; "" if there is one, or none is wanted.
	Refused string
}

// Reconcile makes nodes, links, spec and remembered facts true. Where all is
// true already, it writes nothing. An error does not keep it from doing the
// rest; the result then says what was done nevertheless.
func Reconcile(host rootfs.Root, o Options) (Result, error) {
	var r Result
	var all []error
	if o.Nodes {
		changes, err := makeNodes(host)
		r.Changes = append(r.Changes, changes...)
		all = append(all, err)
	}
	changes, err := makeLinks(host)
	r.Changes = append(r.Changes, changes...)
	all = append(all, err)

	if r.Facts, err = readFacts(host, o); err != nil {
		// A spec that cannot be judged stays.
		return r, errors.Join(append(all, err)...)
	}
	if o.Spec != "" {
		change, refused, err := keepSpec(host, r.Facts, o)
		if change != nil {
			r.Changes = append(r.Changes, *change)
		}
		r.Refused = refused
		all = append(all, err)
	}
	return r, errors.Join(all...)
}

func readFacts(host rootfs.Root, o Options) (*nvidia.Facts, error) {
	n := nvidia.Options{DriverRoot: o.DriverRoot}
	if o.StateDir == "" {
		return nvidia.Read(host, n)
	}
	return nvidia.ReadCached(host, n, o.StateDir, o.Version)
}

// aside is added to the name of a spec that another program wrote, when davit
// writes its own in its place. Engines read no such names.
const aside = ".before-davit"

// keepSpec writes the spec, or takes it away where no container could have a
// GPU: a name that an engine does not know fails with a clearer message than a
// spec whose files are gone.
func keepSpec(host rootfs.Root, f *nvidia.Facts, o Options) (change *Change, refused string, err error) {
	text, err := specText(host, f, o)
	var no *plan.Refusal
	if errors.As(err, &no) {
		refused = strings.TrimPrefix(no.Text, "a CDI spec was asked for, but ")
	} else if err != nil {
		return nil, "", err
	}
	old, err := os.ReadFile(o.Spec)
	have := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, refused, fmt.Errorf("read the CDI spec: %w", err)
	}
	if !have && refused != "" || have && refused == "" && bytes.Equal(old, text) {
		return nil, refused, nil
	}
	why := ""
	if have {
		if why, err = o.setAside(host, f, old); err != nil {
			return nil, refused, err
		}
	}
	if refused != "" {
		if err := os.Remove(o.Spec); err != nil {
			return nil, refused, fmt.Errorf("remove the CDI spec: %w", err)
		}
		return &Change{Spec, o.Spec, "removed: " + refused}, refused, nil
	}
	if _, err := cdi.Write(o.Spec, text); err != nil {
		return nil, "", err
	}
	return &Change{Spec, o.Spec, "written for " + summary(f) + why}, "", nil
}

// specText is the whole text of the file.
func specText(host rootfs.Root, f *nvidia.Facts, o Options) ([]byte, error) {
	format := cdi.FormatOf(o.Spec)
	if format == "" {
		return nil, fmt.Errorf("%s: engines read .yaml and .json alone", o.Spec)
	}
	c := o.CDI
	c.HostRoot = host.Dir()
	c.Layout = cdi.HostLayout(host, f.Arch)
	spec, err := cdi.Render(f, c)
	if err != nil {
		return nil, err
	}
	return cdi.Text(spec, format, f)
}

// setAside judges the file that stands where davit's spec belongs, and keeps a
// copy of one that another program wrote. It says what was wrong with davit's
// own. A spec of another kind is somebody else's.
func (o Options) setAside(host rootfs.Root, f *nvidia.Facts, old []byte) (why string, err error) {
	file := cdi.Check(o.Spec, old)
	if kind := file.Spec.Kind; kind != "" && kind != o.kind() {
		return "", fmt.Errorf("%s is a CDI spec of kind %s, not %s: left as it is; choose another file with --spec", o.Spec, kind, o.kind())
	}
	if bytes.HasPrefix(old, []byte("# Written by davit")) || bytes.Contains(old, []byte(`"davit-runtime"`)) {
		for _, x := range file.Against(host, f.Identity()) {
			if x.ID == "cdi-spec-stale" {
				return "; " + o.short(x.Summary), nil
			}
		}
		return "", nil
	}
	copied := o.Spec + aside
	if _, err := os.Lstat(copied); err == nil {
		return "", nil // the oldest is the one to keep
	}
	if err := rootfs.WriteFile(copied, old, 0o644); err != nil {
		return "", fmt.Errorf("keep a copy of %s: %w", o.Spec, err)
	}
	return "; another program's was there, kept as " + filepath.Base(copied), nil
}

// short takes the file's name and long lists out of what a finding says.
func (o Options) short(s string) string {
	s = strings.TrimPrefix(s, o.Spec+": ")
	s = strings.TrimPrefix(s, "the specification is stale: ")
	if start, list, ok := strings.Cut(s, " gone: "); ok && strings.Contains(list, ", ") {
		s = start + " gone"
	}
	return s
}

func (o Options) kind() string {
	vendor, class := o.CDI.Vendor, o.CDI.Class
	if vendor == "" {
		vendor = cdi.DefaultVendor
	}
	if class == "" {
		class = cdi.DefaultClass
	}
	return vendor + "/" + class
}

// summary tells a driver and its devices in a few words.
func summary(f *nvidia.Facts) string {
	gpus, migs := count(f)
	s := fmt.Sprintf("driver %s, %d GPU%s", f.Driver.Version, gpus, plural(gpus))
	if migs > 0 {
		s += fmt.Sprintf(", %d MIG device%s", migs, plural(migs))
	}
	return s
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

func count(f *nvidia.Facts) (gpus, migs int) {
	for _, g := range f.GPUs {
		migs += len(g.MIG)
	}
	return len(f.GPUs), migs
}
