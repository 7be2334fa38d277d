// Package gitops tests workflows/app without a cluster: what ytt renders from it, as kapp-controller calls it.
//
// It does not test what kapp makes of the result: test/e2e does, on a cluster.
package gitops
