# The images. `make images` builds them for this machine; docs/images.md says how to publish them:
#   REGISTRY=registry.example.com docker buildx bake --push
# Every variable can be set in the environment.

variable "REGISTRY" {
  description = "registry to tag for, such as registry.example.com:5000; empty: the container runtime's default"
  default     = ""
  validation {
    condition     = REGISTRY == "" || length(regexall("^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]+)?$", REGISTRY)) == 1
    error_message = "REGISTRY is a host name with an optional port; the path in front of the names is PREFIX."
  }
}

variable "PREFIX" {
  description = "path in front of every image's name"
  default     = "insitu"
  validation {
    condition     = length(regexall("^[a-z0-9]+([._/-][a-z0-9]+)*$", PREFIX)) == 1
    error_message = "PREFIX consists of lower-case letters and digits, with single dots, dashes, underscores and slashes in between."
  }
}

# The default is the content of the file VERSION; a test compares them.
variable "VERSION" {
  description = "tag of all images"
  default     = "0.1.0"
  validation {
    condition     = length(regexall("^[0-9]+\\.[0-9]+\\.[0-9]+(-[0-9A-Za-z.-]+)?$", VERSION)) == 1
    error_message = "VERSION is a semantic version without \"v\", such as 0.1.0."
  }
}

variable "REVISION" {
  description = "commit that is built, for the label; empty: unknown"
  default     = ""
  validation {
    condition     = REVISION == "" || length(regexall("^[0-9a-f]{7,40}$", REVISION)) == 1
    error_message = "REVISION is a commit hash."
  }
}

variable "PLATFORMS" {
  description = "platforms, separated by commas"
  type        = list(string)
  default     = ["linux/amd64", "linux/arm64"]
  validation {
    condition     = length(PLATFORMS) > 0 && length(setsubtract(PLATFORMS, ["linux/amd64", "linux/arm64"])) == 0
    error_message = "PLATFORMS is linux/amd64, linux/arm64 or both."
  }
}

variable "BINARIES" {
  description = "where the Go programs come from: \"build\" compiles them in GO_BASE, \"prebuilt\" takes bin/ as it is"
  default     = "build"
  validation {
    condition     = contains(["build", "prebuilt"], BINARIES)
    error_message = "BINARIES is build or prebuilt."
  }
}

# Bases are pinned by the digest of their multi-platform index; the tag only says what it is.
# Where no registry is reachable they are replaced by stand-ins: see scripts/images.sh.

variable "GO_BASE" {
  description = "compiles the Go programs"
  default     = "golang:1.26.8-bookworm@sha256:a688600ca24f8a4d3ca77f95b0dd40704a9fc787c826660eb7ba0b641b8b175d"
}

variable "DEBIAN_BASE" {
  description = "Debian 12: base of the databases, and where the Java runtime is made"
  default     = "debian:bookworm-slim@sha256:3783cc01769c7b2b1b83a5c5ad96c815348e28ed7da68e2e3687004faa906251"
}

variable "STATIC_BASE" {
  description = "base of static programs: certificates, /tmp and a user, no shell"
  default     = "gcr.io/distroless/static-debian12:nonroot@sha256:d093aa3e30dbadd3efe1310db061a14da60299baff8450a17fe0ccc514a16639"
}

variable "CC_BASE" {
  description = "the same with the C libraries, which Java needs"
  default     = "gcr.io/distroless/cc-debian12:nonroot@sha256:9dac0a79194e45a7da0158a9c6da57b217585af0786db3845d1f0ec1a0dd182f"
}

variable "VERSITYGW" {
  description = "version of the S3 server for a first try; scripts/install.sh has the same"
  default     = "v1.8.0"
}

function "image" {
  params = [name]
  result = ["${REGISTRY == "" ? "" : "${REGISTRY}/"}${PREFIX}/${name}:${VERSION}"]
}

function "labels" {
  params = [title, description, licenses]
  result = {
    "org.opencontainers.image.title"       = "Insitu ${title}"
    "org.opencontainers.image.description" = description
    "org.opencontainers.image.source"      = "https://github.com/insitu-ml/insitu"
    "org.opencontainers.image.revision"    = REVISION
    "org.opencontainers.image.version"     = VERSION
    "org.opencontainers.image.licenses"    = licenses
  }
}

group "default" {
  targets = ["steps", "insitu", "databases", "pgadmin"]
}

group "databases" {
  targets = ["postgres-training", "postgres-inference"]
}

# Services for a first try; nothing else needs them.
group "dev" {
  targets = ["dev-mlflow", "dev-s3"]
}

target "_common" {
  context   = "."
  platforms = PLATFORMS
  attest    = ["type=sbom", "type=provenance,mode=max"]
}

target "_programs" {
  inherits   = ["_common"]
  dockerfile = "images/steps/Dockerfile"
  args = {
    BINARIES    = BINARIES
    GO_BASE     = GO_BASE
    DEBIAN_BASE = DEBIAN_BASE
    STATIC_BASE = STATIC_BASE
    CC_BASE     = CC_BASE
  }
}

target "steps" {
  inherits = ["_programs"]
  matrix = {
    step = [
      { name = "upload-dataset", does = "loads a dataset into the training database as mini-batches" },
      { name = "deploy-training-code", does = "deploys the ML app into the training database" },
      { name = "train-model", does = "trains the model inside the training database" },
      { name = "evaluate-model", does = "evaluates the model on test data and decides whether it is good enough" },
      { name = "promote-model-to-staging", does = "gives a model that passed its alias in the registry" },
      { name = "deploy-inference-db", does = "deploys the promoted model into the inference database" },
    ]
  }
  name   = step.name
  target = step.name
  tags   = image(step.name)
  labels = labels(step.name, "Pipeline step: ${step.does}.",
  length(regexall("^deploy-", step.name)) == 1 ? "Apache-2.0 AND BSD-2-Clause AND GPL-2.0-only WITH Classpath-exception-2.0" : "Apache-2.0")
}

target "insitu" {
  inherits = ["_programs"]
  target   = "insitu"
  tags     = image("insitu")
  labels   = labels("insitu", "The command line tool, the run's summary and the inference API.", "Apache-2.0")
}

target "postgres" {
  inherits = ["_common"]
  matrix = {
    database = [
      { name = "training", does = "learners need: NumPy, PyTorch, scikit-learn, LightGBM, Pillow, ONNX and ONNX Runtime" },
      { name = "inference", does = "models need: NumPy, Pillow and ONNX Runtime" },
    ]
  }
  name       = "postgres-${database.name}"
  dockerfile = "images/postgres/Dockerfile"
  target     = database.name
  args       = { DEBIAN_BASE = DEBIAN_BASE }
  tags       = image("postgres-${database.name}")
  labels = labels("postgres-${database.name}", "PostgreSQL 15 with PL/Python and the Python packages that ${database.does}.",
  "Apache-2.0 AND PostgreSQL AND BSD-3-Clause AND MIT")
}

target "pgadmin" {
  inherits = ["_programs"]
  target   = "pgadmin"
  tags     = image("pgadmin")
  labels   = labels("pgadmin", "pgAdmin 4, and the command line tool that brings servers into it.", "Apache-2.0 AND PostgreSQL")
}

target "dev-mlflow" {
  inherits   = ["_common"]
  dockerfile = "images/dev-mlflow/Dockerfile"
  args       = { DEBIAN_BASE = DEBIAN_BASE }
  tags       = image("dev-mlflow")
  labels     = labels("dev-mlflow", "MLflow on SQLite, for a first try only.", "Apache-2.0")
}

target "dev-s3" {
  inherits   = ["_common"]
  dockerfile = "images/dev-s3/Dockerfile"
  args = {
    BINARIES    = BINARIES
    GO_BASE     = GO_BASE
    DEBIAN_BASE = DEBIAN_BASE
    VERSITYGW   = VERSITYGW
  }
  tags   = image("dev-s3")
  labels = labels("dev-s3", "versitygw, an S3 server on a directory, for a first try only.", "Apache-2.0")
}
