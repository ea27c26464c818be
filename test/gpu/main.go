// SPDX-License-Identifier: Apache-2.0

// Command gpu is being written.
package main

func main() {}
