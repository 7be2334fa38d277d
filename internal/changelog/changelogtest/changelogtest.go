// Package changelogtest gives tests a real database server and real, stock Liquibase.
package changelogtest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/testenv"
)

// Server is a database server and a superuser's credentials.
func Server(t testing.TB) postgres.Config {
	t.Helper()
	return testenv.Training(t)
}

// Jars is the directory of Liquibase's jars: INSITU_LIQUIBASE. Without it the test is skipped.
func Jars(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("INSITU_LIQUIBASE")
	if dir == "" {
		t.Skip("needs Liquibase: set INSITU_LIQUIBASE to the directory of its jars")
	}
	return dir
}

// do runs one statement on a connection of its own, also when the test's context has ended.
func do(t testing.TB, cfg postgres.Config, sql string) {
	t.Helper()
	c, err := postgres.Connect(context.Background(), cfg, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Exec(context.Background(), sql); err != nil {
		t.Fatal(err)
	}
}

// name is one that no other test and no other run of it uses: packages are tested side by side on one server.
func name(t testing.TB, prefix string) string {
	sum := sha256.Sum256([]byte(t.Name()))
	return fmt.Sprintf("%s-%x-%d", prefix, sum[:4], os.Getpid())
}

// Schema names a schema that does not exist yet and is dropped at the end; it needs quoting in SQL.
func Schema(t testing.TB, cfg postgres.Config, prefix string) string {
	t.Helper()
	schema := name(t, prefix)
	t.Cleanup(func() { do(t, cfg, "drop schema if exists "+postgres.Ident(schema)+" cascade") })
	return schema
}

// Database makes an empty database, for tests that change more than a schema.
func Database(t testing.TB, cfg postgres.Config) postgres.Config {
	t.Helper()
	own := cfg
	own.Database = name(t, "insitu-test")
	do(t, cfg, "create database "+postgres.Ident(own.Database)+" template template0 encoding 'UTF8'")
	t.Cleanup(func() { do(t, cfg, "drop database "+postgres.Ident(own.Database)) })
	return own
}

// Role makes a role that may connect and nothing else.
func Role(t testing.TB, cfg postgres.Config) postgres.Config {
	t.Helper()
	user := cfg
	user.Username, user.Password = name(t, "insitu-role"), "unprivileged"
	role := postgres.Ident(user.Username)
	do(t, cfg, "create role "+role+" login password 'unprivileged'")
	t.Cleanup(func() {
		do(t, cfg, "drop owned by "+role)
		do(t, cfg, "drop role "+role)
	})
	return user
}

// Stock runs Liquibase as a database administrator would: on a file of any name, with none of our code.
func Stock(t testing.TB, cfg postgres.Config, schema string, changelog []byte, command string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "received-by-mail.sql"), changelog, 0o600); err != nil {
		t.Fatal(err)
	}
	all := append([]string{"-cp", filepath.Join(Jars(t), "*"), "liquibase.integration.commandline.LiquibaseCommandLine",
		"--analytics-enabled=false", "--search-path=" + dir, "--preserve-schema-case=true", "--liquibase-schema-name=" + schema,
		command, "--changelog-file=received-by-mail.sql", "--default-schema-name=" + schema,
		"--username=" + cfg.Username, fmt.Sprintf("--url=jdbc:postgresql://%s:%d/%s", cfg.Host, cfg.Port, cfg.Database)}, args...)
	cmd := exec.CommandContext(t.Context(), "java", all...)
	cmd.Env = append(os.Environ(), "LIQUIBASE_COMMAND_PASSWORD="+cfg.Password)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("liquibase %s %v: %v\n%s", command, args, err, out)
	}
	return string(out)
}
