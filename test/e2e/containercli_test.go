// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestContainerCLI asks as ctr and nerdctl do with --gpus: containerd calls
// nvidia-container-cli as a createRuntime hook.
func TestContainerCLI(t *testing.T) {
	l := openLab(t)
	b := l.up(t, "containerd17", "v1")
	for _, image := range []string{"debian", "fedora"} {
		b.mustIn(t, "ctr", "image", "import", filepath.Join(l.cache, "share/images", image+".tar"))
	}
	h := hosts()[0]
	b.simulate(t, h)
	ctr := func(line string) result {
		return b.in(append([]string{"ctr", "run", "--rm"}, strings.Fields(line)...)...)
	}
	t.Run("one", func(t *testing.T) {
		ctr("--gpus 0 localhost/debian:latest cli-one nvidia-smi -L").lists(t, h.gpus[0])
		ctr("--gpus 1 localhost/fedora:latest cli-two nvidia-smi -L").lists(t, h.gpus[1])
	})
	t.Run("both", func(t *testing.T) {
		ctr("--gpus 0 --gpus 1 localhost/debian:latest cli-both nvidia-smi -L").lists(t, h.gpus...)
	})
	t.Run("crun", func(t *testing.T) {
		ctr("--runc-binary crun --gpus 1 localhost/fedora:latest cli-crun nvidia-smi -L").lists(t, h.gpus[1])
	})
	t.Run("read-only", func(t *testing.T) {
		ctr("--read-only --gpus 0 localhost/fedora:latest cli-ro nvidia-smi -L").lists(t, h.gpus[0])
	})
	t.Run("other-gpu-is-not-there", func(t *testing.T) {
		r := ctr("--gpus 1 localhost/debian:latest cli-ls ls /dev")
		r.ok(t, filepath.Base(h.node(1)), "nvidiactl", "nvidia-uvm", "nvidia-modeset")
		if strings.Contains(r.out, filepath.Base(h.node(0))+"\n") {
			t.Errorf("the other GPU's node is there:\n%s", r.out)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		ctr("--gpus 7 localhost/debian:latest cli-no true").fails(t, "nvidia-container-cli: --device=7: ", "0", "1")
	})
	t.Run("hostile-environment", func(t *testing.T) {
		ctr("--env LD_PRELOAD=/nowhere.so --env NVIDIA_CTK_CONFIG_FILE_PATH=/dev/zero --gpus 0 localhost/debian:latest cli-env env -u LD_PRELOAD nvidia-smi -L").lists(t, h.gpus[0])
	})
	// As LXC's hook does: in the container's mount namespace, for no process.
	t.Run("own-namespace", func(t *testing.T) {
		layer := filepath.Join(b.root, "root/layer")
		if err := os.MkdirAll(layer, 0o755); err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(layer)
		b.lab.must(t, nil, "sh", "-c", `tar -xOf "$0" layer.tar | tar -x -C "$1"`, filepath.Join(l.cache, "share/images/debian.tar"), layer)
		b.in("unshare", "-m", "sh", "-ec", `mount --bind /root/layer /root/layer
			nvidia-container-cli --user configure --no-cgroups --device=1 --utility --compute /root/layer
			chroot /root/layer nvidia-smi -L`).lists(t, h.gpus[1])
	})
	t.Run("info-and-list", func(t *testing.T) {
		r := b.in("nvidia-container-cli", "info")
		r.ok(t, "NVRM version:   "+h.driver, "GPU UUID:       "+h.gpus[1].uuid)
		b.in("nvidia-container-cli", "-k", "list", "--device=1", "--libraries").ok(t, h.node(1), "libcuda.so."+h.driver)
		b.in("nvidia-container-cli", "configure").fails(t, "nvidia-container-cli: configure wants one root file system")
	})
}
