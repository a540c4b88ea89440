//go:build !nopython

package embedded

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/kluctl/go-embed-python/python"
	"github.com/schwimmbad-go/schwimmbad-go/pyshim"
	"github.com/schwimmbad-go/schwimmbad-go/pyshim/internal/cache"
)

// Version of the embedded Python, with the date of its build; that of the module in go.mod.
const Version = "3.14.6-20260610-1"

const (
	module = "github.com/kluctl/go-embed-python"
	// Changes with what is done to the files after they were unpacked.
	recipe = "1"
	// Measured, with links in place of copies and with compiled modules.
	pythonBytes = 85_000_000
)

func init() { pyshim.RegisterEmbedded(Prepare, Repair) }

// Prepare unpacks the interpreter where that has not been done, and gives its path. Several processes may do so at once. The error says
// which directories were tried for the cache and what is wrong with each.
func Prepare(ctx context.Context) (path string, err error) {
	dir, err := cache.Entry(ctx, cache.Recipe{
		Name:       entryName(),
		Executable: true,
		Bytes:      pythonBytes,
		Fill:       unpack,
		Check:      witnesses,
	})
	if err != nil {
		return "", err
	}
	return interpreter(dir), nil
}

// Unpacked is the directory into which the interpreter was unpacked, empty if it was not, and what is damaged there.
func Unpacked() (dir string, damage error) {
	dir = cache.Find(entryName())
	if dir == "" {
		return "", nil
	}
	return dir, cache.Verify(dir)
}

// Repair looks at all files of the unpacked interpreter (1 ms) and removes it if it is damaged, so that the next Prepare unpacks it anew. The
// answer says what was found; nil is a whole interpreter, or one that has not been unpacked.
func Repair() (damage string, err error) { return cache.Repair(entryName()) }

func entryName() string { return "python-" + key() }

// key names the content: two programs with the same interpreter share it, also if they differ in all else. A home directory may be shared
// between machines with different processors.
func key() string {
	name := fmt.Sprintf("%s-%s-%s", Version, runtime.GOOS, runtime.GOARCH)
	digest := sha256.Sum256([]byte(recipe + moduleSum()))
	return name + "-" + hex.EncodeToString(digest[:4])
}

// moduleSum is Go's checksum of the module that the interpreter came from; empty in builds that do not record it.
func moduleSum() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, dependency := range info.Deps {
		if dependency.Path == module {
			return dependency.Sum
		}
	}
	return ""
}

func interpreter(dir string) string { return filepath.Join(dir, "py", "bin", "python3") }

// unpack fills a directory. The module's own use of it is avoided: its place can be guessed by other users, it writes files in place while
// others may read them, and it sets PYTHONHOME.
func unpack(ctx context.Context, dir string) error {
	root := filepath.Join(dir, "py")
	if _, err := python.NewEmbeddedPythonWithTmpDir(root, false); err != nil {
		return err
	}
	if err := os.Remove(root + ".lock"); err != nil {
		return err
	}
	if err := linkCopies(root); err != nil {
		return err
	}
	return compile(ctx, dir)
}

// compile makes the .pyc files of the standard library: importing json, ctypes, ssl and multiprocessing takes 48 ms with and 217 ms without,
// and a user with PYTHONDONTWRITEBYTECODE, or without the right to write here, would never get them.
func compile(ctx context.Context, dir string) error {
	python := &pyshim.Python{Path: interpreter(dir), Embedded: true}
	// -I: the user's variables must not reach into what is kept. The paths in the .pyc files do not matter, import corrects them.
	command := python.Command(ctx, nil, "-I", "-m", "compileall", "-q", filepath.Join(dir, "py", "lib"))
	out, err := command.CombinedOutput()
	var exit interface{ ExitCode() int }
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit):
		return fmt.Errorf("the unpacked Python cannot compile its own library (%w): %s", err, out)
	case err != nil:
		return pyshim.StartProblem(command.Path, err)
	}
	return nil
}

// witnesses looks at the files without which nothing starts. A file system that lost data has usually lost it here, as these are large.
func witnesses(dir string) error {
	for _, name := range []string{"bin/python3.14", "lib/python3.14/encodings/__init__.py", "lib/python3.14/os.py"} {
		info, err := os.Stat(filepath.Join(dir, "py", name))
		if err != nil {
			return err
		}
		if info.Size() == 0 {
			return fmt.Errorf("%s is empty", name)
		}
	}
	return nil
}
