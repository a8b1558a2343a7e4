//! Durable writes of 256 bytes to three nodes: Nebula's HTTP API (JSON, over TLS and, in the clear, over the
//! nodes' Unix sockets), etcd's JSON gateway and etcd's gRPC (both in the clear), interleaved in one run with
//! clients of one kind. Between the nodes Nebula's writes travel encrypted, and etcd's do not.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nebula_cluster_tests::Cluster;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::etcd::{self, Etcd};
use crate::report;

const CLIENTS: [usize; 3] = [1, 16, 64];
const VALUE_BYTES: usize = 256;

#[derive(Clone)]
enum Target {
    Nebula {
        apis: Vec<SocketAddr>,
        tls: TlsConnector,
        token: String,
    },
    NebulaSocket(Vec<PathBuf>),
    EtcdJson(Vec<SocketAddr>),
    EtcdGrpc(Vec<SocketAddr>),
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Target {
    fn name(&self) -> &'static str {
        match self {
            Target::Nebula { .. } => "nebula, JSON over TLS",
            Target::NebulaSocket(_) => "nebula, JSON over Unix sockets",
            Target::EtcdJson(_) => "etcd, JSON gateway",
            Target::EtcdGrpc(_) => "etcd, gRPC",
        }
    }

    async fn connect(&self, client: usize) -> anyhow::Result<Sender> {
        match self {
            Target::Nebula { apis, tls, .. } => {
                let stream = tcp(apis, client).await?;
                let name = "localhost".to_owned().try_into()?;
                http1(tls.connect(name, stream).await?).await
            }
            Target::NebulaSocket(sockets) => {
                http1(UnixStream::connect(&sockets[client % sockets.len()]).await?).await
            }
            Target::EtcdJson(all) => http1(tcp(all, client).await?).await,
            Target::EtcdGrpc(all) => {
                let stream = TokioIo::new(tcp(all, client).await?);
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                tokio::spawn(connection);
                Ok(Sender::Two(sender))
            }
        }
    }

    fn request(&self, client: usize, serial: u64) -> anyhow::Result<Request<Full<Bytes>>> {
        let key = format!("user.bench.c{client}-{}", serial % 16);
        let value = format!("{serial:0>VALUE_BYTES$}");
        let request = Request::builder().header("host", "localhost");
        Ok(match self {
            Target::Nebula { .. } | Target::NebulaSocket(_) => {
                let request = match self {
                    Target::Nebula { token, .. } => {
                        request.header("authorization", format!("Bearer {token}"))
                    }
                    _ => request,
                };
                request
                    .method(Method::PUT)
                    .uri(format!("/v1/config/{key}"))
                    .header("content-type", "application/json")
                    .body(Bytes::from(json!({ "value": value }).to_string()).into())?
            }
            Target::EtcdJson(_) => {
                let engine = base64::engine::general_purpose::STANDARD;
                let body = json!({ "key": engine.encode(key), "value": engine.encode(value) });
                request
                    .method(Method::POST)
                    .uri("/v3/kv/put")
                    .header("content-type", "application/json")
                    .body(Bytes::from(body.to_string()).into())?
            }
            Target::EtcdGrpc(_) => Request::builder()
                .method(Method::POST)
                .uri("http://localhost/etcdserverpb.KV/Put")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(put_request(key.as_bytes(), value.as_bytes()).into())?,
        })
    }
}

async fn tcp(all: &[SocketAddr], client: usize) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(all[client % all.len()]).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn http1(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> anyhow::Result<Sender> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(Sender::One(sender))
}

/// `etcdserverpb.PutRequest { bytes key = 1; bytes value = 2; }` in a gRPC frame.
fn put_request(key: &[u8], value: &[u8]) -> Bytes {
    let mut message = BytesMut::new();
    for (tag, field) in [(0x0a_u8, key), (0x12, value)] {
        message.put_u8(tag);
        let mut length = field.len();
        while length >= 0x80 {
            message.put_u8(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        message.put_u8(u8::try_from(length).unwrap_or(0));
        message.put_slice(field);
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(0));
    frame.put(message);
    frame.freeze()
}

async fn send(sender: &mut Sender, request: Request<Full<Bytes>>) -> anyhow::Result<()> {
    let response = match sender {
        Sender::One(sender) => {
            sender.ready().await?;
            sender.send_request(request).await?
        }
        Sender::Two(sender) => {
            sender.ready().await?;
            sender.send_request(request).await?
        }
    };
    let status = response.status();
    let grpc_head = response.headers().get("grpc-status").cloned();
    let body = response.into_body().collect().await?;
    let grpc = grpc_head.or_else(|| body.trailers().and_then(|t| t.get("grpc-status").cloned()));
    let text = body.to_bytes();
    anyhow::ensure!(
        status.is_success(),
        "status {status}: {}",
        String::from_utf8_lossy(&text)
    );
    anyhow::ensure!(grpc.is_none_or(|code| code == "0"), "a gRPC error");
    Ok(())
}

/// Acknowledged writes per second, and latencies in milliseconds.
async fn measure(
    target: &Target,
    clients: usize,
    duration: Duration,
) -> anyhow::Result<(f64, Vec<f64>)> {
    let mut tasks = Vec::new();
    let start = Instant::now();
    for client in 0..clients {
        let target = target.clone();
        tasks.push(tokio::spawn(async move {
            let mut sender = target.connect(client).await?;
            let mut latencies = Vec::new();
            let mut serial = 0;
            while start.elapsed() < duration {
                let at = Instant::now();
                send(&mut sender, target.request(client, serial)?).await?;
                latencies.push(at.elapsed().as_secs_f64() * 1000.0);
                serial += 1;
            }
            anyhow::Ok(latencies)
        }));
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    #[allow(clippy::cast_precision_loss)]
    let rate = latencies.len() as f64 / start.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    Ok((rate, latencies))
}

fn nebula_target(cluster: &Cluster) -> anyhow::Result<Target> {
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(&cluster.cluster_file)?)?;
    let text = |key: &str| file[key].as_str().unwrap_or_default().to_owned();
    let tls = nebula_pki::client_config(&text("ca"), nebula_pki::Expect::AnyNode)?;
    let addresses = file["apis"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str());
    let apis = addresses
        .map(|a| Ok(a.trim_start_matches("https://").parse()?))
        .collect::<anyhow::Result<_>>()?;
    Ok(Target::Nebula {
        apis,
        tls: TlsConnector::from(tls),
        token: text("token"),
    })
}

pub fn run(seconds: u64, rounds: usize) -> anyhow::Result<()> {
    let cluster = Cluster::start(3);
    let etcd = match etcd::missing() {
        None => Some(Etcd::start()?),
        Some(reason) => {
            println!("without a peer: {reason}");
            None
        }
    };
    let sockets = cluster.members.iter().map(|m| m.data_dir.join("api.sock"));
    let mut targets = vec![
        nebula_target(&cluster)?,
        Target::NebulaSocket(sockets.collect()),
    ];
    if let Some(etcd) = &etcd {
        targets.push(Target::EtcdJson(etcd.clients.clone()));
        targets.push(Target::EtcdGrpc(etcd.clients.clone()));
    }
    let runtime = Arc::new(
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?,
    );
    let duration = Duration::from_secs(seconds);
    let mut raw = Vec::new();
    let mut rows = Vec::new();
    for clients in CLIENTS {
        let mut rates = vec![Vec::new(); targets.len()];
        let mut slow = vec![Vec::new(); targets.len()];
        for round in 0..rounds {
            for (i, target) in targets.iter().enumerate() {
                let (rate, latencies) = runtime.block_on(measure(target, clients, duration))?;
                let (p50, p99) = (
                    report::percentile(&latencies, 0.5),
                    report::percentile(&latencies, 0.99),
                );
                raw.push(json!({ "target": target.name(), "clients": clients, "round": round, "writes_per_second": rate,
                    "p50_ms": p50, "p99_ms": p99 }));
                rates[i].push(rate);
                slow[i].push(p99);
            }
        }
        for (i, target) in targets.iter().enumerate() {
            let (rate, p99) = (
                report::median(rates[i].clone()),
                report::median(slow[i].clone()),
            );
            rows.push(vec![
                target.name().to_owned(),
                clients.to_string(),
                format!("{rate:.0}"),
                format!("{p99:.1}"),
            ]);
        }
    }
    report::publish(
        "writes",
        &["target", "clients", "writes/s", "p99 ms"],
        &rows,
        &json!(raw),
    )
}
