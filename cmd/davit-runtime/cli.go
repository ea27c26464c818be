// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"davit/internal/config"
	"davit/internal/request"
)

// The exit status for wrong arguments, as of NVIDIA's program (sysexits.h).
const cliUsage = 64

// cliMain is nvidia-container-cli: configure is the way in of ctr and nerdctl
// --gpus, of LXC and of enroot; info and list are davit's, for people.
func cliMain(args []string) int {
	fail := func(code int, err error) int {
		fmt.Fprintln(os.Stderr, printable("nvidia-container-cli: "+err.Error()))
		return code
	}
	o, rest, err := parseOptions(args, cliGlobal, true)
	if err != nil {
		return fail(cliUsage, err)
	}
	switch {
	case o.has("help") || len(rest) == 0 && !o.has("version"):
		fmt.Println("usage: nvidia-container-cli [--debug=FILE] [--load-kmods] [--root=DIR] [--user[=UID:GID]] COMMAND\n" +
			"commands:\n" +
			"  info        the driver and its GPUs\n" +
			"  list        the driver's files and nodes\n" +
			"  configure   give a created container its GPUs")
		return 0
	case o.has("version"):
		fmt.Println("cli-version: " + version + " (davit)")
		return 0
	}
	switch rest[0] {
	case "configure":
		own, roots, err := parseOptions(rest[1:], cliConfigure, false)
		if err == nil && own.has("help") {
			fmt.Println("usage: nvidia-container-cli [OPTION…] configure --pid=PID [--device=ID,…] [--compute] [--utility] [--video] [--graphics] [--display] [--ngx] [--compat32] [--require=EXPR] [--no-cgroups] ROOTFS")
			return 0
		}
		var j cliJob
		if err == nil {
			j, err = newCLIJob(o, own, roots)
		}
		if err != nil {
			return fail(cliUsage, err)
		}
		if err := j.run(); err != nil {
			return fail(1, err)
		}
		return 0
	case "info", "list":
		return fail(1, becomeDavit(args))
	}
	return fail(cliUsage, fmt.Errorf("unknown command %q; known: info, list, configure", rest[0]))
}

// becomeDavit executes the larger program beside this one. It returns only on
// failure.
func becomeDavit(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	davit := filepath.Join(filepath.Dir(self), "davit")
	if err := syscall.Exec(davit, append([]string{"nvidia-container-cli"}, args...), os.Environ()); err != nil {
		return fmt.Errorf("info and list are in davit, which cannot be executed as %s: %w", davit, err)
	}
	return nil
}

// option is one that a command line may have.
type option struct {
	name  string
	short byte // 0 for none
	kind  byte // 'b': takes no value; 'v': a value; 'o': a value behind "=" alone
}

// The options of NVIDIA's program. It has them too where davit needs none.
var (
	cliGlobal = []option{{"debug", 'd', 'v'}, {"load-kmods", 'k', 'b'}, {"no-pivot", 'n', 'b'}, {"root", 'r', 'v'}, {"ldcache", 'l', 'v'},
		{"user", 'u', 'o'}, {"no-create-imex-channels", 0, 'b'}, {"help", 'h', 'b'}, {"version", 'V', 'b'}}
	cliConfigure = []option{{"pid", 'p', 'v'}, {"device", 'd', 'v'}, {"require", 'r', 'v'}, {"ldconfig", 'l', 'v'},
		{"compute", 'c', 'b'}, {"utility", 'u', 'b'}, {"video", 'v', 'b'}, {"graphics", 'g', 'b'}, {"display", 'D', 'b'}, {"ngx", 'n', 'b'},
		{"compat32", 0, 'b'}, {"mig-config", 0, 'v'}, {"mig-monitor", 0, 'v'}, {"imex-channel", 0, 'v'}, {"no-cgroups", 0, 'b'},
		{"no-devbind", 0, 'b'}, {"cuda-compat-mode", 0, 'v'}, {"no-cntlibs", 0, 'b'}, {"no-persistenced", 0, 'b'}, {"no-fabricmanager", 0, 'b'},
		{"no-gsp-firmware", 0, 'b'}, {"help", 'h', 'b'}}
	cliCapabilities = []string{"compat32", "compute", "display", "graphics", "ngx", "utility", "video"}
)

// options are those given, by their long names, in order of giving.
type options map[string][]string

func (o options) has(name string) bool { return o[name] != nil }

// last gives the value given last; "" if there is none.
func (o options) last(name string) string {
	if v := o[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// parseOptions reads arguments as getopt_long does: --name=VALUE, --name VALUE,
// -x VALUE, -xVALUE, several letters together, and -- before what are no
// options. With first, reading ends at the first that is no option.
func parseOptions(args []string, known []option, first bool) (o options, rest []string, err error) {
	o = options{}
	for i := 0; i < len(args); i++ {
		arg := args[i]
		next := func(name string) (string, error) {
			if i++; i == len(args) {
				return "", fmt.Errorf("%s needs a value", name)
			}
			return args[i], nil
		}
		switch {
		case arg == "--":
			return o, append(rest, args[i+1:]...), nil
		case strings.HasPrefix(arg, "--"):
			name, val, hasVal := strings.Cut(arg[2:], "=")
			k := slices.IndexFunc(known, func(k option) bool { return k.name == name })
			switch {
			case k < 0:
				return nil, nil, fmt.Errorf("unknown option --%s", name)
			case known[k].kind == 'b' && hasVal:
				return nil, nil, fmt.Errorf("--%s takes no value", name)
			case known[k].kind == 'v' && !hasVal:
				if val, err = next("--" + name); err != nil {
					return nil, nil, err
				}
			}
			o[name] = append(o[name], val)
		case len(arg) > 1 && arg[0] == '-':
			for at := 1; at < len(arg); at++ {
				k := slices.IndexFunc(known, func(k option) bool { return k.short != 0 && k.short == arg[at] })
				if k < 0 {
					return nil, nil, fmt.Errorf("unknown option -%s", arg[at:at+1])
				}
				val := ""
				if known[k].kind != 'b' {
					val = strings.TrimPrefix(arg[at+1:], "=")
					at = len(arg)
					if val == "" && known[k].kind == 'v' {
						if val, err = next(arg); err != nil {
							return nil, nil, err
						}
					}
				}
				o[known[k].name] = append(o[known[k].name], val)
			}
		case first:
			return o, args[i:], nil
		default:
			rest = append(rest, arg)
		}
	}
	return o, rest, nil
}

// cliJob is one configure.
type cliJob struct {
	global, own options
	pid         int
	rootPath    string
}

// newCLIJob checks what can be checked without the container.
func newCLIJob(global, own options, roots []string) (cliJob, error) {
	j := cliJob{global: global, own: own}
	if len(roots) != 1 {
		return j, fmt.Errorf("configure wants one root file system, got %d arguments", len(roots))
	}
	if j.rootPath = roots[0]; !filepath.IsAbs(j.rootPath) {
		return j, fmt.Errorf("the root file system %q is no absolute path", j.rootPath)
	}
	if filepath.Clean(j.rootPath) == "/" {
		return j, errors.New("the root file system / is the host's own: name the container's")
	}
	// Without a number the container is the caller's own surroundings, as in
	// LXC's hook, which runs there.
	j.pid = os.Getppid()
	if own.has("pid") {
		n, err := strconv.Atoi(own.last("pid"))
		if err != nil || n <= 0 {
			return j, fmt.Errorf("--pid %q is no process", own.last("pid"))
		}
		j.pid = n
	}
	for _, name := range []string{"mig-config", "mig-monitor"} {
		if own.has(name) && own.last(name) != "all" {
			return j, fmt.Errorf("--%s=%s: only all is known", name, own.last(name))
		}
	}
	if own.has("no-devbind") && !own.has("no-cgroups") {
		return j, errors.New("--no-devbind without --no-cgroups: a device is made and allowed, or neither")
	}
	if debug := global.last("debug"); debug != "" && !filepath.IsAbs(debug) {
		return j, fmt.Errorf("--debug %q is no absolute path", debug)
	}
	return j, nil
}

// request is what the options ask for.
func (j cliJob) request(c config.Config) (request.Request, error) {
	devices := strings.Join(j.own["device"], ",")
	if strings.Trim(devices, ", ") == "" {
		devices = "none" // the driver alone
	}
	env := []string{"NVIDIA_VISIBLE_DEVICES=" + devices}
	var caps []string
	for _, name := range cliCapabilities {
		if j.own.has(name) {
			caps = append(caps, name)
		}
	}
	if len(caps) > 0 {
		env = append(env, "NVIDIA_DRIVER_CAPABILITIES="+strings.Join(caps, ","))
	}
	if j.own.has("imex-channel") {
		env = append(env, "NVIDIA_IMEX_CHANNELS="+strings.Join(j.own["imex-channel"], ","))
	}
	r, err := request.Read(request.Container{Env: env}, request.Policy{AcceptEnv: "always", IgnoreIMEX: c.IgnoreIMEX})
	if err != nil {
		// The variables are this program's own; its caller knows options.
		text := strings.NewReplacer(" in the container's environment", "", "NVIDIA_VISIBLE_DEVICES=", "--device=", "NVIDIA_IMEX_CHANNELS=", "--imex-channel=").Replace(err.Error())
		return r, errors.New(text)
	}
	if !r.Asked {
		return r, nil
	}
	r.Source, r.CapSource = "--device="+devices, "options of nvidia-container-cli"
	if !j.own.has("device") {
		r.Source = "nvidia-container-cli configure"
	}
	if len(caps) == 0 {
		r.Capabilities = []string{}
	}
	r.MIGConfig, r.MIGMonitor = j.own.has("mig-config"), j.own.has("mig-monitor")
	if !c.DisableRequire {
		for _, e := range j.own["require"] {
			if strings.TrimSpace(e) != "" {
				r.Requirements = append(r.Requirements, request.Requirement{Variable: "--require", Expression: e})
			}
		}
	}
	return r, nil
}

// run gives the container what was asked. Of the environment it takes nothing,
// as docker's hook: a runtime may hand an image's to a hook.
func (j cliJob) run() error {
	os.Clearenv()
	if err := checkNamespace(); err != nil {
		return err
	}
	c, err := loadConfig(os.Getenv)
	if err != nil {
		return err
	}
	if root := j.global.last("root"); root != "" {
		c.DriverRoot = root
	}
	c.NoCgroups = c.NoCgroups || j.own.has("no-cgroups")
	req, err := j.request(c)
	if err != nil || !req.Asked {
		return err
	}
	debug := j.global.last("debug")
	if debug == "" {
		debug = c.HookDebug
	}
	g := gift{pid: j.pid, rootPath: j.rootPath, without: j.without()}
	p, err := g.apply(c, req)
	trace(debug, "nvidia-container-cli configure "+j.rootPath, p, err)
	return err
}

// without are the beginnings of targets that the options leave out.
func (j cliJob) without() (list []string) {
	for name, target := range map[string]string{
		"no-devbind":       "/dev/",
		"no-persistenced":  "/run/nvidia-persistenced/",
		"no-fabricmanager": "/run/nvidia-fabricmanager/",
	} {
		if j.own.has(name) {
			list = append(list, target)
		}
	}
	return list
}
