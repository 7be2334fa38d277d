package main

import "context"
func madlib(ctx context.Context, b *bench) error { return nil }
