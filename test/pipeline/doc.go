// Package pipeline holds tests of the whole pipeline as users start it: insitu run, over real services.
//
// They run the real programs of INSITU_TEST_BIN against the real services of INSITU_TEST_BINDINGS.
package pipeline
