// Package services declares the flags of the four outside services once and turns a step's input into their settings.
//
// It opens no connection: the domain packages do, with the plain values it returns.
package services

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"

	"github.com/insitu-ml/insitu/internal/lineage"
	"github.com/insitu-ml/insitu/internal/postgres"
	"github.com/insitu-ml/insitu/internal/registry"
	"github.com/insitu-ml/insitu/internal/step"
)

// S3Config says where objects are kept and who asks for them.
type S3Config struct {
	Endpoint, AccessKeyID, SecretAccessKey, Bucket, Region string
}

// MLflowConfig says where the model registry is and who asks it. Token and Username are alternatives; both may be empty.
type MLflowConfig struct {
	URI, Username, Password, Token string
}

// Registry is what the registry's client takes.
func (c MLflowConfig) Registry() registry.Config {
	return registry.Config{URI: c.URI, Username: c.Username, Password: c.Password, Token: c.Token}
}

// TrainingFlags are those of the training database.
func TrainingFlags() []step.Flag {
	return databaseFlags("training", "Training database", "greenplum/vmware")
}

// InferenceFlags are those of the inference database.
func InferenceFlags() []step.Flag {
	return databaseFlags("inference", "Inference database", "postgres/vmware")
}

func databaseFlags(name, category, selector string) []step.Flag {
	lowest, highest := 1.0, 65535.0
	return bound(name, category, selector, []step.Flag{
		{Name: "host", Usage: "server name, address, or directory of a Unix socket", Required: true},
		{Name: "port", Usage: "server port", Kind: step.Int, Default: "5432", Min: &lowest, Max: &highest},
		{Name: "database", Usage: "database name", Required: true},
		{Name: "username", Usage: "role to connect as", Required: true},
		{Name: "password", Usage: "the role's password; none for peer, certificate or trust authentication", Secret: true},
		{Name: "sslmode", Usage: "how far TLS goes; when unset, TLS if the server offers it, without a check of its name", Enum: []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}},
		{Name: "sslrootcert", Usage: "file with the CA certificates that verify-ca and verify-full trust"},
	})
}

// LiveEvidenceFlags ask for what the inference database logged of a challenger. Without --live-evidence that database is not needed.
func LiveEvidenceFlags() []step.Flag {
	one := 1.0
	flags := []step.Flag{
		{Name: "live-evidence", Usage: "least number of live calls that a shadow or canary must have sent to both the version and the holder of the alias; when unset, live calls are not looked at", Kind: step.Int, Min: &one},
		{Name: "inference-schema", Usage: "schema in the inference database that logged them; required with --live-evidence"},
	}
	for _, f := range InferenceFlags() {
		f.Required = false
		flags = append(flags, f)
	}
	return flags
}

// CheckLiveEvidence reports what is missing of LiveEvidenceFlags.
func CheckLiveEvidence(in *step.Input) error {
	if !in.IsSet("live-evidence") {
		return nil
	}
	if in.String("inference-schema") == "" {
		return errors.New("--live-evidence is set, so --inference-schema is required")
	}
	if c := Inference(in); c.Host == "" || c.Database == "" || c.Username == "" {
		return errors.New("--live-evidence is set, so --inference-host, --inference-database and --inference-username are required, or a service binding")
	}
	return nil
}

// S3Flags are those of the object store.
func S3Flags() []step.Flag {
	return bound("s3", "Object store", "s3", []step.Flag{
		{Name: "endpoint", Usage: "URL of the S3 service, such as https://s3.eu-west-1.amazonaws.com", Required: true},
		{Name: "access-key-id", Usage: "access key", Required: true},
		{Name: "secret-access-key", Usage: "secret of the access key", Secret: true, Required: true},
		{Name: "bucket", Usage: "bucket that holds the datasets", Required: true},
		{Name: "region", Usage: "region to sign requests for", Default: "us-east-1"},
	})
}

// MLflowFlags are those of the model registry.
func MLflowFlags() []step.Flag {
	return bound("mlflow", "Model registry", "mlflow", []step.Flag{
		{Name: "uri", Usage: "URL of the MLflow tracking server", Required: true},
		{Name: "username", Usage: "user of the server's basic authentication"},
		{Name: "password", Usage: "password of that user", Secret: true},
		{Name: "token", Usage: "bearer token, instead of user and password", Secret: true},
	})
}

// bound prefixes the flags with the binding's name, lets each fall back to the binding's file of its own name,
// and puts the flag that selects the binding in front.
func bound(name, category, selector string, flags []step.Flag) []step.Flag {
	all := []step.Flag{{
		Name:     name + "-binding",
		Usage:    "type or type/provider of the service binding the settings below fall back to",
		Category: category,
		Default:  selector,
	}}
	for _, f := range flags {
		f.Binding = &step.BindingFile{Binding: name, File: f.Name}
		f.Name = name + "-" + f.Name
		f.Category = category
		all = append(all, f)
	}
	return all
}

// Training returns the settings of the training database.
func Training(in *step.Input) postgres.Config { return database(in, "training") }

// Inference returns the settings of the inference database.
func Inference(in *step.Input) postgres.Config { return database(in, "inference") }

func database(in *step.Input, name string) postgres.Config {
	return postgres.Config{
		Host:        in.String(name + "-host"),
		Port:        in.Int(name + "-port"),
		Database:    in.String(name + "-database"),
		Username:    in.String(name + "-username"),
		Password:    in.String(name + "-password"),
		SSLMode:     in.String(name + "-sslmode"),
		SSLRootCert: in.String(name + "-sslrootcert"),
	}
}

// TrainingDatabase names the training database for data catalogs; the dialect is what the server says it is.
func TrainingDatabase(in *step.Input, d postgres.Dialect) lineage.Database {
	return described(in, "training", Training(in), d)
}

// InferenceDatabase names the inference database for data catalogs.
func InferenceDatabase(in *step.Input, d postgres.Dialect) lineage.Database {
	return described(in, "inference", Inference(in), d)
}

// Platform is what data catalogs call a kind of server.
func Platform(d postgres.Dialect) string {
	if d.Distributed {
		return lineage.Greenplum
	}
	return lineage.Postgres
}

func described(in *step.Input, name string, c postgres.Config, d postgres.Dialect) lineage.Database {
	db := lineage.Database{Platform: Platform(d), Address: net.JoinHostPort(c.Host, strconv.Itoa(c.Port)), Name: c.Database, Role: name}
	db.BindingType, db.BindingProvider = in.Binding(name)
	return db
}

// S3 returns the settings of the object store.
func S3(in *step.Input) S3Config {
	return S3Config{
		Endpoint:        in.String("s3-endpoint"),
		AccessKeyID:     in.String("s3-access-key-id"),
		SecretAccessKey: in.String("s3-secret-access-key"),
		Bucket:          in.String("s3-bucket"),
		Region:          in.String("s3-region"),
	}
}

// MLflow returns the settings of the model registry; a user and password within the URI are moved to their own fields.
func MLflow(in *step.Input) MLflowConfig {
	return MLflowConfig{
		URI:      in.String("mlflow-uri"),
		Username: in.String("mlflow-username"),
		Password: in.String("mlflow-password"),
		Token:    in.String("mlflow-token"),
	}.WithoutCredentials()
}

// WithoutCredentials moves a user and password within the URI to their own fields.
func (c MLflowConfig) WithoutCredentials() MLflowConfig {
	u, err := url.Parse(c.URI)
	if err != nil || u.User == nil {
		return c
	}
	if c.Username == "" {
		c.Username = u.User.Username()
		c.Password, _ = u.User.Password()
	}
	u.User = nil
	c.URI = u.String()
	return c
}

// checkURL says what is wrong with an address; an empty one is reported as missing elsewhere.
func checkURL(flag, text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("--%s: expected a URL that starts with http:// or https://", flag)
	}
	return nil
}

var errTwoLogins = errors.New("--mlflow-token and --mlflow-username are both set, expected one of them")

// Check returns what is wrong with the settings, nil for nothing; steps hand it to Input.Validate.
func (c S3Config) Check() error { return checkURL("s3-endpoint", c.Endpoint) }

// Check returns what is wrong with the settings, nil for nothing; steps hand it to Input.Validate.
func (c MLflowConfig) Check() error {
	if c.Token != "" && c.Username != "" {
		return errors.Join(checkURL("mlflow-uri", c.URI), errTwoLogins)
	}
	return checkURL("mlflow-uri", c.URI)
}
