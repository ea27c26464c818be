// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"davit/internal/finding"
)

// SARIF gives findings in the form 2.1.0 of that standard, for encoding/json.
func SARIF(version string, list []finding.Finding) any {
	type text struct {
		Text string `json:"text"`
	}
	type rule struct {
		ID      string `json:"id"`
		Short   text   `json:"shortDescription"`
		Full    text   `json:"fullDescription"`
		Help    text   `json:"help"`
		Default struct {
			Level string `json:"level"`
		} `json:"defaultConfiguration"`
		Properties struct {
			Tags []string `json:"tags"`
		} `json:"properties"`
	}
	type location struct {
		Physical struct {
			Artifact struct {
				URI string `json:"uri"`
			} `json:"artifactLocation"`
			Region struct {
				Line int `json:"startLine"`
			} `json:"region"`
		} `json:"physicalLocation"`
	}
	type result struct {
		Rule      string     `json:"ruleId"`
		Index     int        `json:"ruleIndex"`
		Level     string     `json:"level"`
		Message   text       `json:"message"`
		Locations []location `json:"locations"`
	}
	level := map[finding.Severity]string{finding.Error: "error", finding.Warning: "warning", finding.Info: "note", finding.OK: "none"}
	rules, results := []rule{}, []result{}
	all := Rules()
	for _, f := range list {
		i := slices.IndexFunc(rules, func(r rule) bool { return r.ID == f.ID })
		if i < 0 {
			i = len(rules)
			r := rule{ID: f.ID}
			if n := slices.IndexFunc(all, func(x Rule) bool { return x.ID == f.ID }); n >= 0 {
				x := all[n]
				r.Short, r.Full, r.Help = text{x.Title}, text{x.Why}, text{x.Right}
				r.Default.Level, r.Properties.Tags = level[x.Severity], []string{"gpu", x.Group}
			}
			rules = append(rules, r)
		}
		x := result{Rule: f.ID, Index: i, Level: level[f.Severity], Message: text{f.Summary}}
		if f.Remediation != nil {
			x.Message.Text += ". Fix: " + f.Remediation.Text
		}
		var where location
		where.Physical.Artifact.URI, where.Physical.Region.Line = filepath.ToSlash(f.File), max(1, f.Line)
		x.Locations = []location{where}
		results = append(results, x)
	}
	return map[string]any{
		"$schema": "https://json.schemastore.org/sarif-2.1.0.json",
		"version": "2.1.0",
		"runs": []any{map[string]any{
			"tool":    map[string]any{"driver": map[string]any{"name": "davit", "version": version, "rules": rules}},
			"results": results,
		}},
	}
}

// GitHub gives a finding as a workflow command, which GitHub shows beside the
// line.
func GitHub(f finding.Finding) string {
	level := map[finding.Severity]string{finding.Error: "error", finding.Warning: "warning", finding.Info: "notice", finding.OK: "notice"}[f.Severity]
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	message := f.Summary
	if f.Remediation != nil {
		message += ". Fix: " + f.Remediation.Text
	}
	return fmt.Sprintf("::%s file=%s,line=%d,title=%s::%s", level, property.Replace(filepath.ToSlash(f.File)), max(1, f.Line), property.Replace(f.ID), data.Replace(message))
}
