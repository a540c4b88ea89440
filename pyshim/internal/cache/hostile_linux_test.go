package cache

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// inOwnMounts runs the test again as a process that may mount file systems without anybody else seeing them; true in that process. Where
// the kernel forbids it the test is skipped.
func inOwnMounts(t *testing.T) bool {
	t.Helper()
	const mark = "CACHE_TEST_MOUNTS"
	if os.Getenv(mark) != "" {
		return true
	}
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	command.Env = append(os.Environ(), mark+"=1")
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if uid := os.Getuid(); uid != 0 {
		command.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		command.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		command.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := command.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || strings.Contains(string(out), "--- SKIP"):
		t.Skipf("no file system can be mounted here: %v %s", err, out)
	case err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()):
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// mount gives an empty file system in memory that takes options of mount(8).
func mount(t *testing.T, flags uintptr, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Skipf("mount: %v", err)
	}
	if err := syscall.Mount("none", dir, "tmpfs", flags, options); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Fatalf("%q is not in: %v", word, err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	dir := mount(t, 0, "size=64k")
	t.Setenv(Variable, dir)
	var made atomic.Int32
	recipe := recipeOf("a", &made)
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 60_000), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Entry(t.Context(), recipe)
	wantError(t, err, "the file system of "+dir+" is full", "about 1 MB are needed, 0 MB are free", Variable)
	if found := names(t, dir); fmt.Sprint(found) != "[filler]" {
		t.Fatalf("left in the cache: %v", found)
	}
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	mustEntry(t, recipe)
}

func TestNoExec(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	dir := mount(t, syscall.MS_NOEXEC, "")
	t.Setenv(Variable, dir)
	var made atomic.Int32
	recipe := recipeOf("a", &made)
	mustEntry(t, recipe) // no program
	recipe.Name, recipe.Executable = "b", true
	_, err := Entry(t.Context(), recipe)
	wantError(t, err, dir+" lies on a file system that is mounted noexec", Variable)
	if !errors.Is(err, ErrNoExec) || made.Load() != 1 {
		t.Fatalf("%v, made %d times", err, made.Load())
	}
	// Not named: the next place serves, also where the entry is on the one that does not.
	home, temp := dir, t.TempDir()
	t.Setenv(Variable, "")
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", home)
	t.Setenv("TMPDIR", temp)
	recipe.Executable = false
	if got := mustEntry(t, recipe); !strings.HasPrefix(got, home) {
		t.Fatal(got)
	}
	recipe.Executable = true
	if got := mustEntry(t, recipe); !strings.HasPrefix(got, temp) {
		t.Fatal(got)
	}
}

func TestReadOnly(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	dir := mount(t, 0, "")
	t.Setenv(Variable, dir)
	var made atomic.Int32
	recipe := recipeOf("a", &made)
	mustEntry(t, recipe)
	if err := syscall.Mount("none", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if got := mustEntry(t, recipe); got != filepath.Join(dir, "a") || made.Load() != 1 { // what is there serves
		t.Fatalf("%s, made %d times", got, made.Load())
	}
	_, err := Entry(t.Context(), recipeOf("b", &made))
	wantError(t, err, dir+" lies on a file system that is mounted read-only", Variable)
}

// TestOtherUsers stands for the second user on a host: what the first has made in the temp directory must neither stop nor fool them.
func TestOtherUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can make files of other users")
	}
	temp := t.TempDir()
	t.Setenv(Variable, "")
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "")
	t.Setenv("TMPDIR", temp)
	var made atomic.Int32
	dir := mustEntry(t, recipeOf("a", &made))
	for name, spoil := range map[string]func() error{
		"another owner": func() error { return os.Chown(filepath.Dir(dir), 4711, 4711) },
		"all may write": func() error {
			return errors.Join(os.Chown(filepath.Dir(dir), 0, 0), os.Chmod(filepath.Dir(dir), 0o777))
		},
		"a link": func() error {
			return errors.Join(os.Rename(filepath.Dir(dir), temp+"/elsewhere"), os.Symlink(temp+"/elsewhere", filepath.Dir(dir)))
		},
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if _, err := Entry(t.Context(), recipeOf("a", &made)); !errors.Is(err, ErrForeign) {
			t.Fatalf("%s: %v", name, err)
		}
		err := errors.Join(os.RemoveAll(filepath.Dir(dir)), os.RemoveAll(temp+"/elsewhere"))
		if err != nil {
			t.Fatal(err)
		}
		mustEntry(t, recipeOf("a", &made))
	}
	// In a directory for all, as /tmp is, an entry of another user's is not taken.
	shared := t.TempDir()
	if err := os.Chmod(shared, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	t.Setenv(Variable, shared)
	planted := mustEntry(t, recipeOf("a", &made))
	if err := os.Chown(planted, 4711, 4711); err != nil {
		t.Fatal(err)
	}
	before := made.Load()
	mustEntry(t, recipeOf("a", &made)) // root can move it away, and does
	if made.Load() != before+1 {
		t.Fatal("another user's entry was used")
	}
}

// TestSecondUser has the whole case: two users, one temp directory.
func TestSecondUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start processes of other users")
	}
	temp, err := os.MkdirTemp("", "cache-test-") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temp)
	program := filepath.Join(temp, "program")
	content, err := os.ReadFile(os.Args[0])
	if err == nil {
		err = errors.Join(os.WriteFile(program, content, 0o755), os.Chmod(temp, 0o777|os.ModeSticky))
	}
	if err != nil {
		t.Fatal(err)
	}
	run := func(uid uint32, variables ...string) (string, error) {
		command := exec.CommandContext(t.Context(), program)
		command.Dir = temp
		command.Env = append([]string{childMark + "=1", "TMPDIR=" + temp}, variables...)
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := command.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	for _, uid := range []uint32{4711, 4712} {
		if out, err := run(uid); err != nil || out != "made 1" {
			t.Fatalf("user %d: %v %s", uid, err, out)
		}
	}
	if out, err := run(4711); err != nil || out != "made 0" {
		t.Fatalf("user 4711 again: %v %s", err, out)
	}
	// A directory that the administrator has filled serves everybody; a new one cannot be made there, and the error says so.
	filled := filepath.Join(temp, "filled")
	if out, err := run(0, Variable+"="+filled); err != nil || out != "made 1" {
		t.Fatalf("root: %v %s", err, out)
	}
	if out, err := run(4711, Variable+"="+filled); err != nil || out != "made 0" {
		t.Fatalf("user 4711 from root's: %v %s", err, out)
	}
	if err := os.RemoveAll(filepath.Join(filled, "shared")); err != nil {
		t.Fatal(err)
	}
	out, err := run(4711, Variable+"="+filled)
	if err == nil || !strings.Contains(out, "you may not write in "+filled) {
		t.Fatalf("%v %s", err, out)
	}
	// A parent that cannot be entered.
	closed := filepath.Join(temp, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	out, err = run(4711, Variable+"="+closed+"/cache")
	if err == nil || !strings.Contains(out, "you may not write in "+closed) {
		t.Fatalf("%v %s", err, out)
	}
}
