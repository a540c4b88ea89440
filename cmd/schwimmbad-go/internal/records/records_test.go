package records

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/vmihailenco/msgpack/v5"
)

// readAll gives the records of a text and the error at its end. One byte per read: a record may come in any pieces.
func readAll(text string, format Format) (found []string, err error) {
	for record, e := range Read(iotest.OneByteReader(strings.NewReader(text)), format) {
		if e != nil {
			return found, e
		}
		found = append(found, string(record))
	}
	return found, nil
}

func TestRead(t *testing.T) {
	long := strings.Repeat("x", 3*readBuffer)
	pack := func(values ...any) string {
		var out bytes.Buffer
		for _, value := range values {
			encoded, err := msgpack.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			out.Write(encoded)
		}
		return out.String()
	}
	for _, c := range []struct {
		format Format
		text   string
		want   []string
		err    string
	}{
		{JSONLines, "", nil, ""},
		{JSONLines, "1\n{\"a\": 2}\n", []string{"1", `{"a": 2}`}, ""},
		{JSONLines, "1\r\n\n  \n2", []string{"1", "2"}, ""}, // no line end at the end
		{JSONLines, `"` + long + `"`, []string{`"` + long + `"`}, ""},
		{Lines, "a\n\nb c \n", []string{"a", "", "b c "}, ""},
		{Lines, "a\r\nb", []string{"a", "b"}, ""},
		{JSONLines, "\ufeff1\n2", []string{"1", "2"}, ""},
		{Lines, "\xff\n", []string{"\xff"}, ""},
		{CSV, "", nil, ""},
		{CSV, "a,b\n", nil, ""},
		{CSV, "\ufeffa,b\n1,\"x\n\"\"y\"\n,<é>\n", []string{`{"a":"1","b":"x\n\"y"}`, `{"a":"","b":"<é>"}`}, ""},
		{CSV, "a,b\n1,2\n3\n4,5\n", []string{`{"a":"1","b":"2"}`}, "wrong number of fields"},
		{CSV, "a,a\n1,2\n", nil, "two columns of the CSV header are called \"a\""},
		{Msgpack, pack(1, "two", map[string]int{"three": 3}), []string{pack(1), pack("two"), pack(map[string]int{"three": 3})}, ""},
		{Msgpack, pack(1) + "\x93\x01", []string{pack(1)}, "msgpack value 1: unexpected EOF"},
	} {
		got, err := readAll(c.text, c.format)
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", c.want) {
			t.Errorf("%s %.40q: %.80q, want %.80q", c.format, c.text, got, c.want)
		}
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s %.40q: error %v, want %q", c.format, c.text, err, c.err)
		}
	}
	broken := errors.New("broken")
	for _, format := range Formats {
		var last error
		for _, err := range Read(iotest.ErrReader(broken), format) {
			last = err
		}
		if !errors.Is(last, broken) {
			t.Errorf("%s: %v", format, last)
		}
	}
}

// TestRecordsAreKept: the bytes of a record do not change when the next one is read.
func TestRecordsAreKept(t *testing.T) {
	for format, text := range map[Format]string{JSONLines: "1\n2\n3\n", Lines: "1\n2\n3\n", CSV: "a\n1\n2\n3\n", Msgpack: "\x01\x02\x03"} {
		var kept [][]byte
		var copies []string
		for record, err := range Read(strings.NewReader(text), format) {
			if err != nil {
				t.Fatal(err)
			}
			kept, copies = append(kept, record), append(copies, string(record))
		}
		if len(kept) != 3 {
			t.Fatalf("%s: %d records", format, len(kept))
		}
		for i := range kept {
			if string(kept[i]) != copies[i] {
				t.Errorf("%s: record %d became %q", format, i, kept[i])
			}
		}
	}
}

func row(t *testing.T, names, values []string) string {
	t.Helper()
	encoded, err := Row(names, values)
	if err != nil {
		t.Fatal(err)
	}
	return string(encoded)
}

func TestWrite(t *testing.T) {
	failure := Failure{Index: 1, Type: "ValueError", Message: "no", Traceback: "Traceback\n"}
	ab, ba := row(t, []string{"a", "b"}, []string{"1", "x,y"}), row(t, []string{"b", "a"}, []string{"", "2"})
	for _, c := range []struct {
		format   Format
		numbered bool
		results  []string
		want     string
	}{
		{JSONLines, false, []string{"1", `{"a":2}`}, "1\n{\"a\":2}\n"},
		{JSONLines, true, []string{"1", `[2]`}, "{\"index\":0,\"result\":1}\n{\"index\":1,\"result\":[2]}\n"},
		{Lines, false, []string{"a", "", "c"}, "a\n\nc\n"},
		{Lines, true, []string{"a", "b"}, "0\ta\n1\tb\n"},
		{Msgpack, false, []string{"\x01", "\xa1x"}, "\x01\xa1x"},
		{CSV, false, []string{ab, ba}, "a,b\n1,\"x,y\"\n2,\n"},
		{CSV, true, []string{ab}, "index,a,b\n0,1,\"x,y\"\n"},
	} {
		var out bytes.Buffer
		w := NewWriter(&out, c.format, c.numbered)
		for i, result := range c.results {
			if err := w.Result(int64(i), []byte(result)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil || out.String() != c.want {
			t.Errorf("%s: %q, want %q, %v", c.format, out.String(), c.want, err)
		}
	}
	var out bytes.Buffer
	w := NewWriter(&out, JSONLines, false)
	if err := errors.Join(w.Failure(failure), w.Close()); err != nil {
		t.Fatal(err)
	}
	want := `{"index":1,"error":{"index":1,"type":"ValueError","message":"no","traceback":"Traceback\n"}}` + "\n"
	if out.String() != want {
		t.Errorf("%s, want %s", out.String(), want)
	}
	out.Reset()
	w = NewWriter(&out, Msgpack, true)
	if err := errors.Join(w.Result(0, []byte("\x05")), w.Failure(failure), w.Close()); err != nil {
		t.Fatal(err)
	}
	decoder := msgpack.NewDecoder(&out)
	first, err := decoder.DecodeInterface()
	second, err2 := decoder.DecodeInterface()
	if got := fmt.Sprint(first); err != nil || got != "map[index:0 result:5]" {
		t.Errorf("%s, %v", got, err)
	}
	if got := fmt.Sprint(second); err2 != nil || !strings.Contains(got, "message:no") || !strings.Contains(got, "index:1") {
		t.Errorf("%s, %v", got, err2)
	}
}

func TestColumnsAreThoseOfTheFirstRow(t *testing.T) {
	var out bytes.Buffer
	w := NewWriter(&out, CSV, false)
	if err := w.Result(0, []byte(row(t, []string{"a", "b"}, []string{"1", "2"}))); err != nil {
		t.Fatal(err)
	}
	err := w.Result(1, []byte(row(t, []string{"a", "c", "d"}, []string{"1", "2", "3"})))
	var misfit *ColumnError
	if !errors.As(err, &misfit) || err.Error() != "no column of the first result is called c, d" {
		t.Fatal(err)
	}
	if err := errors.Join(w.Result(2, []byte(row(t, []string{"b"}, []string{"3"}))), w.Close()); err != nil {
		t.Fatal(err)
	}
	if out.String() != "a,b\n1,2\n,3\n" {
		t.Fatal(out.String())
	}
}

// pieces keeps what each write was.
type pieces struct {
	mu   sync.Mutex
	got  []string
	fail error
	wake chan struct{}
}

func (p *pieces) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, string(b))
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return len(b), p.fail
}

// TestOnlyWholeRecordsAreWritten: whatever ends the process, the file ends with a record.
func TestOnlyWholeRecordsAreWritten(t *testing.T) {
	out := &pieces{wake: make(chan struct{}, 1)}
	w := NewWriter(out, JSONLines, false)
	total := 0
	for i := range 20_000 {
		result := strings.Repeat("1", 1+i%97)
		total += len(result) + 1
		if err := w.Result(int64(i), []byte(result)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, piece := range out.got {
		total -= len(piece)
		if !strings.HasSuffix(piece, "\n") {
			t.Fatalf("a piece ends with %q", piece[len(piece)-10:])
		}
	}
	if total != 0 || len(out.got) < 2 {
		t.Fatalf("%d bytes missing in %d pieces", total, len(out.got))
	}
}

// TestALoneResultIsWrittenSoon waits for the write that no further result provokes.
func TestALoneResultIsWrittenSoon(t *testing.T) {
	out := &pieces{wake: make(chan struct{}, 1)}
	w := NewWriter(out, Lines, false)
	if err := w.Result(0, []byte("a")); err != nil {
		t.Fatal(err)
	}
	<-out.wake
	if err := w.Close(); err != nil || out.got[0] != "a\n" {
		t.Fatalf("%q, %v", out.got, err)
	}
}

func TestWriteErrorsStay(t *testing.T) {
	out := &pieces{fail: io.ErrClosedPipe}
	w := NewWriter(out, Lines, false)
	big := bytes.Repeat([]byte("x"), writeBuffer)
	if err := w.Result(0, big); !errors.Is(err, io.ErrClosedPipe) {
		t.Fatal(err)
	}
	if err := w.Result(1, []byte("y")); !errors.Is(err, io.ErrClosedPipe) {
		t.Fatal(err)
	}
	if err := w.Failure(Failure{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Fatal(err)
	}
	if err := w.Close(); !errors.Is(err, io.ErrClosedPipe) || len(out.got) != 1 {
		t.Fatalf("%v, %d writes", err, len(out.got))
	}
}

func TestFormats(t *testing.T) {
	for name, want := range map[string]Format{"a.jsonl": JSONLines, "b.NDJSON": JSONLines, "c.txt": Lines, "d.csv": CSV, "e.msgpack": Msgpack, "f": "", "-": ""} {
		if got := OfFile(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if _, err := Parse("xml"); err == nil || !strings.Contains(err.Error(), "jsonl, lines, csv or msgpack") {
		t.Error(err)
	}
	if CSV.TaskEncoding() != "json" || CSV.ResultEncoding() != "row" || Lines.ResultEncoding() != "text" || Msgpack.TaskEncoding() != "msgpack" {
		t.Error("encodings")
	}
}

// TestReadDoesNotWaitForMore: a record is there as soon as its last byte is.
func TestReadDoesNotWaitForMore(t *testing.T) {
	for format, text := range map[Format]string{JSONLines: "1\n", Lines: "\n", CSV: "a\n1\n", Msgpack: "\x01"} {
		in, out := io.Pipe()
		next, stop := iter.Pull2(Read(in, format))
		go func() { _, _ = out.Write([]byte(text)) }()
		if _, err, ok := next(); err != nil || !ok {
			t.Fatal(format, err)
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
		stop()
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("a,b\n1,2\n"), 2)
	f.Add([]byte("{}\n\n1"), 0)
	f.Add([]byte("\x93\x01\x02\x03"), 3)
	f.Fuzz(func(t *testing.T, text []byte, format int) {
		total := 0
		for record, err := range Read(bytes.NewReader(text), Formats[uint(format)%4]) {
			if err != nil {
				break
			}
			total += len(record)
		}
		if Formats[uint(format)%4] != CSV && total > len(text) {
			t.Fatalf("%d bytes of records in %d bytes", total, len(text))
		}
	})
}
