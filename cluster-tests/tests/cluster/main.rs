//! What Nebula promises, on real processes: a module for each promise, all in one program, so that it is linked once and
//! several clusters run at a time.
#![allow(clippy::unwrap_used)]

mod alone;
mod bad_input;
mod cache_purge;
mod completions;
mod deploy_life;
mod events;
mod firewall;
mod five_voters;
mod foreground;
mod http_policy;
mod images;
mod jobs;
mod joining;
mod logs_outlive;
mod machine_loss;
mod manifest;
mod partition;
mod placement;
mod ports;
mod probes;
mod real_programs;
mod recover;
mod releases;
mod renewal;
mod restart;
mod stateful;
mod static_sites;
mod systemd;
mod upgrade;
