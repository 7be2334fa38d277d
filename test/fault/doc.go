// Package fault holds tests that break things: they kill steps, stop services, fill disks,
// and then ask whether what is left is what an undisturbed run leaves.
//
// They run the real programs of INSITU_TEST_BIN against the real services of INSITU_TEST_BINDINGS.
package fault
