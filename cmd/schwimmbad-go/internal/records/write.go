package records

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

const (
	writeBuffer = 64 << 10
	// A result that nobody else follows is visible after this time.
	flushEvery = 100 * time.Millisecond
)

// Failure is a task that failed, as it is written.
type Failure struct {
	Index     int64  `json:"index" msgpack:"index"`
	Type      string `json:"type" msgpack:"type"`
	Message   string `json:"message" msgpack:"message"`
	Traceback string `json:"traceback,omitempty" msgpack:"traceback,omitempty"`
	Worker    string `json:"worker,omitempty" msgpack:"worker,omitempty"`
}

// failureRecord is what stands in the place of a result.
type failureRecord struct {
	Index int64   `json:"index" msgpack:"index"`
	Error Failure `json:"error" msgpack:"error"`
}

// Writer writes results as records. Only whole records are handed to the file below, so that whoever reads along, or what is left after an
// interruption, ends with one.
type Writer struct {
	format   Format
	numbered bool

	mu      sync.Mutex
	out     io.Writer
	buffer  bytes.Buffer
	columns []string // of CSV, by the first result
	rows    *csv.Writer
	failed  error // of an earlier write
	stop    chan struct{}
	stopped sync.WaitGroup
}

// NewWriter writes to out. With numbered each result is written together with its number, as {"index": 3, "result": ...} or a first column.
// Close has to be called; it leaves out open.
func NewWriter(out io.Writer, format Format, numbered bool) *Writer {
	w := &Writer{format: format, numbered: numbered, out: out, stop: make(chan struct{})}
	w.rows = csv.NewWriter(&w.buffer)
	w.stopped.Go(w.flushRegularly)
	return w
}

func (w *Writer) flushRegularly() {
	ticker := time.NewTicker(flushEvery)
	defer ticker.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-ticker.C:
			w.mu.Lock()
			w.flush()
			w.mu.Unlock()
		}
	}
}

// Close writes out what is buffered. The error is the first of all writes.
func (w *Writer) Close() error {
	close(w.stop)
	w.stopped.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush()
	return w.failed
}

func (w *Writer) flush() {
	if w.buffer.Len() > 0 && w.failed == nil {
		_, w.failed = w.out.Write(w.buffer.Bytes())
	}
	w.buffer.Reset()
}

// Result writes the result of a task, in the format's encoding of results. The error is that of an earlier or of this write; for CSV also that
// the result does not fit the columns, as a *ColumnError.
func (w *Writer) Result(index int64, result []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed != nil {
		return w.failed
	}
	if err := w.append(index, result); err != nil {
		return err
	}
	if w.buffer.Len() >= writeBuffer {
		w.flush()
	}
	return w.failed
}

func (w *Writer) append(index int64, result []byte) error {
	switch w.format {
	case CSV:
		return w.appendRow(index, result)
	case Msgpack:
		if w.numbered {
			return w.appendMsgpack(map[string]any{"index": index, "result": msgpack.RawMessage(result)})
		}
		w.buffer.Write(result)
		return nil
	case Lines:
		if w.numbered {
			fmt.Fprintf(&w.buffer, "%d\t", index)
		}
	case JSONLines:
		if w.numbered {
			fmt.Fprintf(&w.buffer, `{"index":%d,"result":%s}`, index, result)
			result = nil
		}
	}
	w.buffer.Write(result)
	w.buffer.WriteByte('\n')
	return nil
}

func (w *Writer) appendMsgpack(value any) error {
	encoded, err := msgpack.Marshal(value)
	w.buffer.Write(encoded)
	return err
}

// HasPlaceForFailures says whether a failure can stand among the results: a reader of plain lines or of a table would take it for one.
func (f Format) HasPlaceForFailures() bool { return f == JSONLines || f == Msgpack }

// Failure writes a failed task in the place of its result, as {"index": 3, "error": {...}}.
func (w *Writer) Failure(failure Failure) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed != nil {
		return w.failed
	}
	record := failureRecord{failure.Index, failure}
	if w.format == Msgpack {
		if err := w.appendMsgpack(record); err != nil {
			return err
		}
		return w.failed
	}
	encoded, err := json.Marshal(record)
	if err != nil {
		return err
	}
	w.buffer.Write(append(encoded, '\n'))
	return w.failed
}

// Row is the encoding of a result for a table: the names of its columns and their values.
func Row(names, values []string) ([]byte, error) { return json.Marshal([2][]string{names, values}) }

// ColumnError says that a result has no place in the table that the first result has begun.
type ColumnError struct{ Names []string }

func (e *ColumnError) Error() string {
	return "no column of the first result is called " + strings.Join(e.Names, ", ")
}

// appendRow writes a row of a table whose columns are those of the first result.
func (w *Writer) appendRow(index int64, result []byte) error {
	var row [2][]string
	if err := json.Unmarshal(result, &row); err != nil {
		return fmt.Errorf("a row of the table: %w", err)
	}
	names, values := row[0], row[1]
	if w.columns == nil {
		w.columns = names
		header := names
		if w.numbered {
			header = append([]string{"index"}, names...)
		}
		if err := w.rows.Write(header); err != nil {
			return err
		}
	}
	cells := make([]string, len(w.columns))
	var homeless []string
	for i, name := range names {
		at := slices.Index(w.columns, name)
		if at < 0 {
			homeless = append(homeless, name)
			continue
		}
		cells[at] = values[i]
	}
	if homeless != nil {
		return &ColumnError{homeless}
	}
	if w.numbered {
		cells = append([]string{strconv.FormatInt(index, 10)}, cells...)
	}
	if err := w.rows.Write(cells); err != nil {
		return err
	}
	w.rows.Flush()
	return w.rows.Error()
}
