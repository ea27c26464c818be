// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// container is what a check asks for.
type container struct {
	image    string
	gpus     string   // NVIDIA_VISIBLE_DEVICES; "" asks for nothing
	env      []string // more of the environment
	args     []string
	readonly bool
	limit    time.Duration       // default shortTime
	change   func([]byte) []byte // of config.json, before the start
}

// imageEnv is the environment of images that have one worth testing, as
// nvidia/cuda:*-base has.
var imageEnv = map[string][]string{
	"cuda-base": {"PATH=/usr/local/nvidia/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64", "NVARCH=x86_64",
		"NVIDIA_REQUIRE_CUDA=cuda>=12.4 brand=unknown,driver>=470,driver<471 brand=tesla,driver>=535,driver<536",
		"CUDA_VERSION=12.4.1", "NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility", "NVIDIA_PRODUCT_NAME=CUDA"},
	"host": {"PATH=/opt/torch/.venv/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp"},
}

var imageEntrypoint = map[string][]string{"cuda-base": {"/opt/nvidia/nvidia_entrypoint.sh"}}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

type object = map[string]any

// capabilities are those that docker gives; MKNOD is among them, which makes
// isolation a matter of the device cgroup.
var capabilities = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}

// spec is config.json as docker would write it, less seccomp.
func (c *column) spec(k container, m *mounted, id string) object {
	env := append([]string{}, imageEnv[k.image]...)
	if len(env) == 0 {
		env = []string{defaultPath}
	}
	if k.gpus != "" {
		env = append(env, "NVIDIA_VISIBLE_DEVICES="+k.gpus)
	}
	env = append(env, k.env...)
	mount := func(dest, kind, source string, opts ...string) object {
		return object{"destination": dest, "type": kind, "source": source, "options": opts}
	}
	linux := object{
		"resources":  object{"devices": []object{{"allow": false, "access": "rwm"}}},
		"namespaces": []object{{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}},
		"maskedPaths": []string{"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
			"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"},
		"readonlyPaths": []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
	}
	if c.cgroups {
		linux["cgroupsPath"] = "/" + id
	}
	s := object{
		"ociVersion": "1.0.2",
		"process": object{
			"terminal": false, "user": object{"uid": 0, "gid": 0}, "cwd": "/", "env": env,
			"args":         append(append([]string{}, imageEntrypoint[k.image]...), k.args...),
			"capabilities": object{"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
		},
		"root":     object{"path": m.root, "readonly": k.readonly},
		"hostname": "gpu",
		"mounts": []object{
			mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
			mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
			mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
			mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev"),
			mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
			mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=1048576k"),
			mount("/davit", "bind", c.path("programs/tools"), "rbind", "rprivate", "ro", "nosuid", "nodev"),
		},
		"linux": linux,
	}
	if k.image == "host" || k.readonly {
		s["mounts"] = append(s["mounts"].([]object), mount("/tmp", "tmpfs", "tmpfs", "nosuid", "nodev", "mode=1777"))
	}
	if c.way == "hook" {
		s["hooks"] = object{"prestart": []object{{"path": c.path("bin/nvidia-container-runtime-hook"),
			"args": []string{"nvidia-container-runtime-hook", "prestart"}, "env": c.hookEnv()}}}
		// crun writes a hook's words nowhere unless it is told to.
		s["annotations"] = object{"run.oci.hooks.stderr": filepath.Join(m.dir, "hook.log")}
	}
	return s
}

func (c *column) hookEnv() []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "NVIDIA_CTK_CONFIG_FILE_PATH=" + c.config}
}

// program is what stands in the place of the runtime in this column.
func (c *column) program() string {
	if c.way == "shim" {
		return c.path("bin/nvidia-container-runtime")
	}
	return c.runtime
}

// start runs one container to its end.
func (c *column) start(k container) result {
	if c.docker {
		return c.lab.docker.start(c, k)
	}
	b, err := c.bundle(k)
	if err != nil {
		return result{code: -1, err: err.Error()}
	}
	defer b.m.close()
	limit := k.limit
	if limit == 0 {
		limit = shortTime
	}
	from := size(c.debug)
	r := c.command(limit, c.shimEnv(), c.program(), "--root", c.root, "run", "--bundle", b.m.dir, b.id)
	if r.code == -1 {
		c.cleanup(c.runtime, "--root", c.root, "delete", "--force", b.id)
	}
	if text, err := os.ReadFile(filepath.Join(b.m.dir, "hook.log")); err == nil && !strings.Contains(r.err, string(text)) {
		r.err += string(text)
	}
	r.spec, _ = os.ReadFile(filepath.Join(b.m.dir, "config.json"))
	r.trace = tail(c.debug, from)
	return r
}

func (c *column) shimEnv() []string { return []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + c.config} }

// bundle is a container that can be created.
type bundle struct {
	m    *mounted
	id   string
	text []byte // of config.json
}

func (c *column) bundle(k container) (*bundle, error) {
	m, err := c.mountRoot(k.image)
	if err != nil {
		return nil, err
	}
	b := &bundle{m: m, id: fmt.Sprintf("davit-gpu-%d-%d", os.Getpid(), c.serial)}
	b.text, err = json.Marshal(c.spec(k, m, b.id))
	if k.change != nil {
		b.text = k.change(b.text)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(m.dir, "config.json"), b.text, 0o644)
	}
	if err != nil {
		m.close()
		return nil, err
	}
	return b, nil
}

func size(file string) int64 {
	if info, err := os.Stat(file); err == nil {
		return info.Size()
	}
	return 0
}

// tail is what was added to a file.
func tail(file string, from int64) string {
	text, err := os.ReadFile(file)
	if err != nil || int64(len(text)) < from {
		return ""
	}
	return string(text[from:])
}

// names lists a folder's entries, sorted.
func names(dir string) []string {
	list, _ := os.ReadDir(dir)
	set := map[string]bool{}
	for _, e := range list {
		set[e.Name()] = true
	}
	return slices.Sorted(maps.Keys(set))
}
