package pyshim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/schwimmbad-go/schwimmbad-go/pyshim/internal/cache"
)

// Cached gives a directory that holds these files, by their names with slashes. It lies in the cache under prefix and a hash of names and
// contents, so that what differs never meets. Each call compares every file, and puts a changed one right. The error says which directories
// were tried, and why none serves.
func Cached(ctx context.Context, prefix string, files map[string][]byte) (dir string, err error) {
	digest := sha256.New()
	size := int64(0)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(digest, "%s %d\n", name, len(files[name]))
		digest.Write(files[name])
		size += int64(len(files[name]))
	}
	return cache.Entry(ctx, cache.Recipe{
		Name:  prefix + "-" + hex.EncodeToString(digest.Sum(nil)[:10]),
		Bytes: size,
		Fill:  func(_ context.Context, dir string) error { return writeFiles(dir, files) },
		Check: func(dir string) error { return compareFiles(dir, files) },
	})
}

func writeFiles(dir string, files map[string][]byte) error {
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func compareFiles(dir string, files map[string][]byte) error {
	for name, want := range files {
		content, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		if !bytes.Equal(content, want) {
			return fmt.Errorf("%s was changed", name)
		}
	}
	return nil
}
