// Command connect is the least a step does: it connects as the steps do and runs SELECT 1.
// test/bench times it against psql.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/insitu-ml/insitu/internal/postgres"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "connect:", err)
		os.Exit(1)
	}
}

func run() error {
	var c postgres.Config
	flag.StringVar(&c.Host, "host", "", "server")
	flag.IntVar(&c.Port, "port", 0, "its port")
	flag.StringVar(&c.Database, "database", "", "database")
	flag.StringVar(&c.Username, "username", "", "user; the password is in PGPASSWORD")
	flag.Parse()
	c.Password, c.SSLMode = os.Getenv("PGPASSWORD"), "disable"
	conn, err := postgres.Connect(context.Background(), c, postgres.Options{})
	if err != nil {
		return err
	}
	defer conn.Close()
	var one int
	return conn.QueryRow(context.Background(), "select 1").Scan(&one)
}
