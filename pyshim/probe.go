package pyshim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"
)

// probePatience bounds the start of an interpreter. On a cold network file system it takes many seconds; one that waits for input,
// such as a wrapper script that asks a question, would take for ever.
const probePatience = time.Minute

// versionProbe is written for any Python, so that an old one can be named as such. With -I and -S no site-packages are searched.
const versionProbe = `import sys
v = sys.version_info
print("%d.%d.%d" % (v[0], v[1], v[2]))`

// packageProbe reports on the schwimmbad_go that is installed. The library is loaded, because that it is there says little: it may
// have been built for another processor or C library.
const packageProbe = `import sys
if sys.path and not sys.path[0]:
    del sys.path[0]
import json, os
said = {}
try:
    import schwimmbad_go
    said["Version"] = schwimmbad_go.__version__
    said["Dir"] = os.path.dirname(os.path.abspath(schwimmbad_go.__file__))
    from schwimmbad_go import _engine
    _engine.library()
    said["Library"] = str(_engine.origin())
except Exception as error:
    said["Problem"] = "%s: %s" % (type(error).__name__, error)
print("\n" + json.dumps(said))`

// usable starts an interpreter and asks for its version.
func usable(ctx context.Context, path, origin string) (*Python, error) {
	python := &Python{Path: path, Origin: origin, Embedded: origin == EmbeddedName}
	out, err := python.ask(ctx, "-I", "-S", "-c", versionProbe)
	if err != nil {
		return nil, fmt.Errorf("%w: %s (%s) %w", ErrNotFound, path, origin, err)
	}
	var major, minor, micro int
	if n, err := fmt.Sscanf(out, "%d.%d.%d", &major, &minor, &micro); n != 3 {
		return nil, fmt.Errorf("%w: %s (%s) does not answer as a Python does: %q: %w", ErrNotFound, path, origin, out, err)
	}
	python.Version = out
	if major != 3 || minor < MinimumMinor {
		return nil, fmt.Errorf("%w: %s (%s) is Python %s, which is older than 3.%d", ErrNotFound, path, origin, out, MinimumMinor)
	}
	return python, nil
}

// Inspect looks at the schwimmbad_go that is installed for this interpreter, and fills in Package (about 60 ms).
// The error is about the interpreter; a missing package is none.
func (p *Python) Inspect(ctx context.Context) error {
	out, err := p.ask(ctx, "-c", packageProbe)
	if err != nil {
		return fmt.Errorf("%s %w", p, err)
	}
	p.Package = Package{}
	if err := json.Unmarshal([]byte(out), &p.Package); err != nil {
		return fmt.Errorf("%s answers a question with %q: %w", p, out, err)
	}
	return nil
}

// ask runs the interpreter and gives the last line of its output; a sitecustomize may have printed others before.
func (p *Python) ask(ctx context.Context, args ...string) (string, error) {
	limited, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	command := p.Command(limited, nil, args...)
	command.WaitDelay = time.Second // a child of the wrapper may keep the pipe
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case limited.Err() != nil:
		return "", fmt.Errorf("did not answer within %v", probePatience)
	case err != nil:
		return "", runProblem(p.Path, err, stderr.String())
	}
	text := strings.TrimRight(stdout.String(), "\r\n")
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:]), nil
}

// runProblem puts into words why an interpreter did not run to its end.
func runProblem(path string, err error, stderr string) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return StartProblem(path, err)
	}
	return fmt.Errorf("ends with %v: %s", exit, tellingLine(stderr))
}

// tellingLine is the line of a program's complaints that says most: the last of a traceback, the one with the error in other outpourings.
func tellingLine(stderr string) string {
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	if !strings.HasPrefix(lines[0], "Traceback") {
		for _, line := range lines {
			if lower := strings.ToLower(line); strings.Contains(lower, "error") || strings.Contains(lower, "not found") {
				return strings.TrimSpace(line)
			}
		}
	}
	return strings.TrimSpace(lines[len(lines)-1])
}

// StartProblem puts into words why an interpreter could not be started. The error of exec says less: a missing dynamic loader is reported
// as a missing file.
func StartProblem(path string, err error) error {
	info, statErr := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && statErr == nil:
		return fmt.Errorf("is there, but what loads it is not: made for another C library (musl instead of glibc?) or processor? %w", err)
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("does not exist")
	case errors.Is(err, fs.ErrPermission) && statErr == nil && info.Mode()&0o111 != 0:
		return fmt.Errorf("may not be started: is its file system mounted noexec? %w", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("is not an executable file: %w", err)
	}
	return fmt.Errorf("cannot be started: %w", err)
}
