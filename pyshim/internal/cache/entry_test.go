package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Environment of the processes that TestManyProcesses starts.
const childMark = "CACHE_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childMark) != "" {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

// recipeOf writes two files, each beginning with the name; made counts how often.
func recipeOf(name string, made *atomic.Int32) Recipe {
	return Recipe{
		Name:  name,
		Bytes: 1_000_000,
		Fill: func(_ context.Context, dir string) error {
			made.Add(1)
			if err := os.MkdirAll(filepath.Join(dir, "deep"), 0o755); err != nil {
				return err
			}
			for _, file := range []string{"one", "deep/two"} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(name+" "+file), 0o644); err != nil {
					return err
				}
			}
			return nil
		},
		Check: func(dir string) error {
			content, err := os.ReadFile(filepath.Join(dir, "one"))
			if err == nil && string(content) != name+" one" {
				err = errors.New("one was changed")
			}
			return err
		},
	}
}

// names lists what lies in a directory, without lock files.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".lock") {
			found = append(found, entry.Name())
		}
	}
	return found
}

func mustEntry(t *testing.T, recipe Recipe) string {
	t.Helper()
	dir, err := Entry(t.Context(), recipe)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestEntryIsMadeOnce(t *testing.T) {
	root := t.TempDir()
	t.Setenv(Variable, root)
	var made atomic.Int32
	dir := mustEntry(t, recipeOf("a", &made))
	if again := mustEntry(t, recipeOf("a", &made)); again != dir || dir != filepath.Join(root, "a") || made.Load() != 1 {
		t.Fatalf("%s, then %s, made %d times", dir, again, made.Load())
	}
	mustEntry(t, recipeOf("b", &made))
	if found := names(t, root); fmt.Sprint(found) != "[a b]" {
		t.Fatalf("left in the cache: %v", found)
	}
	if err := Verify(dir); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedEntryIsReplaced(t *testing.T) {
	damages := map[string]func(dir string) error{
		"changed":    func(dir string) error { return os.WriteFile(filepath.Join(dir, "one"), []byte("x one"), 0o644) },
		"missing":    func(dir string) error { return os.Remove(filepath.Join(dir, "one")) },
		"incomplete": func(dir string) error { return os.Remove(filepath.Join(dir, completeName)) },
		"a file": func(dir string) error {
			return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, []byte("no directory"), 0o644))
		},
		"empty": func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)) },
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			t.Setenv(Variable, root)
			var made atomic.Int32
			recipe := recipeOf("a", &made)
			dir := mustEntry(t, recipe)
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			if again := mustEntry(t, recipe); again != dir || made.Load() != 2 {
				t.Fatalf("%s, made %d times", again, made.Load())
			}
			if err := errors.Join(recipe.Check(dir), Verify(dir)); err != nil {
				t.Fatal(err)
			}
			if found := names(t, root); fmt.Sprint(found) != "[a]" {
				t.Fatalf("left in the cache: %v", found)
			}
		})
	}
}

func TestRepairFindsWhatTheCheckDoesNot(t *testing.T) {
	t.Setenv(Variable, t.TempDir())
	var made atomic.Int32
	recipe := recipeOf("a", &made)
	dir := mustEntry(t, recipe)
	if damage, err := Repair("a"); damage != "" || err != nil {
		t.Fatalf("a whole entry: %q, %v", damage, err)
	}
	if err := os.Truncate(filepath.Join(dir, "deep", "two"), 2); err != nil {
		t.Fatal(err)
	}
	damage, err := Repair("a")
	if err != nil || !strings.Contains(damage, "two has 2 bytes instead of 10") {
		t.Fatalf("%q, %v", damage, err)
	}
	if Find("a") != "" {
		t.Fatal("the damaged entry is still there")
	}
	mustEntry(t, recipe)
	if err := Verify(dir); err != nil || made.Load() != 2 {
		t.Fatalf("%v, made %d times", err, made.Load())
	}
}

func TestFailedFillLeavesNothing(t *testing.T) {
	root := t.TempDir()
	t.Setenv(Variable, root)
	broken := errors.New("broken")
	var made atomic.Int32
	recipe := recipeOf("a", &made)
	good := recipe.Fill
	recipe.Fill = func(ctx context.Context, dir string) error { return errors.Join(good(ctx, dir), broken) }
	if _, err := Entry(t.Context(), recipe); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if found := names(t, root); len(found) != 0 {
		t.Fatalf("left in the cache: %v", found)
	}
}

func TestOldLeftoversAreRemoved(t *testing.T) {
	root := t.TempDir()
	t.Setenv(Variable, root)
	old, young := filepath.Join(root, extracting+"1"), filepath.Join(root, extracting+"2")
	for _, dir := range []string{old, young} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	then := time.Now().Add(-2 * abandonedAfter)
	if err := os.Chtimes(old, then, then); err != nil {
		t.Fatal(err)
	}
	var made atomic.Int32
	mustEntry(t, recipeOf("a", &made))
	if found := names(t, root); fmt.Sprint(found) != "[.extract-2 a]" {
		t.Fatalf("left in the cache: %v", found)
	}
}

// child is what TestManyProcesses starts: it waits for the end of its input, so that all begin together, asks for the entry, and says whether
// it has made it.
func child() int {
	if _, err := os.Stdin.Read(make([]byte, 1)); err == nil {
		return 3
	}
	var made atomic.Int32
	recipe := recipeOf("shared", &made)
	dir, err := Entry(context.Background(), recipe)
	if err == nil {
		err = errors.Join(recipe.Check(dir), Verify(dir))
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("made", made.Load())
	return 0
}

func TestManyProcesses(t *testing.T) {
	for _, locks := range []bool{true, false} {
		t.Run(fmt.Sprintf("locks=%v", locks), func(t *testing.T) {
			root := t.TempDir()
			if !locks { // a lock file that cannot be opened: everybody unpacks, the first rename counts
				if err := os.Mkdir(filepath.Join(root, "shared.lock"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			read, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			const processes = 8
			var commands [processes]*exec.Cmd
			var outputs [processes]strings.Builder
			for i := range commands {
				command := exec.CommandContext(t.Context(), os.Args[0])
				command.Env = append(os.Environ(), childMark+"=1", Variable+"="+root)
				command.Stdin, command.Stdout, command.Stderr = read, &outputs[i], &outputs[i]
				if err := command.Start(); err != nil {
					t.Fatal(err)
				}
				commands[i] = command
			}
			if err := errors.Join(write.Close(), read.Close()); err != nil {
				t.Fatal(err)
			}
			makers := 0
			for i, command := range commands {
				if err := command.Wait(); err != nil {
					t.Fatalf("%v: %s", err, outputs[i].String())
				}
				if strings.TrimSpace(outputs[i].String()) == "made 1" {
					makers++
				}
			}
			if makers < 1 || locks && makers != 1 {
				t.Fatalf("%d of %d processes made the entry", makers, processes)
			}
			if found := names(t, root); fmt.Sprint(found) != "[shared]" {
				t.Fatalf("left in the cache: %v", found)
			}
		})
	}
}

func TestWaitingForTheLockEndsWithTheContext(t *testing.T) {
	root := t.TempDir()
	t.Setenv(Variable, root)
	unlock, err := lock(t.Context(), filepath.Join(root, "a.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var made atomic.Int32
	if _, err := Entry(ctx, recipeOf("a", &made)); !errors.Is(err, context.Canceled) || made.Load() != 0 {
		t.Fatalf("%v, made %d times", err, made.Load())
	}
}
