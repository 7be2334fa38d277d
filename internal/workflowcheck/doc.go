// Package workflowcheck holds the tests that keep workflows/*.yaml honest: valid by Argo's own validator,
// runnable by localrun, and in step with what the six steps and the smoke test declare.
// It has no code of its own.
package workflowcheck
