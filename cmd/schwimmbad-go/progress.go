package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

const (
	meterTerminal = 100 * time.Millisecond
	meterFile     = 10 * time.Second // in a log file every line stays
)

// meter shows how far a map is, on a goroutine of its own so that a slow terminal slows nothing down. A nil one shows nothing.
type meter struct {
	out          *os.File
	start        time.Time
	line         string // format of a line's frame
	done, failed atomic.Int64
	stop, gone   chan struct{}
}

func newMeter(out *os.File) *meter {
	m := &meter{out: out, start: time.Now(), line: "%s\n", stop: make(chan struct{}), gone: make(chan struct{})}
	every := meterFile
	if info, err := out.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		every, m.line = meterTerminal, "\r\x1b[K%s"
	}
	go m.run(every)
	return m
}

func (m *meter) count(done, failed int64) {
	if m != nil {
		m.done.Store(done)
		m.failed.Store(failed)
	}
}

func (m *meter) run(every time.Duration) {
	defer close(m.gone)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			m.show()
		case <-m.stop:
			m.show()
			if m.line != "%s\n" {
				fmt.Fprintln(m.out)
			}
			return
		}
	}
}

func (m *meter) show() {
	done, elapsed := m.done.Load(), time.Since(m.start)
	text := fmt.Sprintf("%d done", done)
	if failed := m.failed.Load(); failed > 0 {
		text += fmt.Sprintf(", %d failed", failed)
	}
	text += fmt.Sprintf(", %.0f/s, %v", float64(done)/elapsed.Seconds(), elapsed.Round(time.Second))
	fmt.Fprintf(m.out, m.line, text)
}

func (m *meter) close() {
	if m != nil {
		close(m.stop)
		<-m.gone
	}
}
