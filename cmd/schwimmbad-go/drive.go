package main

import (
	"context"
	"errors"
	"fmt"

	"iter"
	"os"
	"strings"

	"github.com/schwimmbad-go/schwimmbad-go/cmd/schwimmbad-go/internal/records"
	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

// drive maps a function over the input and writes what comes out.
func drive[T any](ctx context.Context, p *mapPlan, f pools.Func[T, []byte], task func(number int64, record []byte) T) (err error) {
	pool, err := p.newPool()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	if err := p.open(); err != nil {
		return err
	}
	input := &source{records: records.Read(p.in, p.from)}
	sink := newSink(p)
	defer func() { err = errors.Join(err, sink.close()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the source may wait for input that will not come
	number := int64(-1)
	options := append(p.callOptions(), pools.Callback(func(i int, _ []byte) { number = int64(i) }))
	tasks := func(yield func(T) bool) {
		n := int64(0)
		for record := range input.until(ctx) {
			if !yield(task(n, record)) {
				return
			}
			n++
		}
	}
	for result, taskErr := range f.Stream(ctx, pool, tasks, options...) {
		if taskErr != nil && ctx.Err() != nil {
			break // it failed because it was interrupted
		}
		if err := sink.take(number, result, taskErr); err != nil {
			return err
		}
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted after %d results: %w", sink.done, context.Cause(ctx))
	case input.err != nil:
		return fmt.Errorf("input %s: %w", p.input, input.err)
	case sink.failed > 0:
		return exitError(exitFailed)
	}
	return nil
}

// source reads records on a goroutine of its own, which may stay behind in a read of standard input that nothing can interrupt.
type source struct {
	records iter.Seq2[[]byte, error]
	err     error // why it ended early
}

// readAhead is how many records wait between the goroutine that reads and the pool, which has a bound of its own.
const readAhead = 64

func (s *source) until(ctx context.Context) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		read := make(chan []byte, readAhead)
		ended := make(chan error, 1)
		go func() {
			defer close(read)
			for record, err := range s.records {
				if err != nil {
					ended <- err
					return
				}
				select {
				case read <- record:
				case <-ctx.Done():
					return
				}
			}
		}()
		for {
			select {
			case record, more := <-read:
				if !more {
					select {
					case s.err = <-ended:
					default:
					}
					return
				}
				if !yield(record) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// sink takes results and failures, and counts them.
type sink struct {
	out          *records.Writer
	failures     *records.Writer // the same as out, or a file of their own
	files        []*os.File
	meter        *meter // nil: no progress is shown
	done, failed int64
}

func newSink(p *mapPlan) *sink {
	s := &sink{out: records.NewWriter(p.out, p.to, p.numbered)}
	s.failures = s.out
	if p.failures != nil {
		s.failures = records.NewWriter(p.failures, records.JSONLines, false)
	}
	for _, file := range []*os.File{p.out, p.failures} {
		if file != nil && file != os.Stdout && file != os.Stderr {
			s.files = append(s.files, file)
		}
	}
	if p.progress {
		s.meter = newMeter(os.Stderr)
	}
	return s
}

// take writes what has become of a task. An error means that nothing more can be written, or that the map itself has failed.
func (s *sink) take(number int64, result []byte, taskErr error) error {
	var failure *pools.TaskError
	switch {
	case taskErr == nil:
	case errors.As(taskErr, &failure):
		number = int64(failure.Index)
	default:
		return mapError(taskErr)
	}
	s.done++
	defer func() { s.meter.count(s.done, s.failed) }()
	if taskErr == nil {
		err := s.out.Result(number, result)
		var misfit *records.ColumnError
		if !errors.As(err, &misfit) {
			return outputError(err)
		}
		taskErr = err
	}
	s.failed++
	return outputError(s.failures.Failure(describeFailure(number, taskErr)))
}

// mapError is why there was no map at all. An exception while the user's module was imported is told with its traceback.
func mapError(err error) error {
	var python *pools.PythonError
	if errors.As(err, &python) && python.Traceback != "" {
		return fmt.Errorf("the function cannot be had: %+v", python)
	}
	return err
}

func outputError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("output: %w", err)
}

func (s *sink) close() error {
	err := s.out.Close()
	if s.failures != s.out {
		err = errors.Join(err, s.failures.Close())
	}
	for _, file := range s.files {
		err = errors.Join(err, file.Close()) // a full disk behind a network shows here
	}
	s.meter.close()
	if s.failed > 0 {
		fmt.Fprintf(os.Stderr, "schwimmbad-go: %d of %d tasks failed\n", s.failed, s.done)
	}
	return outputError(err)
}

// describeFailure makes a record of a task's error.
func describeFailure(number int64, err error) records.Failure {
	f := records.Failure{Index: number, Type: strings.TrimPrefix(fmt.Sprintf("%T", err), "*")}
	var task *pools.TaskError
	if errors.As(err, &task) {
		f.Worker = fmt.Sprintf("%s, pid %d on %s", task.Worker, task.Pid, task.Host)
		if task.Rank >= 0 {
			f.Worker = fmt.Sprintf("rank %d, pid %d on %s", task.Rank, task.Pid, task.Host)
		}
		err = task.Err
		f.Type = strings.TrimPrefix(fmt.Sprintf("%T", err), "*")
	}
	f.Message = err.Error()
	var shell *shellError
	var crash *pools.PanicError
	var python *pools.PythonError
	switch {
	case errors.As(err, &python):
		f.Type, f.Message, f.Traceback = python.Type, python.Message, python.Traceback
	case errors.As(err, &shell):
		f.Type, f.Traceback = "ExitError", shell.stderr
	case errors.As(err, &crash):
		f.Traceback = string(crash.Stack)
	}
	return f
}
