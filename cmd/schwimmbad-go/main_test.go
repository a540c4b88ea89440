package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// TestHelp: every command and every flag says what it does, and every example is one of the command's.
func TestHelp(t *testing.T) {
	root := rootCommand()
	for _, command := range root.Commands() {
		if command.Short == "" || command.Long == "" || strings.HasSuffix(command.Short, ".") {
			t.Errorf("%s: help", command.Name())
		}
		for line := range strings.Lines(command.Long) {
			if len(line) > helpWidth+1 {
				t.Errorf("%s: a line of %d characters: %s", command.Name(), len(line), line)
			}
		}
		for line := range strings.Lines(command.Example) {
			if !strings.Contains(line, command.Name()) && !strings.Contains(line, "go build") && !strings.Contains(line, "schwimmbad-go run") {
				t.Errorf("%s: example %q", command.Name(), line)
			}
		}
	}
}

func TestWrongArguments(t *testing.T) {
	dir := t.TempDir()
	input := filepath.Join(dir, "in.jsonl")
	if err := os.WriteFile(input, []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"nonsense"}, {"run"}, {"run", "--engine", "steam", "x.py"}, {"map"}, {"map", "m:f", "--exec", "x"}, {"map", "m:f", "extra"},
		{"map", "m:f", "--pool", "swimming"}, {"map", "m:f", "-n", "-1"}, {"map", "m:f", "--from", "xml"}, {"map", "m:f", "--timeout", "0"},
		{"map", "m:f", "--timeout", "soon"}, {"map", "m:f", "--retries", "-1"}, {"map", "m:f", "--chunksize", "-1"}, {"map", "m:f", "--call", "x"},
		{"map", "m:f", "--ordered", "--unordered"}, {"map", "--exec", "x", "-i", input, "-o", input}, {"mpi-env"}, {"mpi-env", "other"},
		{"venv"}, {"version", "x"}, {"doctor", "--nonsense"},
	} {
		if code := run(t.Context(), args); code != exitUsage {
			t.Errorf("%v: exit code %d", args, code)
		}
	}
	if text, err := os.ReadFile(input); err != nil || string(text) != "1\n" {
		t.Errorf("the input was touched: %q, %v", text, err)
	}
	// A mistake in the input's name must not empty an earlier run's output.
	if code := run(t.Context(), []string{"map", "--exec", "x", "-i", filepath.Join(dir, "nowhere"), "-o", input}); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	if text, err := os.ReadFile(input); err != nil || string(text) != "1\n" {
		t.Errorf("the output was touched: %q, %v", text, err)
	}
}

func TestSeconds(t *testing.T) {
	for text, want := range map[string]time.Duration{"1.5": 1500 * time.Millisecond, "2m": 2 * time.Minute, "10": 10 * time.Second} {
		var s seconds
		if err := s.Set(text); err != nil || time.Duration(s) != want {
			t.Errorf("%s: %v, %v", text, s, err)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"map", "--pool", ""}, "joblib"},
		{[]string{"mpi-env", ""}, "openmpi"},
		{[]string{"run", "--python", "emb"}, "embedded"},
		{[]string{"run", ""}, "py"},
	} {
		root := rootCommand()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetErr(&out)
		root.SetArgs(append([]string{cobra.ShellCompRequestCmd}, c.args...))
		if err := root.Execute(); err != nil || !strings.Contains(out.String(), c.want+"\n") {
			t.Errorf("%v: %v %s", c.args, err, out.String())
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		root := rootCommand()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetArgs([]string{"completion", shell})
		if err := root.Execute(); err != nil || !strings.Contains(out.String(), "schwimmbad-go") {
			t.Errorf("%s: %v", shell, err)
		}
	}
}

func TestParseWrapper(t *testing.T) {
	flags := parseWrapper("gcc -Wl,-z,relro -I/a/include -I/a/include/openmpi -L/a/lib -Wl,-rpath -lmpi -lm\n")
	if strings.Join(flags.includes, " ") != "/a/include /a/include/openmpi" || strings.Join(flags.dirs, " ") != "/a/lib" || strings.Join(flags.libs, " ") != "mpi m" {
		t.Fatalf("%+v", flags)
	}
}

// TestExports: Debian's MPICH has no libmpi.so, and directories of the system do not belong into LD_LIBRARY_PATH.
func TestExports(t *testing.T) {
	t.Setenv("SCHWIMMBAD_GO_CACHE", t.TempDir())
	flags := parseWrapper("gcc -I/usr/include/x86_64-linux-gnu/mpich -L/usr/lib/x86_64-linux-gnu -lmpich")
	flags.family, flags.wrapper = "mpich", "mpicc.mpich"
	text, err := flags.exports(t.Context())
	if err != nil || strings.Contains(text, "LD_LIBRARY_PATH") || !strings.Contains(text, "export CGO_CFLAGS='-I/usr/include/x86_64-linux-gnu/mpich -O2'\n") {
		t.Fatalf("%v %s", err, text)
	}
	_, rest, _ := strings.Cut(text, "CGO_LDFLAGS='-L")
	dir, _, _ := strings.Cut(rest, " ")
	script, err := os.ReadFile(filepath.Join(dir, "libmpi.so"))
	if err != nil || string(script) != "INPUT(-lmpich)\n" {
		t.Fatalf("%v %s", err, script)
	}
	flags = parseWrapper("gcc -I/opt/mpi/include -L/opt/mpi/lib -lmpi")
	text, err = flags.exports(t.Context())
	if err != nil || !strings.Contains(text, "export CGO_LDFLAGS=-L/opt/mpi/lib\n") || !strings.Contains(text, "export LD_LIBRARY_PATH=/opt/mpi/lib${") {
		t.Fatalf("%v %s", err, text)
	}
}
