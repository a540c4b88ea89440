package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/schwimmbad-go/schwimmbad-go/pyshim"
	"github.com/schwimmbad-go/schwimmbad-go/pyshim/embedded"
)

func venvCommand() *cobra.Command {
	var choice string
	cmd := &cobra.Command{
		Use:   "venv [--python WHICH] DIR [packages]",
		Short: "Make a virtual environment, on the embedded Python where no other is named",
		Long:  reflow(venvHelp),
		Example: `  schwimmbad-go venv ~/envs/fit numpy emcee
  schwimmbad-go run --python ~/envs/fit fit.py`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if choice == "" && pyshim.HasEmbedded() {
				choice = pyshim.EmbeddedName
			}
			return makeVenv(cmd.Context(), choice, args[0], args[1:])
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return nil, cobra.ShellCompDirectiveFilterDirs
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
	}
	pythonFlag(cmd, &choice)
	return cmd
}

func makeVenv(ctx context.Context, choice, dir string, packages []string) error {
	if _, err := os.Stat(filepath.Join(dir, "pyvenv.cfg")); errors.Is(err, fs.ErrNotExist) {
		python, err := pyshim.Find(ctx, choice)
		if err != nil {
			return err
		}
		if err := createVenv(ctx, python, dir); err != nil {
			return fmt.Errorf("virtual environment %s from %s: %w", dir, python, err)
		}
	}
	if len(packages) == 0 {
		return nil
	}
	inside, err := pyshim.Find(ctx, dir)
	if err != nil {
		return err
	}
	return connected(inside.Command(ctx, nil, append([]string{"-m", "pip", "install"}, packages...)...))
}

func createVenv(ctx context.Context, python *pyshim.Python, dir string) error {
	if !python.Embedded {
		return connected(python.Command(ctx, nil, "-m", "venv", dir))
	}
	if err := connected(python.Command(ctx, nil, "-m", "venv", "--without-pip", dir)); err != nil {
		return err
	}
	return addPip(ctx, dir)
}

// connected runs a command on our own standard streams.
func connected(command *exec.Cmd) error {
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	return command.Run()
}

// pipScript is what pip itself would install as bin/pip.
const pipScript = `#!%s
import sys
from pip._internal.cli.main import main
sys.exit(main())
`

// addPip does what ensurepip would, which the embedded Python lacks: pip is copied, so nothing is downloaded.
func addPip(ctx context.Context, dir string) error {
	from, err := embedded.PreparePip(ctx)
	if err != nil {
		return err
	}
	places, err := filepath.Glob(filepath.Join(dir, "lib", "python3.*", "site-packages"))
	if err != nil || len(places) != 1 {
		return fmt.Errorf("no site-packages in %s: %v %w", dir, places, err)
	}
	packages, err := filepath.Glob(filepath.Join(from, "pip*"))
	if err != nil {
		return err
	}
	for _, path := range packages {
		if err := os.CopyFS(filepath.Join(places[0], filepath.Base(path)), os.DirFS(path)); err != nil {
			return err
		}
	}
	interpreter, err := filepath.Abs(filepath.Join(dir, "bin", "python"))
	if err != nil {
		return err
	}
	if strings.ContainsAny(interpreter, " \t") || len(interpreter) > 120 { // what a #! line takes
		return nil // `python -m pip` works all the same
	}
	for _, name := range []string{"pip", "pip3"} {
		if err := os.WriteFile(filepath.Join(dir, "bin", name), fmt.Appendf(nil, pipScript, interpreter), 0o755); err != nil {
			return err
		}
	}
	return nil
}
