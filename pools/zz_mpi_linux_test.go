//go:build mpi && linux && (amd64 || arm64)

package pools_test

import (
	"errors"
	"os"
	"testing"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

// The suite for all pools, over the ranks of an MPI run: tests/go/test_conformance.py starts this binary on some, with the variable set.
// There is one MPIPool in a program, so all cases share it, and the last test, by the name of this file, closes it.
var onRanks *pools.MPIPool

// shared is a pool that is not closed yet.
type shared struct{ *pools.MPIPool }

func (shared) Close() error { return nil }

func init() {
	if os.Getenv("SWG_TEST_MPI") == "" || os.Getenv("SCHWIMMBAD_GO_WORKER") != "" { // tests of the engine start workers, which are no ranks
		return
	}
	onRanks = must(pools.NewMPIPool()) // the other ranks stay here
	makers = []maker{{"MPIPool", func(*testing.T) pools.Pool { return shared{onRanks} }, parallel}}
}

func TestMPIPoolCloses(t *testing.T) {
	if onRanks == nil {
		t.Skip("not on the ranks of an MPI run")
	}
	if err := onRanks.Close(); err != nil {
		t.Fatal(err)
	}
	if err := onRanks.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := square.Map(bg, onRanks, []int{1}); !errors.Is(err, pools.ErrClosed) {
		t.Fatal(err)
	}
	if _, err := pools.NewMPIPool(); !errors.Is(err, pools.ErrUnavailable) { // MPI cannot be started again
		t.Fatal(err)
	}
}
