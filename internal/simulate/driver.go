// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"fmt"
	"strings"
)

// driverLib is a library as it will lie in a folder.
type driverLib struct {
	file   string // libcuda.so.550.120
	soname string // libcuda.so.1; the file's own name if that carries the version
	dev    string // libcuda.so; "" for none
	sub    string // "vdpau"
	data   []byte
}

// driverFiles are all files of a driver, without their places.
type driverFiles struct {
	libs, libs32 []driverLib
	programs     map[string][]byte
	share        map[string]string // below /usr/share
	icd          string            // of OpenCL, below /etc
	firmware     map[string][]byte // below the firmware folder
}

// programs of the driver other than nvidia-smi.
var otherPrograms = []string{"nvidia-debugdump", "nvidia-persistenced", "nvidia-cuda-mps-control",
	"nvidia-cuda-mps-server", "nvidia-modprobe", "nvidia-xconfig", "nvidia-settings"}

func (p *plan) driverFiles() (driverFiles, error) {
	f := driverFiles{programs: map[string][]byte{}, icd: "libnvidia-opencl.so.1\n"}
	table, err := p.hostTable()
	if err != nil {
		return f, err
	}
	for _, l := range libraries {
		if !l.in(p.branch) {
			continue
		}
		file, soname := l.names(p.Driver)
		d := driverLib{file: file, soname: soname, sub: l.sub}
		if l.dev {
			d.dev = l.base + ".so"
		}
		if l.base == "libcuda" || l.base == "libnvidia-ml" {
			if d.data, err = p.machine.stub(l.base + ".so"); err == nil {
				d.data, err = patch(d.data, table)
			}
			if err != nil {
				return f, fmt.Errorf("%s: %w", l.base, err)
			}
		} else {
			d.data = sharedObject(p.machine.elf, soname)
		}
		f.libs = append(f.libs, d)
		if p.Compat32 && l.bits32 {
			d.data = sharedObject(p.machine.elf32, soname)
			f.libs32 = append(f.libs32, d)
		}
	}
	if f.programs["nvidia-smi"], err = p.machine.stub("nvidia-smi"); err != nil {
		return f, err
	}
	other, err := p.machine.stub("program")
	if err != nil {
		return f, err
	}
	for _, name := range otherPrograms {
		f.programs[name] = other
	}
	f.share = p.configs()
	f.firmware = map[string][]byte{}
	for _, name := range []string{"gsp_tu10x.bin", "gsp_ga10x.bin"} {
		if p.branch < 470 || name == "gsp_ga10x.bin" && p.branch < 515 {
			continue
		}
		f.firmware["nvidia/"+p.Driver+"/"+name] = []byte("simulated firmware " + name + "\n")
	}
	return f, nil
}

// configs are the files that libraries of other projects read to find the
// driver's.
func (p *plan) configs() map[string]string {
	platform := func(lib string) string {
		return "{\n    \"file_format_version\" : \"1.0.0\",\n    \"ICD\" : {\n        \"library_path\" : \"" + lib + "\"\n    }\n}\n"
	}
	m := map[string]string{
		"glvnd/egl_vendor.d/10_nvidia.json": platform("libEGL_nvidia.so.0"),
		"vulkan/icd.d/nvidia_icd.json": `{
    "file_format_version" : "1.0.1",
    "ICD": {
        "library_path": "libGLX_nvidia.so.0",
        "api_version" : "1.4.312"
    }
}
`,
		"vulkan/implicit_layer.d/nvidia_layers.json": `{
    "file_format_version" : "1.0.0",
    "layer": {
        "name": "VK_LAYER_NV_optimus",
        "type": "INSTANCE",
        "library_path": "libGLX_nvidia.so.0",
        "api_version" : "1.4.312",
        "implementation_version" : "1",
        "description" : "NVIDIA Optimus layer"
    }
}
`,
		"nvidia/nvoptix.bin": "simulated nvoptix.bin\n",
		"nvidia/nvidia-application-profiles-" + p.Driver + "-rc": "{\n    \"rules\" : []\n}\n",
	}
	for name, base := range map[string]string{
		"15_nvidia_gbm": "libnvidia-egl-gbm", "10_nvidia_wayland": "libnvidia-egl-wayland",
		"20_nvidia_xcb": "libnvidia-egl-xcb", "20_nvidia_xlib": "libnvidia-egl-xlib",
	} {
		for _, l := range libraries {
			if l.base == base && l.in(p.branch) {
				m["egl/egl_external_platform.d/"+name+".json"] = platform(base + l.soname)
			}
		}
	}
	return m
}

// putLibs puts libraries and their links into a folder.
func putLibs(t *tree, dir string, libs []driverLib) {
	for _, l := range libs {
		d := dir
		if l.sub != "" {
			d += "/" + l.sub
		}
		t.file(d+"/"+l.file, 0o644, l.data)
		putLinks(t, d, "", l)
	}
}

// putLinks puts a library's links into dir; to is the folder of the file, ""
// for the same.
func putLinks(t *tree, dir, to string, l driverLib) {
	if to != "" {
		to += "/"
	}
	if l.soname != l.file {
		t.link(dir+"/"+l.soname, to+l.file)
	}
	if l.dev != "" {
		t.link(dir+"/"+l.dev, l.soname)
	}
	if l.soname == "libGLX_nvidia.so.0" {
		t.link(dir+"/libGLX_indirect.so.0", l.soname)
	}
}

func putPrograms(t *tree, dir string, programs map[string][]byte) {
	for name, data := range programs {
		t.file(dir+"/"+name, 0o755, data)
	}
}

func putShare(t *tree, dir string, share map[string]string) {
	for name, text := range share {
		t.text(dir+"/"+name, text)
	}
}

func putFirmware(t *tree, dir string, firmware map[string][]byte) {
	for name, data := range firmware {
		t.file(dir+"/"+name, 0o644, data)
	}
}

// cacheOf lists what ldconfig finds in a folder, which it writes as dir.
func cacheOf(dir string, libs []driverLib, flags uint32) []cacheEntry {
	var list []cacheEntry
	for _, l := range libs {
		if l.sub != "" {
			continue // not a folder of the loader
		}
		list = append(list, cacheEntry{l.soname, dir + "/" + l.soname, flags})
		if l.dev != "" {
			list = append(list, cacheEntry{l.dev, dir + "/" + l.dev, flags})
		}
	}
	return list
}

// addCache writes the loader cache of a root, filled up with other libraries.
func (p *plan) addCache(t *tree, root, fillDir string, driver []cacheEntry) {
	if p.CacheEntries == 0 {
		return
	}
	all := driver
	for i := 0; len(all) < p.CacheEntries; i++ {
		name := fmt.Sprintf("lib%s%d.so.%d", strings.Repeat(string(rune('a'+i%26)), 1+i%5), i, i%9)
		all = append(all, cacheEntry{name, fillDir + "/" + name, p.machine.cache})
	}
	t.file(root+"/etc/ld.so.cache", 0o644, loaderCache(all))
}
