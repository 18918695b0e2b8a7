# Two commands matter: `make demo` and `make test`. Both work on a fresh Debian 12 as root and install what they need
# from Debian; everything they make lies under build/. The work is in CMake and scripts/; this file only names it.
BUILD ?= build
TYPE  ?= Release

.PHONY: demo test test-engines build bench soak check format deps clean
.DEFAULT_GOAL := build

demo: build
	@scripts/install-deps run
	@scripts/demo $(BUILD)

test:
	@scripts/run-tests $(BUILD) $(TYPE)

build:
	@scripts/install-deps build
	@scripts/build $(BUILD) $(TYPE)

# Speed against native and the other runtimes: a table, and the raw figures as JSON (docs/bench.md).
bench: build
	@scripts/install-deps run bench
	@bench/run --sbx $(BUILD)/sbx --out $(BUILD)/bench

# The robustness tests at full length: 200 kills at random moments, and a minute for each hostile guest.
soak: build
	@scripts/install-deps run test
	@tests/robust/kill_test.py --sbx $(BUILD)/sbx --rounds 200
	@tests/robust/limits_test.py --sbx $(BUILD)/sbx --seconds 60
	@tests/robust/hostile_test.py --sbx $(BUILD)/sbx --guest $(BUILD)/tests/robust/hostile_guest --seconds 60

# Docker, containerd and podman from Debian, private daemons: each case with runc and with sbx, and compared.
test-engines: build
	@scripts/install-deps run test engines
	@tests/engines/run.py --sbx $(BUILD)/sbx --load 60

# What a machine can see in the source: rooms, headers, format, TRY, documents. Also part of `make test`.
check:
	@scripts/install-deps build test
	@scripts/build $(BUILD) $(TYPE) configure
	@tests/check/all $(BUILD)

format:
	@git ls-files '*.cc' '*.h' '*.c' | grep -v '\.def\.h$$' | xargs clang-format -i

deps:
	@scripts/install-deps build run test bench

clean:
	@rm -rf $(BUILD)
