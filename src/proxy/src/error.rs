//! Why the proxy did not start. What goes wrong with a request is an answer, see `pages`.

use std::io;
use std::net::SocketAddr;

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
}
