package pyshim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/schwimmbad-go/schwimmbad-go/pyshim/internal/cache"
	pysrc "github.com/schwimmbad-go/schwimmbad-go/python"
)

// source is one file of the Python package.
type source struct {
	name    string // with slashes, below the directory that goes into PYTHONPATH
	content []byte
}

var readSources = sync.OnceValues(func() (sources []source, err error) {
	files := pysrc.Files()
	err = fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || name == pysrc.Generated {
			return err
		}
		content, err := files.ReadFile(name)
		sources = append(sources, source{name, content})
		return err
	})
	return sources, err
})

// Sources gives a directory that holds the Python package schwimmbad_go as it was when this program was built; put it into PYTHONPATH.
//
// It lies in the cache under a name made from the content of all files, so programs of different versions do not disturb each other.
// Each call compares every file with what is compiled in (0.4 MB, 1 ms) and puts a changed one right. The error says which directories were
// tried, and why none serves.
func Sources(ctx context.Context) (dir string, err error) {
	sources, err := readSources()
	if err != nil {
		return "", fmt.Errorf("the embedded Python sources: %w", err)
	}
	digest := sha256.New()
	size := int64(0)
	for _, s := range sources {
		fmt.Fprintf(digest, "%s %d\n", s.name, len(s.content))
		digest.Write(s.content)
		size += int64(len(s.content))
	}
	return cache.Entry(ctx, cache.Recipe{
		Name:  "pysrc-" + hex.EncodeToString(digest.Sum(nil)[:10]),
		Bytes: size,
		Fill:  func(_ context.Context, dir string) error { return writeSources(dir, sources) },
		Check: func(dir string) error { return compareSources(dir, sources) },
	})
}

func writeSources(dir string, sources []source) error {
	for _, s := range sources {
		path := filepath.Join(dir, filepath.FromSlash(s.name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, s.content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func compareSources(dir string, sources []source) error {
	for _, s := range sources {
		content, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(s.name)))
		if err != nil {
			return err
		}
		if !bytes.Equal(content, s.content) {
			return fmt.Errorf("%s was changed", s.name)
		}
	}
	return nil
}
