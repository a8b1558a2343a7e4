//! Whole registries over a real mesh on the loopback address.

mod cluster;
mod failures;
mod harness;
