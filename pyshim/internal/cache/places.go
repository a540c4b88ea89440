package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Variable names the environment variable that chooses the cache's directory.
const Variable = "SCHWIMMBAD_GO_CACHE"

// Place is a directory that may hold the cache.
type Place struct {
	Dir    string
	Source string // where the name comes from: "$SCHWIMMBAD_GO_CACHE", "$XDG_CACHE_HOME", "home", "temp"
	// A name under the temp directory can be guessed, and anybody may have made it first.
	guessable bool
}

// Places lists where the cache may be, best first. A directory that the user has named is the only one: going elsewhere
// without a word would fill a disk that they wanted spared.
func Places() []Place {
	if dir := os.Getenv(Variable); dir != "" {
		return []Place{{Dir: absolute(dir), Source: "$" + Variable}}
	}
	var places []Place
	if dir := os.Getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) { // the specification: relative ones are to be ignored
		places = append(places, Place{Dir: filepath.Join(dir, "schwimmbad-go"), Source: "$XDG_CACHE_HOME"})
	}
	if home, err := os.UserHomeDir(); err == nil && filepath.IsAbs(home) {
		places = append(places, Place{Dir: filepath.Join(home, ".cache", "schwimmbad-go"), Source: "home"})
	}
	temp := filepath.Join(absolute(os.TempDir()), "schwimmbad-go-"+strconv.Itoa(os.Getuid()))
	return append(places, Place{Dir: temp, Source: "temp", guessable: true})
}

func absolute(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir // the working directory is gone; the first use says so
}

// ready makes the place's directory and finds out whether entries can be made in it and, if asked, programs run from it.
func (p Place) ready(executable bool) error {
	mode := os.FileMode(0o700)
	if p.Source == "$"+Variable {
		mode = 0o755 // an administrator may fill it for everybody
	}
	if err := os.MkdirAll(p.Dir, mode); err != nil {
		return explain(p.Dir, err)
	}
	if err := p.trusted(); err != nil {
		return err
	}
	probe, err := os.MkdirTemp(p.Dir, extracting)
	if err != nil {
		return explain(p.Dir, err)
	}
	if err := os.Remove(probe); err != nil {
		return explain(p.Dir, err)
	}
	if executable && noExec(p.Dir) {
		return fmt.Errorf("%s lies on a file system that is mounted noexec: %w", p.Dir, ErrNoExec)
	}
	return nil
}

// trusted refuses a guessable directory that is somebody else's, or that others can write to: what lies there gets executed.
func (p Place) trusted() error {
	info, err := os.Lstat(p.Dir)
	if err != nil {
		return explain(p.Dir, err)
	}
	if !p.guessable {
		return nil
	}
	uid, known := owner(info)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory: %w", p.Dir, ErrForeign)
	case known && uid != os.Getuid():
		return fmt.Errorf("%s belongs to user %d: %w", p.Dir, uid, ErrForeign)
	case known && info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s can be written by others (mode %04o): %w", p.Dir, info.Mode().Perm(), ErrForeign)
	}
	return nil
}

// Writable is nil if entries can be made in the place, or it can be made; nothing is left behind there.
func (p Place) Writable() error {
	dir := existing(p.Dir)
	if dir == p.Dir {
		if err := p.trusted(); err != nil {
			return err
		}
	}
	probe, err := os.MkdirTemp(dir, extracting)
	if err != nil {
		return explain(dir, err)
	}
	return os.Remove(probe)
}

// Free says how many bytes this user may still write in the directory or, if it is not there yet, where it would be made; negative if unknown.
func (p Place) Free() int64 { return free(existing(p.Dir)) }

// NoExec says whether the directory, or where it would be made, is on a file system from which no program may be started.
func (p Place) NoExec() bool { return noExec(existing(p.Dir)) }

func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || filepath.Dir(dir) == dir {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

var (
	// ErrForeign is wrapped by errors about a directory or entry which somebody else could have filled.
	ErrForeign = errors.New("not safe to run programs from")
	// ErrNoExec is wrapped by errors about a directory from which no program may be started.
	ErrNoExec = errors.New("no program can be started from there")
)
