package pyshim

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestEnviron(t *testing.T) {
	base := []string{"A=1", "PYTHONHOME=/usr", "PYTHONPATH=/theirs", "PYTHONNOUSERSITE=", "PYTHONPATHS=x"}
	for _, c := range []struct {
		python Python
		paths  []string
		want   []string
	}{
		{Python{}, nil, []string{"A=1", "PYTHONPATH=/theirs", "PYTHONNOUSERSITE=", "PYTHONPATHS=x"}},
		{Python{}, []string{"/a", "/b"}, []string{"A=1", "PYTHONNOUSERSITE=", "PYTHONPATHS=x", "PYTHONPATH=/a:/b:/theirs"}},
		{Python{Embedded: true}, []string{"/a"}, []string{"A=1", "PYTHONPATHS=x", "PYTHONNOUSERSITE=1", "PYTHONPATH=/a:/theirs"}},
	} {
		before := slices.Clone(base)
		if got := c.python.Environ(base, c.paths...); !slices.Equal(got, c.want) {
			t.Errorf("%+v %v: %q, want %q", c.python, c.paths, got, c.want)
		}
		if !slices.Equal(base, before) {
			t.Fatal("the argument was changed")
		}
	}
	if got := (&Python{}).Environ(nil, "/a"); !slices.Equal(got, []string{"PYTHONPATH=/a"}) { // no empty element: it would be "."
		t.Errorf("%q", got)
	}
}

// usablePython is one of this machine's; tests that run Python are skipped where there is none.
func usablePython(t *testing.T) *Python {
	t.Helper()
	t.Setenv("VIRTUAL_ENV", "")
	t.Setenv("CONDA_PREFIX", "")
	t.Setenv(Variable, "")
	python, err := Find(t.Context(), "")
	if err != nil {
		t.Skip(err)
	}
	return python
}

func TestInspect(t *testing.T) {
	python := usablePython(t)
	dir := t.TempDir()
	t.Setenv("PYTHONPATH", dir)
	t.Chdir(dir)
	if err := python.Inspect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if python.Package.Version != "" || !strings.Contains(python.Package.Problem, "No module named 'schwimmbad_go'") {
		t.Skipf("a schwimmbad_go is installed for %s: %+v", python, python.Package)
	}
	if err := os.MkdirAll("schwimmbad_go", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"__init__.py": `print("noise"); __version__ = "9.9"`,
		"_engine.py":  `def library(): raise OSError("wrong processor")`,
		"../json.py":  `raise RuntimeError("the working directory is no place for modules")`,
	} {
		if err := os.WriteFile("schwimmbad_go/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PYTHONPATH", "")
	if err := python.Inspect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if python.Package.Version != "" {
		t.Fatalf("found in the working directory: %+v", python.Package)
	}
	if err := os.Remove("json.py"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PYTHONPATH", dir)
	if err := python.Inspect(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := Package{Version: "9.9", Dir: python.Package.Dir, Problem: "OSError: wrong processor"}
	if python.Package != want || !strings.HasSuffix(python.Package.Dir, "schwimmbad_go") {
		t.Fatalf("%+v", python.Package)
	}
}

func TestSources(t *testing.T) {
	t.Setenv("SCHWIMMBAD_GO_CACHE", t.TempDir())
	dir, err := Sources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Every module of the package is there: an embed pattern that misses a new sub-package shows here.
	out, err := exec.CommandContext(t.Context(), "find", "../python/schwimmbad_go", "-name", "*.py", "-not", "-name", "_build_info.py",
		"-printf", "%P\n").Output()
	if err != nil {
		t.Skip(err)
	}
	names := strings.Fields(string(out))
	if len(names) < 30 {
		t.Fatalf("only %d modules", len(names))
	}
	for _, name := range names {
		want, err := os.ReadFile("../python/schwimmbad_go/" + name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(dir + "/schwimmbad_go/" + name)
		if err != nil || string(got) != string(want) {
			t.Fatalf("%s: %v", name, err)
		}
	}
	// A changed file is put right, not believed.
	changed := dir + "/schwimmbad_go/__init__.py"
	if err := os.WriteFile(changed, []byte("raise SystemExit('spoilt')"), 0o644); err != nil {
		t.Fatal(err)
	}
	if again, err := Sources(t.Context()); err != nil || again != dir {
		t.Fatal(again, err)
	}
	if text, err := os.ReadFile(changed); err != nil || strings.Contains(string(text), "spoilt") {
		t.Fatalf("%v %.80s", err, text)
	}
	python := usablePython(t)
	out, err = python.Command(t.Context(), []string{dir}, "-c",
		"import json, schwimmbad_go; print(json.dumps([schwimmbad_go.__version__, schwimmbad_go.__file__]))").Output()
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	if err := json.Unmarshal(out, &said); err != nil {
		t.Fatal(err)
	}
	if said[0] != SourcesVersion() || !strings.HasPrefix(said[1], dir) {
		t.Fatalf("%v, want %s in %s", said, SourcesVersion(), dir)
	}
}
