package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
	"github.com/schwimmbad-go/schwimmbad-go/pyshim"
	"github.com/schwimmbad-go/schwimmbad-go/pyshim/embedded"
)

// build is what this program is made of.
type build struct {
	Version  string `json:"version"`
	Protocol int    `json:"protocol"`           // of the C interface and the workers
	Package  string `json:"package"`            // version of the Python sources inside
	Embedded string `json:"embedded,omitempty"` // version of the Python inside
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Revision string `json:"revision,omitempty"`
	Cgo      bool   `json:"cgo"`
}

func thisBuild() build {
	b := build{
		Version:  pools.Version(),
		Protocol: pools.ABI,
		Package:  pyshim.SourcesVersion(),
		Embedded: embedded.Version,
		Go:       runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			switch setting.Key {
			case "vcs.revision":
				b.Revision = setting.Value
			case "CGO_ENABLED":
				b.Cgo = setting.Value == "1"
			}
		}
	}
	return b
}

func (b build) write(out io.Writer) {
	fmt.Fprintf(out, "schwimmbad-go %s (protocol %d, Python package %s)\n", b.Version, b.Protocol, b.Package)
	python := "none (build tag nopython)"
	if b.Embedded != "" {
		python = b.Embedded
	}
	fmt.Fprintf(out, "embedded Python: %s\nbuilt with %s for %s, cgo %v\n", python, b.Go, b.Platform, b.Cgo)
	if b.Revision != "" {
		fmt.Fprintf(out, "revision %s\n", b.Revision)
	}
}

func versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Say what this program is made of",
		Long:  reflow(versionHelp),
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(thisBuild())
			}
			thisBuild().write(cmd.OutOrStdout())
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as one JSON object")
	return cmd
}
