//! Why the proxy did not start, or a folder of certificates is not taken. What goes wrong with a request is an answer, see
//! `pages`.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error(
        "cannot listen on {address}/tcp for requests: choose a free address of this machine with the 'edge' setting"
    )]
    Bind {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(
        "cannot listen on {address}/tcp for requests over TLS: choose a free address of this machine with the 'edge_tls' \
         setting, or 'off'"
    )]
    BindTls {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(
        "cannot listen on {address}/udp for HTTP/3: choose a free address of this machine with the 'edge_tls' setting, or switch \
         HTTP/3 off with 'edge_http3'"
    )]
    BindHttp3 {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("TLS of HTTP/3 cannot be set up")]
    Http3Tls(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
    #[error("TLS towards clients cannot be set up")]
    Tls(#[from] rustls::Error),
    #[error("the folder of certificates {} cannot be read", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the folder of certificates {} holds more than {max} of them", path.display())]
    TooManyCertificates { path: PathBuf, max: usize },
    #[error("{} cannot be read", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} has more than {max} bytes, which no certificate or key has", path.display())]
    FileTooLarge { path: PathBuf, max: usize },
    #[error(
        "the key {} can be read by others (mode {mode:o}): make it its owner's alone with 'chmod 600'", path.display()
    )]
    OpenKey { path: PathBuf, mode: u32 },
    #[error("{} has no key beside it: put it at {}", certificate.display(), key.display())]
    NoKey { certificate: PathBuf, key: PathBuf },
    #[error("{} holds no {what} in PEM form", path.display())]
    NotPem { path: PathBuf, what: &'static str },
    #[error("{} is not a certificate that can be used: {reason}", path.display())]
    Certificate { path: PathBuf, reason: String },
    #[error("{} holds no key that can be used", path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error(
        "the key {} does not belong to {}: the certificate's own has to stand first in its file", key.display(),
        certificate.display()
    )]
    WrongPair { certificate: PathBuf, key: PathBuf },
    #[error("{} names no host, and only 'default.crt' may do without", path.display())]
    NoNames { path: PathBuf },
}
