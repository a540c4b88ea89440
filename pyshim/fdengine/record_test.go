package fdengine

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"testing"
)

func message(name string, args ...int64) []byte {
	b := append([]byte{byte(len(name)), byte(len(args))}, name...)
	for _, a := range args {
		b = binary.LittleEndian.AppendUint64(b, uint64(a))
	}
	return b
}

func TestDecodeReadsWhatWasSent(t *testing.T) {
	var r request
	if err := r.decode(message("swg_step", 7, -1, 1<<40)); err != nil {
		t.Fatal(err)
	}
	if string(r.name) != "swg_step" || r.n != 3 || r.args[0] != 7 || r.args[1] != -1 || r.args[2] != 1<<40 {
		t.Fatalf("%q %v", r.name, r.args[:r.n])
	}
}

func TestDecodeRefuses(t *testing.T) {
	whole := message("swg_step", 7, 8, 9)
	for what, b := range map[string][]byte{
		"nothing": nil, "one byte": {1}, "no name": message(""), "a long name": message(strings.Repeat("x", maxName+1)),
		"many arguments": message("f", make([]int64, maxArgs+1)...), "a short one": whole[:len(whole)-1], "a long one": append(whole, 0),
	} {
		var r request
		if err := r.decode(b); err == nil {
			t.Errorf("%s: accepted as %q %v", what, r.name, r.args[:r.n])
		}
	}
}

func TestFitsLooksAtRanges(t *testing.T) {
	for _, c := range []struct {
		kinds string
		arg   int64
		good  bool
	}{
		{"i", math.MaxInt32, true}, {"i", math.MaxInt32 + 1, false}, {"i", math.MinInt32, true}, {"i", math.MinInt32 - 1, false},
		{"I", math.MaxUint32, true}, {"I", -1, false}, {"I", math.MaxUint32 + 1, false}, {"l", math.MinInt64, true}, {"L", -1, true},
		{"", 0, false}, {"ll", 0, false},
	} {
		r := request{name: []byte("f"), n: 1, args: [maxArgs]int64{c.arg}}
		if err := r.fits(c.kinds); (err == nil) != c.good {
			t.Errorf("%q %d: %v", c.kinds, c.arg, err)
		}
	}
}

// Whatever comes: no panic, and what is accepted is exactly what stands in the message.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{255, 255})
	f.Add(message("swg_open", 1, 2, 0, 0))
	f.Add(message("swg_begin", math.MinInt64))
	f.Add(message(strings.Repeat("s", maxName), 1, 2, 3, 4, 5, 6, 7, 8))
	f.Add(append(message("swg_step", 1, 2, 3), 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r request
		if r.decode(b) != nil {
			return
		}
		if r.n > maxArgs || len(b) > maxRequest {
			t.Fatalf("accepted %d bytes with %d arguments", len(b), r.n)
		}
		if again := message(string(r.name), r.args[:r.n]...); !bytes.Equal(again, b) {
			t.Fatalf("%x was read as %x", b, again)
		}
	})
}
