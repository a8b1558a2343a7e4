# What people and CI run. `just` lists it.

default:
    @just --list

# Read-only checks: formatting, lints as errors.
verify:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --features nebula-cluster-tests/laboratory --locked -- -D warnings

# Mend what `verify` would complain of, as far as tools can.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# All tests, the clusters of real processes included.
test:
    cargo test --workspace --locked

# The upgrade of a cluster from the programs of another commit to the present ones, node by node under load.
upgrade COMMIT:
    rm -rf "{{target}}/previous" && mkdir -p "{{target}}/previous"
    git archive {{COMMIT}} | tar -x -C "{{target}}/previous"
    cargo build --locked --manifest-path "{{target}}/previous/Cargo.toml" --target-dir "{{target}}/previous/target" -p nebula-cli
    NEBULA_TEST_PREVIOUS="{{target}}/previous/target/debug" cargo test --locked -p nebula-cluster-tests --test cluster upgrade -- --nocapture

# A local cluster of three nodes with the example site; Ctrl-C ends it.
dev *ARGS:
    cargo run --release --bin nodectl -- dev {{ARGS}}

# Figures beside peers; raw results go to bench/results. See bench/README.md.
bench *ARGS:
    cargo run --release -p nebula-bench -- {{ARGS}}

# The proxy beside nginx, HAProxy, pingora, Traefik and Caddy, as many of them as are installed.
bench-proxy *ARGS:
    cargo run --release -p nebula-bench -- proxy {{ARGS}}

# Builds the one peer that no package has, a minimal proxy on pingora.
bench-proxy-peers:
    cargo build --release --locked --manifest-path bench/pingora/Cargo.toml --target-dir "{{target}}/pingora"

# The edge beside programs that others wrote: curl, h2load, Autobahn, h2spec, Chromium and so on, as many as are installed. See docs/proxy-conformance.md.
conformance *ARGS:
    cargo build --release --locked --bin nodectl --bin nebula --bin record-service
    python3 cluster-tests/conformance/run.py --programs "{{target}}/release" {{ARGS}}

# The fault laboratory, a bounded part: kills, pauses, partitions, loss, delay, clocks, members, disks. Networks and disks need root.
faults:
    cargo test -p nebula-cluster-tests --features laboratory --locked --test 'lab_*' --test 'disk_*'

# Faults of all kinds, drawn at random, for so many minutes on each kind of cluster.
soak MINUTES="10":
    NEBULA_LAB_MINUTES={{MINUTES}} cargo test -p nebula-cluster-tests --features laboratory --locked --test lab_soak -- --nocapture

target := env("CARGO_TARGET_DIR", justfile_directory() / "target")
lab-programs := "cargo build --release --locked -p nebula-cli -p nebula-cluster-tests --features nebula-cluster-tests/as-tested"

# The whole laboratory, on release builds of the programs, for some hours. Figures go to bench/results/lab.jsonl.
nightly:
    {{lab-programs}} --bins
    {{lab-programs}},nebula-cli/fault-points,nebula-cluster-tests/fault-points --bin nodectl-fault-points --bin raft-store
    NEBULA_TEST_BINARIES="{{target}}/release" \
    NEBULA_LAB_RESULTS="${NEBULA_LAB_RESULTS:-{{justfile_directory()}}/bench/results/lab.jsonl}" \
    NEBULA_LAB_KILLS=500 NEBULA_LAB_LEADER_KILLS=100 NEBULA_LAB_PAUSES=100 NEBULA_LAB_PAUSE_SECONDS=30 \
    NEBULA_LAB_PARTITIONS=25 NEBULA_LAB_LOSS_SECONDS=60 NEBULA_LAB_DELAY_SECONDS=60 NEBULA_LAB_FLOOD_SECONDS=30 NEBULA_LAB_MINUTES=30 \
    NEBULA_LAB_CLOCK_JUMPS=100 NEBULA_LAB_CLOCK_PACES=60 NEBULA_LAB_MEMBERSHIP=20 \
    NEBULA_LAB_POWER_CUTS=300 NEBULA_LAB_CLUSTER_POWER_CUTS=50 NEBULA_LAB_DAMAGES=400 NEBULA_LAB_CLUSTER_DAMAGES=30 \
    NEBULA_LAB_POINTS=10 NEBULA_LAB_POINT_KILLS=110 NEBULA_LAB_DISK_FULL=10 \
    cargo test -p nebula-cluster-tests --features laboratory --locked --no-fail-fast --test 'lab_*' --test 'disk_*' -- --nocapture
    NEBULA_SIM_SEEDS=5000 cargo test --release -p nebula-cluster-tests --features laboratory --locked --test sim -- --nocapture

# Mutated inputs for everything that reads what others send; each target runs for so long.
fuzz SECONDS="600":
    NEBULA_FUZZ_SECONDS={{SECONDS}} cargo test --locked --no-fail-fast -p nebula-wire -p nebula-membership -p nebula-registry \
        -p nebula-artifacts -p nebula-logs -p nebula-api -p nebula-proxy -p nebula-cli --lib --test fuzz fuzz_ -- --nocapture

# One seed of the simulated cluster again.
sim SEED="1":
    NEBULA_SIM_SEED={{SEED}} cargo test -p nebula-cluster-tests --features laboratory --locked --test sim one_seed -- --exact --nocapture

# Bugs put in on purpose, each of which the simulated cluster must find.
planted:
    cargo test -p nebula-cluster-tests --features laboratory,planted-bugs --locked --test sim planted
