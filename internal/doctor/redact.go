// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"regexp"
	"strings"
)

// redactor takes what is private out of texts by an allow list of words. A word
// that is not on it is replaced by one of the same length, so that lines and
// columns stay and equal words stay equal, within one report: the key is new
// for each.
type redactor struct {
	key   []byte
	uuids map[string]string
	allow map[string]bool // words beside the vocabulary, in lower case
	seen  map[string]bool // words that were replaced
	own   map[string]bool // of davit's own texts; nil until it is asked for
}

func newRedactor() *redactor {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // it never fails, by its own documentation
	return &redactor{key: key, uuids: map[string]string{}, allow: map[string]bool{}, seen: map[string]bool{}}
}

var (
	uuidPattern    = regexp.MustCompile(`[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}`)
	addressPattern = regexp.MustCompile(`\b[0-9]{1,3}(\.[0-9]{1,3}){3}\b`)
	wordPattern    = regexp.MustCompile(`[A-Za-z0-9_]+`)
	foreignPattern = regexp.MustCompile(`[^\x00-\x7f]`)
)

// text redacts a text.
func (r *redactor) text(s string) string {
	s = uuidPattern.ReplaceAllStringFunc(s, func(u string) string {
		u = strings.ToLower(u)
		if r.uuids[u] == "" {
			r.uuids[u] = fmt.Sprintf("00000000-0000-4000-8000-%012d", len(r.uuids)+1)
		}
		return r.uuids[u]
	})
	s = addressPattern.ReplaceAllStringFunc(s, func(a string) string {
		return strings.Map(func(c rune) rune {
			if c != '.' {
				return '0'
			}
			return c
		}, a)
	})
	s = foreignPattern.ReplaceAllString(s, "?")
	return wordPattern.ReplaceAllStringFunc(s, r.word)
}

func (r *redactor) word(w string) string {
	low := strings.ToLower(w)
	if vocabulary[low] || r.allow[low] || len(w) <= 2 || strings.Contains(low, "nvidia") || strings.HasPrefix(low, "libcuda") || strings.HasPrefix(low, "libnv") {
		return w
	}
	if strings.Trim(w, "0123456789") == "" && len(w) <= 5 || len(w) <= 4 && strings.Trim(low, "0123456789abcdef") == "" {
		return w
	}
	if n := strings.TrimPrefix(strings.TrimPrefix(low, "card"), "renderd"); n != low && strings.Trim(n, "0123456789") == "" && len(n) <= 4 {
		return w // a node of /dev/dri
	}
	// The stand-ins of UUIDs are made of digits alone.
	if strings.HasPrefix(w, "00000000") && strings.Trim(w, "0123456789") == "" {
		return w
	}
	r.seen[w] = true
	mac := hmac.New(sha256.New, r.key)
	mac.Write([]byte(w))
	sum := mac.Sum(nil)
	out := []byte(w)
	for i, c := range out {
		n := sum[i%len(sum)] + byte(i/len(sum))
		switch {
		case c >= '0' && c <= '9':
			out[i] = '0' + n%10
		case c >= 'A' && c <= 'Z':
			out[i] = 'A' + n%26
		case c >= 'a' && c <= 'z':
			out[i] = 'a' + n%26
		}
	}
	return string(out)
}

// vocabulary are the words that configurations of engines are made of.
var vocabulary = func() map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(strings.ToLower(words)) {
		m[w] = true
	}
	return m
}()

const words = `
missing exists exist does not there left over which is of decimal mode group owner another folder or and more found compute instance instances
restarted read written right others for only now was by in it no open proprietary version driver installed run runs twice off on noexec cgroup
files l4t tegra context ls show use name format endpoint jetson
additionalGids netDevices hostInterfaceName intelRdt closID l3CacheSchema memBwSchema enableCMT enableMBM schemata enableMonitoring
execstart containerd.service start notify delegate killmode process restart after wanted multi target description documentation
com bus pci modules module updates dkms ko extra generic kernel release os group passwd reboot required pkgs cache char
usr lib lib32 lib64 bin sbin etc opt run var srv dev proc sys local share log root home tmp mnt libexec snap current config conf confd hooks
x86_64 i386 aarch64 linux gnu docker dockerd daemon json toml yaml yml containerd containers crio cri cdi podman buildah nerdctl kubelet kubernetes kubeadm
rancher k3s rke2 k0s microk8s agent server images snapshots overlayfs native
runtimes runtime runtimeArgs runc crun youki kata runsc gvisor path paths default features buildkit true false null none auto legacy csv mode modes
exec opts cgroupdriver systemd cgroupfs live restore driver drivers options option log-driver max size file data storage overlay2
insecure registries mirrors registry debug hosts host userland proxy iptables ip6tables ipv6 bip mtu selinux enabled
spec dirs version imports plugins plugin io grpc v1 v2 v3 cri default_runtime_name runtime_type runtime_engine runtime_root runtime_path default_runtime
options BinaryName SystemdCgroup NoPivotRoot NoNewKeyring Root ShimCgroup IoUid IoGid CriuPath CriuImagePath CriuWorkPath privileged_without_host_devices
privileged_without_host_devices_all_devices_allowed base_runtime_spec container_annotations pod_annotations cni_conf_dir cni_max_conf_num snapshotter
sandbox_mode sandbox_image sandbox pinned_images disabled_plugins required_plugins oom_score state temp plugin_dir ttrpc uid gid max_recv_message_size
max_send_message_size address tcp_address tcp_tls_cert tcp_tls_key metrics grpc_histogram cgroup stream_processors timeouts
enable_cdi cdi_spec_dirs enable_selinux selinux_category_range systemd_cgroup disable_apparmor restrict_oom_score_adj enable_unprivileged_ports
enable_unprivileged_icmp device_ownership_from_security_context ignore_image_defined_volumes netns_mounts_under_state_dir untrusted_workload_runtime
default_runtime disable_snapshot_annotations discard_unpacked_layers no_pivot cni bin_dir conf_dir conf_template max_conf_num image_decryption key_model
headers config_path internal v1.runtime crio_conf monitor monitor_path monitor_cgroup allowed_annotations
container cli toolkit hook require supported capabilities swarm resource accept envvar when unprivileged as volume mounts devices visible
load kmods ldcache ldconfig real environment user cgroups no ignore imex channel channels requests annotation prefixes k8s
ctk log level info warning error warn skip detection features additional gids for device nodes strict
compute utility video graphics display ngx compat32 all void
cdiVersion kind class gpu containerEdits deviceNodes hostPath containerPath permissions type major minor fileMode hookName args env timeout annotations name
createContainer createRuntime startContainer prestart poststart poststop create symlinks link update chmod folder folders mode bind nosuid nodev noexec rbind rprivate ro rw
management mig uvm tools modeset caps nvswitch nvswitchctl fs gdrdrv infiniband dri card0 card1 card2 card3 renderD128 renderD129 renderD130 renderD131
stages always commands hook hasBindMounts version
libEGL libGLX libGLESv1_CM libGLESv2 libvdpau firmware gsp_ga10x gsp_tu10x vulkan icd icd.d implicit_layer egl glvnd egl_vendor xorg extensions
blacklist install modprobe nouveau alias softdep vfio pci ids nvreg NVreg_DeviceFileMode NVreg_DeviceFileUID NVreg_DeviceFileGID NVreg_ModifyDeviceFiles
service unit execstart add ubuntu debian fedora rhel centos rocky almalinux opensuse sles arch gentoo nixos alpine amzn
deb signed by arch amd64 arm64 stable main contrib free non github libnvidia https http developer download compute repos sources list apt keyrings keyring gpg
cgroupDriver containerRuntimeEndpoint unix sock endpoint
video render wheel users group version ServerVersion desktop operating system dir info active inactive failed unknown community engine client
conf hooks.d oci base template config-v3 tmpl default community latest moby snapd toolkit gpus fabricmanager fabric manager enforcing permissive disabled
unsupported distribution check instructions container-toolkit html doctype head body
`
