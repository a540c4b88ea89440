package wire

import (
	"errors"
	"testing"
)

func encodeMessage(m Message, parts []Part, inline ...[]byte) []byte {
	m.Parts = uint32(len(parts))
	b := make([]byte, MessageSize+len(parts)*PartSize)
	m.Put(b)
	for i, p := range parts {
		p.Put(b[MessageSize+i*PartSize:])
	}
	for _, data := range inline {
		b = append(b, data...)
		for len(b)%8 != 0 {
			b = append(b, 0)
		}
	}
	return b
}

func TestMessageRoundTrip(t *testing.T) {
	m := Message{Kind: MsgTasks, Flags: FlagBrief, Chunk: 1<<40 | 7, Job: 9, A: -1, B: 2, C: -3, D: 4}
	parts := []Part{{Base: 4096, Length: 5}, {Base: 1 << 30, Length: 3 << 30, Bulk: true, Apart: true}, {Length: 8}}
	b := encodeMessage(m, parts, []byte("hello"), []byte("12345678"))
	two := append(append([]byte{}, b...), encodeMessage(Message{Kind: MsgExit}, nil)...)
	got, all, size, err := ParseMessage(two, nil, Limits{})
	if err != nil || size != len(b) {
		t.Fatalf("size %d, want %d: %v", size, len(b), err)
	}
	m.Parts = 3
	if got != m {
		t.Fatalf("%+v, want %+v", got, m)
	}
	for i := range parts {
		if all[i] != parts[i] {
			t.Fatalf("part %d: %+v", i, all[i])
		}
	}
	if got, _, _, err = ParseMessage(two[size:], nil, Limits{}); err != nil || got.Kind != MsgExit {
		t.Fatalf("second: %+v, %v", got, err)
	}
}

func TestMessageRefused(t *testing.T) {
	good := encodeMessage(Message{Kind: MsgBlob}, []Part{{Length: 100}}, make([]byte, 100))
	change := func(at int, v byte) []byte {
		b := append([]byte{}, good...)
		b[at] = v
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"short header": {good[:40], ErrShort},
		"short part":   {good[:len(good)-8], ErrShort},
		"magic":        {change(0, 0), ErrMagic},
		"version":      {change(12, 9), ErrVersion},
		"kind":         {change(4, 99), ErrBadField},
		"kind 0":       {change(4, 0), ErrBadField},
		"parts":        {change(9, 1), ErrTooBig},
		"length":       {change(MessageSize+14, 0x3f), ErrTooBig},
	} {
		if _, _, _, err := ParseMessage(c.b, nil, Limits{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// FuzzMessage: any bytes give a message within them, or an error.
func FuzzMessage(f *testing.F) {
	f.Add(encodeMessage(Message{Kind: MsgTasks}, []Part{{Length: 5}, {Length: 1 << 20, Bulk: true}}, []byte("hello")))
	f.Add(encodeMessage(Message{Kind: MsgHello}, nil))
	f.Add([]byte("SWGM"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, parts, size, err := ParseMessage(b, nil, Limits{Bytes: 1 << 30})
		if err != nil {
			return
		}
		if size > len(b) || len(parts) != int(m.Parts) {
			t.Fatalf("%d of %d bytes, %d of %d parts", size, len(b), len(parts), m.Parts)
		}
		at := MessageSize + len(parts)*PartSize
		for _, p := range parts {
			if p.Length > 1<<30 {
				t.Fatalf("part of %d bytes", p.Length)
			}
			if !p.Bulk {
				at += int(p.Length)
			}
		}
		if at > len(b) {
			t.Fatalf("parts end at %d of %d", at, len(b))
		}
	})
}
