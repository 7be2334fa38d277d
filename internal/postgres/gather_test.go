package postgres

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// written notes what a connection is given, a string a write.
type written struct {
	net.Conn
	all []string
	err error
}

func (w *written) Write(p []byte) (int, error) {
	w.all = append(w.all, string(p))
	return len(p), w.err
}

func TestWhatIsHeldBackIsSentInOrderAndBeforeAnythingElse(t *testing.T) {
	t.Parallel()
	w := &written{}
	g := &gathering{Conn: w}
	large := strings.Repeat("d", gatherBytes-2)
	for _, step := range []struct {
		on   bool
		text string
	}{{false, "a"}, {true, "b"}, {true, "c"}, {true, large}, {true, "e"}, {true, "f"}, {false, "g"}, {false, "h"}} {
		g.on = step.on
		if n, err := g.Write([]byte(step.text)); n != len(step.text) || err != nil {
			t.Fatal(n, err)
		}
	}
	if diff := cmp.Diff([]string{"a", "bc" + large, "efg", "h"}, w.all); diff != "" {
		t.Error(diff)
	}
	w.err = errors.New("broken")
	if _, err := g.Write([]byte("i")); !errors.Is(err, w.err) {
		t.Error(err)
	}
}

func TestTheGatheringConnectionIsFoundBelowAnEncryptedOne(t *testing.T) {
	t.Parallel()
	g := &gathering{Conn: &written{}}
	if gatheringOf(g) != g || gatheringOf(tls.Client(g, &tls.Config{MinVersion: tls.VersionTLS12})) != g {
		t.Error("another connection was found")
	}
}
