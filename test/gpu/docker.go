// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dockerd is an engine of our own, from a folder, with its data in the work
// folder. It uses no network: no bridge, no iptables.
type dockerd struct {
	l       *lab
	version string
	socket  string
	procs   []*exec.Cmd
	debug   string
}

// addDocker starts docker, if it was brought along, and adds its columns. What
// goes wrong with it leaves its columns out; it stops nothing else.
func (l *lab) addDocker() error {
	if _, err := os.Stat(l.path("docker/bin/dockerd")); err != nil || !l.wanted("docker shim") && !l.wanted("docker hook") {
		return nil
	}
	d := &dockerd{l: l, socket: l.path("docker/docker.sock")}
	l.docker = d
	err := d.up()
	for _, way := range []string{"shim", "hook"} {
		c := &column{lab: l, name: "docker " + way, way: way, docker: true, broken: err, debug: d.debug, runtime: l.path("runtimes/bin/runc")}
		if l.wanted(c.name) {
			l.columns = append(l.columns, c)
		}
	}
	return nil
}

func (d *dockerd) up() error {
	l := d.l
	c := &column{lab: l, name: "docker", runtime: l.path("runtimes/bin/runc")}
	if err := c.writeConfig(); err != nil {
		return err
	}
	d.debug = c.debug
	env := append(append([]string{}, l.env...), "NVIDIA_CTK_CONFIG_FILE_PATH="+c.config)
	env[0] = strings.Replace(env[0], "PATH=", "PATH="+l.path("docker/bin")+":", 1)
	for _, dir := range []string{"docker/containerd", "docker/data", "docker/exec"} {
		if err := os.MkdirAll(l.path(dir), 0o755); err != nil {
			return err
		}
	}
	containerd := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.tracing.processor.v1.otlp\", \"io.containerd.internal.v1.tracing\"]\n[grpc]\n  address = %q\n",
		l.path("docker/containerd/root"), l.path("docker/containerd/state"), l.path("docker/containerd.sock"))
	daemon, err := json.Marshal(object{"userland-proxy": false, "runtimes": object{"nvidia": object{"path": l.path("bin/nvidia-container-runtime")}}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.path("docker/containerd.toml"), []byte(containerd), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(l.path("docker/daemon.json"), daemon, 0o644); err != nil {
		return err
	}
	if err := d.spawn(env, "containerd", "--config", l.path("docker/containerd.toml")); err != nil {
		return err
	}
	if !waitFor(20*time.Second, func() bool { _, err := os.Stat(l.path("docker/containerd.sock")); return err == nil }) {
		return fmt.Errorf("containerd did not start: %s", last(tail(l.path("docker/containerd.log"), 0)))
	}
	if err := d.spawn(env, "dockerd", "-H", "unix://"+d.socket, "--containerd", l.path("docker/containerd.sock"), "--config-file", l.path("docker/daemon.json"),
		"--data-root", l.path("docker/data"), "--exec-root", l.path("docker/exec"), "--pidfile", l.path("docker/docker.pid"),
		"--iptables=false", "--ip6tables=false", "--bridge=none", "--cgroup-parent=/"+dockerCgroup); err != nil {
		return err
	}
	if !waitFor(40*time.Second, func() bool { return d.cli(10*time.Second, "version").code == 0 }) {
		return fmt.Errorf("dockerd did not start: %s", last(tail(l.path("docker/dockerd.log"), 0)))
	}
	d.version = strings.TrimSpace(d.cli(shortTime, "version", "-f", "{{.Server.Version}}").out) + ", cgroup " +
		strings.TrimSpace(d.cli(shortTime, "info", "-f", "{{.CgroupVersion}}, {{.Driver}}").out)
	return d.images()
}

// images imports the root file systems, with what their images say.
func (d *dockerd) images() error {
	for _, name := range names(d.l.path("images")) {
		args := []string{"import"}
		if env := imageEnv[name]; env != nil {
			for _, e := range env {
				key, val, _ := strings.Cut(e, "=")
				args = append(args, "--change", fmt.Sprintf("ENV %s=%q", key, val))
			}
		} else {
			args = append(args, "--change", "ENV "+defaultPath)
		}
		if e := imageEntrypoint[name]; e != nil {
			text, err := json.Marshal(e)
			if err != nil {
				return err
			}
			args = append(args, "--change", "ENTRYPOINT "+string(text))
		}
		args = append(args, "-", "localhost/"+name)
		sh := `dir=$1; shift; "` + d.l.path("images/busybox/bin/busybox") + `" tar -C "$dir" -cf - . | "$@"`
		full := append([]string{"-c", sh, "import", d.l.path("images", name), d.l.path("docker/bin/docker"), "-H", "unix://" + d.socket}, args...)
		if r := d.l.command(60*time.Second, nil, "/bin/sh", full...); r.code != 0 {
			return fmt.Errorf("import %s: %s", name, r.all())
		}
	}
	return nil
}

// builds is the first thing that people do: a Dockerfile of two lines, built
// and run.
func (d *dockerd) builds(c *column) outcome {
	dir := d.l.path("docker/gpu-test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return failed("%v", err)
	}
	if err := os.WriteFile(dir+"/Dockerfile", []byte("FROM localhost/cuda-base\nCMD nvidia-smi\n"), 0o644); err != nil {
		return failed("%v", err)
	}
	// The builder inside dockerd: buildx was not brought along.
	r := d.l.command(shortTime, []string{"DOCKER_BUILDKIT=0"}, d.l.path("docker/bin/docker"), "-H", "unix://"+d.socket, "build", dir, "-t", "localhost/gpu-test")
	if r.code != 0 {
		return r.because("docker build failed")
	}
	r = c.start(container{image: "gpu-test", gpus: "all"})
	if r.code != 0 || !strings.Contains(r.out, c.host.driver) || !strings.Contains(r.out, c.host.gpus[0].name) {
		return r.because("nvidia-smi does not show driver %s and %s", c.host.driver, c.host.gpus[0].name)
	}
	return good
}

func (d *dockerd) spawn(env []string, name string, args ...string) error {
	log, err := os.Create(d.l.path("docker", name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(d.l.path("docker/bin", name), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	d.procs = append(d.procs, cmd)
	return nil
}

// stop ends what was started, the last first.
func (d *dockerd) stop() {
	for i := len(d.procs) - 1; i >= 0; i-- {
		p := d.procs[i]
		_ = p.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { _ = p.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(15 * time.Second):
			_ = p.Process.Kill()
			<-done
		}
	}
	d.procs = nil
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		found, _ := filepath.Glob(pattern + dockerCgroup)
		for _, f := range found {
			_ = unix.Rmdir(f)
		}
	}
}

// dockerCgroup holds the cgroups of docker's containers.
const dockerCgroup = "davit-gpu-docker"

func (d *dockerd) cli(limit time.Duration, args ...string) result {
	return d.l.command(limit, nil, d.l.path("docker/bin/docker"), append([]string{"-H", "unix://" + d.socket}, args...)...)
}

// start is docker run: with --gpus for the hook, with --runtime nvidia and the
// variable for the shim.
func (d *dockerd) start(c *column, k container) result {
	d.l.serial++
	name := fmt.Sprintf("davit-gpu-%d", d.l.serial)
	args := []string{"run", "--rm", "--name", name, "--network", "none", "-v", d.l.path("programs/tools") + ":/davit:ro"}
	switch {
	case c.way == "shim":
		args = append(args, "--runtime", "nvidia")
		if k.gpus != "" {
			args = append(args, "-e", "NVIDIA_VISIBLE_DEVICES="+k.gpus)
		}
	case k.gpus == "all":
		args = append(args, "--gpus", "all")
	case k.gpus != "":
		args = append(args, "--gpus", `"device=`+k.gpus+`"`)
	}
	for _, e := range k.env {
		args = append(args, "-e", e)
	}
	if k.readonly {
		args = append(args, "--read-only")
	}
	from := size(d.debug)
	r := d.cli(shortTime, append(append(args, "localhost/"+k.image), k.args...)...)
	if r.code == -1 {
		d.l.cleanup(d.l.path("docker/bin/docker"), "-H", "unix://"+d.socket, "rm", "--force", name)
	}
	r.trace = tail(d.debug, from)
	return r
}

func waitFor(limit time.Duration, ready func() bool) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if ready() {
			return true
		}
	}
	return false
}

// last is the end of a log.
func last(s string) string { return s[max(0, len(s)-600):] }
