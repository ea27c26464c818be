// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	oci "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	upstream "tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/specs-go"

	"davit/internal/simulate"
)

type object = map[string]any

// bundle is a container that can be created.
type bundle struct {
	dir, id string
	text    []byte // of config.json
}

// standIn stands for what differs between bundles of the same variant.
const (
	dirStandIn = "/BUNDLE-DIR"
	idStandIn  = "CONTAINER-ID"
)

// spec is config.json as docker would write it, less seccomp.
func (b *box) spec(rt lowRuntime, v variant) object {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=bench", "HOME=/root"}
	switch {
	case v.gpus == 1:
		env = append(env, "NVIDIA_VISIBLE_DEVICES=0")
	case v.gpus > 1:
		env = append(env, "NVIDIA_VISIBLE_DEVICES=all")
	}
	if v.caps != "" {
		env = append(env, "NVIDIA_DRIVER_CAPABILITIES="+v.caps)
	}
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
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
	if rt.cgroups {
		linux["cgroupsPath"] = "/" + idStandIn
	}
	return object{
		"ociVersion": "1.0.2",
		"process": object{"terminal": false, "user": object{"uid": 0, "gid": 0}, "cwd": "/", "env": env, "args": []string{"/usr/bin/end"},
			"capabilities": object{"bounding": caps, "effective": caps, "permitted": caps}},
		"root":     object{"path": dirStandIn + "/rootfs", "readonly": v.readonly},
		"hostname": "bench",
		"mounts": []object{
			mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
			mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
			mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
			mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev"),
			mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
			mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
		},
		"linux": linux,
	}
}

// text is a variant's config.json, with stand-ins.
func (b *box) text(rt lowRuntime, v variant) ([]byte, error) {
	text, err := json.Marshal(b.spec(rt, v))
	if err != nil {
		return nil, err
	}
	switch {
	case v.way == "cdi" || v.way == "edits":
		return b.cdiEdited(text, v)
	case v.floor && v.way == "shim":
		return b.shimEdited(text, v)
	case v.floor: // of the hook way
		if text, err = b.shimEdited(text, v); err != nil {
			return nil, err
		}
		return withHook(text, b.path("bin/floor-hook"), []string{"PATH=/bin"})
	case v.way == "hook":
		conf, err := b.config(rt.path, v)
		if err != nil {
			return nil, err
		}
		return withHook(text, b.path("bin/nvidia-container-runtime-hook"), []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "NVIDIA_CTK_CONFIG_FILE_PATH=" + conf})
	}
	return text, nil
}

// withHook gives a config.json that has this prestart hook and no other.
func withHook(text []byte, program string, env []string) ([]byte, error) {
	var s object
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, err
	}
	s["hooks"] = object{"prestart": []object{{"path": program, "args": []string{filepath.Base(program), "prestart"}, "env": env}}}
	return json.Marshal(s)
}

func (b *box) host(v variant) simulate.Host {
	if v.gpus > 8 {
		return b.hosts[16]
	}
	return b.hosts[8]
}

// config makes the config.toml for a low-level runtime and a variant's host,
// and gives its path.
func (b *box) config(low string, v variant) (string, error) {
	h := b.host(v)
	file := b.path("conf", filepath.Base(low)+"-"+filepath.Base(h.Dir)+".toml")
	text := fmt.Sprintf("state-dir = %q\nhost-root = %q\n[nvidia-container-runtime]\nruntimes = [%q]\n", b.path("state/davit"), h.Dir, low)
	return file, os.WriteFile(file, []byte(text), 0o644)
}

// shimEdited lets davit's shim edit a config.json, as the start of a container
// would, with a program that ends at once as the low-level runtime.
func (b *box) shimEdited(text []byte, v variant) ([]byte, error) {
	d, err := b.place(text, v)
	if err != nil {
		return nil, err
	}
	defer d.close()
	conf, err := b.config(b.path("bin/end"), v)
	if err != nil {
		return nil, err
	}
	cmd := b.command(b.path("bin/nvidia-container-runtime"), "create", "--bundle", d.dir, d.id)
	cmd.Env = append(cmd.Env, "NVIDIA_CTK_CONFIG_FILE_PATH="+conf)
	said, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("let the shim edit config.json: %w: %s", err, said)
	}
	out, err := os.ReadFile(filepath.Join(d.dir, "config.json"))
	if err != nil {
		return nil, err
	}
	if bytes.Equal(out, d.text) {
		return nil, fmt.Errorf("the shim did not edit config.json: %s", said)
	}
	out = bytes.ReplaceAll(out, []byte(d.dir), []byte(dirStandIn))
	return bytes.ReplaceAll(out, []byte(d.id), []byte(idStandIn)), nil
}

// cdiEdited edits a config.json as engines do, by CDI's own library and the
// spec that davit writes for the host.
func (b *box) cdiEdited(text []byte, v variant) ([]byte, error) {
	var spec oci.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, err
	}
	args := []string{"cdi", "generate", "--root", b.host(v).Dir, "--format", "json", "--hook-path", b.path("bin/davit-runtime"), "--capabilities"}
	if v.caps == "" {
		args = append(args, "compute,utility") // what the shim gives by default
	} else {
		args = append(args, v.caps)
	}
	if v.way == "edits" || v.floor {
		args = append(args, "--no-hooks")
	}
	cmd := b.command(b.path("bin/davit"), args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("davit cdi generate: %w", err)
	}
	var made specs.Spec
	if err := json.Unmarshal(out, &made); err != nil {
		return nil, err
	}
	name := "all"
	if v.gpus == 1 {
		name = "0"
	}
	found := false
	for _, d := range made.Devices {
		if d.Name == name {
			found = true
			if err := (&upstream.ContainerEdits{ContainerEdits: &d.ContainerEdits}).Apply(&spec); err != nil {
				return nil, err
			}
		}
	}
	if !found {
		return nil, fmt.Errorf("no device %q in the CDI spec", name)
	}
	if err := (&upstream.ContainerEdits{ContainerEdits: &made.ContainerEdits}).Apply(&spec); err != nil {
		return nil, err
	}
	if v.floor {
		spec.Hooks = &oci.Hooks{CreateContainer: []oci.Hook{{Path: b.path("bin/floor-hook"), Args: []string{"floor-hook"}, Env: []string{"PATH=/bin"}}}}
	}
	return json.Marshal(spec)
}

// place makes a bundle: a fresh overlay over the image, as engines do, and
// config.json.
func (b *box) place(text []byte, v variant) (*bundle, error) {
	b.serial++
	d := &bundle{id: fmt.Sprintf("davit-bench-%d-%d", os.Getpid(), b.serial)}
	d.dir = b.path("bundles", d.id)
	for _, sub := range []string{"rootfs", "upper", "work"} {
		if err := os.MkdirAll(filepath.Join(d.dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", b.path("images", fmt.Sprint(v.cache)), d.dir, d.dir)
	if err := unix.Mount("overlay", filepath.Join(d.dir, "rootfs"), "overlay", 0, opts); err != nil {
		return nil, fmt.Errorf("mount an overlay: %w", err)
	}
	d.text = bytes.ReplaceAll(bytes.ReplaceAll(text, []byte(dirStandIn), []byte(d.dir)), []byte(idStandIn), []byte(d.id))
	if err := d.write(); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *bundle) write() error {
	return os.WriteFile(filepath.Join(d.dir, "config.json"), d.text, 0o600)
}

// close unmounts and removes.
func (d *bundle) close() {
	if unix.Unmount(filepath.Join(d.dir, "rootfs"), unix.MNT_DETACH) == nil {
		os.RemoveAll(d.dir)
	}
}
