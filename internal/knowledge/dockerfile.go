// SPDX-License-Identifier: Apache-2.0

package knowledge

import (
	_ "embed"
	"fmt"
	"regexp"
)

//go:embed dockerfile.packages.csv
var packageTable string

// DriverPackage is a package, or a family of them, that brings parts of the
// driver into an image.
type DriverPackage struct {
	Kind    string // driver, meta, pulls, recommends; see the table's head
	Pulls   string // what it brings
	Instead string // what to install instead, or empty
	Source  string
	pattern *regexp.Regexp
	name    string
}

// DriverPackages are all of them; a name may fit several, the first counts.
type DriverPackages struct {
	names    map[string]*DriverPackage
	patterns []*DriverPackage
}

// ReadDriverPackages reads the embedded table.
func ReadDriverPackages() (*DriverPackages, error) {
	table, err := rows("dockerfile.packages.csv", packageTable)
	if err != nil {
		return nil, err
	}
	all := &DriverPackages{names: map[string]*DriverPackage{}}
	for _, r := range table {
		if len(r) != 5 {
			return nil, fmt.Errorf("table dockerfile.packages.csv: %v has %d columns", r, len(r))
		}
		p := &DriverPackage{Kind: r[1], Pulls: r[2], Instead: r[3], Source: r[4], name: r[0]}
		if regexp.QuoteMeta(r[0]) == r[0] {
			all.names[r[0]] = p
			continue
		}
		if p.pattern, err = regexp.Compile("^(?:" + r[0] + ")$"); err != nil {
			return nil, fmt.Errorf("table dockerfile.packages.csv: %w", err)
		}
		all.patterns = append(all.patterns, p)
	}
	return all, nil
}

// Find gives what is known of a package's name; * in it stands for what is not
// known.
func (d *DriverPackages) Find(name string) *DriverPackage {
	if p := d.names[name]; p != nil {
		return p
	}
	for _, p := range d.patterns {
		if p.pattern.MatchString(name) {
			return p
		}
	}
	return nil
}
