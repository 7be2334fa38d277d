package main

import "context"

func load(ctx context.Context, b *bench) error         { return nil }
func read(ctx context.Context, b *bench) error         { return nil }
func endToEnd(ctx context.Context, b *bench) error     { return nil }
func accuracy(ctx context.Context, b *bench) error     { return nil }
func growth(ctx context.Context, b *bench) error       { return nil }
func resume(ctx context.Context, b *bench) error       { return nil }
func predict(ctx context.Context, b *bench) error      { return nil }
func cancelled(ctx context.Context, b *bench) error    { return nil }
func start(ctx context.Context, b *bench) error        { return nil }
func madlib(ctx context.Context, b *bench) error       { return nil }
func driveFile(ctx context.Context, path string) error { return nil }

type curve struct{}

func (b *bench) plot() string { return "" }
