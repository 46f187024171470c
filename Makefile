# Thin: every target calls setup, cargo or a program it built.
.PHONY: help setup setup-test build images dev dev-up dev-down test attack check bench fuzz clean

SUDO := $(shell [ "$$(id -u)" -eq 0 ] || echo "sudo -E env PATH=$$PATH")

help:
	@echo "make dev       build everything and run it here, Ctrl-C stops it"
	@echo "make dev-up    the same in the background; writes .dev/env"
	@echo "make dev-down  stop what dev-up started"
	@echo "make test      every test, real VMs included"
	@echo "make attack    every attack of a guest or caller beside a neighbour, ATTACK_SECONDS (20) each, judged by what the neighbour felt"
	@echo "make check     format, lints, tidy, dependencies"
	@echo "make fuzz      mutate the corpora of every parser of hostile bytes, FUZZ_SECONDS (60) for each"
	@echo "make bench     figures with their ratios, into bench/out/latest.json"

setup:
	@sh scripts/setup.sh

# What only tests need: a browser, a mail server, openssl.
setup-test:
	@sh scripts/setup.sh test

build: setup
	cargo xtask build

images: setup
	$(SUDO) cargo xtask images

dev: build images
	@$(SUDO) builds/wrenn dev

dev-up: build images
	@$(SUDO) builds/wrenn dev up

dev-down:
	@$(SUDO) builds/wrenn dev down

test: setup-test build images
	$(SUDO) cargo xtask test

ATTACK_SECONDS ?= 20
attack: setup-test build images
	$(SUDO) env WRENN_ATTACK_SECONDS=$(ATTACK_SECONDS) cargo test --release --locked --package wrenn-vmtest --test it -- attack::

check: setup-test
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --release --locked -- -D warnings
	cargo xtask tidy
	sh scripts/deny.sh

bench: build images
	cargo build --release --locked --package wrenn-bench
	@$(SUDO) target/release/wrenn-bench

FUZZ_SECONDS ?= 60
fuzz: setup
	cargo run --release --locked --package wrenn-fuzz -- --seconds $(FUZZ_SECONDS)

clean:
	cargo clean
	rm -rf builds bench/out
