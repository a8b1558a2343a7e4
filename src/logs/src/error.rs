//! Why lines could not be had.

/// Shown to the reader as a line of the platform's own, so it says what to do with no more context
/// than the node's name.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    #[error("the log files cannot be read")]
    Read(#[from] std::io::Error),
    #[error("no answer")]
    Call(#[from] nebula_mesh::CallError),
    #[error("no answer within {} s", crate::ANSWER_WITHIN.as_secs())]
    Timeout,
    #[error("the connection was lost")]
    Lost,
    #[error("the answer is not of this protocol")]
    Codec(#[from] nebula_wire::codec::CodecError),
    #[error("the pattern cannot be used: {reason}")]
    Pattern { reason: String },
    #[error("{0}")]
    Refused(String),
}
