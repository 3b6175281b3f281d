# Everything that a person does with this tree. Each target makes its own set-up, missing Debian packages included.
.PHONY: up down build release test test-vm images kit conformance conformance-one cri csi bench fuzz kills tidy gen

up:          ## A cluster of one node on this machine (needs Rust only).
	@dev/up.sh
down:        ## Stops it and leaves the machine as it was.
	@dev/down.sh
build:
	@dev/packages.sh build
	cargo build --workspace
release:     ## One static program: target/x86_64-unknown-linux-gnu/dist/knarr.
	@dev/release.sh
test:        ## Everything that one machine can test.
	@dev/test.sh
test-vm:     ## A stock Debian kernel with cgroup v2 only, in a virtual machine.
	@dev/test_vm.sh
kit:         ## The official suite, clients and Go components (needs Go, about 15 minutes once).
	@dev/packages.sh images build
	@conformance/build.sh clients suite images reference
images:      ## The suite's test images, from Debian packages.
	@dev/packages.sh images build
	@conformance/build.sh images
	@conformance/images.sh
conformance: ## The official suite on two nodes; FOCUS selects specs.
	@conformance/cluster.sh '$(or $(FOCUS),.)'
conformance-one: ## The same, and the cluster is left running.
	@KEEP=1 conformance/cluster.sh '$(FOCUS)'
csi:         ## Specs of the suite with its CSI driver and the sidecars of that; FOCUS selects some.
	@LIST=conformance/csi.txt OUT=conformance/out/csi conformance/cluster.sh '$(or $(FOCUS),.)'
cri:         ## crictl and critest against `knarr runtime`.
	@dev/cri_test.sh
bench:       ## Knarr and the Go components side by side: make bench [ROWS='create get'].
	@bench/run.sh $(ROWS)
fuzz:        ## Hostile input for the decoders: make fuzz [SECONDS=60].
	@dev/fuzz.sh $(or $(SECONDS),60)
kills:       ## The store killed a thousand times with writers on it: make kills [KILLS=1000].
	@STORE_TEST_KILLS=$(or $(KILLS),1000) cargo test -p store --test kills -- --nocapture killed
tidy:
	@cargo run --quiet --package xtask -- tidy
gen:
	@cargo run --quiet --package xtask -- gen
