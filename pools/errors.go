package pools

import (
	"errors"
	"fmt"
)

// Code names a way in which an engine call can fail. The C header and the Python package carry the same table; a test
// compares the three.
type Code int

// Codes of the engine. They are negative so that a call can return a count or a code.
const (
	CodeInternal    Code = -1  // a fault of the engine itself
	CodeHandle      Code = -2  // the handle is unknown or was closed
	CodeArgument    Code = -3  // an argument is out of range
	CodeMemory      Code = -4  // shared memory is used up or refused
	CodeSystem      Code = -5  // a system call failed
	CodeInit        Code = -6  // a worker's initializer raised; the error record is in shared memory
	CodeStart       Code = -7  // workers die before they are ready
	CodeTerminated  Code = -8  // the pool was terminated while the call waited
	CodeUnsupported Code = -9  // this platform has no such transport
	CodePorts       Code = -10 // more concurrent callers than ports
	CodeMPI         Code = -11 // MPI is not running, or reported an error
	CodeLost        Code = -12 // the process of an MPI rank has died; the job cannot go on
)

var codeNames = map[Code]string{
	CodeInternal: "internal", CodeHandle: "handle", CodeArgument: "argument", CodeMemory: "memory",
	CodeSystem: "system", CodeInit: "init", CodeStart: "start", CodeTerminated: "terminated",
	CodeUnsupported: "unsupported", CodePorts: "ports", CodeMPI: "mpi", CodeLost: "lost",
}

// String is the name of the code in the C header, lower case.
func (c Code) String() string {
	if s, ok := codeNames[c]; ok {
		return s
	}
	return fmt.Sprintf("code(%d)", int(c))
}

// Codes lists every code.
func Codes() []Code {
	all := make([]Code, 0, len(codeNames))
	for c := CodeInternal; c >= CodeLost; c-- {
		all = append(all, c)
	}
	return all
}

// Error is what an engine call returns: a code for programs, a sentence for people.
type Error struct {
	Code Code
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

func fail(c Code, format string, args ...any) error {
	return &Error{Code: c, Err: fmt.Errorf(format, args...)}
}

// CodeOf finds the code of an error, CodeInternal where it has none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}
