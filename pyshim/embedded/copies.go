//go:build !nopython

package embedded

import (
	"bytes"
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// linkCopies puts symbolic links in place of copies of large files: the module cannot unpack links, and so the interpreter is there three
// times and its library twice, 75 MB too much. The file with the longest name stays, as in python3.14 and libpython3.14.so.1.0.
func linkCopies(root string) error {
	large := map[int64][]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Size() >= 1<<20 {
			large[info.Size()] = append(large[info.Size()], path)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, paths := range large {
		slices.SortFunc(paths, func(a, b string) int { return cmp.Or(len(b)-len(a), cmp.Compare(a, b)) })
		for _, path := range paths[1:] {
			if err := link(path, paths[0]); err != nil {
				return err
			}
		}
	}
	return nil
}

// link replaces one file by a relative link to another if their contents are the same.
func link(path, original string) error {
	a, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(original)
	if err != nil || !bytes.Equal(a, b) {
		return err
	}
	target, err := filepath.Rel(filepath.Dir(path), original)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.Symlink(target, path)
}
