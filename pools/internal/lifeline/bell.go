package lifeline

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// The bell: the master sends a datagram with the token to a worker that has probably gone to sleep when it has a message for it, so that
// the worker can sleep in poll() instead of looking for messages every few microseconds. It says nothing but "look": a ring that is lost
// costs the time until the worker looks by itself, and one too many a look.
//
// A datagram, since TCP's is no faster (5 to 14 us until the other process runs, a pipe 4) and would take the master a second connection
// per worker: the lifeline itself is read by another thread.

// Ring wakes a worker. That it cannot be reached, if so, its lifeline tells.
func (s *Server) Ring(rank int) {
	s.mu.Lock()
	at, ok := s.bells[rank]
	s.mu.Unlock()
	if ok {
		_, _ = s.ringer.WriteToUDPAddrPort(s.Token[:], at)
	}
}

// hang opens a worker's bell on the address by which it has reached the master, and tells its port. Go's own poller would wake a thread
// for each ring: so the descriptor is one that it does not know.
func hang(local net.Addr) (fd, port int, err error) {
	ip := local.(*net.TCPAddr).AddrPort().Addr().Unmap()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
	if err != nil {
		return -1, 0, fmt.Errorf("lifeline: %w", err)
	}
	defer func() { _ = c.Close() }() // the copy stays
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, 0, fmt.Errorf("lifeline: %w", err)
	}
	var failed error
	err = raw.Control(func(own uintptr) {
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
		if fd, failed = syscall.Dup(int(own)); failed == nil {
			syscall.CloseOnExec(fd)
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return -1, 0, fmt.Errorf("lifeline: %w", err)
	}
	return fd, c.LocalAddr().(*net.UDPAddr).Port, nil
}
