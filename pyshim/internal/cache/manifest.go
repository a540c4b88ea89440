package cache

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// completeName is the last file that is written into an entry: its being there says that Fill has ended, its lines which files of what
// size Fill has made.
const completeName = ".complete"

func writeManifest(dir string) error {
	var lines strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		fmt.Fprintf(&lines, "%d %s\n", info.Size(), name)
		return err
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, completeName), []byte(lines.String()), 0o644)
}

// Verify compares the sizes of all files of an entry with what they were when it was made. The error names the first that differs.
// Cost: a system call per file, 1 ms for the embedded Python on a local disk.
func Verify(dir string) error {
	manifest, err := os.ReadFile(filepath.Join(dir, completeName))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(manifest)) {
		digits, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		size, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(dir, completeName), err)
		}
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if info.Size() != size {
			return fmt.Errorf("%s has %d bytes instead of %d", filepath.Join(dir, name), info.Size(), size)
		}
	}
	return nil
}
