//! An HTTPS server in this process whose answers the test writes, and a client that trusts it.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nebula_client::Client;
use nebula_client::api::{ApiError, ErrorCode};
use tokio::net::TcpListener;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub line: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<String> {
        Some(self.headers.get(name)?.to_str().unwrap().to_owned())
    }
}

pub type Answer = BoxFuture<'static, Response<Full<Bytes>>>;

/// A server on a free port; it ends with the test's runtime.
pub struct Server {
    pub address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// The test's certificate authority and the identity of all its servers.
pub struct Pki {
    certificate: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl Pki {
    pub fn new() -> Pki {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let names = vec!["127.0.0.1".to_owned()];
        Pki {
            certificate: rcgen::generate_simple_self_signed(names).unwrap(),
        }
    }

    pub fn client(&self, addresses: &[&str]) -> Client {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.cert.der().clone()).unwrap();
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let addresses = addresses.iter().map(|a| (*a).to_owned()).collect();
        Client::with_tls(addresses, Arc::new(tls), Some("secret-token".into())).unwrap()
    }

    pub async fn serve(&self, answer: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Server {
        let key = rustls::pki_types::PrivateKeyDer::try_from(
            self.certificate.signing_key.serialize_der(),
        )
        .unwrap();
        let tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server {
            address: listener.local_addr().unwrap().to_string(),
            seen: Arc::default(),
        };
        let answer = Arc::new(answer);
        let seen = server.seen.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, answer, seen) = (acceptor.clone(), answer.clone(), seen.clone());
                tokio::spawn(async move {
                    let tls = acceptor.accept(tcp).await?;
                    let service = service_fn(|request: Request<Incoming>| {
                        let (answer, seen) = (answer.clone(), seen.clone());
                        async move {
                            let (head, body) = request.into_parts();
                            let request = Seen {
                                line: format!("{} {}", head.method, head.uri),
                                headers: head.headers,
                                body: body.collect().await?.to_bytes(),
                            };
                            seen.lock().unwrap().push(request.clone());
                            Ok::<_, hyper::Error>(answer(&request).await)
                        }
                    });
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(tls), service);
                    connection.await.map_err(std::io::Error::other)
                });
            }
        });
        server
    }
}

pub fn say(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let response = Response::builder()
        .status(status)
        .body(Full::new(body.into()));
    Box::pin(async move { response.unwrap() })
}

pub fn ok(body: serde_json::Value) -> Answer {
    say(StatusCode::OK, body.to_string())
}

pub fn refuse(code: ErrorCode) -> Answer {
    let error = ApiError {
        code,
        message: "no".into(),
        hint: "Do otherwise.".into(),
    };
    let status = StatusCode::from_u16(code.http_status()).unwrap();
    say(status, serde_json::to_vec(&error).unwrap())
}

/// An address on which nothing listens.
pub async fn dead_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}
