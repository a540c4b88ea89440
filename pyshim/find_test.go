package pyshim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fake makes an executable that answers as an interpreter of that version does, or the text of a script that does something else.
func fake(t *testing.T, path, version string) string {
	t.Helper()
	script := version
	if !strings.Contains(version, "\n") {
		script = "#!/bin/sh\necho " + version + "\n"
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// bare takes away everything that Find looks at, and gives an empty directory as PATH.
func bare(t *testing.T) (path string) {
	t.Helper()
	path = t.TempDir()
	for _, name := range []string{Variable, "VIRTUAL_ENV", "CONDA_PREFIX"} {
		t.Setenv(name, "")
	}
	t.Setenv("PATH", path)
	saved := embedded
	embedded.prepare, embedded.repair = nil, nil
	t.Cleanup(func() { embedded = saved })
	return path
}

func wantPython(t *testing.T, choice, path, version, origin string) {
	t.Helper()
	python, err := Find(t.Context(), choice)
	if err != nil {
		t.Fatal(err)
	}
	if python.Path != path || python.Version != version || python.Origin != origin {
		t.Fatalf("%+v, want %s, %s, from %s", python, path, version, origin)
	}
}

func wantNone(t *testing.T, choice string, words ...string) {
	t.Helper()
	python, err := Find(t.Context(), choice)
	if err == nil {
		t.Fatalf("found %s", python)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Fatalf("%q is not in: %v", word, err)
		}
	}
	if !errors.Is(err, ErrNotFound) {
		t.Fatalf("not ErrNotFound: %v", err)
	}
}

func TestOrder(t *testing.T) {
	path := bare(t)
	dir := t.TempDir()
	wantNone(t, "", "no python3 on PATH", "none in this program", "3.10")

	embedded.prepare = func(context.Context) (string, error) { return fake(t, dir+"/embedded/python3", "3.14.6"), nil }
	embedded.repair = func() (string, error) { return "", nil }
	wantPython(t, "", dir+"/embedded/python3", "3.14.6", "embedded")

	wantPython(t, "", fake(t, path+"/python3.12", "3.12.1"), "3.12.1", "PATH")
	wantPython(t, "", fake(t, path+"/python3.13", "3.13.0"), "3.13.0", "PATH")
	wantPython(t, "", fake(t, path+"/python3", "3.11.2"), "3.11.2", "PATH")

	t.Setenv("CONDA_PREFIX", dir+"/conda")
	wantPython(t, "", path+"/python3", "3.11.2", "PATH") // an environment without Python
	wantPython(t, "", fake(t, dir+"/conda/bin/python", "3.10.0"), "3.10.0", "$CONDA_PREFIX")

	t.Setenv("VIRTUAL_ENV", dir+"/venv")
	wantNone(t, "", dir+"/venv/bin/python", "does not exist", "deactivate")
	wantPython(t, "", fake(t, dir+"/venv/bin/python3", "3.10.1"), "3.10.1", "$VIRTUAL_ENV")

	t.Setenv(Variable, path+"/python3.13")
	wantPython(t, "", path+"/python3.13", "3.13.0", "$"+Variable)
	t.Setenv(Variable, "embedded")
	wantPython(t, "", dir+"/embedded/python3", "3.14.6", "embedded")
	wantPython(t, dir+"/venv", dir+"/venv/bin/python3", "3.10.1", "--python")
}

func TestChoices(t *testing.T) {
	path := bare(t)
	wantNone(t, "python3.12", "python3.12", "not on PATH")
	fake(t, path+"/python3.12", "3.12.9")
	fake(t, path+"/mine", "3.15.0")
	for choice, name := range map[string]string{"python3.12": "python3.12", "3.12": "python3.12", "mine": "mine", path + "/mine": "mine"} {
		python, err := Find(t.Context(), choice)
		if err != nil || python.Path != path+"/"+name || python.Origin != "--python" {
			t.Fatalf("%s: %v, %v", choice, python, err)
		}
	}
	wantNone(t, path+"/nowhere", "nowhere", "does not exist")
	wantNone(t, "embedded", "nopython")
}

func TestUnusable(t *testing.T) {
	path := bare(t)
	for text, words := range map[string][]string{
		"3.9.18":                   {"is Python 3.9.18, which is older than 3.10"},
		"2.7.18":                   {"is Python 2.7.18"},
		"hello":                    {"does not answer as a Python does", "hello"},
		"#!/bin/sh\nexit 3\n":      {"exit status 3"},
		"#!/nowhere/sh\n\n":        {"what loads it is not"},
		"#!/bin/sh\nkill -11 $$\n": {"segmentation fault"},
		"#!/bin/sh\necho Fatal Python error: no encodings >&2\necho more >&2\nexit 1\n": {"exit status 1", "Fatal Python error: no encodings"},
	} {
		python := fake(t, path+"/python3", text)
		wantNone(t, python, append(words, python)...)
		wantNone(t, "", append(words, "no python3 on PATH")...) // what was tried is told
	}
	if err := os.Chmod(path+"/python3", 0o644); err != nil {
		t.Fatal(err)
	}
	wantNone(t, path+"/python3", "not an executable file")
	// One that is broken does not hide another.
	fake(t, path+"/python3", "#!/bin/sh\nexit 127\n")
	wantPython(t, "", fake(t, path+"/python3.11", "3.11.0"), "3.11.0", "PATH")
}

func TestEmbeddedIsRepairedOnce(t *testing.T) {
	dir := t.TempDir()
	bare(t)
	prepared, repaired := 0, 0
	path := filepath.Join(dir, "python3")
	embedded.prepare = func(context.Context) (string, error) {
		prepared++
		if prepared == 1 {
			return fake(t, path, "#!/bin/sh\nexit 1\n"), nil
		}
		return fake(t, path, "3.14.6"), nil
	}
	embedded.repair = func() (string, error) { repaired++; return "a file is short", nil }
	wantPython(t, "embedded", path, "3.14.6", "embedded")
	if prepared != 2 || repaired != 1 {
		t.Fatalf("prepared %d times, repaired %d times", prepared, repaired)
	}
	// Nothing is damaged: that it does not start has another reason, and trying again would not help.
	prepared = 0
	embedded.repair = func() (string, error) { return "", nil }
	if _, err := Find(t.Context(), "embedded"); err == nil || prepared != 1 {
		t.Fatalf("%v, prepared %d times", err, prepared)
	}
}

func TestFindEndsWithItsContext(t *testing.T) {
	path := bare(t)
	started := filepath.Join(path, "started")
	fake(t, path+"/python3", fmt.Sprintf("#!/bin/sh\n: > %s\nread forever < /dev/tty || exec /bin/sleep 1000\n", started))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(started); err == nil {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if _, err := Find(ctx, ""); err == nil {
		t.Fatal("no error")
	}
}
