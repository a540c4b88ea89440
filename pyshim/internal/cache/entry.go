// Package cache keeps directories that are made once per user and used by many processes: the embedded Python, and the Python sources of
// this project. An entry appears whole, by a rename, or not at all; several processes, and several machines that share a home directory,
// may want the same one at the same time.
package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	extracting = ".extract-"
	damaged    = ".damaged-"
	// Left by a process that was killed while it filled an entry. Filling takes seconds, on a slow network file system minutes.
	abandonedAfter = time.Hour
)

// Recipe says how an entry is made and known to be whole.
type Recipe struct {
	Name       string // of the entry; has to change with the content
	Executable bool   // programs are started from it
	Bytes      int64  // about what it takes, for messages
	// Fill writes the content into an empty directory, which is renamed afterwards: no absolute path of it may be kept.
	Fill func(ctx context.Context, dir string) error
	// Check finds out at each use whether a directory is whole; nil is yes. It has to be cheap, since 1000 ranks may ask at the same
	// time, over NFS. Verify looks at each file.
	Check func(dir string) error
}

// Entry gives the directory of an entry, which it makes where it is missing or damaged.
//
// A whole entry is taken from any place, also from one that cannot be written. A new one is made in the first place that serves. Errors
// say what is wrong with each place.
//
// Cost: two system calls and the recipe's check for an entry that is there.
func Entry(ctx context.Context, recipe Recipe) (string, error) {
	places := Places()
	var refused []error
	for _, place := range places {
		dir := filepath.Join(place.Dir, recipe.Name)
		err := usable(place, dir, recipe)
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			refused = append(refused, err)
		}
	}
	for _, place := range places {
		if err := place.ready(recipe.Executable); err != nil {
			refused = append(refused, err)
			continue
		}
		dir, err := build(ctx, place, recipe)
		if err == nil {
			return dir, nil
		}
		if ctx.Err() != nil {
			return "", err
		}
		refused = append(refused, err)
	}
	return "", fmt.Errorf("no place to keep %s (set %s to a directory that can be written): %w", recipe.Name, Variable, errors.Join(refused...))
}

// usable is nil if the entry is whole and safe to run, fs.ErrNotExist if it is not there.
func usable(place Place, dir string, recipe Recipe) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if uid, known := owner(info); known && (uid != os.Getuid() && uid != 0 || info.Mode().Perm()&0o022 != 0) {
		return fmt.Errorf("%s belongs to user %d, mode %04o: %w", dir, uid, info.Mode().Perm(), ErrForeign)
	}
	if err := place.trusted(); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(dir, completeName)); err != nil {
		return fmt.Errorf("%s is incomplete", dir)
	}
	if err := recipe.Check(dir); err != nil {
		return fmt.Errorf("%s is damaged: %w", dir, err)
	}
	if recipe.Executable && noExec(dir) {
		return fmt.Errorf("%s lies on a file system that is mounted noexec: %w", dir, ErrNoExec)
	}
	return nil
}

// build makes an entry in a place that is ready, or finds that somebody else has just done so.
func build(ctx context.Context, place Place, recipe Recipe) (string, error) {
	dir := filepath.Join(place.Dir, recipe.Name)
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if usable(place, dir, recipe) == nil {
		return dir, nil
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	sweep(place.Dir)
	scratch, err := os.MkdirTemp(place.Dir, extracting)
	if err != nil {
		return "", explain(place.Dir, err)
	}
	defer os.RemoveAll(scratch) // after the rename there is nothing of that name
	if err := fill(ctx, scratch, recipe); err != nil {
		return "", explain(place.Dir, describeSpace(err, place, recipe))
	}
	return dir, publish(place, scratch, dir, recipe)
}

func fill(ctx context.Context, scratch string, recipe Recipe) error {
	if err := recipe.Fill(ctx, scratch); err != nil {
		return err
	}
	if err := recipe.Check(scratch); err != nil {
		return err
	}
	if err := writeManifest(scratch); err != nil {
		return err
	}
	return os.Chmod(scratch, 0o755) // MkdirTemp's 0700 would shut out those for whom an administrator fills a cache
}

// publish gives the entry its name. Where another process was faster its entry counts, unless that is damaged.
func publish(place Place, scratch, dir string, recipe Recipe) error {
	for range 3 { // each failure means that another process has just published, or moved a damaged entry away
		err := os.Rename(scratch, dir)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EEXIST) && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.ENOTDIR) {
			return explain(place.Dir, err)
		}
		if usable(place, dir, recipe) == nil {
			return nil
		}
		if err := moveAway(dir); err != nil {
			return fmt.Errorf("%s is damaged and cannot be moved away: %w", dir, err)
		}
	}
	return fmt.Errorf("%s: other processes replace it again and again", dir)
}

// Find gives the directory of an entry that is there, whole or not; empty if it is in no place.
func Find(name string) string {
	for _, place := range Places() {
		dir := filepath.Join(place.Dir, name)
		if _, err := os.Lstat(dir); err == nil {
			return dir
		}
	}
	return ""
}

// Repair looks at each file of an entry, and moves the entry away if one is damaged, so that the next call of Entry makes it anew. damage says
// what was wrong; empty: nothing.
func Repair(name string) (damage string, err error) {
	dir := Find(name)
	if dir == "" {
		return "", nil
	}
	found := Verify(dir)
	if found == nil {
		return "", nil
	}
	if err := moveAway(dir); err != nil {
		return found.Error(), fmt.Errorf("%s is damaged (%w) and cannot be moved away: %w", dir, found, err)
	}
	return found.Error(), nil
}

// moveAway removes an entry. A name of its own first, since nobody may take a half-removed entry for a whole one.
func moveAway(dir string) error {
	aside, err := os.MkdirTemp(filepath.Dir(dir), damaged)
	if err != nil {
		return explain(filepath.Dir(dir), err)
	}
	moved := os.Rename(dir, filepath.Join(aside, "entry"))
	if errors.Is(moved, fs.ErrNotExist) {
		moved = nil // another process was faster
	}
	return errors.Join(moved, os.RemoveAll(aside))
}

// sweep removes what killed processes left behind. A failure is no reason not to go on: the next process tries again.
func sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), extracting) && !strings.HasPrefix(entry.Name(), damaged) {
			continue
		}
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > abandonedAfter {
			_ = os.RemoveAll(filepath.Join(dir, entry.Name()))
		}
	}
}
