//go:build unix && !linux

package changelog

import "syscall"

// ownGroup puts Liquibase, often a shell script around Java, in a process group of its own.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
