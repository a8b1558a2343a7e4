//! A reverse proxy on pingora, as small as its guide makes one: one upstream, connections kept, one thread.
//!
//!     minimal-pingora LISTEN LISTEN_TLS UPSTREAM CHAIN_PEM KEY_PEM

use std::net::SocketAddr;

use async_trait::async_trait;
use pingora::http::RequestHeader;
use pingora::listeners::tls::TlsSettings;
use pingora::prelude::*;
use pingora::proxy::http_proxy_service;

struct ToUpstream(SocketAddr);

#[async_trait]
impl ProxyHttp for ToUpstream {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }

    /// What all the other proxies add, too.
    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _: &mut (),
    ) -> Result<()> {
        if let Some(client) = session.client_addr().and_then(|a| a.as_inet()) {
            request.insert_header("X-Forwarded-For", client.ip().to_string())?;
        }
        let secure = session.digest().is_some_and(|d| d.ssl_digest.is_some());
        let scheme = if secure { "https" } else { "http" };
        request.insert_header("X-Forwarded-Proto", scheme)?;
        Ok(())
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [plain, tls, upstream, chain, key] = arguments.as_slice() else {
        return Err("usage: minimal-pingora LISTEN LISTEN_TLS UPSTREAM CHAIN_PEM KEY_PEM".into());
    };
    let mut server = Server::new(None)?;
    server.bootstrap();
    let mut proxy = http_proxy_service(&server.configuration, ToUpstream(upstream.parse()?));
    proxy.threads = Some(1);
    proxy.add_tcp(plain);
    let mut settings = TlsSettings::intermediate(chain, key)?;
    settings.enable_h2();
    proxy.add_tls_with_settings(tls, None, settings);
    server.add_service(proxy);
    server.run_forever()
}
