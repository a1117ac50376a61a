# make run    the local example: five services, one trust
# make test   all tests; needs only Go
# make help   the rest

EXAMPLE := examples/local
GO      ?= go
STEP_CA := github.com/smallstep/certificates/cmd/step-ca@v0.30.2

.PHONY: help build run run-clean test race kill kill-api kill-cluster faults-cluster bench bench-api step-ca bench-cluster cluster-rounds fuzz fuzz-api generate cluster-up cluster-down

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile | expand -t 20

build: ## build bin/meshca
	@$(GO) build -trimpath -ldflags="-s -w" -o bin/meshca ./cmd/meshca

run: build ## start the local example in the foreground
	@sh $(EXAMPLE)/run.sh

run-clean: ## remove the local example's data/, seal/ and mesh/; asks first
	@sh $(EXAMPLE)/clean.sh

test: ## run all tests; what this machine lacks is skipped, and named at the end
	@skips=$$(mktemp) && MESHCA_TEST_SKIPS=$$skips $(GO) test -count=1 -timeout 30m ./...; status=$$?; \
	if [ -s $$skips ]; then echo; echo "skipped for what this machine lacks:"; sort -u $$skips | sed 's/^/  /'; fi; \
	rm -f $$skips; exit $$status

race: ## run the packages' tests, and the program of some others, with the race detector; needs a C compiler
	@$(GO) test -race $$($(GO) list ./... | grep -v /test/e2e)
	@MESHCA_TEST_RACE=1 $(GO) test -count=1 -timeout 30m -run 'TestAPI|TestOperations|TestKillAPI|TestHeal|TestReload' ./test/e2e

kill: ## kill the program 1000 times at random points, and check every invariant after each
	@MESHCA_KILL_ROUNDS=1000 $(GO) test -count=1 -timeout 60m -v -run TestKill ./test/e2e

kill-api: ## kill it 50 times while 64 clients ask for certificates, and ask for each that was seen
	@MESHCA_API_KILL_ROUNDS=50 $(GO) test -count=1 -timeout 60m -v -run TestKillAPI ./test/e2e

kill-cluster: ## kill it some 500 times at its calls to a real API server, and check every Secret after each
	@MESHCA_KILL_ROUNDS=400 $(GO) test -count=1 -timeout 60m -v -run TestFaults/Kill ./test/e2e

cluster-rounds: ## start and stop a real API server 20 times, and look for what is left
	@MESHCA_CLUSTER_ROUNDS=20 $(GO) test -count=1 -timeout 30m -v -run TestNothingIsLeft ./test/cluster

faults-cluster: ## cut it off from a real API server for 10 minutes; stop it 20 times while another takes over
	@MESHCA_FAULT_PARTITION=10m MESHCA_FAULT_PAUSES=20 $(GO) test -count=1 -timeout 60m -v -run 'TestFaults/(Partition|Paused)' ./test/e2e

bench: ## measure against the floors, interleaved, and print docs/performance.md's table
	@$(GO) run ./test/bench

bench-api: ## measure certificates over REST beside the floor, and beside step-ca where `make step-ca` built it
	@STEP_CA_BIN=$${STEP_CA_BIN:-$$(ls bin/step-ca 2>/dev/null)} $(GO) run ./test/bench/api

step-ca: ## build bin/step-ca, to measure beside it; some ten minutes
	@GOBIN=$(CURDIR)/bin CGO_ENABLED=0 $(GO) install $(STEP_CA)

bench-cluster: ## measure Secrets against bare client-go loops, and memory beside 20,000 foreign Secrets
	@$(GO) run ./test/bench/kube

fuzz: ## fuzz each parser of outside bytes for a minute
	@$(GO) test -run xxx -fuzz FuzzParse$$ -fuzztime 60s ./config
	@$(GO) test -run xxx -fuzz FuzzParseSchedule -fuzztime 60s ./config
	@$(GO) test -run xxx -fuzz FuzzObjectName -fuzztime 60s ./config
	@$(GO) test -run xxx -fuzz FuzzCheck -fuzztime 60s -fuzzminimizetime 10x ./verify
	@$(GO) test -run xxx -fuzz FuzzParseMark -fuzztime 60s ./localdir
	@$(GO) test -run xxx -fuzz FuzzParse -fuzztime 60s -fuzzminimizetime 10x ./csr

fuzz-api: ## ask the running program for anything 200,000 times, and judge every answer by the contract
	@MESHCA_FUZZ_REQUESTS=200000 $(GO) test -count=1 -timeout 60m -v -run 'TestAPIFuzz$$' ./test/e2e

generate: ## make the generated files anew
	@$(GO) generate ./...

cluster-up: ## start a real kube-apiserver and etcd; builds them at first use: fourteen minutes of one core
	@$(GO) build -o bin/cluster ./test/cluster/cmd && bin/cluster up

cluster-down: ## end it, and remove all of it
	@$(GO) build -o bin/cluster ./test/cluster/cmd && bin/cluster down
