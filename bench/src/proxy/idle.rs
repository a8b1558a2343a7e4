//! What an idle connection holds of a proxy's memory: resident pages of a freshly started proxy before and after so
//! many clients came, were answered once, and stayed. What the kernel holds for their sockets is the same for all.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio_rustls::rustls::ClientConfig;

use super::peers::Running;
use super::stage::{API, SMALL};
use super::tls::{self, PATIENCE, TlsStream};

const CONNECTIONS: usize = 1_000;
/// Connections before the first look, so that what is made once is there already.
const FIRST: usize = 32;
/// For what a proxy does behind an answer; shorter than any proxy's patience with idle clients.
const SETTLE: Duration = Duration::from_secs(1);

enum Client {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

/// KB for each connection. `tls` is given for clients that speak it.
pub fn measure(running: &Running, tls: Option<&Arc<ClientConfig>>) -> anyhow::Result<f64> {
    let open = |count: usize| -> anyhow::Result<Vec<Client>> {
        (0..count).map(|_| client(running, tls)).collect()
    };
    let first = open(FIRST)?;
    std::thread::sleep(SETTLE);
    let before = running.resident_kb();
    let clients = open(CONNECTIONS)?;
    std::thread::sleep(SETTLE);
    let after = running.resident_kb();
    for client in first.iter().chain(&clients) {
        client.is_open()?;
    }
    #[allow(clippy::cast_precision_loss)]
    let kb = (after - before) / CONNECTIONS as f64;
    Ok(kb)
}

/// One that was answered once.
fn client(running: &Running, tls: Option<&Arc<ClientConfig>>) -> anyhow::Result<Client> {
    let mut client = match tls {
        Some(config) => Client::Tls(Box::new(tls::connect(running.https, config)?)),
        None => {
            let socket = TcpStream::connect_timeout(&running.http, PATIENCE)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Client::Plain(socket)
        }
    };
    match &mut client {
        Client::Plain(stream) => ask(stream)?,
        Client::Tls(stream) => ask(stream)?,
    }
    Ok(client)
}

fn ask(stream: &mut (impl Read + Write)) -> anyhow::Result<()> {
    stream.write_all(format!("GET /small HTTP/1.1\r\nHost: {API}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    while !answer.ends_with(SMALL.as_bytes()) {
        let count = stream.read(&mut piece)?;
        anyhow::ensure!(count > 0, "closed after {} bytes", answer.len());
        answer.extend_from_slice(&piece[..count]);
    }
    anyhow::ensure!(answer.starts_with(b"HTTP/1.1 200"), "not answered by 200");
    Ok(())
}

impl Client {
    fn is_open(&self) -> anyhow::Result<()> {
        let socket = match self {
            Client::Plain(socket) => socket,
            Client::Tls(stream) => stream.get_ref(),
        };
        socket.set_nonblocking(true)?;
        match socket.peek(&mut [0]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            Ok(count) if count > 0 => Ok(()),
            Ok(_) => anyhow::bail!("an idle connection was closed"),
            Err(error) => Err(error).context("an idle connection broke"),
        }
    }
}
