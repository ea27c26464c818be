// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"davit/test/bench/rounds"
)

// times are the medians of one column, in milliseconds.
type times struct {
	plain, floor, davit, cold float64
	problem                   string
}

// timings are the rows that tell what a start costs: `create` of the plain
// runtime without GPU, of the floor, and of davit. The floor is the runtime
// with the edited config.json, through a static program that does nothing: as
// a shim in this place, or as a hook.
func timings() []check {
	known := map[*column]*times{}
	measured := func(c *column) *times {
		if known[c] == nil {
			known[c] = c.measure()
		}
		return known[c]
	}
	row := func(name string, show func(t *times) string) check {
		return check{name: name, noDocker: true, run: func(c *column) outcome {
			if c.rounds == 0 {
				return none
			}
			t := measured(c)
			if t.problem != "" {
				return failed("%s", t.problem)
			}
			return outcome{cell: show(t)}
		}}
	}
	ms := func(v float64) string { return fmt.Sprintf("%.1f ms", v) }
	return []check{
		row("create without GPU, median", func(t *times) string { return ms(t.plain) }),
		row("create at the floor: edits and an empty shim or hook", func(t *times) string { return ms(t.floor) }),
		row("create with davit", func(t *times) string { return ms(t.davit) }),
		row("davit above the floor", func(t *times) string { return fmt.Sprintf("%+.1f ms", t.davit-t.floor) }),
		row("create with davit, nothing kept from earlier starts", func(t *times) string { return ms(t.cold) }),
	}
}

// measure takes the variants in turn, each on a fresh root.
func (c *column) measure() *times {
	t := &times{}
	edited, err := c.editedSpec()
	if err != nil {
		t.problem = err.Error()
		return t
	}
	asking := container{image: "debian", gpus: "all", args: []string{"/bin/true"}}
	variants := []struct {
		k       container
		program string
		env     []string
		change  func(text []byte, m *mounted) ([]byte, error)
		cold    bool
	}{
		{container{image: "debian", args: []string{"/bin/true"}}, c.runtime, nil, func(text []byte, _ *mounted) ([]byte, error) { return withHook(text, "", nil) }, false},
		{asking, c.floorProgram(), []string{"LOWRT=" + c.runtime}, func(_ []byte, m *mounted) ([]byte, error) {
			text := bytes.ReplaceAll(edited, []byte(editedDir), []byte(m.dir))
			if c.way == "hook" {
				return withHook(text, c.path("bin/floor-hook"), []string{"PATH=/bin"})
			}
			return text, nil
		}, false},
		{asking, c.program(), c.shimEnv(), func(text []byte, _ *mounted) ([]byte, error) { return text, nil }, false},
		{asking, c.program(), c.shimEnv(), func(text []byte, _ *mounted) ([]byte, error) { return text, nil }, true},
	}
	// The first two rounds warm caches up.
	took, err := rounds.Interleave(len(variants), 2, c.rounds, func() bool { return c.ctx.Err() == nil }, func(n int) (float64, error) {
		v := variants[n]
		if v.cold {
			if err := os.RemoveAll(c.path("state/davit")); err != nil {
				return 0, err
			}
		}
		ms, err := c.timeCreate(v.k, v.program, v.env, v.change)
		if err != nil {
			err = fmt.Errorf("variant %d: %w", n, err)
		}
		return ms, err
	})
	if err != nil {
		t.problem = err.Error()
		return t
	}
	if len(took[3]) == 0 {
		t.problem = "no time was left"
		return t
	}
	t.plain, t.floor, t.davit, t.cold = rounds.Median(took[0]), rounds.Median(took[1]), rounds.Median(took[2]), rounds.Median(took[3])
	return t
}

func (c *column) floorProgram() string {
	if c.way == "shim" {
		return c.path("bin/floor-shim")
	}
	return c.runtime
}

// editedDir stands for the bundle's path in an edited config.json.
const editedDir = "/EDITED"

// editedSpec lets davit's shim edit a config.json, as the start of a container
// would, and gives it without a hook.
func (c *column) editedSpec() ([]byte, error) {
	b, err := c.bundle(container{image: "debian", gpus: "all", args: []string{"/bin/true"}})
	if err != nil {
		return nil, err
	}
	defer b.m.close()
	config := c.path("state", "edit-only.toml")
	text, err := os.ReadFile(c.config)
	if err != nil {
		return nil, err
	}
	// /bin/true as the low-level runtime: only the edits happen.
	text = bytes.ReplaceAll(text, []byte(fmt.Sprintf("%q", c.runtime)), []byte(`"/bin/true"`))
	if err := os.WriteFile(config, text, 0o644); err != nil {
		return nil, err
	}
	r := c.command(shortTime, []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + config}, c.path("bin/nvidia-container-runtime"), "create", "--bundle", b.m.dir, b.id)
	out, err := os.ReadFile(filepath.Join(b.m.dir, "config.json"))
	if err != nil || r.code != 0 || bytes.Equal(out, b.text) {
		return nil, fmt.Errorf("the shim did not edit config.json: %s %v", r.all(), err)
	}
	return bytes.ReplaceAll(out, []byte(b.m.dir), []byte(editedDir)), nil
}

// withHook gives a config.json that has this prestart hook and no other.
func withHook(text []byte, program string, env []string) ([]byte, error) {
	var s object
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, err
	}
	delete(s, "hooks")
	if program != "" {
		s["hooks"] = object{"prestart": []object{{"path": program, "args": []string{"floor-hook", "prestart"}, "env": env}}}
	}
	return json.Marshal(s)
}

// timeCreate measures one create in milliseconds.
func (c *column) timeCreate(k container, program string, env []string, change func([]byte, *mounted) ([]byte, error)) (float64, error) {
	b, err := c.bundle(k)
	if err != nil {
		return 0, err
	}
	defer b.m.close()
	text, err := change(b.text, b.m)
	if err != nil {
		return 0, err
	}
	// The identifier may be another one's: name the cgroup anew.
	var s object
	if err := json.Unmarshal(text, &s); err != nil {
		return 0, err
	}
	if linux, ok := s["linux"].(object); ok && c.cgroups {
		linux["cgroupsPath"] = "/" + b.id
	}
	if text, err = json.Marshal(s); err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(b.m.dir, "config.json"), text, 0o644); err != nil {
		return 0, err
	}
	defer c.cleanup(c.runtime, "--root", c.root, "delete", "--force", b.id)
	out, err := os.Create(filepath.Join(b.m.dir, "create.log"))
	if err != nil {
		return 0, err
	}
	defer out.Close()
	took, err := c.timed(out, env, program, "--root", c.root, "create", "--bundle", b.m.dir, b.id)
	if err != nil {
		return 0, fmt.Errorf("%w: %s%s", err, tail(out.Name(), 0), tail(filepath.Join(b.m.dir, "hook.log"), 0))
	}
	return float64(took) / float64(time.Millisecond), nil
}
