//go:build linux && (amd64 || arm64)

package pools

import (
	"context"
	"fmt"
	"os"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
)

// openProcesses starts worker processes of this binary, which have its registered functions.
func openProcesses(workers, maxTasks int) (*remotePool, error) {
	argv, err := ownCommand()
	if err != nil {
		return nil, err
	}
	return openRemote(EngineConfig{Workers: workers, Command: argv, Env: scrubbed(os.Environ()), MaxTasks: maxTasks}, false)
}

// ownCommand starts this program as a worker. One that does not ask first whether it is a worker must never be started so: it would do what
// it always does, and start workers of its own.
func ownCommand() ([]string, error) {
	if os.Getenv(process.WorkerEnv) != "" || !mainCalled.Load() {
		return nil, fmt.Errorf("%w: worker processes run this program again, which must call pools.Main() first in main (in tests: in "+
			"TestMain), or each of them would do what the program does", ErrUnavailable)
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("worker processes: %w", err)
	}
	return []string{exe}, nil
}

// openPython starts worker processes of a Python.
func openPython(ctx context.Context, choice string, workers, maxTasks int) (*remotePool, error) {
	argv, environ, err := pythonWorker(ctx, choice)
	if err != nil {
		return nil, err
	}
	return openRemote(EngineConfig{Workers: workers, Command: argv, Env: scrubbed(environ), MaxTasks: maxTasks}, true)
}
