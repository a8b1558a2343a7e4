//! A service that answers every request with what hyper understood of it, and writes that down in the file `RECORD`, one JSON
//! object a line: `just conformance` compares it with what a client sent.

use std::convert::Infallible;
use std::io::Write;

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let port = std::env::var("PORT").context("PORT is not set")?;
    std::env::var("RECORD").context("RECORD is not set")?;
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    loop {
        let (socket, _) = listener.accept().await?;
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(socket), service_fn(answer));
        tokio::spawn(async move {
            // What is no request is refused by hyper itself, and is not to be seen here.
            let _ = serving.await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let host = parts.headers.get("host").map(|host| latin(host.as_bytes()));
    let mut said = json!({
        "method": parts.method.as_str(),
        "target": parts.uri.to_string(),
        "host": host.unwrap_or_default(),
    });
    match body.collect().await {
        Ok(body) => said["body"] = latin(&body.to_bytes()).into(),
        Err(error) => said["broken"] = error.to_string().into(),
    }
    let text = said.to_string();
    if let Err(error) = note(&text) {
        eprintln!("cannot write the record: {error}");
    }
    Ok(Response::new(Full::new(Bytes::from(text))))
}

fn note(text: &str) -> std::io::Result<()> {
    let path = std::env::var_os("RECORD").unwrap_or_default();
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)?;
    file.write_all(format!("{text}\n").as_bytes())
}

/// Each byte as a character, as the other recorders do it.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
