//! Clusters of real processes for tests: found free ports, real binaries, real signals. Nothing here
//! knows Nebula's insides; it goes through the command lines, the API and the edge as people do.
//!
//! Everything waits for conditions with a deadline, and everything started is ended on drop, also when
//! the test fails.

pub mod binaries;
pub mod cluster;
pub mod command;
pub mod disk;
pub mod http;
pub mod lab;
pub mod load;
pub mod namespaces;
pub mod process;
pub mod sim;
pub mod systemd;
pub mod traffic;
pub mod wait;

pub use cluster::{Cluster, Member};
pub use command::{Output, nebula, nodectl};
pub use load::Load;
pub use wait::eventually;
