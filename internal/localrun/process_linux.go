package localrun

import "syscall"

// processAttributes: a group of its own, and SIGTERM should localrun itself be killed.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
