package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// explain puts the usual reasons why a directory cannot be filled into words.
func explain(dir string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%s lies on a file system that is mounted read-only: %w", dir, err)
	case errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("your quota on the file system of %s is used up: %w", dir, err)
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("the file system of %s is full: %w", dir, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("you may not write in %s: %w", dir, err)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%s, or a part of that path, is not a directory: %w", dir, err)
	}
	return fmt.Errorf("%s: %w", dir, err)
}

// describeSpace adds what was needed and what is left to an error about a full disk.
func describeSpace(err error, place Place, recipe Recipe) error {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	return fmt.Errorf("%w (about %d MB are needed, %d MB are free)", err, recipe.Bytes/1_000_000, max(place.Free(), 0)/1_000_000)
}
