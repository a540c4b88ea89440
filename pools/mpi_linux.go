//go:build linux && (amd64 || arm64)

package pools

import (
	"errors"
	"sync/atomic"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/mpix"
)

// MPIInfo is what is known of MPI in this process.
type MPIInfo = mpix.Info

// LookAtMPI tells the state of MPI; it starts nothing.
func LookAtMPI() (MPIInfo, error) { return mpiError(mpix.Look()) }

// StartMPI initialises MPI unless that was done, and returns the level of thread support (0 single to 3 multiple).
func StartMPI() (int, error) { return mpiError(mpix.Init()) }

// StopMPI finalizes MPI, for whoever started it.
func StopMPI() error { return mpix.Finalize() }

// AbortMPI ends all ranks of the job with this code, which is never 0. It does not return.
func AbortMPI(code int) {
	aborting.Store(true)
	mpix.Abort(code)
}

var aborting atomic.Bool // the ranks that die now are no news

func mpiError[T any](v T, err error) (T, error) {
	switch {
	case errors.Is(err, mpix.ErrNoMPI):
		err = &Error{CodeUnsupported, err}
	case err != nil:
		err = &Error{CodeMPI, err}
	}
	return v, err
}
