//! A port that every instance of a deployment has to have is none on which a member itself listens.

use crate::command::Rejection;
use crate::port::PortError;
use crate::spec::{Spec, SpecError};
use crate::state::State;

pub(super) fn check(state: &State, spec: &Spec) -> Result<(), Rejection> {
    let Some(port) = spec.service().and_then(|service| service.port) else {
        return Ok(());
    };
    let port = port.get();
    let mut nodes = state.nodes.values();
    match nodes.find(|node| node.addresses.ports().contains(&port)) {
        None => Ok(()),
        Some(node) => {
            let node = node.name.clone();
            Err(SpecError::Port(PortError::OfNode { port, node }).into())
        }
    }
}
