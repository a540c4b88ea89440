//go:build !cgo || !linux || !(amd64 || arm64)

// Command capi is the C shared library; it needs cgo and, so far, Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "the C shared library needs cgo (a C compiler, CGO_ENABLED=1) and Linux on amd64 or arm64")
	os.Exit(1)
}
