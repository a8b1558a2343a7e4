//! What is said about HTTP in settings: pure data with checks; the proxy carries it out.

mod error;
mod networks;

pub use error::TextError;
pub use networks::Network;
