// Package fault classifies errors by what the caller should do about them.
//
// Domain packages mark the errors they understand; internal/step turns the class into an exit code.
// It does not format messages and it never retries.
package fault

import (
	"context"
	"errors"
	"net"
	"syscall"
)

// Class says what helps against an error.
type Class int

const (
	// Permanent errors come back on every retry with the same input: exit 1.
	Permanent Class = iota
	// Configuration errors need another flag, credential or grant: exit 2.
	Configuration
	// Temporary errors may go away by themselves (network, lock held, server starting): exit 75.
	Temporary
)

type classified struct {
	error
	class Class
}

func (c classified) Unwrap() error { return c.error }

// AsTemporary marks err as worth a retry; nil stays nil.
func AsTemporary(err error) error { return mark(err, Temporary) }

// AsConfiguration marks err as a mistake in flags, credentials or grants; nil stays nil.
func AsConfiguration(err error) error { return mark(err, Configuration) }

// AsPermanent marks err as final, whatever it wraps; nil stays nil.
func AsPermanent(err error) error { return mark(err, Permanent) }

func mark(err error, class Class) error {
	if err == nil {
		return nil
	}
	return classified{err, class}
}

// Of returns the class of err: the outermost mark, or Temporary for unmarked
// network errors and expired deadlines, else Permanent.
func Of(err error) Class {
	var c classified
	if errors.As(err, &c) {
		return c.class
	}
	var netErr net.Error
	if errors.As(err, &netErr) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) {
		return Temporary
	}
	return Permanent
}
