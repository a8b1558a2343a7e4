//! Ports of a node's addresses that programs listen on: who gives which, and which a deployment may ask for.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::names::NodeName;

/// What a node gives to programs by itself. Below Linux's ephemeral ports (32768 and up), so that no outgoing
/// connection takes one.
pub const PROGRAM_PORTS: RangeInclusive<u16> = 20_000..=29_999;
/// What leads programs to the deployments that they depend on. Beside the others, for the same reason.
pub const BRIDGE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
/// Lower ones are root's to give, and programs are not root.
pub const LOWEST: u16 = 1024;

/// Why a deployment may not ask for a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum PortError {
    #[error("port {0} cannot be asked for: use one from {LOWEST} to 65535, such as 8080")]
    OutOfRange(u32),
    #[error(
        "port {0} cannot be asked for, because nodes give {first} to {last} to programs by themselves: use another, such as 8080",
        first = PROGRAM_PORTS.start(), last = PROGRAM_PORTS.end()
    )]
    OfPrograms(u16),
    #[error(
        "port {0} cannot be asked for, because {first} to {last} lead to the deployments that programs depend on: use another, such as 8080",
        first = BRIDGE_PORTS.start(), last = BRIDGE_PORTS.end()
    )]
    OfBridges(u16),
    #[error(
        "port {port} cannot be asked for, because node {node} itself listens on it: use another"
    )]
    OfNode { port: u16, node: NodeName },
}

/// The one port on which every instance of a deployment listens, whatever its node would give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct FixedPort(u16);

impl FixedPort {
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u32> for FixedPort {
    type Error = PortError;

    fn try_from(number: u32) -> Result<FixedPort, PortError> {
        let legal = u16::try_from(number).ok().filter(|port| *port >= LOWEST);
        let port = legal.ok_or(PortError::OutOfRange(number))?;
        if PROGRAM_PORTS.contains(&port) {
            return Err(PortError::OfPrograms(port));
        }
        if BRIDGE_PORTS.contains(&port) {
            return Err(PortError::OfBridges(port));
        }
        Ok(FixedPort(port))
    }
}

impl From<FixedPort> for u32 {
    fn from(port: FixedPort) -> u32 {
        port.0.into()
    }
}

impl fmt::Display for FixedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_that_nobody_else_gives_can_be_asked_for() {
        for legal in [1024, 8080, 19_999, 32_768, 65_535] {
            let port = FixedPort::try_from(legal).unwrap();
            assert_eq!(
                (u32::from(port), port.to_string()),
                (legal, legal.to_string())
            );
        }
        for (illegal, why) in [
            (0, "from 1024 to 65535"),
            (80, "from 1024 to 65535"),
            (1023, "from 1024 to 65535"),
            (65_536, "from 1024 to 65535"),
            (u32::MAX, "from 1024 to 65535"),
            (20_000, "20000 to 29999 to programs"),
            (29_999, "20000 to 29999 to programs"),
            (30_000, "30000 to 32767 lead to"),
            (32_767, "30000 to 32767 lead to"),
        ] {
            let error = FixedPort::try_from(illegal).unwrap_err().to_string();
            assert!(error.contains(why), "{illegal}: {error}");
        }
    }
}
