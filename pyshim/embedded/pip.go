//go:build !nopython

package embedded

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kluctl/go-embed-python/pip"
	"github.com/schwimmbad-go/schwimmbad-go/pyshim/internal/cache"
)

const pipBytes = 15_000_000

// PreparePip unpacks pip where that has not been done, and gives the directory for PYTHONPATH. The embedded Python has no ensurepip; with pip
// beside it `python -m pip --python VENV/bin/python install ...` fills a virtual environment that was made without pip.
func PreparePip(ctx context.Context) (dir string, err error) {
	entry, err := cache.Entry(ctx, cache.Recipe{
		Name:  "pip-" + key(),
		Bytes: pipBytes,
		Fill:  unpackPip,
		Check: func(dir string) error {
			_, err := os.Stat(filepath.Join(dir, "pip", "pip", "__main__.py"))
			return err
		},
	})
	return filepath.Join(entry, "pip"), err
}

// unpackPip moves what the module unpacks: it takes the last part of a name only, and the temp directory for the rest. A name that leads from
// there to ours keeps half-written files away from where others may look for them.
func unpackPip(_ context.Context, dir string) error {
	temp, err := filepath.Abs(os.TempDir())
	if err != nil {
		return err
	}
	way, err := filepath.Rel(temp, dir)
	if err != nil {
		return err
	}
	// It puts "go-embedded-pip-" in front, of which a directory x is made that the next part leaves again, and a hash behind.
	files, err := pip.NewPipLib("x/../" + filepath.ToSlash(way) + "/unpacked")
	if err != nil {
		return err
	}
	unpacked := files.GetExtractedPath()
	if filepath.Dir(unpacked) != dir {
		return fmt.Errorf("pip was unpacked into %s instead of %s", unpacked, dir)
	}
	if err := os.Remove(unpacked + ".lock"); err != nil {
		return err
	}
	return os.Rename(unpacked, filepath.Join(dir, "pip"))
}
