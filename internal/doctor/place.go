// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"path"
	"strings"
)

// Place is where a configuration file given by itself usually lies on a host.
// It goes by the name, and by the text where names are shared.
func Place(name string, text []byte) (string, bool) {
	base, s := path.Base(name), string(text)
	switch ext := path.Ext(base); {
	case base == "daemon.json":
		return "/etc/docker/daemon.json", true
	case ext == ".toml" || ext == ".conf":
		switch {
		case strings.Contains(s, "[nvidia-container-cli]") || strings.Contains(s, "[nvidia-container-runtime]") || strings.Contains(s, "accept-nvidia-visible"):
			return toolkitFile, true
		case strings.Contains(s, "[crio"):
			return "/etc/crio/crio.conf", true
		}
		return containerdFile, true
	case strings.Contains(s, "cdiVersion"):
		return "/etc/cdi/" + base, ext == ".json" || ext == ".yaml"
	case ext == ".json" && strings.Contains(s, `"hook"`):
		return hookDirs[1] + "/" + base, true
	case ext == ".json":
		return "/etc/docker/daemon.json", true
	}
	return "", false
}
