package pyshim

import (
	"context"
	"os"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

// A program that imports this package can map Python functions: pools.Python.
func init() { pools.RegisterPython(workerCommand) }

// workerCommand starts an interpreter that runs a statement and finds the sources of this program first. The user's own modules come from
// the working directory and PYTHONPATH, as in any run of Python.
func workerCommand(ctx context.Context, choice, statement string) (argv, environ []string, err error) {
	python, err := Find(ctx, choice)
	if err != nil {
		return nil, nil, err
	}
	dir, err := Sources(ctx)
	if err != nil {
		return nil, nil, err
	}
	// The directory is an argument, not part of the statement: it may contain anything.
	code := "import sys; sys.path.insert(0, sys.argv.pop()); " + statement
	return []string{python.Path, "-c", code, dir}, python.Environ(os.Environ()), nil
}
