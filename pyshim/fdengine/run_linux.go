//go:build linux && (amd64 || arm64)

package fdengine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// Pair makes the two ends of a socket: one for Serve, one that Python inherits as descriptor 3 (see Run).
func Pair() (engine, python *os.File, err error) { return pair() }

// Run starts a Python with an engine on its descriptor 3, serves it, and returns what cmd.Wait does when it has ended. Signals are the
// caller's: a program that does not ignore nor die of SIGINT lets Ctrl-C in the terminal be Python's to handle.
//
// When this process dies, Python's calls report it and its workers are killed.
func Run(cmd *exec.Cmd) error {
	if len(cmd.ExtraFiles) > 0 {
		return errors.New("descriptor 3 is the engine's: ExtraFiles must be empty")
	}
	engine, python, err := pair()
	if err != nil {
		return err
	}
	hang, err := dup(engine) // for shutdown alone: Serve closes its own
	if err != nil {
		return errors.Join(err, engine.Close(), python.Close())
	}
	defer func() { _ = syscall.Close(hang) }()
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, Env+"=3")
	cmd.ExtraFiles = []*os.File{python}
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", cmd.Path, err), python.Close(), engine.Close())
	}
	served := make(chan error, 1)
	go func() { served <- Serve(engine) }()
	err = errors.Join(python.Close(), cmd.Wait())
	// Whatever process may have inherited the other end, the one it was for is gone.
	_ = syscall.Shutdown(hang, syscall.SHUT_RDWR)
	return errors.Join(err, <-served)
}
