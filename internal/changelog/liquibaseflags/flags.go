// Package liquibaseflags declares the flags of the steps that deploy with Liquibase once, and reads them.
package liquibaseflags

import (
	"go.uber.org/zap"

	"github.com/insitu-ml/insitu/internal/changelog"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/step"
)

const category = "Liquibase"

// Flags are how to run Liquibase.
func Flags() []step.Flag {
	return []step.Flag{
		{Name: "liquibase", Usage: "directory with the jars of Liquibase and the PostgreSQL driver, or an executable of your own", Category: category, Default: "/opt/liquibase"},
		{Name: "java", Usage: "Java runtime for the jars, version 11 or later: a path, or a name to look up in PATH", Category: category, Default: "java"},
		{Name: "lock-wait", Usage: "how long to wait for another deployment of the same schema", Category: category, Kind: step.Duration, Default: "1m"},
		{Name: "work-dir", Usage: "directory for temporary files; the system's when unset", Category: category},
	}
}

// Schema is the schema to deploy to; path is the changelog's name in databasechangelog.filename.
func Schema(in *step.Input, db postgres.Config, schema, path string) changelog.Schema {
	return changelog.Schema{
		Database: db, Name: schema, Path: path, LockWait: in.Duration("lock-wait"),
		Log:       in.Log.With(zap.String("database", db.Address())),
		Liquibase: changelog.Liquibase{Path: in.String("liquibase"), Java: in.String("java"), TempDir: in.TempDir()},
	}
}
