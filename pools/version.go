package pools

// version is set by the build (-ldflags "-X .../pools.version=..."); a plain go build leaves the development mark.
var version = "0.1.0.dev"

// Version of this module as built.
func Version() string { return version }

// ABI is the number of the C interface and of the worker protocol; a binding refuses a library with another one.
const ABI = 1
