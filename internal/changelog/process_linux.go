package changelog

import "syscall"

// ownGroup puts Liquibase, often a shell script around Java, in a process group of its own,
// and lets the kernel kill it when this process is killed.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
