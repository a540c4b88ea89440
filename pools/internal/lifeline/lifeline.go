// Package lifeline lets the processes of a job notice each other's death: each worker keeps a silent TCP connection to the master,
// and the kernel closes it when either end dies, whatever the process was doing. One byte marks a clean end.
//
// MPI itself tells nothing of the sort: a receive from a dead rank waits for ever, and launchers differ in whether they end the job.
package lifeline

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// TokenSize is the length of the secret by which the master knows its workers.
	TokenSize = 16
	hostSize  = 64
	helloSize = TokenSize + 4 + 4 + 4 + hostSize // token, rank, pid, port of the bell (0: none), host

	dialLimit  = 2 * time.Second  // a firewall that drops packets must not hold up the job for longer
	keepAlive  = 15 * time.Second // after which the network is asked whether a silent peer is still there
	helloLimit = 10 * time.Second
	welcome    = 'w'
	bye        = 'b'
)

// Peer is what a worker says of itself when it connects: it may die before it says anything over MPI.
type Peer struct {
	Rank, Pid int
	Host      string
}

// Server is the master's end.
type Server struct {
	Token  [TokenSize]byte
	died   func(p Peer)
	listen net.Listener
	ringer *net.UDPConn

	mu    sync.Mutex
	conns map[int]net.Conn
	bells map[int]netip.AddrPort
	ended bool
	wait  sync.WaitGroup
}

// Listen opens the master's end. died is called from another goroutine when a worker's process has ended without a word.
func Listen(oneNode bool, died func(p Peer)) (*Server, error) {
	s := &Server{died: died, conns: make(map[int]net.Conn), bells: make(map[int]netip.AddrPort)}
	if _, err := rand.Read(s.Token[:]); err != nil {
		return nil, err
	}
	host := "" // all interfaces: which of them the other nodes reach is not known here
	if oneNode {
		host = "127.0.0.1"
	}
	var err error
	if s.listen, err = net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
		return nil, fmt.Errorf("lifeline: %w", err)
	}
	if s.ringer, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(host)}); err != nil {
		_ = s.listen.Close()
		return nil, fmt.Errorf("lifeline: %w", err)
	}
	s.wait.Add(1)
	go s.accept()
	return s, nil
}

// Addresses lists where workers may find the master, separated by commas.
func (s *Server) Addresses() string {
	at := s.listen.Addr().(*net.TCPAddr)
	if !at.IP.IsUnspecified() {
		return at.String()
	}
	port := fmt.Sprint(at.Port)
	var list []string
	if nets, err := net.InterfaceAddrs(); err == nil {
		for _, a := range nets {
			if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() {
				list = append(list, net.JoinHostPort(ip.IP.String(), port))
			}
		}
	}
	return strings.Join(append(list, net.JoinHostPort("127.0.0.1", port)), ",")
}

func (s *Server) accept() {
	defer s.wait.Done()
	for {
		c, err := s.listen.Accept()
		if err != nil {
			return // closed
		}
		s.wait.Add(1)
		go s.watch(c)
	}
}

// watch waits for the end of one connection.
func (s *Server) watch(c net.Conn) {
	defer s.wait.Done()
	defer func() { _ = c.Close() }() // nothing is lost with it
	var hello [helloSize]byte
	_ = c.SetReadDeadline(time.Now().Add(helloLimit))
	if _, err := io.ReadFull(c, hello[:]); err != nil || subtle.ConstantTimeCompare(hello[:TokenSize], s.Token[:]) != 1 {
		return // not one of ours
	}
	_ = c.SetReadDeadline(time.Time{})
	about := hello[TokenSize:]
	rank := int(binary.LittleEndian.Uint32(about))
	port := binary.LittleEndian.Uint32(about[8:])
	peer := Peer{rank, int(binary.LittleEndian.Uint32(about[4:])), string(bytes.TrimRight(about[12:], "\x00"))}
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.conns[rank] = c
	if port != 0 {
		s.bells[rank] = netip.AddrPortFrom(c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(), uint16(port))
	}
	_, _ = c.Write([]byte{welcome}) // if it is gone already, the read below says so
	s.mu.Unlock()
	s.Ring(rank) // if the worker hears this one, it can rely on the next
	clean := endsCleanly(c)
	s.mu.Lock()
	delete(s.conns, rank)
	delete(s.bells, rank)
	ended := s.ended
	s.mu.Unlock()
	if !clean && !ended {
		s.died(peer)
	}
}

// endsCleanly reads until the end and says whether there was a farewell.
func endsCleanly(c net.Conn) bool {
	var b [1]byte
	for {
		n, err := c.Read(b[:])
		if n == 1 && b[0] == bye {
			return true
		}
		if err != nil {
			return false
		}
	}
}

// Left waits until every worker has said goodbye, for so long at most, and says how many have not.
func (s *Server) Left(limit time.Duration) int {
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		n := len(s.conns)
		s.mu.Unlock()
		if n == 0 || time.Now().After(end) {
			return n
		}
	}
}

// Close says goodbye to every worker: that the master ends is no accident.
func (s *Server) Close() {
	s.mu.Lock()
	s.ended = true
	for _, c := range s.conns {
		_, _ = c.Write([]byte{bye}) // a worker that has just gone needs none
		_ = c.Close()
	}
	s.mu.Unlock()
	_ = s.listen.Close()
	s.wait.Wait()
	_ = s.ringer.Close()
}

// Client is a worker's end.
type Client struct {
	// Bell is a descriptor that can be read when the master has rung, -1: there is none.
	Bell int

	conn net.Conn
	done chan struct{}
	once sync.Once
}

// Dial connects a worker to the first address that answers. died is called from another goroutine when the master's process has
// ended without a word.
func Dial(addresses string, token [TokenSize]byte, rank int, died func()) (*Client, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	hello := binary.LittleEndian.AppendUint32(token[:], uint32(rank))
	hello = binary.LittleEndian.AppendUint32(hello, uint32(os.Getpid()))
	hello = append(hello, make([]byte, 4+hostSize)...)
	copy(hello[len(hello)-hostSize:], host)
	var errs []error
	for _, at := range strings.Split(addresses, ",") {
		d := net.Dialer{Timeout: dialLimit, KeepAlive: keepAlive}
		c, err := d.Dial("tcp", at)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		bell, port, err := hang(c.LocalAddr())
		if err == nil {
			binary.LittleEndian.PutUint32(hello[TokenSize+8:], uint32(port))
			err = introduce(c, hello)
		}
		if err != nil {
			_ = c.Close()
			_ = syscall.Close(bell)
			errs = append(errs, err)
			continue
		}
		k := &Client{Bell: bell, conn: c, done: make(chan struct{})}
		go func() {
			clean := endsCleanly(c)
			select {
			case <-k.done:
			default:
				if !clean {
					died()
				}
			}
		}()
		return k, nil
	}
	return nil, fmt.Errorf("lifeline: %w", errors.Join(errs...))
}

// introduce tells the master who has connected, and waits until it knows: a master that ends before would not say goodbye.
func introduce(c net.Conn, hello []byte) error {
	if _, err := c.Write(hello); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(helloLimit)); err != nil {
		return err
	}
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return err
	}
	if b[0] != welcome {
		return fmt.Errorf("%s answers as no master does", c.RemoteAddr())
	}
	return c.SetReadDeadline(time.Time{})
}

// Close says goodbye to the master.
func (k *Client) Close() {
	k.once.Do(func() {
		close(k.done)
		_, _ = k.conn.Write([]byte{bye}) // if the master is gone, so be it
		_ = k.conn.Close()
		_ = syscall.Close(k.Bell)
	})
}
