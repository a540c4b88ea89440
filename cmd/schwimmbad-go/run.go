package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/schwimmbad-go/schwimmbad-go/pyshim"
	"github.com/schwimmbad-go/schwimmbad-go/pyshim/fdengine"
)

// bootstrap is `-m schwimmbad_go`, but for one thing: while our modules are imported the working directory is no place for modules. A file
// named platform.py there is no part of `python script.py` either.
const bootstrap = `import sys
front = [] if getattr(sys.flags, "safe_path", False) else sys.path[:1]
del sys.path[: len(front)]
import schwimmbad_go.__main__
sys.path[:0] = front
sys.exit(schwimmbad_go.__main__.main())`

// Values of --engine.
const (
	engineAuto    = "auto"
	engineLibrary = "library"
	engineProgram = "program"
)

func runCommand() *cobra.Command {
	var choice, engine string
	cmd := &cobra.Command{
		Use:   "run [--python WHICH] [--engine KIND] script.py [arguments of the script]",
		Short: "Run an unchanged script in which 'import schwimmbad' gives these pools",
		Long:  reflow(runHelp),
		Example: `  schwimmbad-go run fit.py --ncores 8
  schwimmbad-go run --python embedded examples/canonical.py
  schwimmbad-go run --python ~/envs/astro fit.py`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains([]string{engineAuto, engineLibrary, engineProgram}, engine) {
				return usage("--engine is auto, library or program, not %q", engine)
			}
			return runScript(cmd.Context(), choice, engine, args)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return []string{"py"}, cobra.ShellCompDirectiveFilterFileExt
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows the script is the script's
	pythonFlag(cmd, &choice)
	cmd.Flags().StringVar(&engine, "engine", engineAuto, "`KIND` of engine: auto, library or program")
	register(cmd, "engine", cobra.FixedCompletions([]string{engineAuto, engineLibrary, engineProgram}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func runScript(ctx context.Context, choice, engine string, args []string) error {
	python, err := ready(ctx, choice)
	if err != nil {
		return err
	}
	unfit := libraryProblem(python)
	if engine == engineLibrary && unfit != nil {
		return unfit
	}
	command := append([]string{"-c", bootstrap, "run"}, args...)
	if engine != engineProgram && unfit == nil {
		return become(python, python.Environ(os.Environ()), command)
	}
	sources, err := pyshim.Sources(ctx)
	if err != nil {
		return err
	}
	fd, err := startEngine()
	if err != nil {
		return err
	}
	environ := append(python.Environ(os.Environ(), sources), fdengine.Env+"="+strconv.Itoa(fd))
	return become(python, environ, command)
}

// libraryProblem says why the engine library that is installed for an interpreter does not serve; nil if it does. The version must be ours, or
// a script would behave differently depending on what happens to be installed.
func libraryProblem(python *pyshim.Python) error {
	ours := pyshim.SourcesVersion()
	switch installed := python.Package; {
	case installed.Version == "":
		return fmt.Errorf("%s has no schwimmbad_go: %s", python, installed.Problem)
	case installed.Version != ours:
		return fmt.Errorf("%s has schwimmbad_go %s, this program is %s", python, installed.Version, ours)
	case installed.Library == "":
		return fmt.Errorf("the schwimmbad_go of %s has no engine: %s", python, installed.Problem)
	}
	return nil
}
