//go:build !linux

package localrun

import "syscall"

// processAttributes: a group of its own.
func processAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
