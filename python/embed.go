// Package pysrc carries the Python sources of this project inside Go programs, for Pythons that have no schwimmbad_go installed.
package pysrc

import "embed"

// Each package has a pattern of its own: a pattern for the whole directory would take built libraries and __pycache__ along, which lie there
// in a tree that was installed in place.
//
//go:embed schwimmbad_go/*.py schwimmbad_go/_alias_path/schwimmbad/*.py
var files embed.FS

// Files holds the directory schwimmbad_go with its modules.
func Files() embed.FS { return files }

// Generated names the one module that a build writes and the sources do without.
const Generated = "schwimmbad_go/_build_info.py"
