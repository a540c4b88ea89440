package pyshim

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// MinimumMinor is the oldest Python 3 that the sources run on: 3.10.
const MinimumMinor = 10

// Python is an interpreter that has been found, and asked for its version.
type Python struct {
	Path     string // to start it by; not resolved, as a virtual environment is known by its path
	Version  string // "3.14.6"
	Origin   string // why it is this one: "--python", "$VIRTUAL_ENV", "PATH", "embedded", ...
	Embedded bool
	Package  Package // the schwimmbad_go that it would import by itself
}

// Package is what an interpreter says about the schwimmbad_go that is installed for it.
type Package struct {
	Version string // empty: there is none
	Dir     string // of the package
	Library string // the engine library that loads; empty: none does
	Problem string // why there is no package or library
}

// String names the interpreter in messages: "Python 3.11.2 (/usr/bin/python3, from PATH)".
func (p *Python) String() string {
	return fmt.Sprintf("Python %s (%s, from %s)", p.Version, p.Path, p.Origin)
}

// Command prepares a run of the interpreter. As with exec.CommandContext the process is killed when ctx ends; standard streams are for the
// caller to connect. paths go in front of the user's PYTHONPATH.
func (p *Python) Command(ctx context.Context, paths []string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, p.Path, args...)
	command.Env = p.Environ(os.Environ(), paths...)
	return command
}

// Environ makes an environment for the interpreter from another one: paths in front of PYTHONPATH, no PYTHONHOME.
//
// PYTHONHOME says where the standard library of one certain interpreter lies. It is inherited by all children, and any other Python that
// gets it dies with "No module named 'encodings'". Every interpreter that we start finds its library without.
//
// The embedded Python has no packages of its own, and must not find those that the user has installed for another Python.
func (p *Python) Environ(environ []string, paths ...string) []string {
	own := []string{"PYTHONHOME="}
	if p.Embedded {
		own = append(own, "PYTHONNOUSERSITE=")
	}
	theirs := ""
	kept := slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		if value, found := strings.CutPrefix(entry, "PYTHONPATH="); found {
			theirs = value
			return len(paths) > 0
		}
		return slices.ContainsFunc(own, func(name string) bool { return strings.HasPrefix(entry, name) })
	})
	if p.Embedded {
		kept = append(kept, "PYTHONNOUSERSITE=1")
	}
	if len(paths) > 0 {
		if theirs != "" { // an empty element would mean the working directory
			paths = append(slices.Clone(paths), theirs)
		}
		kept = append(kept, "PYTHONPATH="+strings.Join(paths, string(os.PathListSeparator)))
	}
	return kept
}
