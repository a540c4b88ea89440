package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/schwimmbad-go/schwimmbad-go/pyshim/fdengine"
)

// Words by which this program knows that it is to host an engine; no user would type them.
const (
	engineLaunch = "engine-launch"
	engineServe  = "engine-serve"
)

// engineFD is where those find their socket: behind the standard streams.
const engineFD = 3

func isEngineProcess() bool {
	return len(os.Args) == 2 && (os.Args[1] == engineLaunch || os.Args[1] == engineServe)
}

// startEngine starts a process of this program that hosts the engine, and gives the descriptor by which the Python that takes our place talks
// to it. It ends when that Python does.
//
// The script must not see it: a script may wait for any of its children, and would wait for ever for one that lives as long as itself. So the
// engine is a grandchild whose parent ends at once. It has a session of its own, since Ctrl-C is for the script to handle.
func startEngine() (fd int, err error) {
	engine, python, err := fdengine.Pair()
	if err != nil {
		return 0, err
	}
	defer engine.Close()
	launch := exec.Command(self(), engineLaunch)
	launch.Stderr = os.Stderr
	launch.ExtraFiles = []*os.File{engine}
	if err := launch.Run(); err != nil {
		return 0, fmt.Errorf("the engine's process: %w", err)
	}
	// As high a number as it has: 3 may be a descriptor of the user's, or the MPI launcher's.
	fd, err = syscall.Dup(int(python.Fd())) // inherited, as opposed to the original
	if err != nil {
		return 0, fmt.Errorf("the engine's socket: %w", err)
	}
	return fd, nil
}

// self is this program's file, also where it has been replaced or removed since (go run, upgrades).
func self() string {
	const link = "/proc/self/exe"
	if _, err := os.Stat(link); err == nil {
		return link
	}
	if path, err := os.Executable(); err == nil {
		return path
	}
	return os.Args[0]
}

func engineProcess() int {
	socket := os.NewFile(engineFD, "engine")
	if os.Args[1] == engineServe {
		if err := fdengine.Serve(socket); err != nil {
			fmt.Fprintln(os.Stderr, "schwimmbad-go: the engine:", err)
			return exitFailed
		}
		return 0
	}
	serve := exec.Command(self(), engineServe)
	serve.Stderr = os.Stderr
	serve.ExtraFiles = []*os.File{socket}
	serve.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := serve.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "schwimmbad-go: the engine's process:", err)
		return exitFailed
	}
	return 0
}
