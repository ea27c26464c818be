// SPDX-License-Identifier: Apache-2.0

package knowledge

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"strconv"
	"strings"
)

//go:embed errors.cuda.csv
var cudaTable string

//go:embed errors.nvml.csv
var nvmlTable string

//go:embed errors.xid.csv
var xidTable string

//go:embed cuda.driver.csv
var driverTable string

// CUDAError is one number of CUDA's driver (CUresult) or runtime (cudaError).
type CUDAError struct {
	Code    int
	Driver  string // CUDA_ERROR_…, or empty
	Runtime string // cudaError…, or empty
	Meaning string
	Causes  string // what usually brings it about in a container
	Finding string // id of the finding that explains it, or empty
	Source  string
}

// NVMLError is one number of NVML, which nvidia-smi and monitoring use.
type NVMLError struct {
	Code    int
	Name    string // NVML_ERROR_…
	Meaning string
	Causes  string
	Finding string
	Source  string
}

// Xid is one kind of report that the kernel driver writes to the kernel log.
type Xid struct {
	Number      int
	Name        string
	Meaning     string
	Action      string // the code of NVIDIA's catalogue: RESET_GPU, RESTART_APP, …
	Do          string // that action in words
	Investigate string
	ByProgram   bool // mostly the program's fault, not the hardware's
	Source      string
}

// Branch is a branch of the driver.
type Branch struct {
	Number    int    // 550
	CUDA      string // the newest CUDA that it has by itself
	EndOfLife string // in words, or empty where it is not known
	Source    string
}

// asOf gives the date for which a table of this package says it is true.
func asOf(table string) string {
	_, after, _ := strings.Cut(table, "# as of ")
	date, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(date)
}

// ErrorsAsOf is the date of the error tables.
func ErrorsAsOf() string { return asOf(cudaTable) }

// rows reads a table: CSV below a head of comments in which "source KEY: TEXT"
// spells out the keys of the last column.
func rows(name, table string) ([][]string, error) {
	sources := map[string]string{}
	for line := range strings.Lines(table) {
		if rest, ok := strings.CutPrefix(line, "# source "); ok {
			key, text, _ := strings.Cut(rest, ": ")
			sources[key] = strings.TrimSpace(text)
		}
	}
	r := csv.NewReader(strings.NewReader(table))
	r.Comment = '#'
	all, err := r.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("table %s: %w", name, err)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("table %s: empty", name)
	}
	all = all[1:]
	for _, row := range all {
		last := len(row) - 1
		if text, ok := sources[row[last]]; ok {
			row[last] = text
		}
	}
	return all, nil
}

// CUDAErrors is the table of CUDA errors, by number.
func CUDAErrors() ([]CUDAError, error) {
	all, err := rows("errors.cuda", cudaTable)
	if err != nil {
		return nil, err
	}
	list := make([]CUDAError, len(all))
	for i, r := range all {
		n, err := strconv.Atoi(r[0])
		if err != nil {
			return nil, fmt.Errorf("table errors.cuda: %w", err)
		}
		list[i] = CUDAError{n, r[1], r[2], r[3], r[4], r[5], r[6]}
	}
	return list, nil
}

// NVMLErrors is the table of NVML errors, by number.
func NVMLErrors() ([]NVMLError, error) {
	all, err := rows("errors.nvml", nvmlTable)
	if err != nil {
		return nil, err
	}
	list := make([]NVMLError, len(all))
	for i, r := range all {
		n, err := strconv.Atoi(r[0])
		if err != nil {
			return nil, fmt.Errorf("table errors.nvml: %w", err)
		}
		list[i] = NVMLError{n, r[1], r[2], r[3], r[4], r[5]}
	}
	return list, nil
}

// Xids is the table of Xid numbers, in order.
func Xids() ([]Xid, error) {
	all, err := rows("errors.xid", xidTable)
	if err != nil {
		return nil, err
	}
	list := make([]Xid, len(all))
	for i, r := range all {
		n, err := strconv.Atoi(r[0])
		if err != nil {
			return nil, fmt.Errorf("table errors.xid: %w", err)
		}
		list[i] = Xid{n, r[1], r[2], r[3], r[4], r[5], r[6] == "program", r[7]}
	}
	return list, nil
}

// Branches is the table of driver branches, oldest first.
func Branches() ([]Branch, error) {
	all, err := rows("cuda.driver", driverTable)
	if err != nil {
		return nil, err
	}
	list := make([]Branch, len(all))
	for i, r := range all {
		n, err := strconv.Atoi(r[0])
		if err != nil {
			return nil, fmt.Errorf("table cuda.driver: %w", err)
		}
		list[i] = Branch{n, r[1], r[2], r[3]}
	}
	return list, nil
}

// CUDAOfDriver is the newest CUDA version that a driver such as 550.54.14 has
// by itself; empty for a branch that the table does not hold. Branches between
// two rows have what the row below them has.
func CUDAOfDriver(list []Branch, driver string) string {
	major, _, _ := strings.Cut(driver, ".")
	n, err := strconv.Atoi(major)
	if err != nil || len(list) == 0 || n < list[0].Number || n > list[len(list)-1].Number+4 {
		return ""
	}
	cuda := ""
	for _, b := range list {
		if b.Number <= n {
			cuda = b.CUDA
		}
	}
	return cuda
}

// BranchForCUDA is the oldest driver branch that has a CUDA version by itself;
// 0 where the table has none.
func BranchForCUDA(list []Branch, cuda string) int {
	for _, b := range list {
		if CompareVersions(b.CUDA, cuda) >= 0 {
			return b.Number
		}
	}
	return 0
}

// MinorFloor is the oldest driver that runs programs of a CUDA major version
// by minor-version compatibility; empty where there is none.
func MinorFloor(major string) string {
	switch major {
	case "11":
		return "450.80.02"
	case "12":
		return "525.60.13"
	case "13":
		return "580.65.06"
	}
	return ""
}
