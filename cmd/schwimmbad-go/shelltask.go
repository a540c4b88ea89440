package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/schwimmbad-go/schwimmbad-go/cmd/schwimmbad-go/internal/records"
	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

// shellTask is a record and what to do with it; the fields are exported for msgpack, to other ranks.
type shellTask struct {
	Command  string
	From, To records.Format
	Number   int64
	Record   []byte
}

// shellFunction is registered, so that ranks of an MPIPool know it.
var shellFunction = pools.Register("schwimmbad-go.shell", runShell)

const (
	shell = "/bin/sh"
	// A command may leave children behind that keep its output open.
	shellGrace = 2 * time.Second
	shellNews  = 100 * time.Millisecond
	// What is kept of a command's standard error for the record of its failure.
	stderrKept = 4 << 10
)

// shellError is a command that failed.
type shellError struct {
	err    error
	stderr string
}

func (e *shellError) Error() string { return e.err.Error() }
func (e *shellError) Unwrap() error { return e.err }

// runShell runs the command for a record and gives its output as a result. The command gets no input, and a process group of its own: Ctrl-C
// is for the map to handle, and a time limit has to reach all that the command has started.
func runShell(ctx context.Context, t shellTask) ([]byte, error) {
	line, err := commandLine(t)
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, shell, "-c", line)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = shellGrace
	var stdout bytes.Buffer
	stderr := &tail{}
	command.Stdout, command.Stderr = &stdout, stderr
	if err := command.Run(); err != nil {
		if ended(ctx, command.ProcessState) {
			return nil, ctx.Err()
		}
		if !errors.Is(err, exec.ErrWaitDelay) { // the command itself has ended well
			return nil, &shellError{err, stderr.String()}
		}
	}
	return shellResult(t.To, strings.TrimSuffix(stdout.String(), "\n"))
}

// ended says whether a command failed because the map or its time is over. The signal of a Ctrl-C reaches a command that has just been forked,
// and is not in its own process group yet; the news of it may come to us a little later.
func ended(ctx context.Context, state *os.ProcessState) bool {
	if state == nil {
		return ctx.Err() != nil
	}
	status, ok := state.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() && (status.Signal() == syscall.SIGINT || status.Signal() == syscall.SIGTERM) {
		select {
		case <-ctx.Done():
		case <-time.After(shellNews):
		}
	}
	return ctx.Err() != nil
}

func shellResult(format records.Format, text string) ([]byte, error) {
	switch format.ResultEncoding() {
	case "row":
		return records.Row([]string{"result"}, []string{text})
	case "json":
		return json.Marshal(text)
	case "msgpack":
		return msgpack.Marshal(text)
	}
	return []byte(text), nil
}

// placeholder is {}, {#} or the name of a member. What else stands in braces is the shell's, or awk's.
var placeholder = regexp.MustCompile(`\{(#|[\pL_][\pL\pN_ .-]*)?\}`)

// commandLine puts the record into the command.
func commandLine(t shellTask) (string, error) {
	if bytes.IndexByte(t.Record, 0) >= 0 && t.From != records.Msgpack {
		return "", errors.New("the record holds a NUL byte, which no command line can")
	}
	members, whole, err := members(t)
	if err != nil {
		return "", err
	}
	used := false
	line := placeholder.ReplaceAllStringFunc(t.Command, func(found string) string {
		switch name := found[1 : len(found)-1]; name {
		case "":
			used = true
			return quote(whole)
		case "#":
			used = true
			return strconv.FormatInt(t.Number+1, 10)
		default:
			value, there := members[name]
			if !there {
				return found
			}
			used = true
			return quote(value)
		}
	})
	if !used {
		line += " " + quote(whole)
	}
	return line, nil
}

// members are the texts that stand for names in the command, and the one for {}: of a JSON text what it says, of any other value its JSON.
func members(t shellTask) (named map[string]string, whole string, err error) {
	if t.From == records.Lines {
		return nil, string(t.Record), nil
	}
	record := t.Record
	if t.From == records.Msgpack {
		var value any
		if err := msgpack.Unmarshal(record, &value); err != nil {
			return nil, "", err
		}
		if record, err = json.Marshal(value); err != nil {
			return nil, "", fmt.Errorf("a command line takes text: %w", err)
		}
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(record, &object); err == nil {
		named = make(map[string]string, len(object))
		for name, value := range object {
			named[name] = text(value)
		}
	} else if !json.Valid(record) {
		return nil, "", fmt.Errorf("the record is no JSON: %w", err)
	}
	return named, text(record), nil
}

// text is a JSON string's content, or any other JSON as it stands.
func text(value json.RawMessage) string {
	var s string
	if json.Unmarshal(value, &s) == nil && !bytes.Equal(bytes.TrimSpace(value), []byte("null")) {
		return s
	}
	return string(value)
}

// tail passes a command's standard error on as it comes, and keeps the end of it.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - stderrKept; over > 0 {
		t.kept = t.kept[over:]
	}
	return os.Stderr.Write(p)
}

func (t *tail) String() string { return strings.ToValidUTF8(string(t.kept), "\ufffd") }
