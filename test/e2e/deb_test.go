// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// userJSON is a daemon.json as a person leaves it.
const userJSON = "{\n   \"log-driver\": \"json-file\",  \"features\": {\"buildkit\" : true},\n\t\"labels\": [ ]\n}"

// TestDeb installs the Debian package beside docker, by dpkg and the package's
// own scripts, runs a container, and removes the package again.
func TestDeb(t *testing.T) {
	l := openLab(t)
	lines := strings.Split(strings.TrimSpace(l.must(t, nil, "make", "--no-print-directory", "-C", "../..", "deb")), "\n")
	deb := filepath.Join("../..", lines[len(lines)-1])
	const profile = "docker26deb"
	b := &box{lab: l, profile: profile, cgroup: "v1", root: filepath.Join(l.cache, profile, "rootfs")}
	l.must(t, nil, "engines/down.sh", profile)
	t.Cleanup(func() { l.must(t, nil, "engines/down.sh", profile) })
	l.must(t, []string{"BOX_CGROUP=v1", "DAEMON_JSON=" + userJSON}, "engines/up.sh", profile)
	b.debClean(t)
	b.clean(t)
	b.load(t)

	const daemonFile = "/etc/docker/daemon.json"
	before := b.mustIn(t, "cat", daemonFile)
	restart := func() {
		t.Helper()
		// The harness writes the file anew: with the text that it has.
		text := b.mustIn(t, "cat", daemonFile)
		b.restartDocker(t, strings.TrimSuffix(text, "\n"))
		if now := b.mustIn(t, "cat", daemonFile); now != text {
			t.Fatalf("the harness changed daemon.json from %q to %q", text, now)
		}
	}
	data, err := os.ReadFile(filepath.Join(l.here, deb))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.root, "root/davit.deb"), data, 0o644); err != nil {
		t.Fatal(err)
	}

	b.in("docker", "run", "--rm", "--network", "none", "--gpus", "all", "localhost/debian", "nvidia-smi").fails(t, "could not select device driver")
	t.Run("install", func(t *testing.T) {
		b.in("dpkg", "-i", "/root/davit.deb").ok(t, "docker is here, so it is set up", "restart docker")
		b.in("dpkg", "-s", "davit").ok(t, "Status: install ok installed")
	})
	installed := b.mustIn(t, "cat", daemonFile)
	if !strings.Contains(installed, "/usr/bin/nvidia-container-runtime") {
		t.Errorf("daemon.json has no runtime:\n%s", installed)
	}
	h := hosts()[0]
	b.simulate(t, h)
	restart()
	t.Run("run-gpus-all-on-a-terminal", func(t *testing.T) {
		line := "engines/box.sh exec " + profile + " docker run -it --rm --network none --gpus all localhost/debian nvidia-smi"
		r := l.run(timeLimit, nil, "script", "-qec", line, "/dev/null")
		r.ok(t, "Driver Version: "+h.driver, h.gpus[0].name)
	})
	t.Run("run", func(t *testing.T) {
		b.run("--gpus", "all", "localhost/debian", "nvidia-smi", "-L").lists(t, h.gpus...)
		b.run("--runtime", "nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=1", "localhost/fedora", "nvidia-smi", "-L").lists(t, h.gpus[1])
	})
	t.Run("names", func(t *testing.T) {
		b.in("nvidia-container-cli", "info").ok(t, h.driver)
		b.in("nvidia-ctk", "cdi", "generate").ok(t, "kind: nvidia.com/gpu", "/usr/bin/davit-runtime")
		b.in("nvidia-container-runtime.cdi", "--version").ok(t, "runc version")
	})
	t.Run("install-again", func(t *testing.T) {
		r := b.in("dpkg", "-i", "/root/davit.deb")
		r.ok(t, "nothing to change")
		if now := b.mustIn(t, "cat", daemonFile); now != installed || strings.Contains(r.out, "restart docker") {
			t.Errorf("an upgrade to the same changed something:\n%s\n%s", r.out, now)
		}
	})
	t.Run("conflict", func(t *testing.T) {
		b.put(t, "/root/control", "Package: nvidia-container-toolkit\nVersion: 1.20.0\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n")
		b.mustIn(t, "sh", "-c", "mkdir -p /root/other/DEBIAN && mv /root/control /root/other/DEBIAN/ && dpkg-deb -b /root/other /root/other.deb")
		b.in("dpkg", "-i", "/root/other.deb").fails(t, "conflict")
	})
	t.Run("remove", func(t *testing.T) {
		b.in("dpkg", "-r", "davit").ok(t, "davit setup --undo")
		if now := b.mustIn(t, "cat", daemonFile); now != before {
			t.Errorf("daemon.json is %q, and was %q", now, before)
		}
		b.in("sh", "-c", "ls /etc/docker /usr/bin | grep -e nvidia -e davit").fails(t)
		b.mustIn(t, "dpkg", "--purge", "davit")
		restart()
		b.in("docker", "run", "--rm", "--network", "none", "--gpus", "all", "localhost/debian", "nvidia-smi").fails(t, "could not select device driver")
		b.run("localhost/debian", "echo", "fine").ok(t, "fine")
	})
	// Last, for dockerd could not start with this.
	t.Run("daemon-json-that-is-none", func(t *testing.T) {
		const bad = "{\"log-driver\": }\n"
		b.put(t, daemonFile, bad)
		b.in("dpkg", "-i", "/root/davit.deb").ok(t, "daemon.json:1:16:", "docker is left as it was")
		b.in("dpkg", "-P", "davit").ok(t)
		if now := b.mustIn(t, "cat", daemonFile); now != bad {
			t.Errorf("daemon.json is %q, and was %q", now, bad)
		}
	})
}

// debClean makes dpkg's data base, without a package in it, and takes out what
// an interrupted run left.
func (b *box) debClean(t *testing.T) {
	t.Helper()
	b.in("dpkg", "--purge", "davit", "nvidia-container-toolkit")
	b.mustIn(t, "sh", "-c", "rm -rf /var/lib/dpkg /sim /root/other /usr/bin/nvidia-* /usr/bin/davit*; "+
		"mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates /var/lib/dpkg/triggers /etc/nvidia-container-runtime; : >/var/lib/dpkg/status; "+
		"echo 'host-root = \"/sim/host\"' >/etc/nvidia-container-runtime/config.toml; mkdir -p /sim")
}
