// Command schwimmbad-go runs unchanged schwimmbad scripts, maps functions and commands over records, and looks after Pythons and MPI.
// docs/CLI.md is its manual.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
	_ "github.com/schwimmbad-go/schwimmbad-go/pyshim/embedded" // the interpreter for machines without one; not with the tag nopython
)

// Exit codes. A script's, or another program's that takes our place, passes through.
const (
	exitFailed      = 1 // tasks failed, or a requested thing cannot work
	exitUsage       = 2 // wrong arguments
	exitInterrupted = 130
)

func main() {
	if isEngineProcess() {
		os.Exit(engineProcess())
	}
	os.Exit(run(context.Background(), os.Args[1:]))
}

// exitError is an exit code with nothing more to say.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func run(ctx context.Context, args []string) int {
	root := rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var code exitError
	var child *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &child) && child.ExitCode() > 0:
		return child.ExitCode() // the program has told its story on stderr
	}
	fmt.Fprintf(os.Stderr, "schwimmbad-go: %v\n", err)
	if errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	if errors.Is(err, errUsage) {
		return exitUsage
	}
	return exitFailed
}

// errUsage is wrapped by errors about arguments.
var errUsage = errors.New("see --help")

func usage(format string, args ...any) error {
	return fmt.Errorf("%w (%w)", fmt.Errorf(format, args...), errUsage)
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "schwimmbad-go",
		Short:         "Worker pools for Python and Go: serial, processes, MPI, joblib",
		Long:          reflow(rootHelp),
		Version:       pools.Version(),
		SilenceUsage:  true, // the usage of a command is long; errors would scroll away
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cobra.AddTemplateFunc("wrapped", func(flags *pflag.FlagSet) string { return flags.FlagUsagesWrapped(helpWidth) })
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".LocalFlags.FlagUsages", "wrapped .LocalFlags"))
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage("%w", err) })
	root.AddCommand(runCommand(), mapCommand(), pythonCommand(), venvCommand(), mpiEnvCommand(), versionCommand(), doctorCommand())
	for _, command := range append(root.Commands(), root) {
		if command.Args != nil {
			command.Args = asUsage(command.Args)
		}
	}
	return root
}

// asUsage marks what a check of the arguments finds, for the exit code.
func asUsage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usage("%s: %w", cmd.Name(), err)
		}
		return nil
	}
}
