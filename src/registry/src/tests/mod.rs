//! Whole registries over a real mesh on the loopback address.

mod authority;
mod cluster;
mod failures;
mod harness;
mod recovery;
