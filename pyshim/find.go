package pyshim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Variable names the environment variable that chooses the interpreter, as the argument of Find does.
const Variable = "SCHWIMMBAD_GO_PYTHON"

// EmbeddedName as a choice is the interpreter inside this program.
const EmbeddedName = "embedded"

// ErrNotFound is wrapped by the errors of Find.
var ErrNotFound = errors.New("no usable Python")

// embedded is the interpreter in this program; without functions where none is linked in.
var embedded struct {
	prepare func(context.Context) (path string, err error)
	repair  func() (damage string, err error)
}

// RegisterEmbedded is for pyshim/embedded, which calls it before main: prepare unpacks the interpreter where needed, repair looks for damage.
func RegisterEmbedded(prepare func(context.Context) (path string, err error), repair func() (damage string, err error)) {
	embedded.prepare, embedded.repair = prepare, repair
}

// HasEmbedded says whether this program has a Python of its own.
func HasEmbedded() bool { return embedded.prepare != nil }

// Find looks for an interpreter of version 3.10 or newer, and starts it once to ask for its version (10 to 20 ms).
//
// choice is empty for the usual order, or EmbeddedName, the path of an interpreter, the directory of a virtual environment, a name on PATH
// such as "python3.12", or a version such as "3.12".
//
// An interpreter that was named, in choice or in $SCHWIMMBAD_GO_PYTHON, and that of an active environment are never passed over in favour
// of another, which would lack the packages that were meant: it is an error if they cannot be used. On PATH the first usable one of
// python3, python3.14, python3.13 and so on is taken. The error wraps ErrNotFound and says what was tried.
func Find(ctx context.Context, choice string) (*Python, error) {
	origin := "--python"
	if choice == "" {
		choice, origin = os.Getenv(Variable), "$"+Variable
	}
	if choice != "" {
		return named(ctx, choice, origin)
	}
	if python, err := active(ctx); python != nil || err != nil {
		return python, err
	}
	python, tried := onPath(ctx)
	if python != nil {
		return python, nil
	}
	if HasEmbedded() {
		return startEmbedded(ctx)
	}
	advice := fmt.Sprintf("install Python 3.%d or newer, or name one with --python or $%s", MinimumMinor, Variable)
	return nil, fmt.Errorf("%w: there is no python3 on PATH, and none in this program; %s%s", ErrNotFound, advice, list(tried))
}

var versionOnly = regexp.MustCompile(`^3\.\d+t?$`)

func named(ctx context.Context, choice, origin string) (*Python, error) {
	if choice == EmbeddedName {
		return startEmbedded(ctx)
	}
	path := choice
	switch info, err := os.Stat(choice); {
	case err == nil && info.IsDir():
		path = interpreterOf(choice)
	case !strings.ContainsRune(choice, filepath.Separator):
		if versionOnly.MatchString(choice) {
			choice = "python" + choice
		}
		found, err := exec.LookPath(choice)
		if err != nil {
			return nil, fmt.Errorf("%w: %s (%s) is not on PATH", ErrNotFound, choice, origin)
		}
		path = found
	}
	return usable(ctx, path, origin)
}

// active is the interpreter of the environment that is switched on; nil where there is none.
func active(ctx context.Context) (*Python, error) {
	if dir := os.Getenv("VIRTUAL_ENV"); dir != "" {
		python, err := usable(ctx, interpreterOf(dir), "$VIRTUAL_ENV")
		if err != nil {
			return nil, fmt.Errorf("%w; deactivate that environment, or choose another with --python or $%s", err, Variable)
		}
		return python, nil
	}
	dir := os.Getenv("CONDA_PREFIX")
	if dir == "" {
		return nil, nil
	}
	path := interpreterOf(dir)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a conda environment need not have Python
	}
	python, err := usable(ctx, path, "$CONDA_PREFIX")
	if err != nil {
		return nil, fmt.Errorf("%w; deactivate that environment, or choose another with --python or $%s", err, Variable)
	}
	return python, nil
}

func interpreterOf(environment string) string {
	if path := filepath.Join(environment, "bin", "python3"); exists(path) {
		return path
	}
	return filepath.Join(environment, "bin", "python")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// onPath gives the first usable interpreter on PATH, or why each that is there cannot be used.
func onPath(ctx context.Context) (*Python, []error) {
	var tried []error
	for _, path := range Installed() {
		python, err := usable(ctx, path, "PATH")
		if err == nil {
			return python, nil
		}
		tried = append(tried, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, tried
}

// newestMinor bounds the names that are looked for on PATH beside python3.
const newestMinor = 15

// Installed lists the files on PATH that should be Python 3, best first: all python3, then python3.15, python3.14 and so on, each file once.
// None is started.
func Installed() []string {
	names := []string{"python3"}
	for minor := newestMinor; minor >= MinimumMinor; minor-- {
		names = append(names, fmt.Sprintf("python3.%d", minor))
	}
	var found []string
	seen := map[string]bool{}
	for _, name := range names {
		for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
			path := filepath.Join(dir, name)
			file, err := filepath.EvalSymlinks(path) // /bin is often the same as /usr/bin
			if err != nil || seen[file] || !filepath.IsAbs(dir) {
				continue
			}
			if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				found, seen[file] = append(found, path), true
			}
		}
	}
	return found
}

// startEmbedded unpacks the embedded interpreter if needed. One that does not start, although it was unpacked, may have been damaged since.
func startEmbedded(ctx context.Context) (*Python, error) {
	if !HasEmbedded() {
		return nil, fmt.Errorf("%w: this program was built without an embedded one (build tag nopython); name another with --python", ErrNotFound)
	}
	for attempt := 1; ; attempt++ {
		path, err := embedded.prepare(ctx)
		if err != nil {
			return nil, fmt.Errorf("the embedded Python: %w", err)
		}
		python, err := usable(ctx, path, EmbeddedName)
		if err == nil {
			return python, nil
		}
		damage, repairErr := embedded.repair()
		if damage == "" || repairErr != nil || attempt == 2 {
			return nil, fmt.Errorf("the embedded Python does not start: %w", errors.Join(err, repairErr))
		}
	}
}

func list(tried []error) string {
	text := ""
	for _, err := range tried {
		text += "\n  " + err.Error()
	}
	return text
}
