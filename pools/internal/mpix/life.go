//go:build mpi && cgo

package mpix

import "github.com/schwimmbad-go/schwimmbad-go/pools/internal/lifeline"

// The lifelines between ranks. By way of this package, so that a library without MPI does not carry Go's network code (1 MB).

// TokenSize is the length of the secret by which the master knows its workers.
const TokenSize = lifeline.TokenSize

// Server is the master's end.
type Server = lifeline.Server

// Peer is what a worker says of itself when it connects.
type Peer = lifeline.Peer

// Client is a worker's end.
type Client = lifeline.Client

// Listen opens the master's end.
func Listen(oneNode bool, died func(p Peer)) (*Server, error) {
	return lifeline.Listen(oneNode, died)
}

// Dial connects a worker.
func Dial(addresses string, token [TokenSize]byte, rank int, died func()) (*Client, error) {
	return lifeline.Dial(addresses, token, rank, died)
}
