//! The proxy's edge as its clients and its instances see it: one program, since each links all of the node.

#![allow(clippy::unwrap_used)]

mod common;

mod bodies;
mod cache;
mod cache_age;
mod cache_leaving;
mod cache_waiting;
mod grpc;
mod h2;
mod h2_floods;
mod h2_frames;
mod h2_spec;
mod h2_streams;
mod h2c;
mod h2c_resets;
mod h2c_streams;
mod h3;
mod h3_edge;
mod h3_ends;
mod h3_floods;
mod h3_frames;
mod h3_streams;
mod hedge;
mod https;
mod lifecycle;
mod origin;
mod policy;
mod remote;
mod retries;
mod routing;
mod slow;
mod statics;
mod switching;
mod tls;
mod traffic;
mod trials;
