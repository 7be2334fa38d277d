# `make run` and `make test` install what they need (scripts/install.sh) and say what they do.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

EXAMPLE ?= digits
DATASET ?=
ARGS ?=
GO = . scripts/env.sh && CGO_ENABLED=0 go

.PHONY: help install build run stop clean images test bench e2e lint generate verify

help: ## list the targets
	@grep -hE '^[a-z0-9]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 14

install: ## install what is missing (Debian packages, Go, Python packages, Liquibase, S3 server)
	@scripts/install.sh

build: install ## build insitu and the six steps into bin/
	@scripts/build.sh

run: build ## run the pipeline here: EXAMPLE=digits|cifar10|shapes|logistic|linear|sklearn|boosting DATASET=<url or path> ARGS='-p epochs=3'
	@. scripts/env.sh && bin/insitu run --app examples/$(EXAMPLE) $(if $(DATASET),--dataset '$(DATASET)') $(ARGS)

stop: ## stop the local services; their data stays
	@if [ -x bin/insitu ]; then bin/insitu stop; else echo "stop: nothing is built here, so nothing runs"; fi

clean: ## stop the local services and remove their data and the build
	@if [ -x bin/insitu ]; then bin/insitu stop --purge; fi
	rm -rf bin .insitu
	. scripts/env.sh && echo "bin and .insitu are removed. What make install downloaded stays: $$INSITU_TOOLS"

images: build ## build the images for this machine: IMAGES='steps insitu databases dev' BASES=registry|local
	@scripts/images.sh $(IMAGES)

test: build ## all tests, over real services started for them
	@scripts/install.sh test
	scripts/test.sh

bench: build ## measure training and predicting in the database against limits and peers: ARGS='-only load,train -rounds 3'
	@scripts/install.sh bench
	scripts/bench.sh $(ARGS)

e2e: install ## the pipelines on the Kubernetes cluster of KUBECONFIG, see docs/testing.md
	@scripts/install.sh e2e
	scripts/e2e.sh

lint: ## golangci-lint, gofmt, vet, ruff, shellcheck
	@scripts/install.sh lint
	scripts/lint.sh

generate: install ## write the generated files (docs/steps, the inference runtime, the chart's workflows and README)
	@scripts/install.sh chart
	@$(GO) run ./internal/steps/gendocs
	$(GO) test ./database -run TestTheInferenceSQLCarriesTheInferencePython -update
	scripts/chart.sh

verify: generate ## fail if a generated file is not as committed
	@changed=$$(git status --porcelain -- docs/steps database/inference/0003-runtime.sql charts/insitu)
	[ -z "$$changed" ] || { printf 'verify: not as committed, run make generate and commit:\n%s\n' "$$changed" >&2; exit 1; }
