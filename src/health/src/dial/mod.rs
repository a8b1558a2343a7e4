//! One probe: over the network, or by a command.

mod grpc;
mod http;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nebula_domain::InstanceId;
use nebula_domain::observed::Surroundings;
use nebula_domain::spec::{ProbeKind, ProbeSpec};
use nebula_drivers::{DriverError, Exec, ExecSpec};
use tokio::net::TcpStream;

pub use self::http::RESPONSE_HEAD_BYTES;

/// Why a probe failed; what it says is the reason that people read, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("no connection to port {port}")]
    Connect {
        port: u16,
        #[source]
        source: std::io::Error,
    },
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("the probe's path or headers are not valid in a request")]
    Request(#[source] ::http::Error),
    #[error("GET {path}: no valid HTTP answer")]
    Http {
        path: String,
        #[source]
        source: hyper::Error,
    },
    #[error("GET {path}: the connection was closed before an answer")]
    Closed { path: String },
    #[error("GET {path} answered {}", .status.as_u16())]
    Status {
        path: String,
        status: ::http::StatusCode,
    },
    #[error("gRPC health: {what}")]
    Grpc {
        what: String,
        #[source]
        source: Option<h2::Error>,
    },
    #[error("command: {0}")]
    Command(DriverError),
}

/// Whom to ask.
pub(crate) struct Asked {
    pub instance: InstanceId,
    pub address: SocketAddr,
    pub surroundings: Arc<Surroundings>,
}

/// What a probe asks, in a few words.
pub(crate) fn describe(kind: &ProbeKind) -> String {
    match kind {
        ProbeKind::Tcp => "TCP connection".to_owned(),
        ProbeKind::Http { path, .. } => format!("GET {path}"),
        // The command itself may hold secrets.
        ProbeKind::Exec { .. } => "command".to_owned(),
        ProbeKind::Grpc { service } if service.is_empty() => "gRPC health".to_owned(),
        ProbeKind::Grpc { service } => format!("gRPC health of {service}"),
        ProbeKind::Process => "process".to_owned(),
    }
}

/// Asks once. Dropping the future closes the connection, or ends the command.
pub(crate) async fn probe(
    asked: &Asked,
    spec: &ProbeSpec,
    exec: &dyn Exec,
) -> Result<(), ProbeError> {
    if let ProbeKind::Exec { command } = &spec.kind {
        let spec = ExecSpec {
            instance: asked.instance,
            command: command.clone(),
            surroundings: asked.surroundings.clone(),
            timeout: spec.timeout,
        };
        let ended = exec.exec(spec).await;
        return ended.map_err(ProbeError::Command);
    }
    if spec.kind == ProbeKind::Process {
        // What has ended is not asked any more.
        return Ok(());
    }
    let connected = async {
        let stream = TcpStream::connect(asked.address).await;
        let stream = stream.map_err(|source| ProbeError::Connect {
            port: asked.address.port(),
            source,
        })?;
        match &spec.kind {
            ProbeKind::Tcp | ProbeKind::Exec { .. } | ProbeKind::Process => Ok(()),
            ProbeKind::Http {
                path,
                headers,
                codes,
            } => http::get(stream, path, headers, codes).await,
            ProbeKind::Grpc { service } => grpc::check(stream, service).await,
        }
    };
    match tokio::time::timeout(spec.timeout, connected).await {
        Ok(result) => result,
        Err(_) => Err(ProbeError::Timeout(spec.timeout)),
    }
}

#[cfg(test)]
mod tests;
