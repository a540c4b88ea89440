// Package pyshim finds and starts Python interpreters, and gives them the Python sources of this project.
//
// An interpreter is looked for in this order: what the caller names, $SCHWIMMBAD_GO_PYTHON, the active virtual environment, the active
// conda environment, python3 on PATH, and last an embedded one. A program has an embedded one if it imports pyshim/embedded:
//
//	import _ "github.com/schwimmbad-go/schwimmbad-go/pyshim/embedded"
//
// This package itself needs nothing but the standard library, no cgo, and no Python to be built.
package pyshim
