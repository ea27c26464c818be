// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"crypto/sha256"
	"strings"
)

// layout is a way in which distributions lay a driver's files out.
type layout struct {
	name string
	put  func(p *plan, t *tree, f driverFiles)
}

var layouts = []layout{
	{"debian", putDebian},
	{"debian-current", putDebianCurrent},
	{"rhel", putRHEL},
	{"flat", putFlat},
	{"nixos", putNixOS},
	{"driver-container", putDriverContainer},
}

// Layouts lists the names that Options.Layout takes.
func Layouts() []string {
	names := make([]string, len(layouts))
	for i, l := range layouts {
		names[i] = l.name
	}
	return names
}

func layoutNamed(name string) (layout, bool) {
	for _, l := range layouts {
		if l.name == name {
			return l, true
		}
	}
	return layout{}, false
}

// addDriver puts the driver's files where the layout wants them.
func (p *plan) addDriver(t *tree) error {
	f, err := p.driverFiles()
	if err != nil {
		return err
	}
	t.link("/var/run", "/run")
	t.dir("/tmp")
	if p.Persistenced && p.Layout != "driver-container" {
		t.socket("/run/nvidia-persistenced/socket", 0o666)
	}
	p.layout.put(p, t, f)
	return nil
}

// putMergedUsr makes the links of a distribution without folders of its own
// in /.
func putMergedUsr(t *tree, root string, names ...string) {
	for _, n := range names {
		t.dir(root + "/usr/" + n)
		t.link(root+"/"+n, "usr/"+n)
	}
}

func putOS(t *tree, root, id, version string) {
	t.text(root+"/etc/os-release", "ID="+id+"\nVERSION_ID=\""+version+"\"\n")
}

// firmwarePath is where the kernel looks first.
func firmwarePath(t *tree, dir string) {
	t.proc("/sys/module/firmware_class/parameters/path", dir+"\n")
}

// putDebianRoot is Debian's and Ubuntu's layout below a root: all in the
// multiarch folder.
func putDebianRoot(p *plan, t *tree, root string, f driverFiles) {
	putMergedUsr(t, root, "bin", "sbin", "lib", "lib64")
	lib := "/lib/" + p.machine.triple
	putLibs(t, root+"/usr"+lib, f.libs)
	cache := cacheOf(lib, f.libs, p.machine.cache)
	if len(f.libs32) > 0 {
		lib32 := "/lib/" + p.machine.triple32
		putLibs(t, root+"/usr"+lib32, f.libs32)
		cache = append(cache, cacheOf(lib32, f.libs32, p.machine.cache32)...)
	}
	putPrograms(t, root+"/usr/bin", f.programs)
	putShare(t, root+"/usr/share", f.share)
	t.text(root+"/etc/OpenCL/vendors/nvidia.icd", f.icd)
	putFirmware(t, root+"/usr/lib/firmware", f.firmware)
	p.putDebianConf(t, root)
	p.addCache(t, root, lib, cache)
}

func (p *plan) putDebianConf(t *tree, root string) {
	t.text(root+"/etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n\n")
	t.text(root+"/etc/ld.so.conf.d/"+p.machine.triple+".conf",
		"# Multiarch support\n/usr/local/lib/"+p.machine.triple+"\n/lib/"+p.machine.triple+"\n/usr/lib/"+p.machine.triple+"\n")
}

func putDebian(p *plan, t *tree, f driverFiles) {
	putOS(t, "", "ubuntu", "24.04")
	firmwarePath(t, "")
	putDebianRoot(p, t, "", f)
}

// putDebianCurrent is what Debian's own packages make: libraries that may be
// exchanged against another driver series lie in nvidia/current, with links by
// way of /etc/alternatives; those whose SONAME carries the version do not.
func putDebianCurrent(p *plan, t *tree, f driverFiles) {
	putOS(t, "", "debian", "13")
	firmwarePath(t, "")
	putMergedUsr(t, "", "bin", "sbin", "lib", "lib64")
	put := func(triple string, libs []driverLib, flags uint32) []cacheEntry {
		lib := "/usr/lib/" + triple
		current := lib + "/nvidia/current"
		for _, l := range libs {
			switch {
			case l.sub != "" || l.soname == l.file:
				putLibs(t, lib, []driverLib{l})
				continue
			case !strings.HasSuffix(l.file, p.Driver):
				putLibs(t, lib, []driverLib{l}) // packages of their own
				continue
			}
			t.file(current+"/"+l.file, 0o644, l.data)
			for _, name := range []string{l.soname, l.dev} {
				if name == "" {
					continue
				}
				alternative := "/etc/alternatives/nvidia--" + name + "-" + triple
				t.link(current+"/"+name, l.file)
				t.link(lib+"/"+name, alternative)
				t.link(alternative, current+"/"+name)
			}
		}
		return cacheOf("/lib/"+triple, libs, flags)
	}
	cache := put(p.machine.triple, f.libs, p.machine.cache)
	cache = append(cache, put(p.machine.triple32, f.libs32, p.machine.cache32)...)
	for name, data := range f.programs {
		switch name {
		case "nvidia-smi", "nvidia-debugdump":
			t.file("/usr/lib/nvidia/current/"+name, 0o755, data)
			t.link("/usr/bin/"+name, "/etc/alternatives/nvidia--"+name)
			t.link("/etc/alternatives/nvidia--"+name, "/usr/lib/nvidia/current/"+name)
		default:
			t.file("/usr/bin/"+name, 0o755, data)
		}
	}
	putShare(t, "/usr/share", f.share)
	t.text("/etc/OpenCL/vendors/nvidia.icd", f.icd)
	putFirmware(t, "/usr/lib/firmware", f.firmware)
	p.putDebianConf(t, "")
	p.addCache(t, "", "/lib/"+p.machine.triple, cache)
}

func putRHEL(p *plan, t *tree, f driverFiles) {
	putOS(t, "", "rhel", "9.6")
	firmwarePath(t, "")
	putMergedUsr(t, "", "bin", "sbin", "lib", "lib64")
	putLibs(t, "/usr/lib64", f.libs)
	putLibs(t, "/usr/lib", f.libs32)
	putPrograms(t, "/usr/bin", f.programs)
	putShare(t, "/usr/share", f.share)
	t.text("/etc/OpenCL/vendors/nvidia.icd", f.icd)
	putFirmware(t, "/usr/lib/firmware", f.firmware)
	t.text("/etc/ld.so.conf", "include ld.so.conf.d/*.conf\n")
	cache := cacheOf("/lib64", f.libs, p.machine.cache)
	p.addCache(t, "", "/lib64", append(cache, cacheOf("/lib", f.libs32, p.machine.cache32)...))
}

// putFlat is what cloud hosts have whose driver comes as a mount of its own;
// recorded from one: all in /usr/local/nvidia, links from /usr/lib and
// /usr/bin.
func putFlat(p *plan, t *tree, f driverFiles) {
	const at = "/usr/local/nvidia"
	if p.Compat32 {
		p.host.Notes = append(p.host.Notes, "the flat layout has no 32-bit libraries: none were made")
	}
	putOS(t, "", "ubuntu", "24.04")
	firmwarePath(t, at+"/firmware")
	putMergedUsr(t, "", "bin", "sbin", "lib", "lib64")
	var libs []driverLib
	for _, l := range f.libs {
		l.sub = "" // no folder for vdpau there
		libs = append(libs, l)
		dev, _, _ := strings.Cut(l.file, ".so")
		l.dev = dev + ".so" // and a development link for each
		t.file(at+"/lib64/"+l.file, 0o755, l.data)
		putLinks(t, at+"/lib64", "", l)
		if l.soname != l.file {
			t.link("/usr/lib/"+l.soname, at+"/lib64/"+l.soname)
		}
		t.link("/usr/lib/"+l.dev, at+"/lib64/"+l.dev)
	}
	t.link(at+"/lib", "lib64")
	putPrograms(t, at+"/bin", f.programs)
	for name := range f.programs {
		t.link("/usr/bin/"+name, at+"/bin/"+name)
	}
	putShare(t, at+"/share", f.share)
	for _, name := range []string{"vulkan/icd.d/nvidia_icd.json", "glvnd/egl_vendor.d/10_nvidia.json"} {
		t.link("/usr/share/"+name, at+"/share/"+name)
	}
	putFirmware(t, at+"/firmware", f.firmware)
	t.text(at+"/version", p.Driver)
	t.text("/etc/ld.so.conf.d/nvidia.conf", at+"/lib64\n"+at+"/lib\n")
	p.putDebianConf(t, "")
	cache := cacheOf(at+"/lib64", libs, p.machine.cache)
	p.addCache(t, "", "/lib/"+p.machine.triple, append(cache, cacheOf("/lib", libs, p.machine.cache)...))
}

// putNixOS has everything in the store, links in /run, nothing in /usr and no
// loader cache.
func putNixOS(p *plan, t *tree, f driverFiles) {
	if p.CacheEntries > 0 {
		p.host.Notes = append(p.host.Notes, "NixOS has no loader cache: none was made")
	}
	putOS(t, "", "nixos", "25.05")
	driver := store("nvidia-x11-" + p.Driver + "-" + p.Kernel)
	programs := store("nvidia-x11-" + p.Driver + "-" + p.Kernel + "-bin")
	firmware := store("nvidia-x11-" + p.Driver + "-" + p.Kernel + "-firmware")
	graphics, graphics32 := store("graphics-drivers"), store("graphics-drivers-32bit")
	system, path := store("nixos-system-simulated-25.05"), store("system-path")
	put := func(driver, graphics string, libs []driverLib) {
		putLibs(t, driver+"/lib", libs)
		for _, l := range libs {
			if l.sub != "" {
				t.link(graphics+"/lib/"+l.sub, driver+"/lib/"+l.sub)
				continue
			}
			names := []string{l.file}
			if l.soname != l.file {
				names = append(names, l.soname)
			}
			if l.dev != "" {
				names = append(names, l.dev)
			}
			for _, name := range names {
				t.link(graphics+"/lib/"+name, driver+"/lib/"+name)
			}
		}
	}
	put(driver, graphics, f.libs)
	t.link("/run/opengl-driver", graphics)
	if len(f.libs32) > 0 {
		put(driver+"-lib32", graphics32, f.libs32)
		t.link("/run/opengl-driver-32", graphics32)
	}
	for name, text := range f.share {
		if strings.HasPrefix(name, "vulkan/") || strings.HasPrefix(name, "glvnd/") {
			// The package writes whole paths into these.
			for _, lib := range []string{"libGLX_nvidia", "libEGL_nvidia"} {
				text = strings.ReplaceAll(text, "\""+lib, "\""+driver+"/lib/"+lib)
			}
		}
		t.text(driver+"/share/"+name, text)
		t.link(graphics+"/share/"+name, driver+"/share/"+name)
	}
	t.text(driver+"/etc/OpenCL/vendors/nvidia.icd", driver+"/lib/"+f.icd)
	t.link(graphics+"/etc/OpenCL/vendors/nvidia.icd", driver+"/etc/OpenCL/vendors/nvidia.icd")
	putPrograms(t, programs+"/bin", f.programs)
	t.link("/run/current-system", system)
	t.link(system+"/sw", path)
	for name := range f.programs {
		t.link(path+"/bin/"+name, programs+"/bin/"+name)
	}
	putFirmware(t, firmware+"/lib/firmware", f.firmware)
	t.link(system+"/firmware", firmware+"/lib/firmware")
	firmwarePath(t, "/run/current-system/firmware")
	t.dir("/usr/bin")
}

// store is a path of the Nix store.
func store(name string) string {
	const digits = "0123456789abcdfghijklmnpqrsvwxyz"
	sum := sha256.Sum256([]byte(name))
	hash := make([]byte, 32)
	for i, b := range sum {
		hash[i] = digits[b&31]
	}
	return "/nix/store/" + string(hash) + "-" + name
}

// putDriverContainer is a host without a driver of its own, whose driver
// container shows its root to the host. The nodes are in the host's /dev.
func putDriverContainer(p *plan, t *tree, f driverFiles) {
	const root = "/run/nvidia/driver"
	putOS(t, "", "ubuntu", "22.04")
	firmwarePath(t, root+"/lib/firmware")
	putMergedUsr(t, "", "bin", "sbin", "lib", "lib64")
	p.putDebianConf(t, "")
	p.addCache(t, "", "/lib/"+p.machine.triple, nil)
	putOS(t, root, "ubuntu", "22.04")
	putDebianRoot(p, t, root, f)
	t.text("/run/nvidia/validations/driver-ready", "")
	if p.Persistenced {
		t.socket(root+"/run/nvidia-persistenced/socket", 0o666)
	}
}
