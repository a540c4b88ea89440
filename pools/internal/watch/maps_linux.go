//go:build linux && (amd64 || arm64)

package watch

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// privateMemory says whether a range consists of private anonymous memory, as /proc/self/maps has it: a device's memory can be mapped
// without a file descriptor left to tell of it, and the kernel would watch this process's writes there as well.
func privateMemory(s span) (bool, error) {
	file, err := os.Open("/proc/self/maps")
	if err != nil {
		return false, err
	}
	defer func() { _ = file.Close() }()
	at := s.start
	lines := bufio.NewScanner(file)
	for at < s.end && lines.Scan() {
		m, err := parseMapping(lines.Text())
		if err != nil {
			return false, err
		}
		if m.end <= at {
			continue
		}
		if m.start > at || !m.private {
			return false, nil
		}
		at = m.end
	}
	return at >= s.end, lines.Err()
}

// mapping is a line of /proc/self/maps.
type mapping struct {
	span
	private bool // readable and writable, copy on write, without a file
}

// parseMapping reads a line such as "7f10-7f20 rw-p 00000000 00:00 0   [heap]".
func parseMapping(line string) (m mapping, err error) {
	fields := strings.Fields(line)
	if len(fields) < 5 {
		return m, fmt.Errorf("/proc/self/maps has a line %q", line)
	}
	from, to, _ := strings.Cut(fields[0], "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if err := errors.Join(err1, err2); err != nil {
		return m, fmt.Errorf("/proc/self/maps has a line %q: %w", line, err)
	}
	m.span = span{uintptr(start), uintptr(end)}
	name := ""
	if len(fields) > 5 {
		name = fields[5]
	}
	m.private = strings.HasPrefix(fields[1], "rw") && strings.HasSuffix(fields[1], "p") && fields[3] == "00:00" && fields[4] == "0" &&
		(name == "" || name == "[heap]" || strings.HasPrefix(name, "[anon:"))
	return m, nil
}
