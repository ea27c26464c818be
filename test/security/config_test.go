// SPDX-License-Identifier: Apache-2.0

package security

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

// What should come of a configuration.
const (
	right   = "right"   // the container runs and has its GPU
	refused = "refused" // one line of davit
	all     = "all"     // it has both GPUs
	either  = "right or refused"
	runcs   = "right, or refused by anybody" // runc may find fault with it
)

// setEnv adds to the process's environment; the last of one name counts.
func setEnv(entries ...string) func(*container) {
	return func(c *container) { c.env = append(c.env, entries...) }
}

// annotate adds an annotation.
func annotate(key, value string) func(*container) {
	return func(c *container) {
		c.env = c.env[:1]
		was := c.change
		c.change = func(spec map[string]any) {
			if was != nil {
				was(spec)
			}
			spec["annotations"] = map[string]any{key: value}
		}
	}
}

// ask sets the target of a volume mount that stands for a device.
func ask(target string) func(*container) {
	return func(c *container) {
		c.configure("accept-nvidia-visible-devices-as-volume-mounts = true")
		c.env = c.env[:1]
		c.change = func(spec map[string]any) {
			spec["mounts"] = append(spec["mounts"].([]any), map[string]any{
				"destination": target, "source": "/dev/null", "type": "bind", "options": []string{"bind"}})
		}
	}
}

// replace changes the text of config.json.
func replace(old, text string) func(*container) {
	return func(c *container) {
		c.changeText = func(config []byte) []byte { return bytes.Replace(config, []byte(old), []byte(text), 1) }
	}
}

const volumes = "/var/run/nvidia-container-devices/"

// configs are containers as hostile as an engine lets them be, and some that no
// engine makes.
var configs = []struct {
	name string
	set  func(*container)
	want string
}{
	{"newline in the device", setEnv("NVIDIA_VISIBLE_DEVICES=0\n1"), refused},
	{"escape in the device", setEnv("NVIDIA_VISIBLE_DEVICES=\x1b[31m\x1b]0;title\x07"), refused},
	{"C1 control in the device", setEnv("NVIDIA_VISIBLE_DEVICES=\u009b31m"), refused},
	{"right-to-left override", setEnv("NVIDIA_VISIBLE_DEVICES=GPU-\u202e0"), refused},
	{"64 KiB of letters", setEnv("NVIDIA_VISIBLE_DEVICES=" + strings.Repeat("A", 64<<10)), refused},
	{"64 KiB of GPU 0", setEnv("NVIDIA_VISIBLE_DEVICES=" + strings.Repeat("0,", 32<<10)), right},
	{"64 KiB of commas", setEnv("NVIDIA_VISIBLE_DEVICES=0" + strings.Repeat(",", 64<<10)), right},
	{"a number too large", setEnv("NVIDIA_VISIBLE_DEVICES=99999999999999999999"), refused},
	{"a negative number", setEnv("NVIDIA_VISIBLE_DEVICES=-1"), refused},
	{"dots", setEnv("NVIDIA_VISIBLE_DEVICES=../../x"), refused},
	{"dots behind a UUID", setEnv("NVIDIA_VISIBLE_DEVICES=GPU-/../../../etc/passwd"), refused},
	{"a path", setEnv("NVIDIA_VISIBLE_DEVICES=/dev/sda"), refused},
	{"a shell", setEnv("NVIDIA_VISIBLE_DEVICES=0;reboot"), refused},
	{"a format", setEnv("NVIDIA_VISIBLE_DEVICES=%s%n%x"), refused},
	{"escape in the capabilities", setEnv("NVIDIA_DRIVER_CAPABILITIES=\x1b[2Jcompute\n"), refused},
	{"escape in a requirement", setEnv("NVIDIA_REQUIRE_CUDA=cuda>=99.0 \x1b[2J\nbrand=x"), refused},
	{"escape in a requirement's name", setEnv("NVIDIA_REQUIRE_\x1b[2J=cuda>=99.0"), refused},
	{"64 KiB of requirement", setEnv("NVIDIA_REQUIRE_CUDA=" + strings.Repeat("cuda>=1.0 ", 6400)), either},
	{"deep requirement", setEnv("NVIDIA_REQUIRE_CUDA=" + strings.Repeat("cuda>=1.0,", 6400)), either},
	{"escape in the CUDA version", func(c *container) { c.env = append(c.env[:1], "CUDA_VERSION=9\x1b[2J.0\n") }, all},
	{"IMEX channel with dots", setEnv("NVIDIA_IMEX_CHANNELS=../../0"), refused},
	{"IMEX channel with escape", setEnv("NVIDIA_IMEX_CHANNELS=\x1b[2J"), refused},
	{"no equals sign", setEnv("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "=", "=x"), runcs},
	{"5,000 variables", func(c *container) {
		for i := range 5_000 {
			c.env = append(c.env, fmt.Sprintf("V%d=", i))
		}
	}, right},
	{"5,000 requests", func(c *container) {
		for range 5_000 {
			c.env = append(c.env, "NVIDIA_VISIBLE_DEVICES=0")
		}
	}, right},
	{"volume mount", ask(volumes + "0"), right},
	{"volume mount with dots", ask(volumes + "../../../etc"), refused},
	{"volume mount with dots and CDI", ask(volumes + "cdi/nvidia.com/gpu/../../x"), refused},
	{"volume mount with escape", ask(volumes + "\x1b[2J"), refused},
	{"annotation with escape", annotate("cdi.k8s.io/\x1b[2J\n", "nvidia.com/gpu=\x1b]0;x\x07"), refused},
	{"annotation with dots", annotate("cdi.k8s.io/x", "nvidia.com/gpu=../../x"), refused},
	{"annotation with a class of dots", annotate("cdi.k8s.io/x", "nvidia.com/../gpu=0"), refused},
	{"annotation of 1 MiB", annotate("cdi.k8s.io/x", "nvidia.com/gpu="+strings.Repeat("0", 1<<20)), refused},
	{"nesting of 100,000", replace(`"hostname"`, `"annotations":{"x":`+strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)+`},"hostname"`), refused},
	{"nesting of 400", replace(`"hostname"`, `"x":`+strings.Repeat("[", 400)+strings.Repeat("]", 400)+`,"hostname"`), right},
	{"repeated keys", replace(`{"hostname"`, `{"process":{"env":["NVIDIA_VISIBLE_DEVICES=1"]},"root":{"path":"/"},"hostname"`), right},
	{"repeated mounts", replace(`"hostname"`, `"mounts":[],"hostname"`), right},
	{"no UTF-8", replace(`"PATH=/busybox"`, "\"PATH=/busybox\",\"X=\xff\xfe\x80\""), right},
	{"no UTF-8 in the device", replace(`NVIDIA_VISIBLE_DEVICES=0`, "NVIDIA_VISIBLE_DEVICES=\xff\x1b[2J"), refused},
	{"escaped name", replace(`NVIDIA_VISIBLE_DEVICES=0`, `NVIDIA\u005fVISIBLE_DEVICES=0`), runcs},
	{"NUL in the device", replace(`NVIDIA_VISIBLE_DEVICES=0`, `NVIDIA_VISIBLE_DEVICES=0\u0000`), refused},
	{"cut short", func(c *container) {
		c.changeText = func(config []byte) []byte { return config[:len(config)-40] }
	}, runcs},
	{"root by dots", func(c *container) {
		c.change = func(spec map[string]any) { spec["root"].(map[string]any)["path"] = c.root + "/../../bundle/rootfs" }
	}, right},
	{"root a number", func(c *container) {
		c.change = func(spec map[string]any) { spec["root"].(map[string]any)["path"] = 7 }
	}, runcs},
	{"root missing", func(c *container) {
		c.change = func(spec map[string]any) { spec["root"].(map[string]any)["path"] = "nothing\x1b[2J" }
	}, runcs},
	{"no root", func(c *container) { c.change = func(spec map[string]any) { delete(spec, "root") } }, runcs},
	{"mounts that are no list", func(c *container) {
		c.change = func(spec map[string]any) { spec["mounts"] = map[string]any{"a": 1} }
	}, runcs},
	{"linux that is a string", func(c *container) { c.change = func(spec map[string]any) { spec["linux"] = "x" } }, runcs},
	{"env that is a number", func(c *container) {
		c.change = func(spec map[string]any) { spec["process"].(map[string]any)["env"] = []any{1} }
	}, runcs},
}

// TestConfigs starts each, both ways.
func TestConfigs(t *testing.T) {
	bothWays(t, func(t *testing.T, way string) {
		for _, test := range configs {
			t.Run(test.name, func(t *testing.T) {
				c := newContainer(t, way)
				k := newCanary(t, c.dir)
				c.script = strings.Split(lookAround, "find")[0] + ":"
				test.set(c)
				s := c.start()
				if strings.Contains(s.errs, "davit: ") {
					noControl(t, s)
				}
				switch {
				case test.want == all:
					if !strings.Contains(s.out, "GPU0\nGPU1\n") || s.err != nil {
						t.Errorf("the container should have both GPUs: %s", s)
					}
				case test.want == right, s.err == nil && (test.want == either || test.want == runcs) && strings.Contains(s.out, "GPU0"):
					checkRight(t, s)
				case test.want != right && way == hookWay && s.err != nil && !strings.Contains(s.errs+s.out, "davit: ") && !strings.Contains(s.out, "UP"):
					// runc found fault with it before it called the hook.
				case test.want == refused, s.err != nil && test.want == either, s.err != nil && strings.Contains(s.errs, "davit: "):
					t.Log(checkRefused(t, way, s))
				case s.err != nil && test.want == runcs:
					if way == shimWay && strings.Contains(read(t, c.bundle+"/config.json"), "libcuda") {
						t.Logf("runc refuses what the shim made: %s", s)
					}
				case strings.Contains(s.out, "UP") && strings.Contains(s.out, "GPU"):
					t.Errorf("a GPU was given: %s", s)
				}
				k.check()
			})
		}
	})
}

// noControl fails if a terminal would obey the output.
func noControl(t *testing.T, s started) {
	t.Helper()
	if i := strings.IndexFunc(s.errs+s.log, func(r rune) bool { return r != '\n' && r != '\t' && (r < ' ' || r >= 0x7f && r < 0xa0) }); i >= 0 {
		t.Errorf("control characters in the messages: %q", s.errs+s.log)
	}
}

// TestManyVariables has 100,000 of them, which davit must read in no time; runc
// itself takes half a minute for that, so that it stands back here.
func TestManyVariables(t *testing.T) {
	needBox(t)
	c := newContainer(t, shimWay)
	for i := range 100_000 {
		c.env = append(c.env, fmt.Sprintf("V%d=%d", i, i), "NVIDIA_VISIBLE_DEVICES=0")
	}
	c.runtime = "/bin/true"
	c.configure("")
	begin := time.Now()
	if s := c.start(); s.err != nil {
		t.Fatal(s)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("the shim took %v", took)
	}
	if text := read(t, c.bundle+"/config.json"); !strings.Contains(text, "libcuda.so") {
		t.Error("config.json was not edited")
	}
}
