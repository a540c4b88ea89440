//go:build linux && (amd64 || arm64)

package fdengine

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
	"github.com/schwimmbad-go/schwimmbad-go/pyshim/internal/calls"
)

// session is what one Python process has here.
type session struct {
	table calls.Table
	wg    sync.WaitGroup // connections

	mu    sync.Mutex
	conns map[int]bool // open descriptors
}

// Serve hosts engines for the process at the other end of a socket from Pair, until that end is closed: the process closed it, or
// died. Workers that are left are killed then, and everything of the engines is given back. It takes the socket over.
//
// The socket itself carries connections, one for each call in progress: none waits behind another. Who gives a call up (Ctrl-C) closes
// its side of the connection, wakes the port from another one, and sees the end of the connection when the call has ended.
func Serve(conn *os.File) error {
	fd, err := own(conn)
	if err != nil {
		if fd >= 0 {
			_ = syscall.Close(fd) // the error at hand is the one to tell
		}
		return err
	}
	s := &session{conns: make(map[int]bool)}
	err = s.accept(fd)
	return errors.Join(err, syscall.Close(fd), s.end())
}

// accept takes in connections until the end of the stream.
func (s *session) accept(fd int) error {
	var b [1]byte
	for {
		_, passed, err := receive(fd, b[:])
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if passed < 0 {
			continue // descriptors are used up here: Python finds the connection closed
		}
		s.mu.Lock()
		s.conns[passed] = true
		s.mu.Unlock()
		s.wg.Go(func() { s.serve(passed) })
	}
}

// serve answers the requests of one connection.
func (s *session) serve(fd int) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, fd)
		_ = syscall.Close(fd)
	}()
	var in [maxRequest]byte
	var answer []byte
	var req request
	for {
		n, passed, err := receive(fd, in[:])
		if passed >= 0 {
			_ = syscall.Close(passed) // no call takes any
		}
		if err != nil {
			return
		}
		var out reply
		value := int64(pools.CodeArgument)
		if err := req.decode(in[:n]); err != nil {
			out.data = []byte(err.Error())
		} else {
			value = s.call(&req, &out)
		}
		answer = out.encode(answer, value)
		if send(fd, answer, out.fds) != nil {
			return // given up: Python has closed it
		}
	}
}

// call runs one request.
func (s *session) call(req *request, out *reply) int64 {
	value, err := s.run(req, out)
	if err != nil {
		*out = reply{data: []byte(err.Error())}
		return int64(pools.CodeOf(err))
	}
	return value
}

func (s *session) run(req *request, out *reply) (v int64, err error) {
	defer calls.Guard(&err)
	r, ok := table[string(req.name)]
	if !ok {
		return 0, &pools.Error{Code: pools.CodeUnsupported, Err: errors.New("the engine in another process has no function " + string(req.name))}
	}
	if err := req.fits(r.kinds); err != nil {
		return 0, &pools.Error{Code: pools.CodeArgument, Err: err}
	}
	return r.run(&s.table, req.args[:req.n], out)
}

// end gives everything back. Calls that wait end because their engine does.
func (s *session) end() error {
	for _, e := range s.table.Engines() {
		e.Terminate()
	}
	s.mu.Lock()
	for fd := range s.conns {
		_ = syscall.Shutdown(fd, syscall.SHUT_RDWR) // the other end may be closed already
	}
	s.mu.Unlock()
	s.wg.Wait()
	var err error
	for _, e := range s.table.Engines() { // one may have been opened until now
		e.Terminate()
		err = errors.Join(err, e.Free())
	}
	return err
}
