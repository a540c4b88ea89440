// Command testmain runs a program with an engine on its descriptor 3: what the tests of the transport start Python with.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/schwimmbad-go/schwimmbad-go/pyshim/fdengine"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: testmain PROGRAM [ARGUMENTS]")
		os.Exit(2)
	}
	// Caught, not ignored: an ignored signal would be ignored in the program, too. Ctrl-C is its to handle.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT)
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := fdengine.Run(cmd)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		if status := exit.Sys().(syscall.WaitStatus); status.Signaled() { // end as it did
			signal.Reset()
			_ = syscall.Kill(os.Getpid(), status.Signal()) // ourselves: it cannot fail
			select {}
		}
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testmain:", err)
		os.Exit(1)
	}
}
