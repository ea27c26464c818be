// SPDX-License-Identifier: Apache-2.0

package request

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// old is the environment of an image from before NVIDIA_REQUIRE_CUDA.
var old = []string{"CUDA_VERSION=8.0.61"}

// pod is what containerd notes on a container of a pod.
var pod = map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "ab"}

func env(vars ...string) Container { return Container{Env: vars} }

func devices(value string) Container { return env("PATH=/bin", "NVIDIA_VISIBLE_DEVICES="+value) }

func mounts(targets ...string) Container {
	var c Container
	for _, t := range targets {
		c.Mounts = append(c.Mounts, Mount{"/dev/null", "/var/run/nvidia-container-devices/" + t})
	}
	return c
}

func TestDevices(t *testing.T) {
	accept := Policy{AcceptMounts: true}
	tests := []struct {
		name   string
		c      Container
		p      Policy
		want   string // "untouched", "all", "none", or the devices with blanks between
		source string // part of Source
		note   string // part of one of the notes; "" wants no note at all
		err    string
	}{
		{name: "a plain image asks for nothing", c: env("PATH=/bin", "LANG=C.UTF-8"), want: "untouched"},
		{name: "no environment at all asks for nothing", want: "untouched"},
		{name: "an empty value asks for nothing", c: devices(""), want: "untouched"},
		{name: "blanks and commas ask for nothing", c: devices(" , ,"), want: "untouched"},
		{name: "void asks for nothing", c: devices("void"), want: "untouched"},
		{name: "void after a device asks for nothing", c: devices("0,void"), want: "untouched"},
		{name: "void beats a malformed name", c: devices("a/b,VOID"), want: "untouched"},
		{name: "none gives the driver alone", c: devices("none"), want: "none", source: "NVIDIA_VISIBLE_DEVICES=none in the container's environment"},
		{name: "None in capitals is none", c: devices("None"), want: "none"},
		{name: "all gives all", c: devices("all"), want: "all", source: "NVIDIA_VISIBLE_DEVICES=all in the container's environment"},
		{name: "ALL gives all", c: devices("ALL"), want: "all"},
		{name: "all with others gives all", c: devices("0,all"), want: "all"},
		{name: "none before all gives none", c: devices("none,all"), want: "none"},
		{name: "all before none gives all", c: devices("all,none"), want: "all"},
		{name: "none with a device gives none and says so", c: devices("0,none"), want: "none", note: "none stands in the list"},
		{name: "an index is a device", c: devices("0"), want: "0"},
		{name: "indices may have blanks around", c: devices(" 1 , 0 "), want: "1 0"},
		{name: "a device twice is one device", c: devices("0,0"), want: "0"},
		{name: "a device that comes back is one device", c: devices("0,1,0"), want: "0 1"},
		{name: "leading zeros do not make another device", c: devices("0,00,01"), want: "0 1"},
		{name: "a UUID keeps its case", c: devices("GPU-AbC0"), want: "GPU-AbC0"},
		{name: "one UUID in two cases is one device", c: devices("GPU-abc0,gpu-ABC0"), want: "GPU-abc0"},
		{name: "a MIG UUID is a device", c: devices("MIG-c6d4f1ef"), want: "MIG-c6d4f1ef"},
		{name: "the old form of a MIG device holds slashes", c: devices("MIG-GPU-5a/1/0"), want: "MIG-GPU-5a/1/0"},
		{name: "GPU:MIG is a device", c: devices("0:1"), want: "0:1"},
		{name: "a PCI bus id is a device", c: devices("0000:3b:00.0"), want: "0000:3b:00.0"},
		{name: "a CDI name loses vendor and class", c: devices("nvidia.com/gpu=0"), want: "0"},
		{name: "a CDI name and an index can stand together", c: devices("0,nvidia.com/gpu=1,nvidia.com/gpu=0"), want: "0 1"},
		{name: "the CDI name all gives all", c: devices("nvidia.com/gpu=all"), want: "all"},
		{name: "the runtime's own vendor is NVIDIA", c: devices("runtime.nvidia.com/gpu=2"), want: "2"},
		{name: "gpuN is N", c: devices("gpu1,1"), want: "1"},
		{name: "migG:M is G:M", c: devices("nvidia.com/gpu=mig0:1"), want: "0:1"},
		{name: "a word is left to the plan, which knows what exists", c: devices("foo"), want: "foo"},
		{name: "of two entries the last counts", c: env("NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=0"), want: "0"},
		{name: "void appended takes a request back", c: env("NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=void"), want: "untouched"},
		{name: "an entry without an equals sign is skipped", c: env("NVIDIA_VISIBLE_DEVICES", "", "=", "NVIDIA_VISIBLE_DEVICES=1"), want: "1"},

		{name: "a name with a newline is refused", c: devices("0\n1"), err: `device "0\n1" holds a control character: want an index`},
		{name: "blanks do not separate", c: devices("0 1"), err: "holds a blank"},
		{name: "a path is no device", c: devices("../../dev/sda"), err: `holds a "/"`},
		{name: "a backslash is refused", c: devices(`a\b`), err: "holds a"},
		{name: "a very long name is refused", c: devices(strings.Repeat("x", 257)), err: "longer than 256 bytes"},
		{name: "bytes that are no text are refused", c: devices("\xff"), err: "not UTF-8"},
		{name: "the old MIG form wants numbers", c: devices("MIG-GPU-5a/../0"), err: `holds a "/"`},
		{name: "another vendor's CDI name is refused", c: devices("example.com/gpu=0"), err: "nvidia.com only"},
		{name: "management devices are refused", c: devices("management.nvidia.com/gpu=all"), err: "management.nvidia.com/gpu is not supported"},
		{name: "an unknown class is refused", c: devices("nvidia.com/pgpu=0"), err: `class "pgpu"`},
		{name: "a CDI name without a device is refused", c: devices("nvidia.com/gpu="), err: "not a CDI name"},

		{name: "an annotation asks", c: Container{Annotations: map[string]string{"cdi.k8s.io/p": "nvidia.com/gpu=0, nvidia.com/gpu=1"}}, want: "0 1", source: "annotation cdi.k8s.io/p="},
		{name: "annotations are read in the order of their keys", c: Container{Annotations: map[string]string{"cdi.k8s.io/b": "nvidia.com/gpu=0", "cdi.k8s.io/a": "nvidia.com/gpu=1"}}, want: "1 0"},
		{name: "the device plugin's vendor is NVIDIA", c: Container{Annotations: map[string]string{"cdi.k8s.io/p": "k8s.device-plugin.nvidia.com/gpu=GPU-1"}}, want: "GPU-1"},
		{name: "an annotation for another vendor asks nothing", c: Container{Annotations: map[string]string{"cdi.k8s.io/p": "example.com/nic=0"}}, want: "untouched"},
		{name: "other annotations ask nothing", c: Container{Annotations: map[string]string{"x/y": "nvidia.com/gpu=0"}}, want: "untouched"},
		{name: "another prefix can be set", c: Container{Annotations: map[string]string{"x/y": "nvidia.com/gpu=0"}}, p: Policy{AnnotationPrefixes: []string{"x/"}}, want: "0"},
		{name: "an annotation comes before the environment", c: Container{Annotations: map[string]string{"cdi.k8s.io/p": "nvidia.com/gpu=0"}, Env: []string{"NVIDIA_VISIBLE_DEVICES=all"}}, want: "0"},
		{name: "an annotation asks whatever the environment may", c: Container{Annotations: map[string]string{"cdi.k8s.io/p": "nvidia.com/gpu=0", "io.kubernetes.cri.container-type": "container"}}, p: Policy{AcceptEnv: "never", RefuseEnv: true}, want: "0"},
		{name: "a malformed annotation is refused", c: Container{Annotations: map[string]string{"cdi.k8s.io/p": "nvidia.com/gpu"}}, err: "not a CDI name"},
		{name: "storage devices without a GPU ask nothing", c: Container{Annotations: map[string]string{"cdi.k8s.io/p": "nvidia.com/gds=all"}}, want: "untouched", note: "with a GPU only"},

		{name: "a volume mount asks", c: mounts("0", "GPU-1"), p: accept, want: "0 GPU-1", source: "volume mount at /var/run/nvidia-container-devices/0"},
		{name: "a volume mount can ask for all", c: mounts("all"), p: accept, want: "all"},
		{name: "a volume mount can hold a CDI name as a path", c: mounts("cdi/nvidia.com/gpu/0", "cdi/nvidia.com/gpu=1"), p: accept, want: "0 1"},
		{name: "a volume mount of something else asks nothing", c: Container{Mounts: []Mount{{"/srv", "/var/run/nvidia-container-devices/0"}}}, p: accept, want: "untouched"},
		{name: "volume mounts are ignored unless accepted", c: mounts("0"), want: "untouched", note: "accept-nvidia-visible-devices-as-volume-mounts"},
		{name: "a volume mount comes before the environment", c: Container{Mounts: mounts("1").Mounts, Env: []string{"NVIDIA_VISIBLE_DEVICES=all"}}, p: accept, want: "1"},
		{name: "a volume mount that climbs is refused", c: mounts("../0"), p: accept, err: `holds a "/"`},
		{name: "a volume mount is one name", c: mounts("0,1"), p: accept, err: "holds a comma"},
		{name: "a volume mount with half a CDI name is refused", c: mounts("cdi/nvidia.com"), p: accept, err: "want cdi/VENDOR/CLASS/DEVICE"},

		{name: "a swarm resource takes the place of the variable", c: env("DOCKER_RESOURCE_GPU=1", "NVIDIA_VISIBLE_DEVICES=all"), p: Policy{SwarmResources: []string{"DOCKER_RESOURCE_GPU"}}, want: "1", source: "DOCKER_RESOURCE_GPU=1"},
		{name: "two swarm resources add up", c: env("B=1", "A=0"), p: Policy{SwarmResources: []string{"A", "B"}}, want: "0 1"},
		{name: "a swarm resource that is not set changes nothing", c: devices("all"), p: Policy{SwarmResources: []string{"A"}}, want: "all"},

		{name: "an old image asks for all", c: env(old...), want: "all", source: "CUDA_VERSION=8.0.61", note: "CUDA_VERSION=8.0.61"},
		{name: "an image with an empty requirement is old", c: env("CUDA_VERSION=8.0.61", "NVIDIA_REQUIRE_CUDA="), want: "all", note: "CUDA_VERSION"},
		{name: "a newer CUDA image without the variable asks for nothing", c: env("CUDA_VERSION=12.4.1", "NVIDIA_REQUIRE_CUDA=cuda>=12.4"), want: "untouched"},
		{name: "an old image with an empty variable asks for nothing", c: env("CUDA_VERSION=8.0.61", "NVIDIA_VISIBLE_DEVICES="), want: "untouched"},
		{name: "an old image can name a device", c: env("CUDA_VERSION=8.0.61", "NVIDIA_VISIBLE_DEVICES=0"), want: "0", note: "all driver capabilities"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Read(tt.c, tt.p)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "\n") {
					t.Fatalf("error %v, want one line with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s := summary(got); s != tt.want {
				t.Errorf("got %q, want %q", s, tt.want)
			}
			if !strings.Contains(got.Source, tt.source) {
				t.Errorf("source %q, want %q in it", got.Source, tt.source)
			}
			if tt.note == "" && len(got.Notes) > 0 || !strings.Contains(strings.Join(got.Notes, "\n"), tt.note) {
				t.Errorf("notes %q, want %q", got.Notes, tt.note)
			}
		})
	}
}

func summary(r Request) string {
	switch {
	case !r.Asked:
		r.Notes = nil
		if !reflect.DeepEqual(r, Request{}) {
			return "untouched, but with contents"
		}
		return "untouched"
	case r.All && !r.None && r.Devices == nil:
		return "all"
	case r.None && !r.All && r.Devices == nil:
		return "none"
	case r.All || r.None:
		return "contradiction"
	}
	return strings.Join(r.Devices, " ")
}

func TestWhoseEnvironmentMayAsk(t *testing.T) {
	with := func(c Container, privileged bool, annotations map[string]string) Container {
		c.Privileged, c.Annotations = privileged, annotations
		return c
	}
	all := devices("all")
	crio := map[string]string{"io.kubernetes.cri-o.ContainerName": "x", "io.kubernetes.cri-o.TTY": "false"}
	podman := map[string]string{"io.container.manager": "libpod", "io.kubernetes.cri-o.Created": "2024", "io.kubernetes.cri-o.TTY": "false"}
	imposter := map[string]string{"io.container.manager": "libpod", "io.kubernetes.cri.container-type": "container"}
	tests := []struct {
		name   string
		c      Container
		accept string
		ok     bool
	}{
		{"by default outside a pod", all, "", true},
		{"auto outside a pod", all, "auto", true},
		{"auto in a pod of containerd", with(all, false, pod), "auto", false},
		{"auto in a pod of CRI-O", with(all, false, crio), "auto", false},
		{"auto in a privileged pod", with(all, true, pod), "auto", true},
		{"auto under podman, which borrows names of CRI-O", with(all, false, podman), "auto", true},
		{"auto in a pod that pretends to be podman's", with(all, false, imposter), "auto", false},
		{"auto with names of CRI-O from nobody known", with(all, false, map[string]string{"io.kubernetes.cri-o.TTY": "false"}), "auto", false},
		{"always in a pod", with(all, false, pod), "always", true},
		{"privileged without the privilege", all, "privileged", false},
		{"privileged with it", with(all, true, nil), "privileged", true},
		{"never, even privileged", with(all, true, nil), "never", false},
		{"an old image in a pod", with(env(old...), false, pod), "auto", false},
		{"an old image where nobody may", env(old...), "never", false},
		{"a swarm resource where nobody may", env("SWARM=0"), "never", false},
		{"the driver alone where nobody may", devices("none"), "never", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := Policy{AcceptEnv: tt.accept, SwarmResources: []string{"SWARM"}}
			got, err := Read(tt.c, p)
			if err != nil {
				t.Fatal(err)
			}
			if got.Asked != tt.ok {
				t.Fatalf("asked = %v, want %v", got.Asked, tt.ok)
			}
			p.RefuseEnv = true
			strict, err := Read(tt.c, p)
			if tt.ok {
				if err != nil || !reflect.DeepEqual(strict, got) {
					t.Errorf("with RefuseEnv: %+v, %v; want the same as without", strict, err)
				}
				return
			}
			name, _, _ := strings.Cut(tt.c.Env[len(tt.c.Env)-1], "=")
			note := strings.Join(got.Notes, "\n")
			for _, word := range []string{name, "accept-visible-devices-env", "ignored"} {
				if !strings.Contains(note, word) {
					t.Errorf("note %q does not name %s", note, word)
				}
			}
			if summary(got) != "untouched" {
				t.Errorf("a refused request has contents: %+v", got)
			}
			if err == nil || !strings.Contains(err.Error(), "accept-visible-devices-env") || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "\n") {
				t.Errorf("with RefuseEnv: error %v, want one line that names variable and setting", err)
			}
		})
	}
	t.Run("a request for nothing is never refused", func(t *testing.T) {
		for _, c := range []Container{devices("void"), devices(""), env("PATH=/bin")} {
			if got, err := Read(c, Policy{AcceptEnv: "never", RefuseEnv: true}); err != nil || got.Asked || got.Notes != nil {
				t.Errorf("%v: %+v, %v", c.Env, got, err)
			}
		}
	})
	t.Run("a malformed setting is an error", func(t *testing.T) {
		if _, err := Read(all, Policy{AcceptEnv: "yes"}); err == nil || !strings.Contains(err.Error(), "auto, always, privileged or never") {
			t.Errorf("error %v", err)
		}
		if _, err := Read(all, Policy{SupportedCapabilities: []string{"vidoe"}}); err == nil || !strings.Contains(err.Error(), `did you mean "video"`) {
			t.Errorf("error %v", err)
		}
	})
}

func TestCapabilities(t *testing.T) {
	const every = "compat32 compute display graphics ngx utility video"
	tests := []struct {
		name      string
		env       []string
		supported []string
		want      string
		note, err string
	}{
		{name: "unset means compute and utility", want: "compute utility"},
		{name: "empty means compute and utility", env: []string{"NVIDIA_DRIVER_CAPABILITIES="}, want: "compute utility"},
		{name: "all means all", env: []string{"NVIDIA_DRIVER_CAPABILITIES=all"}, want: every},
		{name: "all with others means all", env: []string{"NVIDIA_DRIVER_CAPABILITIES=video,all"}, want: every},
		{name: "a list has the order of the alphabet, without repeats", env: []string{"NVIDIA_DRIVER_CAPABILITIES=video, compute,video"}, want: "compute video"},
		{name: "docker's names for the driver do not count", env: []string{"NVIDIA_DRIVER_CAPABILITIES=gpu,nvidia,ngx"}, want: "ngx"},
		{name: "docker's names alone leave the default", env: []string{"NVIDIA_DRIVER_CAPABILITIES=gpu"}, want: "compute utility"},
		{name: "display brings graphics", env: []string{"NVIDIA_DRIVER_CAPABILITIES=display"}, want: "display graphics"},
		{name: "a misspelt one is refused with the nearest", env: []string{"NVIDIA_DRIVER_CAPABILITIES=compute,utillity"}, err: `"utillity" is no driver capability; did you mean "utility"? the capabilities are compat32, compute, display, graphics, ngx, utility, video, or all`},
		{name: "nonsense is refused with the list", env: []string{"NVIDIA_DRIVER_CAPABILITIES=xyzzy"}, err: `"xyzzy" is no driver capability; the capabilities are compat32,`},
		{name: "what is not supported is cut off and noted", env: []string{"NVIDIA_DRIVER_CAPABILITIES=all"}, supported: []string{"utility", "compute"}, want: "compute utility", note: "left out: compat32, display, graphics, ngx, video (supported-driver-capabilities"},
		{name: "all can be supported", env: []string{"NVIDIA_DRIVER_CAPABILITIES=all"}, supported: []string{"all"}, want: every},
		{name: "an old image gets all", env: old, want: every, note: "CUDA_VERSION"},
		{name: "an old image that names some gets those", env: append(slices.Clone(old), "NVIDIA_DRIVER_CAPABILITIES=utility"), want: "utility"},
		{name: "an old image with an empty value gets the default", env: append(slices.Clone(old), "NVIDIA_DRIVER_CAPABILITIES="), want: "compute utility"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Read(env(append(tt.env, "NVIDIA_VISIBLE_DEVICES=0")...), Policy{SupportedCapabilities: tt.supported})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s := strings.Join(got.Capabilities, " "); s != tt.want {
				t.Errorf("got %q, want %q", s, tt.want)
			}
			if got.CapSource == "" {
				t.Error("no source")
			}
			if tt.note == "" && len(got.Notes) > 0 || !strings.Contains(strings.Join(got.Notes, "\n"), tt.note) {
				t.Errorf("notes %q, want %q", got.Notes, tt.note)
			}
		})
	}
	t.Run("a container that asks for nothing may hold nonsense", func(t *testing.T) {
		if got, err := Read(env("NVIDIA_DRIVER_CAPABILITIES=xyzzy", "NVIDIA_IMEX_CHANNELS=x"), Policy{}); err != nil || got.Asked {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestRequirementsOfTheImage(t *testing.T) {
	tests := []struct {
		name string
		env  []string
		off  bool
		want string
		note string
	}{
		{name: "each variable is one, by name", env: []string{"NVIDIA_REQUIRE_DRIVER=driver>=450", "NVIDIA_REQUIRE_CUDA=cuda>=12.4 brand=tesla,driver>=470"},
			want: "NVIDIA_REQUIRE_CUDA: cuda>=12.4 brand=tesla,driver>=470; NVIDIA_REQUIRE_DRIVER: driver>=450"},
		{name: "the last value of a variable counts", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=99", "NVIDIA_REQUIRE_CUDA=cuda>=9.0"}, want: "NVIDIA_REQUIRE_CUDA: cuda>=9.0"},
		{name: "JETPACK is none", env: []string{"NVIDIA_REQUIRE_JETPACK=csv-mounts=all", "NVIDIA_REQUIRE_JETPACK_HOST_MOUNTS=x"}},
		{name: "an empty one is none", env: []string{"NVIDIA_REQUIRE_CUDA= "}},
		{name: "an old image requires its CUDA version", env: old, want: "CUDA_VERSION: cuda>=8.0", note: "old image"},
		{name: "a version without a dot is a version", env: []string{"CUDA_VERSION=12"}, want: "CUDA_VERSION: cuda>=12.0", note: "old image"},
		{name: "a version that is none requires nothing and is noted", env: []string{"CUDA_VERSION=latest"}, note: "CUDA_VERSION=latest is not a version"},
		{name: "NVIDIA_DISABLE_REQUIRE=1 drops them", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=99", "NVIDIA_DISABLE_REQUIRE=1"}, note: "not checked: NVIDIA_DISABLE_REQUIRE=1"},
		{name: "NVIDIA_DISABLE_REQUIRE=True drops them", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=99", "NVIDIA_DISABLE_REQUIRE=True"}, note: "not checked"},
		{name: "NVIDIA_DISABLE_REQUIRE=0 keeps them", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=99", "NVIDIA_DISABLE_REQUIRE=0"}, want: "NVIDIA_REQUIRE_CUDA: cuda>=99"},
		{name: "NVIDIA_DISABLE_REQUIRE=yes keeps them and is noted", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=99", "NVIDIA_DISABLE_REQUIRE=yes"}, want: "NVIDIA_REQUIRE_CUDA: cuda>=99", note: "NVIDIA_DISABLE_REQUIRE=yes is ignored"},
		{name: "the administrator can drop them", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=99"}, off: true, note: "disable-require = true"},
		{name: "NVIDIA_DISABLE_REQUIRE drops an old image's too", env: append(slices.Clone(old), "NVIDIA_DISABLE_REQUIRE=true"), note: "not checked"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := env(tt.env...)
			if !strings.Contains(strings.Join(tt.env, " "), "CUDA_VERSION") {
				c.Env = append(c.Env, "NVIDIA_VISIBLE_DEVICES=0")
			}
			got, err := Read(c, Policy{DisableRequire: tt.off})
			if err != nil {
				t.Fatal(err)
			}
			var s []string
			for _, r := range got.Requirements {
				s = append(s, r.Variable+": "+r.Expression)
			}
			if strings.Join(s, "; ") != tt.want {
				t.Errorf("got %q, want %q", s, tt.want)
			}
			if tt.note == "" && len(got.Notes) > 0 || !strings.Contains(strings.Join(got.Notes, "\n"), tt.note) {
				t.Errorf("notes %q, want %q", got.Notes, tt.note)
			}
		})
	}
}

func TestExtras(t *testing.T) {
	gpu := "NVIDIA_VISIBLE_DEVICES=0"
	privileged := func(vars ...string) Container { c := env(vars...); c.Privileged = true; return c }
	inPod := env("NVIDIA_GDS=enabled", "NVIDIA_IMEX_CHANNELS=0")
	inPod.Annotations = map[string]string{"io.kubernetes.cri.container-type": "container", "cdi.k8s.io/p": "nvidia.com/gpu=0,nvidia.com/gdrcopy=all,nvidia.com/imex-channel=3"}
	noChannel := env("NVIDIA_IMEX_CHANNELS=0")
	noChannel.Annotations = map[string]string{"io.kubernetes.cri.container-type": "container", "cdi.k8s.io/p": "nvidia.com/gpu=0"}
	tests := []struct {
		name     string
		c        Container
		p        Policy
		features string
		imex     []int
		config   bool
		monitor  bool
		note     string
		err      string
	}{
		{name: "enabled is the word", c: env(gpu, "NVIDIA_GDS=enabled", "NVIDIA_MOFED=enabled", "NVIDIA_GDRCOPY=enabled", "NVIDIA_NVSWITCH=enabled"), features: "gdrcopy gds mofed nvswitch"},
		{name: "true is not the word", c: env(gpu, "NVIDIA_GDS=true"), note: `NVIDIA_GDS=true is ignored: only "enabled" counts`},
		{name: "without a GPU they do not count", c: env("NVIDIA_VISIBLE_DEVICES=none", "NVIDIA_GDS=enabled", "NVIDIA_IMEX_CHANNELS=0", "NVIDIA_MIG_CONFIG_DEVICES=all")},
		{name: "channels are numbers or channelN, sorted, without repeats", c: env(gpu, "NVIDIA_IMEX_CHANNELS=7, channel0,7,1048575"), imex: []int{0, 7, 1048575}},
		{name: "all channels is no request", c: env(gpu, "NVIDIA_IMEX_CHANNELS=all,1"), imex: []int{1}, note: `"all" is ignored`},
		{name: "a channel beyond the last is refused", c: env(gpu, "NVIDIA_IMEX_CHANNELS=1048576"), err: "want N or channelN, from 0 to 1048575"},
		{name: "a channel that is no number is refused", c: env(gpu, "NVIDIA_IMEX_CHANNELS=-1"), err: `"-1" is no IMEX channel`},
		{name: "channels can be switched off", c: env(gpu, "NVIDIA_IMEX_CHANNELS=0"), p: Policy{IgnoreIMEX: true}, note: "ignore-imex-channel-requests"},
		{name: "a volume mount can ask for a channel", c: mounts("0", "imex/4"), p: Policy{AcceptMounts: true}, imex: []int{4}},
		{name: "a channel alone is no request for a GPU", c: mounts("imex/4"), p: Policy{AcceptMounts: true}},
		{name: "an annotation can ask for devices beside the GPU, a pod's environment not", c: inPod, features: "gdrcopy", imex: []int{3}, note: "NVIDIA_GDS=enabled is ignored: accept-visible-devices-env"},
		{name: "a pod's environment cannot ask for channels", c: noChannel, note: "NVIDIA_IMEX_CHANNELS=0 is ignored: accept-visible-devices-env"},
		{name: "MIG management is for the privileged", c: privileged(gpu, "NVIDIA_MIG_CONFIG_DEVICES=all", "NVIDIA_MIG_MONITOR_DEVICES=all"), config: true, monitor: true},
		{name: "MIG management is not for others", c: env(gpu, "NVIDIA_MIG_CONFIG_DEVICES=all"), note: "only privileged containers"},
		{name: "MIG management is of all or nothing", c: privileged(gpu, "NVIDIA_MIG_MONITOR_DEVICES=0"), note: `only "all" counts`},
		{name: "an old image asks for nothing beyond GPUs", c: env(old...), note: "nothing beyond them"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Read(tt.c, tt.p)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s := strings.Join(got.Features, " "); s != tt.features {
				t.Errorf("features %q, want %q", s, tt.features)
			}
			if !slices.Equal(got.IMEX, tt.imex) {
				t.Errorf("channels %v, want %v", got.IMEX, tt.imex)
			}
			if got.MIGConfig != tt.config || got.MIGMonitor != tt.monitor {
				t.Errorf("MIG config %v, monitor %v", got.MIGConfig, got.MIGMonitor)
			}
			if tt.note == "" && len(got.Notes) > 0 || !strings.Contains(strings.Join(got.Notes, "\n"), tt.note) {
				t.Errorf("notes %q, want %q", got.Notes, tt.note)
			}
		})
	}
}

// A container without a GPU must not be delayed.
func TestPlainContainersCostNothing(t *testing.T) {
	c := env("PATH=/usr/bin", "HOME=/root", "NVIDIAX=1", "LANG=C.UTF-8")
	if n := testing.AllocsPerRun(100, func() { _, _ = Read(c, Policy{}) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzRead(f *testing.F) {
	for _, s := range []string{"all", "0,0", "none,void", "MIG-GPU-1/2/3", "nvidia.com/gpu=0", "gpu0,mig0:1", "\x00", "a/b", "0 1", "cdi/nvidia.com/gpu/0"} {
		f.Add(s, "compute", "cuda>=12", "0,channel1", "nvidia.com/gpu=0")
	}
	f.Fuzz(func(t *testing.T, devices, caps, require, imex, annotation string) {
		c := Container{Env: []string{"NVIDIA_VISIBLE_DEVICES=" + devices, "NVIDIA_DRIVER_CAPABILITIES=" + caps,
			"NVIDIA_REQUIRE_" + require, "NVIDIA_IMEX_CHANNELS=" + imex, "CUDA_VERSION=" + require}, Privileged: len(caps)%2 == 0}
		if len(annotation)%2 == 0 {
			c.Annotations = map[string]string{"cdi.k8s.io/x": annotation}
		}
		c.Mounts = []Mount{{"/dev/null", "/var/run/nvidia-container-devices/" + annotation}}
		got, err := Read(c, Policy{AcceptMounts: len(imex)%2 == 0})
		lines := append(slices.Clone(got.Notes), got.Source, got.CapSource)
		if err != nil {
			lines = append(lines, err.Error())
		}
		for _, l := range lines {
			if strings.ContainsFunc(l, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("a message of more than one line: %q", l)
			}
		}
		if err != nil || !got.Asked {
			if s := summary(Request{Asked: got.Asked}); s != "untouched" {
				t.Error(s)
			}
			return
		}
		ways := 0
		for _, b := range []bool{got.All, got.None, len(got.Devices) > 0} {
			if b {
				ways++
			}
		}
		if ways != 1 {
			t.Errorf("%d of all, none and devices in %+v", ways, got)
		}
		seen := map[string]bool{}
		for _, d := range got.Devices {
			if d == "" || len(d) > maxName || seen[d] || strings.ContainsAny(d, "\x00\n ,") {
				t.Errorf("device %q", d)
			}
			seen[d] = true
		}
		if !slices.IsSorted(got.Capabilities) || !slices.IsSorted(got.IMEX) {
			t.Errorf("not sorted: %v %v", got.Capabilities, got.IMEX)
		}
	})
}
