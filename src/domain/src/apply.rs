//! Applying one request to desired state.
use crate::{Outcome, Rejection, Request, State};

pub fn apply(state: &mut State, request: &Request) -> Result<Outcome, Rejection> {
    let _ = (state, request);
    Err(Rejection::NotInitialised)
}
