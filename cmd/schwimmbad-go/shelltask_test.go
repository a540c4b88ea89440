package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/cmd/schwimmbad-go/internal/records"
)

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		command string
		from    records.Format
		record  string
		want    string
	}{
		{"echo {}", records.Lines, "a b", "echo 'a b'"},
		{"echo", records.Lines, "a", "echo a"},
		{"echo {} {}; f {#}", records.Lines, "x", "echo x x; f 7"},
		{"echo {}", records.Lines, "$(rm -r /) `x` 'y' \"z\" \\ ;\t*", `echo '$(rm -r /) ` + "`x`" + ` '\''y'\'' "z" \ ;` + "\t" + `*'`},
		{"echo {}", records.Lines, "", "echo ''"},
		{"echo {}", records.Lines, "-n", "echo -n"},
		{"awk '{print $1}' {}", records.Lines, "f", "awk '{print $1}' f"},
		{"awk '{print}' ${HOME}", records.Lines, "f", "awk '{print}' ${HOME} f"},
		{"cp {from} {to}", records.JSONLines, `{"from": "a b", "to": 1.50}`, "cp 'a b' 1.50"},
		{"cp {from} {other} {}", records.CSV, `{"from":"a"}`, `cp a {other} '{"from":"a"}'`},
		{"f {}", records.JSONLines, `"é"`, "f 'é'"},
		{"f {}", records.JSONLines, `null`, "f null"},
		{"f {}", records.JSONLines, `[1, 2]`, "f '[1, 2]'"},
		{"f {a}", records.Msgpack, "\x81\xa1a\xa1b", "f b"},
		{"f {}", records.Msgpack, "\x2a", "f 42"},
	} {
		got, err := commandLine(shellTask{Command: c.command, From: c.from, Number: 6, Record: []byte(c.record)})
		if err != nil || got != c.want {
			t.Errorf("%s, %q: %q, want %q, %v", c.command, c.record, got, c.want, err)
		}
	}
	for record, from := range map[string]records.Format{"{": records.JSONLines, "\xc1": records.Msgpack, "a\x00b": records.Lines} {
		if line, err := commandLine(shellTask{Command: "f {}", From: from, Record: []byte(record)}); err == nil {
			t.Errorf("%q: %q", record, line)
		}
	}
}

func TestRunShell(t *testing.T) {
	run := func(command string, to records.Format) (string, error) {
		result, err := runShell(t.Context(), shellTask{Command: command, From: records.Lines, To: to, Record: []byte("a'b")})
		return string(result), err
	}
	for to, want := range map[records.Format]string{
		records.Lines: "a'b\nc", records.JSONLines: `"a'b\nc"`, records.CSV: `[["result"],["a'b\nc"]]`, records.Msgpack: "\xa5a'b\nc",
	} {
		if got, err := run("echo {}; echo c", to); err != nil || got != want {
			t.Errorf("%s: %q, want %q, %v", to, got, want, err)
		}
	}
	if got, err := run("cat; echo {} > /dev/null", records.Lines); err != nil || got != "" {
		t.Errorf("a command with input: %q, %v", got, err)
	}
	_, err := run("echo bad >&2; exit 3; : {}", records.Lines)
	var failed *shellError
	if !errors.As(err, &failed) || failed.stderr != "bad\n" || err.Error() != "exit status 3" {
		t.Errorf("%v", err)
	}
	if _, err := run("kill -9 $$; : {}", records.Lines); err == nil || err.Error() != "signal: killed" {
		t.Errorf("%v", err)
	}
}

// TestTheEndReachesChildrenOfACommand: a time limit, or Ctrl-C, must not leave anything running.
func TestTheEndReachesChildrenOfACommand(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := runShell(ctx, shellTask{Command: "sh -c 'echo $$ > " + mark + ".new; mv " + mark + ".new " + mark + "; sleep 1000'; : {}", From: records.Lines})
		ended <- err
	}()
	var pid string
	for pid == "" {
		if text, err := os.ReadFile(mark); err == nil {
			pid = strings.TrimSpace(string(text))
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for { // killed, but perhaps not collected yet
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) || strings.Contains(string(stat), ") Z ") {
			break
		}
		time.Sleep(time.Millisecond)
	}
}

func TestStderrTail(t *testing.T) {
	kept := &tail{kept: []byte(strings.Repeat("a", stderrKept))}
	if _, err := kept.Write([]byte("the end\n")); err != nil {
		t.Fatal(err)
	}
	if got := kept.String(); len(got) != stderrKept || !strings.HasSuffix(got, "the end\n") {
		t.Fatal(len(got))
	}
}

func TestQuote(t *testing.T) {
	for text, want := range map[string]string{"": "''", "a.b/c-1": "a.b/c-1", "a b": "'a b'", "it's": `'it'\''s'`, "~x": "'~x'", "=x": "=x", "é": "'é'"} {
		if got := quote(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
