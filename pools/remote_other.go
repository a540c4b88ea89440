//go:build !linux || !(amd64 || arm64)

package pools

import (
	"context"
	"fmt"
	"runtime"
)

// remotePool needs Linux.
type remotePool struct{ python bool }

func (p *remotePool) run(context.Context, *call) error { return errNoProcesses }
func (p *remotePool) close() error                     { return nil }
func (p *remotePool) describe() string                 { return "" }
func (p *remotePool) size() int                        { return 0 }

var errNoProcesses = fmt.Errorf("%w: worker processes need Linux on amd64 or arm64, this is %s on %s", ErrUnavailable, runtime.GOOS, runtime.GOARCH)

func serveIfWorker() {}

func openProcesses(int, int) (*remotePool, error) { return nil, errNoProcesses }

func openPython(context.Context, string, int, int) (*remotePool, error) { return nil, errNoProcesses }

func openRanks(rankOptions) (*remotePool, error) { return nil, errNoProcesses }
