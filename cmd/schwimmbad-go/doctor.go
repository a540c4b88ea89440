package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/schwimmbad-go/schwimmbad-go/pyshim"
	"github.com/schwimmbad-go/schwimmbad-go/pyshim/embedded"
	"github.com/schwimmbad-go/schwimmbad-go/pyshim/fdengine"
)

// finding is one line of the report, as in python/schwimmbad_go/_doctor.py, which finds out about Python, the engine and MPI.
type finding struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Value  string `json:"value"`
	Advice string `json:"advice"`
}

// What a finding can be.
const (
	statusOK     = "ok"
	statusNote   = "note"   // works, but look
	statusAbsent = "absent" // not there, and need not be
	statusBroken = "broken" // there and does not work, or must be there
)

func doctorCommand() *cobra.Command {
	var choice string
	var asJSON, selftest bool
	cmd := &cobra.Command{
		Use:   "doctor [--python WHICH] [--selftest] [--json]",
		Short: "Say what works here, and what to do about what does not",
		Long:  reflow(doctorHelp),
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings := examine(cmd.Context(), choice, selftest)
			if err := report(cmd.OutOrStdout(), findings, asJSON); err != nil {
				return err
			}
			for _, f := range findings {
				if f.Status == statusBroken {
					return exitError(exitFailed)
				}
			}
			return nil
		},
	}
	pythonFlag(cmd, &choice)
	cmd.Flags().BoolVar(&asJSON, "json", false, "as a JSON list of objects with name, status, value and advice")
	cmd.Flags().BoolVar(&selftest, "selftest", false, "also run a map of three tasks over every pool, MPIPool by 'mpirun -n 2'")
	return cmd
}

func report(out io.Writer, findings []finding, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", " ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(findings)
	}
	width := 0
	for _, f := range findings {
		width = max(width, len(f.Name))
	}
	for _, f := range findings {
		fmt.Fprintf(out, "%-6s  %-*s  %s\n", f.Status, width, f.Name, f.Value)
		if f.Advice != "" {
			fmt.Fprintf(out, "%*s-> %s\n", width+10, "", f.Advice)
		}
	}
	return nil
}

func examine(ctx context.Context, choice string, selftest bool) []finding {
	var text bytes.Buffer
	thisBuild().write(&text)
	first, rest, _ := strings.Cut(strings.TrimSpace(text.String()), "\n")
	findings := []finding{{"program", statusOK, strings.TrimPrefix(first, "schwimmbad-go ") + "; " + strings.ReplaceAll(rest, "\n", "; "), ""}}
	findings = append(findings, cacheFindings()...)
	findings = append(findings, embeddedFinding())
	findings = append(findings, installedFindings(ctx)...)
	findings = append(findings, toolFindings()...)
	return append(findings, pythonFindings(ctx, choice, selftest)...)
}

// cacheFindings looks at the places for the cache; the first good one counts.
func cacheFindings() []finding {
	var findings []finding
	good := false
	for _, place := range pyshim.CachePlaces() {
		f := finding{"cache, " + place.Source, statusOK, place.Dir, ""}
		if place.Free >= 0 {
			f.Value += ", " + strconv.FormatInt(place.Free>>20, 10) + " MiB free"
		}
		switch {
		case place.Err != nil:
			f.Status, f.Value = statusNote, place.Err.Error()
			f.Advice = "set $SCHWIMMBAD_GO_CACHE to a directory that can be written"
		case place.NoExec && embedded.Version != "":
			f.Status, f.Value = statusNote, f.Value+", mounted noexec"
			f.Advice = "the embedded Python goes elsewhere; set $SCHWIMMBAD_GO_CACHE to choose"
		default:
			good = true
		}
		findings = append(findings, f)
		if good {
			return findings
		}
	}
	findings[len(findings)-1].Status = statusBroken
	return findings
}

func embeddedFinding() finding {
	f := finding{"embedded Python", statusOK, embedded.Version, ""}
	dir, damage := embedded.Unpacked()
	switch {
	case embedded.Version == "":
		return finding{"embedded Python", statusAbsent, "this program was built without (build tag nopython)", ""}
	case dir == "":
		f.Value += ", not unpacked yet"
	case damage != nil:
		f.Status, f.Value = statusBroken, fmt.Sprintf("%s, damaged: %v", f.Value, damage)
		f.Advice = "rm -r " + quote(dir) + "; it is unpacked anew at the next use"
	default:
		f.Value += ", in " + dir
	}
	return f
}

// installedFindings starts every Python on PATH: a shim that does not work is worth knowing.
func installedFindings(ctx context.Context) []finding {
	var findings []finding
	for _, path := range pyshim.Installed() {
		python, err := pyshim.Find(ctx, path)
		if err != nil {
			text := strings.ReplaceAll(err.Error(), " (--python)", "") // nobody has named it
			findings = append(findings, finding{"on PATH", statusNote, text, ""})
			continue
		}
		findings = append(findings, finding{"on PATH", statusOK, python.Version + ", " + python.Path, ""})
	}
	if findings == nil {
		return []finding{{"on PATH", statusAbsent, "no python3", ""}}
	}
	return findings
}

// toolFindings are about what is needed to build the package or a Go program with MPI.
func toolFindings() []finding {
	var findings []finding
	for _, tool := range []struct{ name, purpose string }{
		{"go", "building from source"}, {"gcc", "building the engine library from source"},
	} {
		if path, err := exec.LookPath(tool.name); err == nil {
			findings = append(findings, finding{tool.name, statusOK, path, ""})
		} else {
			findings = append(findings, finding{tool.name, statusAbsent, "only for " + tool.purpose, ""})
		}
	}
	return findings
}

// pythonFindings asks the Python that `run` would take, by its installed package or by the sources in this program.
func pythonFindings(ctx context.Context, choice string, selftest bool) []finding {
	python, err := ready(ctx, choice)
	if err != nil {
		return []finding{{"Python for scripts", statusBroken, err.Error(), ""}}
	}
	findings := []finding{{"Python for scripts", statusOK, python.String(), ""}}
	if problem := libraryProblem(python); problem != nil {
		findings = append(findings, finding{"engine for scripts", statusOK, "this program, beside the script; " + problem.Error(),
			"for MPIPool install the package: pip install schwimmbad-go"})
		if runtime.GOOS != "linux" {
			findings[1].Status = statusBroken
		}
	} else {
		findings = append(findings, finding{"engine for scripts", statusOK, "the library " + python.Package.Library, ""})
	}
	more, err := askPython(ctx, python, selftest)
	if err != nil {
		return append(findings, finding{"examination in Python", statusBroken, err.Error(), ""})
	}
	return append(findings, more...)
}

func askPython(ctx context.Context, python *pyshim.Python, selftest bool) (findings []finding, err error) {
	var paths []string
	var extra []*os.File
	environ := []string{}
	if libraryProblem(python) != nil {
		sources, err := pyshim.Sources(ctx)
		if err != nil {
			return nil, err
		}
		engine, socket, err := fdengine.Pair()
		if err != nil {
			return nil, err
		}
		served := make(chan error, 1)
		go func() { served <- fdengine.Serve(engine) }()
		defer func() { err = errors.Join(err, <-served) }() // ends with the process that has the other end
		defer socket.Close()
		paths, extra, environ = []string{sources}, []*os.File{socket}, []string{fdengine.Env + "=" + strconv.Itoa(engineFD)}
	}
	args := []string{"-c", bootstrap, "doctor", "--python-only", "--json"}
	if selftest {
		args = append(args, "--selftest")
	}
	command := python.Command(ctx, paths, args...)
	command.Env = append(command.Env, environ...)
	command.ExtraFiles = extra
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err = command.Run()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == exitFailed) {
		return nil, fmt.Errorf("%s %w: %s", python, err, strings.TrimSpace(stderr.String()))
	}
	if err := json.Unmarshal(stdout.Bytes(), &findings); err != nil {
		return nil, fmt.Errorf("%s: %w: %s%s", python, err, stdout.String(), stderr.String())
	}
	return findings, nil
}
