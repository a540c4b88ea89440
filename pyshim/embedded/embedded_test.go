//go:build !nopython

package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/schwimmbad-go/schwimmbad-go/pyshim"
)

const childMark = "EMBEDDED_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childMark) != "" {
		path, err := Prepare(context.Background())
		fmt.Println(path, err)
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	if raceDetector {
		fmt.Println("skipped: nothing here runs at the same time but processes, and unpacking takes seconds")
		os.Exit(0)
	}
	code := m.Run()
	if session != "" {
		if err := os.RemoveAll(session); err != nil {
			fmt.Println(err)
			code = 1
		}
	}
	os.Exit(code)
}

// session is the cache that the tests share: unpacking takes seconds.
var session string

var unpacked = sync.OnceValues(func() (string, error) {
	var err error
	if session, err = os.MkdirTemp("", "embedded-test-"); err != nil {
		return "", err
	}
	return session, many(session)
})

// many lets 8 processes ask for the interpreter at once, on an empty cache.
func many(dir string) error {
	var outputs [8]strings.Builder
	var commands [8]*exec.Cmd
	for i := range commands {
		command := exec.Command(os.Args[0])
		command.Env = append(os.Environ(), childMark+"=1", "SCHWIMMBAD_GO_CACHE="+dir)
		command.Stdout, command.Stderr = &outputs[i], &outputs[i]
		if err := command.Start(); err != nil {
			return err
		}
		commands[i] = command
	}
	for i, command := range commands {
		if err := command.Wait(); err != nil {
			return fmt.Errorf("%w: %s", err, outputs[i].String())
		}
		if outputs[i].String() != outputs[0].String() {
			return fmt.Errorf("%q, %q", outputs[i].String(), outputs[0].String())
		}
	}
	return nil
}

// useSession makes the session's interpreter the one that is found.
func useSession(t *testing.T) *pyshim.Python {
	t.Helper()
	dir, err := unpacked()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SCHWIMMBAD_GO_CACHE", dir)
	python, err := pyshim.Find(t.Context(), "embedded")
	if err != nil {
		t.Fatal(err)
	}
	return python
}

func say(t *testing.T, python *pyshim.Python, args ...string) string {
	t.Helper()
	out, err := python.Command(t.Context(), nil, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestManyProcessesUnpackOnce(t *testing.T) {
	useSession(t)
	entries, err := os.ReadDir(session)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") || strings.HasPrefix(entry.Name(), "python-") && entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	if len(names) != 1 || names[0] != entryName() {
		t.Fatalf("in the cache: %v", names)
	}
	if dir, damage := Unpacked(); dir != filepath.Join(session, entryName()) || damage != nil {
		t.Fatalf("%s: %v", dir, damage)
	}
}

func TestVersion(t *testing.T) {
	python := useSession(t)
	if version, _, _ := strings.Cut(Version, "-"); python.Version != version || !python.Embedded || python.Origin != "embedded" {
		t.Fatalf("%+v, want version %s", python, version)
	}
	mod, err := os.ReadFile("../../go.mod")
	if err != nil || !strings.Contains(string(mod), module+" v0.0.0-"+Version+"\n") {
		t.Fatalf("go.mod has another version than %s: %v", Version, err)
	}
	if moduleSum() == "" {
		t.Log("this build does not record the module's checksum")
	}
}

// TestStandardLibrary imports what the module leaves to shared objects, and what the workers need.
func TestStandardLibrary(t *testing.T) {
	python := useSession(t)
	got := say(t, python, "-c", `
import ctypes, json, ssl, sqlite3, lzma, bz2, zlib, hashlib, socket, select, mmap, pickle, multiprocessing.connection
print(sqlite3.connect(":memory:").execute("select 6*7").fetchone()[0], ssl.OPENSSL_VERSION.split()[0], ctypes.CDLL(None).getpid() > 0)`)
	if got != "42 OpenSSL True" {
		t.Fatal(got)
	}
}

func TestModulesAreCompiled(t *testing.T) {
	python := useSession(t)
	t.Setenv("PYTHONDONTWRITEBYTECODE", "1")
	got := say(t, python, "-c", `
import json, sys, os, importlib.util
print(os.path.exists(importlib.util.cache_from_source(json.__file__)), json.loads.__code__.co_filename == json.__file__)`)
	if got != "True True" {
		t.Fatal(got)
	}
}

func TestCopiesAreLinks(t *testing.T) {
	python := useSession(t)
	bin := filepath.Dir(python.Path)
	large := 0
	for _, name := range []string{"python", "python3", "python3.14"} {
		info, err := os.Lstat(filepath.Join(bin, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().IsRegular() {
			large++
		}
	}
	if large != 1 {
		t.Fatalf("%d copies of the interpreter", large)
	}
}

// TestVariablesDoNotReachIn has the traps of PYTHONHOME: it must not break this Python, and must not leak from it into others.
func TestVariablesDoNotReachIn(t *testing.T) {
	t.Setenv("PYTHONHOME", "/nowhere")
	t.Setenv("PYTHONUSERBASE", t.TempDir())
	python := useSession(t)
	got := say(t, python, "-c", `
import os, site, sys
print(os.environ.get("PYTHONHOME"), site.ENABLE_USER_SITE, sys.prefix == os.path.dirname(os.path.dirname(sys.executable)))`)
	if got != "None False True" {
		t.Fatal(got)
	}
	other, err := exec.LookPath("python3")
	if err != nil {
		t.Skip(err)
	}
	t.Setenv("PYTHONHOME", "")
	got = say(t, python, "-c", fmt.Sprintf("import subprocess; print(subprocess.check_output([%q, '-c', 'import encodings; print(1)']))", other))
	if got != `b'1\n'` {
		t.Fatal(got)
	}
}

// TestDamage has an interpreter that lost data after it was unpacked. A copy of the session's is spoilt; links make that cheap.
func TestDamage(t *testing.T) {
	python := useSession(t)
	dir := t.TempDir()
	if out, err := exec.Command("cp", "-al", filepath.Join(session, entryName()), dir).CombinedOutput(); err != nil {
		t.Skipf("%v: %s", err, out)
	}
	t.Setenv("SCHWIMMBAD_GO_CACHE", dir)
	if again, err := Prepare(t.Context()); err != nil || again == python.Path {
		t.Fatal(again, err)
	}
	spoilt := filepath.Join(dir, entryName(), "py", "lib", "python3.14", "json", "decoder.py")
	content, err := os.ReadFile(spoilt)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(spoilt), os.WriteFile(spoilt, content[:100], 0o644)); err != nil { // not the session's own file
		t.Fatal(err)
	}
	if _, damage := Unpacked(); damage == nil || !strings.Contains(damage.Error(), "decoder.py has 100 bytes") {
		t.Fatal(damage)
	}
	if damage, err := Repair(); err != nil || !strings.Contains(damage, "decoder.py") {
		t.Fatal(damage, err)
	}
	if dir, _ := Unpacked(); dir != "" {
		t.Fatal("the damaged interpreter is still there")
	}
}

func TestPip(t *testing.T) {
	python := useSession(t)
	dir, err := PreparePip(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out, err := python.Command(t.Context(), []string{dir}, "-m", "pip", "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), dir) {
		t.Fatalf("%v: %s", err, out)
	}
	if again, err := PreparePip(t.Context()); err != nil || again != dir {
		t.Fatal(again, err)
	}
}

func TestErrorsNameThePlace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SCHWIMMBAD_GO_CACHE", file+"/below")
	_, err := pyshim.Find(t.Context(), "embedded")
	if err == nil || !strings.Contains(err.Error(), "the embedded Python: no place to keep") || !strings.Contains(err.Error(), file) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	t.Setenv("SCHWIMMBAD_GO_CACHE", t.TempDir())
	if _, err := Prepare(ctx); err == nil {
		t.Fatal("unpacked although nobody waits any more")
	}
}
