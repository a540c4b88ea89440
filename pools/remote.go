package pools

import (
	"fmt"
	"sync/atomic"
)

// remoteSpec is what another process has to know of a function, as the contents of a BLOB frame: a name that the same binary has
// registered, or a Python function.
type remoteSpec struct {
	Go     string   `msgpack:"go,omitempty"`
	Module string   `msgpack:"module,omitempty"`
	Name   string   `msgpack:"name,omitempty"`
	Source string   `msgpack:"source,omitempty"`
	Path   []string `msgpack:"path,omitempty"`
	Call   string   `msgpack:"call,omitempty"`
}

func (s *remoteSpec) String() string {
	switch {
	case s.Go != "":
		return fmt.Sprintf("function %q", s.Go)
	case s.Source != "":
		return "Python function " + s.Name
	}
	return "Python function " + s.Module + ":" + s.Name
}

// remote describes a function to processes that are not this one.
func (f *function) remote() (*remoteSpec, error) {
	switch f.kind {
	case closure:
		return nil, fmt.Errorf("%w: workers of this pool are other processes and cannot run a Go closure; use pools.Register", ErrNotRegistered)
	case python:
		return &f.python.spec, f.python.err
	}
	return &remoteSpec{Go: f.name}, nil
}

// mainCalled says that Main stands where a worker process of this binary passes.
var mainCalled atomic.Bool

// Main makes this program able to be its own worker process, for pools with [Processes]. Call it first in main, before flags are parsed
// and anything is opened; in the tests of a package, first in TestMain. In a worker process it does not return: it serves the pool and
// ends the process. Everywhere else it returns at once.
//
// Functions that workers are to know must be registered before, in package variables or init functions.
func Main() {
	mainCalled.Store(true)
	serveIfWorker()
}
