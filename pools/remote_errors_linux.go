//go:build linux && (amd64 || arm64)

package pools

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/codec"
)

type badTask struct {
	task int64
	err  error
}

// taskError is an error of this side's with the place of its task.
func (j *remoteJob) taskError(index int64, err error) *TaskError {
	return &TaskError{Index: int(index), Worker: "on the master", Pid: os.Getpid(), Rank: -1, Host: host(), Err: err}
}

// lost tells of a task whose worker has died.
func (j *remoteJob) lost(index, flags, info, code int64) error {
	pid, rank := int(info&0xffffffff), int(info>>32)
	t := j.place(index, pid, "", rank)
	if flags&EventTimeout != 0 {
		t.Err = &TimeoutError{Limit: j.call.spec.Limit}
		return t
	}
	l := &WorkerLostError{Pid: pid, Rank: t.Rank, Host: t.Host, ExitCode: -1}
	switch {
	case flags&EventExit == 0:
	case code < 0:
		l.Signal = syscall.Signal(-code)
	default:
		l.ExitCode = int(code)
	}
	t.Err = l
	return t
}

// place is a TaskError without its cause; rank 0: no MPI rank, no name: this machine, or the rank's.
func (j *remoteJob) place(index int64, pid int, machine string, rank int) *TaskError {
	t := &TaskError{Index: int(index), Attempts: j.call.spec.Retries + 1, Pid: pid, Rank: -1, Host: machine}
	if rank > 0 {
		t.Rank = rank
		if machine == "" {
			t.Host = j.p.hostOf(rank)
		}
		t.Worker = fmt.Sprintf("rank %d, pid %d on %s", rank, pid, t.Host)
		return t
	}
	if machine == "" {
		t.Host = host()
	}
	t.Worker = fmt.Sprintf("worker pid %d", pid)
	return t
}

// errorRecord is what a worker tells of a failed task; docs/PROTOCOL.md, "Payloads".
type errorRecord struct {
	What      int
	Pickled   any // of no use here
	Type      string
	Text      string
	Traceback string
	Pid       int
	Code      any
	Host      string
	Rank      *int
}

func (j *remoteJob) rebuild(index int64, b []byte) error {
	var r errorRecord
	if err := codec.DecodeOne(b, &r); err != nil {
		return j.taskError(index, fmt.Errorf("it failed, and its error cannot be read: %w", err))
	}
	rank := 0
	if r.Rank != nil {
		rank = *r.Rank
	}
	t := j.place(index, r.Pid, r.Host, rank)
	t.Err = j.cause(&r)
	return t
}

func (j *remoteJob) cause(r *errorRecord) error {
	switch {
	case r.What == errTimeout:
		return &TimeoutError{Limit: j.call.spec.Limit}
	case j.p.python:
		return &PythonError{Type: plainType(r.Type), Message: r.Text, Traceback: r.Traceback}
	case r.What == errPanic:
		return &PanicError{Value: r.Text, Stack: []byte(r.Traceback)}
	case r.What == errResult:
		return fmt.Errorf("its result cannot be encoded: %s", r.Text)
	case r.What == errRead:
		return fmt.Errorf("it cannot be read in the worker: %s", r.Text)
	}
	return &RemoteError{Type: r.Type, Message: r.Text}
}

func (j *remoteJob) noFunction(b []byte) error {
	var r errorRecord
	if err := codec.DecodeOne(b, &r); err != nil {
		return fmt.Errorf("%s cannot be found in the worker, and its error cannot be read: %w", j.spec, err)
	}
	if j.p.python {
		return fmt.Errorf("%s: %w", j.spec, &PythonError{Type: plainType(r.Type), Message: r.Text, Traceback: r.Traceback})
	}
	return fmt.Errorf("%w: %s", ErrNotRegistered, r.Text)
}

// plainType takes the name that a source text gets as a module off the type of an exception.
func plainType(name string) string {
	if rest, ok := strings.CutPrefix(name, "_schwimmbad_go_"); ok {
		if _, class, ok := strings.Cut(rest, "."); ok {
			return class
		}
	}
	return name
}
