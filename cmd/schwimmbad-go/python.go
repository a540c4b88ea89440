package main

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/schwimmbad-go/schwimmbad-go/pyshim"
)

// pythonFlag adds --python to a command.
func pythonFlag(cmd *cobra.Command, choice *string) {
	cmd.Flags().StringVar(choice, "python", "", "`WHICH` interpreter: embedded, a path, a virtual environment, a name on PATH, or a version")
	register(cmd, "python", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return append([]string{pyshim.EmbeddedName}, pyshim.Installed()...), cobra.ShellCompDirectiveDefault
	})
}

// register sets what a shell completes after a flag. It fails for a flag that does not exist, a mistake in this program.
func register(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err)
	}
}

func pythonCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "python [arguments of python]",
		Short: "Run the embedded Python",
		Long:  reflow(pythonHelp),
		Example: `  schwimmbad-go python -c 'import sys; print(sys.version)'
  schwimmbad-go python script.py --its-own option`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			python, err := pyshim.Find(cmd.Context(), pyshim.EmbeddedName)
			if err != nil {
				return err
			}
			return become(python, python.Environ(os.Environ()), args)
		},
	}
}

// become puts the interpreter in this process's place; it returns only if that fails.
func become(python *pyshim.Python, environ, args []string) error {
	err := syscall.Exec(python.Path, append([]string{python.Path}, args...), environ)
	return fmt.Errorf("%s %w", python, pyshim.StartProblem(python.Path, err))
}

// ready finds an interpreter and looks at the package that is installed for it.
func ready(ctx context.Context, choice string) (*pyshim.Python, error) {
	python, err := pyshim.Find(ctx, choice)
	if err != nil {
		return nil, err
	}
	return python, python.Inspect(ctx)
}
