// Package embedded gives a program a Python interpreter of its own: CPython 3.14 with its standard library, for Linux with glibc and for
// macOS. It makes the program 39 MB larger, and building it downloads 109 MB once. Import it for its effect:
//
//	import _ "github.com/schwimmbad-go/schwimmbad-go/pyshim/embedded"
//
// The interpreter is unpacked when it is first used, into the user's cache (80 MB, 3 s), and found there from then on. With the build tag
// nopython this package is empty.
package embedded
