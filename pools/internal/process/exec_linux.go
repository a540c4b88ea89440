//go:build linux && (amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// WorkerEnv names the variable that tells a started worker where its descriptors are:
// "1:<index>:<work>,<answer>,<life>,<arena>", the first number being the protocol version.
const WorkerEnv = "SCHWIMMBAD_GO_WORKER"

// StartExec starts worker i as a fresh program. The child gets the four worker descriptors as 3 to 6 and the
// variable WorkerEnv.
func (t *Transport) StartExec(i int, argv, env []string) error {
	if len(argv) == 0 {
		return errors.New("no command to start workers with")
	}
	files := []uintptr{0, 1, 2}
	for _, fd := range t.WorkerFds() {
		files = append(files, uintptr(fd))
	}
	if env == nil {
		env = os.Environ()
	}
	child := make([]string, 0, len(env)+1)
	for _, e := range env {
		if !strings.HasPrefix(e, WorkerEnv+"=") {
			child = append(child, e)
		}
	}
	child = append(child, fmt.Sprintf("%s=%d:%d:3,4,5,6", WorkerEnv, ControlVersion, i))
	t.ResetCell(i)
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Env: child, Files: files,
		// A process group of its own: Ctrl-C in the terminal is the master's to handle, and an interpreter that is just
		// starting cannot ignore it yet. Should the master die, the lifeline ends the worker.
		Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return fmt.Errorf("worker %d: start %s: %w", i, argv[0], err)
	}
	return t.Attach(i, pid, true)
}
