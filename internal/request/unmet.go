// SPDX-License-Identifier: Apache-2.0

package request

import "strings"

// Unmet is a requirement that a host does not meet.
type Unmet struct {
	Variable string // that held the expression
	Term     string // "cuda>=12.8": what fails in the alternative nearest to being met
	Property string // cuda, driver, arch, brand
	Op       string
	Want     string
	Have     string // the host's value
	Driver   string // the host's driver, "" if unknown
	Device   string // name of the GPU that was tested, "" if none
}

// Error is one line: the term, the host's value, and the ways out.
func (u *Unmet) Error() string {
	return "the image requires " + u.Term + " (" + show(u.Variable) + "), but " + u.has() + ": " + u.wayOut() +
		", or set NVIDIA_DISABLE_REQUIRE=1 to start it all the same" + u.hope()
}

func (u *Unmet) has() string {
	switch u.Property {
	case "cuda":
		if u.Driver != "" {
			return "driver " + show(u.Driver) + " of this host offers CUDA " + u.Have
		}
		return "the driver of this host offers CUDA " + u.Have
	case "driver":
		return "this host has driver " + u.Have
	case "arch":
		return u.gpu() + " has compute capability " + u.Have
	}
	return u.gpu() + " is of brand " + show(u.Have)
}

func (u *Unmet) gpu() string {
	if u.Device == "" {
		return "the GPU"
	}
	return "the GPU " + show(u.Device)
}

func (u *Unmet) wayOut() string {
	newer, older := u.Op[0] == '>', u.Op[0] == '<'
	switch u.Property {
	case "cuda":
		switch {
		case newer:
			return "install " + driverFor(u.Want, u.Op == ">") + ", use an image tag for CUDA " + u.Have + " or older"
		case older:
			return "use an image tag for CUDA " + u.Have + ", or a host with an older driver"
		}
	case "driver":
		switch {
		case newer && u.Op == ">":
			return "install a driver newer than " + u.Want + ", use an older image tag"
		case newer:
			return "install driver " + u.Want + " or newer, use an older image tag"
		case older:
			return "use a newer image tag, or a host with an older driver"
		}
	case "arch":
		switch {
		case newer:
			return "use a newer GPU, or an older image tag that was built for this one"
		case older:
			return "use a newer image tag, or an older GPU"
		}
	case "brand":
		if u.Op == "=" {
			return "use a GPU of brand " + u.Want + ", another image tag"
		}
		return "use a GPU of another brand, another image tag"
	}
	return "use a host with " + u.Term + ", another image tag"
}

// hope tells when skipping the check will probably do: programs built for one
// CUDA version run on drivers of the same major version since CUDA 11.
func (u *Unmet) hope() string {
	have, _, _ := strings.Cut(u.Have, ".")
	want, _, _ := strings.Cut(u.Want, ".")
	if u.Property != "cuda" || have != want || u.Op[0] != '>' || compareVersions(have, "11") < 0 {
		return ""
	}
	return " (both are CUDA " + want + ", so minor version compatibility probably holds)"
}

// cudaDrivers are the first Linux drivers for each CUDA version, from the
// release notes of the CUDA toolkit; where a version had no release of its own,
// the branch.
var cudaDrivers = [...][2]string{
	{"7.0", "346.46"}, {"7.5", "352.31"}, {"8.0", "367.48"}, {"9.0", "384.81"}, {"9.1", "390.46"}, {"9.2", "396.26"},
	{"10.0", "410.48"}, {"10.1", "418.39"}, {"10.2", "440.33"},
	{"11.0", "450.36.06"}, {"11.1", "455.23"}, {"11.2", "460.27.03"}, {"11.3", "465.19.01"}, {"11.4", "470.42.01"},
	{"11.5", "495.29.05"}, {"11.6", "510.39.01"}, {"11.7", "515.43.04"}, {"11.8", "520.61.05"},
	{"12.0", "525.60.13"}, {"12.1", "530.30.02"}, {"12.2", "535.54.03"}, {"12.3", "545.23.06"}, {"12.4", "550.54.14"},
	{"12.5", "555.42.02"}, {"12.6", "560.28.03"}, {"12.7", "565"}, {"12.8", "570.26"}, {"12.9", "575.51.03"},
	{"13.0", "580.65.06"}, {"13.1", "590.44.01"}, {"13.2", "595.45.04"}, {"13.3", "610.43.02"}, {"13.4", "615"},
}

// driverFor names the first driver that offers a CUDA version, or a newer one
// if it must be above.
func driverFor(cuda string, above bool) string {
	for _, row := range cudaDrivers {
		if c := compareVersions(row[0], cuda); c > 0 || c == 0 && !above {
			return "driver " + row[1] + " or newer"
		}
	}
	return "a newer driver, one that offers CUDA " + cuda
}
