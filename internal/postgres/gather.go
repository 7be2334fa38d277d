package postgres

import (
	"crypto/tls"
	"net"
)

// gatherBytes is how much a gathering connection holds back: with more, nothing gets faster.
const gatherBytes = 256 << 10

// gathering is a network connection that can hold back what is written until there is more of it.
//
// pgx sends the data of a COPY in messages of 64 KiB, one a write. Each wakes the server, which on the machine
// of the client takes turns with it, and costs a tenth of a load.
type gathering struct {
	net.Conn
	on   bool // what is written may wait; set while rows are copied, by the goroutine that writes
	held []byte
}

// Write holds p back or sends it after what is held.
func (g *gathering) Write(p []byte) (int, error) {
	if !g.on && len(g.held) == 0 {
		return g.Conn.Write(p)
	}
	g.held = append(g.held, p...)
	if g.on && len(g.held) < gatherBytes {
		return len(p), nil
	}
	_, err := g.Conn.Write(g.held)
	g.held = g.held[:0]
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// gatheringOf finds the gathering connection below a session's, which may be encrypted.
func gatheringOf(conn net.Conn) *gathering {
	if encrypted, ok := conn.(*tls.Conn); ok {
		conn = encrypted.NetConn()
	}
	return conn.(*gathering) // Connect made it
}
