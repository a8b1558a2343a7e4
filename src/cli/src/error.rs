//! What a command ends with when it does not succeed: the one place that knows exit codes.

use std::io::Write;
use std::process::ExitCode;

use nebula_client::ClientError;
use nebula_wire::api::{ApiError, ErrorCode};

/// Exit codes other than 0, as the documentation promises them to scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The command was understood and did not succeed.
    Failed = 1,
    /// A flag, a name or a file that was handed in is wrong; nothing was changed.
    Usage = 2,
    /// No node could be reached, or no majority of the voters.
    Unreachable = 3,
    /// The change was made and taken back, or a run of it failed.
    RolledBack = 4,
    /// The change was made, its effect did not show in time.
    TimedOut = 5,
    /// Asked whether anything would change: something would. An answer, and no failure.
    Differs = 6,
}

/// A command's failure, ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliError {
    pub exit: Exit,
    pub error: ApiError,
    /// Further lines for people, such as the end of a log.
    pub details: Vec<String>,
}

pub type Outcome<T = ()> = Result<T, CliError>;

impl CliError {
    pub fn new(
        exit: Exit,
        code: ErrorCode,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> CliError {
        CliError {
            exit,
            error: ApiError {
                code,
                message: message.into(),
                hint: hint.into(),
            },
            details: Vec::new(),
        }
    }

    /// Something that was typed is wrong.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> CliError {
        CliError::new(Exit::Usage, ErrorCode::BadRequest, message, hint)
    }

    /// Something on this machine did not work.
    pub fn failed(message: impl Into<String>, hint: impl Into<String>) -> CliError {
        CliError::new(Exit::Failed, ErrorCode::Internal, message, hint)
    }

    pub fn timed_out(message: impl Into<String>, hint: impl Into<String>) -> CliError {
        CliError::new(Exit::TimedOut, ErrorCode::Timeout, message, hint)
    }

    /// A file or folder of this machine could not be used.
    pub fn io(what: impl std::fmt::Display, error: &std::io::Error) -> CliError {
        CliError::failed(
            format!("{what}: {error}"),
            "check that the path exists and that you may use it",
        )
    }

    pub fn with_details(mut self, details: Vec<String>) -> CliError {
        self.details = details;
        self
    }

    /// Writes the failure to stderr: one JSON object for scripts, sentences for people.
    pub fn report(&self, json: bool) -> ExitCode {
        if self.exit == Exit::Differs {
            // What differs stands on stdout.
            return ExitCode::from(self.exit as u8);
        }
        let mut err = std::io::stderr().lock();
        // There is nowhere left to say that stderr is closed.
        let _ = if json {
            serde_json::to_writer(&mut err, &self.json())
                .map_err(std::io::Error::from)
                .and_then(|()| writeln!(err))
        } else {
            self.write_text(&mut err)
        };
        ExitCode::from(self.exit as u8)
    }

    /// The API's error, and what else is known: a daemon's last lines, say.
    fn json(&self) -> impl serde::Serialize + '_ {
        #[derive(serde::Serialize)]
        struct Report<'a> {
            #[serde(flatten)]
            error: &'a ApiError,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            details: &'a [String],
        }
        Report {
            error: &self.error,
            details: &self.details,
        }
    }

    fn write_text(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(out, "error: {}", self.error.message)?;
        for line in &self.details {
            writeln!(out, "  {line}")?;
        }
        if !self.error.hint.is_empty() {
            writeln!(out, "hint: {}", self.error.hint)?;
        }
        Ok(())
    }
}

impl std::fmt::Display for CliError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.error.message)
    }
}

impl std::error::Error for CliError {}

fn exit_of(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::BadRequest | ErrorCode::BadArchive => Exit::Usage,
        ErrorCode::NoQuorum | ErrorCode::Unavailable => Exit::Unreachable,
        ErrorCode::Timeout => Exit::TimedOut,
        ErrorCode::Unauthorized
        | ErrorCode::Forbidden
        | ErrorCode::NotFound
        | ErrorCode::AlreadyExists
        | ErrorCode::Conflict
        | ErrorCode::LimitExceeded
        | ErrorCode::InvalidToken
        | ErrorCode::ArtifactMissing
        | ErrorCode::DigestMismatch
        | ErrorCode::DiskFull
        | ErrorCode::Internal => Exit::Failed,
    }
}

/// What the API refused.
impl From<ApiError> for CliError {
    fn from(error: ApiError) -> CliError {
        CliError {
            exit: exit_of(error.code),
            error,
            details: Vec::new(),
        }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> CliError {
        let message = error.to_string();
        match error {
            ClientError::Api(error) => error.into(),
            ClientError::Unreachable { .. } => CliError::new(
                Exit::Unreachable,
                ErrorCode::Unavailable,
                message,
                "check that a node runs there ('nodectl run') and that this machine can reach it",
            ),
            ClientError::Timeout { .. } => CliError::timed_out(
                message,
                "the change may still have been made: look before you try again",
            ),
            ClientError::BadAnswer { .. } => CliError::failed(
                message,
                "check that the address is the API of a Nebula node of the same version",
            ),
            ClientError::Untrusted { .. } => CliError::failed(
                message,
                "use the cluster file or the token of this very cluster",
            ),
            ClientError::Source(_) => CliError::failed(
                message,
                "the files changed or became unreadable while they were sent: try again",
            ),
            ClientError::Setup(_) => {
                CliError::usage(message, "correct the cluster file or the address")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: ErrorCode) -> CliError {
        ApiError {
            code,
            message: "m".into(),
            hint: "h".into(),
        }
        .into()
    }

    #[test]
    fn each_failure_has_its_exit_code() {
        let cases = [
            (api(ErrorCode::NotFound), 1),
            (api(ErrorCode::AlreadyExists), 1),
            (api(ErrorCode::Unauthorized), 1),
            (api(ErrorCode::BadRequest), 2),
            (CliError::usage("", ""), 2),
            (api(ErrorCode::NoQuorum), 3),
            (ClientError::Unreachable { tried: vec![] }.into(), 3),
            (
                CliError::new(Exit::RolledBack, ErrorCode::Conflict, "", ""),
                4,
            ),
            (api(ErrorCode::Timeout), 5),
            (CliError::new(Exit::Differs, ErrorCode::Conflict, "", ""), 6),
            (
                ClientError::Timeout {
                    after: std::time::Duration::from_secs(1),
                    tried: vec![],
                }
                .into(),
                5,
            ),
        ];
        for (error, code) in cases {
            assert_eq!(error.exit as u8, code, "{error:?}");
        }
    }

    #[test]
    fn scripts_get_the_api_s_shape_and_the_details() {
        let json = serde_json::to_value(CliError::usage("m", "h").json()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"code": "bad_request", "message": "m", "hint": "h"})
        );
        let error = CliError::usage("m", "h").with_details(vec!["line".into()]);
        let json = serde_json::to_value(error.json()).unwrap();
        assert_eq!(json["details"], serde_json::json!(["line"]));
    }

    #[test]
    fn people_get_the_reason_the_details_and_the_hint() {
        let mut out = Vec::new();
        let error = CliError::failed("no", "do").with_details(vec!["line".into()]);
        error.write_text(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "error: no\n  line\nhint: do\n"
        );
    }
}
