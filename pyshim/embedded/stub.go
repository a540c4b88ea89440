//go:build nopython

package embedded

import (
	"context"
	"errors"
)

// Version is empty: there is no embedded Python.
const Version = ""

// ErrLeftOut is what all functions answer in this build.
var ErrLeftOut = errors.New("this program was built without an embedded Python (build tag nopython)")

// Prepare always fails.
func Prepare(context.Context) (string, error) { return "", ErrLeftOut }

// PreparePip always fails.
func PreparePip(context.Context) (string, error) { return "", ErrLeftOut }

// Repair always fails.
func Repair() (damage string, err error) { return "", ErrLeftOut }

// Unpacked says that nothing was.
func Unpacked() (dir string, damage error) { return "", nil }
