package pools_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestWhatAnImportBrings builds a module that imports this package, and lists the modules that its packages come from: that is what its
// users download. MPI, Python and the peers of the benchmarks must never be among them.
func TestWhatAnImportBrings(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	const self = "github.com/schwimmbad-go/schwimmbad-go"
	for name, text := range map[string]string{
		"go.mod":  "module example.com/user\n\ngo 1.26\n\nrequire " + self + " v0.0.0\n\nreplace " + self + " => " + root + "\n",
		"go.sum":  string(sums),
		"main.go": "package main\n\nimport \"" + self + "/pools\"\n\nfunc main() { pools.NewSerialPool().Close() }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list := func(env string, args ...string) []string {
		cmd := exec.Command("go", append([]string{"list", "-mod=mod"}, args...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=", "GOPROXY=off", "GOWORK=off", env)
		out, err := cmd.Output()
		if err != nil {
			stderr := ""
			if e, ok := err.(*exec.ExitError); ok {
				stderr = string(e.Stderr)
			}
			t.Fatalf("go list %v: %v\n%s", args, err, stderr)
		}
		lines := strings.Fields(string(out))
		slices.Sort(lines)
		return slices.Compact(lines)
	}
	for _, env := range []string{"CGO_ENABLED=0", "CGO_ENABLED=1", "GOOS=darwin", "GOOS=windows"} {
		got := list(env, "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", ".")
		want := []string{
			"example.com/user", self, "github.com/vmihailenco/msgpack/v5", "github.com/vmihailenco/tagparser/v2",
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", env, got, want)
		}
	}
}
