# What people and CI run. `just` lists it.

default:
    @just --list

# Read-only checks: formatting, lints as errors.
verify:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Mend what `verify` would complain of, as far as tools can.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# All tests, the clusters of real processes included.
test:
    cargo test --workspace --locked

# A local cluster of three nodes with the example site; Ctrl-C ends it.
dev *ARGS:
    cargo run --release --bin nodectl -- dev {{ARGS}}

# Figures beside peers; raw results go to bench/results. See bench/README.md.
bench *ARGS:
    cargo run --release -p nebula-bench -- {{ARGS}}
