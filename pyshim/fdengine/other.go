//go:build !linux || !(amd64 || arm64)

package fdengine

import (
	"errors"
	"os"
	"os/exec"
)

var errHere = errors.New("the engine needs Linux on amd64 or arm64 so far")

// Pair needs Linux.
func Pair() (engine, python *os.File, err error) { return nil, nil, errHere }

// Serve needs Linux.
func Serve(*os.File) error { return errHere }

// Run needs Linux.
func Run(*exec.Cmd) error { return errHere }
