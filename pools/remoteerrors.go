package pools

import (
	"fmt"
	"strings"
	"syscall"
)

// WorkerLostError is a task whose worker process died while it ran, or the death of an MPI rank, after which its pool is of no more use. The
// process has been replaced, an MPI rank cannot be.
type WorkerLostError struct {
	Pid      int // 0: not known
	Rank     int // of its MPI process, -1 where there is no MPI
	Host     string
	Signal   syscall.Signal // that killed it, 0: none, or not known
	ExitCode int            // with which it left, -1: it did not, or that is not known
	Err      error          // what else is known
}

func (e *WorkerLostError) Error() string {
	var how string
	switch {
	case e.Signal == syscall.SIGKILL:
		how = "was killed by SIGKILL: out of memory?"
	case e.Signal != 0:
		how = fmt.Sprintf("was killed by signal %d (%v)", int(e.Signal), e.Signal)
	case e.ExitCode >= 0:
		how = fmt.Sprintf("ended with exit code %d (os.Exit in the task, or a fault of the runtime, which stderr tells)", e.ExitCode)
	case e.Err != nil:
		return e.Err.Error()
	default:
		how = "died; how is not known"
	}
	where := fmt.Sprintf("its worker process (pid %d on %s) ", e.Pid, e.Host)
	return where + how + "; it has been replaced, and other tasks are not affected"
}

// Unwrap gives what else is known.
func (e *WorkerLostError) Unwrap() error { return e.Err }

// PythonError is an exception that a Python function raised. Its message is that of Python's last line; format it with %+v, or print
// Traceback, to see where it came from.
type PythonError struct {
	Type      string // "ValueError", "numpy.linalg.LinAlgError"
	Message   string
	Traceback string
}

func (e *PythonError) Error() string {
	if e.Message == "" {
		return e.Type
	}
	return e.Type + ": " + e.Message
}

// Format prints the traceback, too, for %+v.
func (e *PythonError) Format(f fmt.State, verb rune) {
	switch {
	case verb == 'v' && f.Flag('+'):
		fmt.Fprint(f, strings.TrimRight(e.Traceback, "\n"))
	case verb == 'q':
		fmt.Fprintf(f, "%q", e.Error())
	default:
		fmt.Fprint(f, e.Error())
	}
}

// RemoteError is an error that a Go function returned in another process: its text and the name of its type. The error itself stays there;
// put what the caller is to tell apart into the result.
type RemoteError struct {
	Type    string // "*fs.PathError"
	Message string
}

func (e *RemoteError) Error() string { return e.Message }
