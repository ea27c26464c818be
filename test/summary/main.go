// SPDX-License-Identifier: Apache-2.0

// Command summary reads the output of `go test -json` and shows what a person
// wants of it: each failure with its output, a line for each package with its
// time, why tests were skipped, and a closing line that counts them. A test
// with subtests counts by its subtests. It exits 1 if anything failed, a
// package that did not build included, or if no test ran.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
)

func main() {
	s := newSummary(os.Stdout)
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			s.line(line)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "summary: read standard input:", err)
			os.Exit(1)
		}
	}
	if !s.close() {
		os.Exit(1)
	}
}
