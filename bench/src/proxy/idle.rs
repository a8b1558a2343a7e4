//! What an idle connection holds of a proxy's memory: resident pages of a freshly started proxy before and after so
//! many clients came, were answered once, and stayed. What the kernel holds for their sockets is the same for all.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio_rustls::rustls::ClientConfig;

use super::peers::Running;
use super::stage::{API, Certificate, SMALL};
use super::tls::{self, PATIENCE, Protocol, TlsStream};

const CONNECTIONS: usize = 1_000;
/// Connections before the first look, so that what is made once is there already.
const FIRST: usize = 32;
/// For what a proxy does behind an answer; shorter than any proxy's patience with idle clients.
const SETTLE: Duration = Duration::from_secs(1);

/// What clients in TLS speak.
pub struct Secure {
    pub protocol: Protocol,
    config: Arc<ClientConfig>,
}

impl Secure {
    pub fn new(certificate: &Certificate, protocol: Protocol) -> anyhow::Result<Secure> {
        let config = tls::config(certificate, protocol)?;
        Ok(Secure { protocol, config })
    }
}

enum Client {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

/// KB for each connection. `secure` is given for clients in TLS.
pub fn measure(running: &Running, secure: Option<&Secure>) -> anyhow::Result<f64> {
    let open = |count: usize| -> anyhow::Result<Vec<Client>> {
        (0..count).map(|_| client(running, secure)).collect()
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
fn client(running: &Running, secure: Option<&Secure>) -> anyhow::Result<Client> {
    let Some(secure) = secure else {
        let mut socket = TcpStream::connect_timeout(&running.http, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        ask(&mut socket)?;
        return Ok(Client::Plain(socket));
    };
    let mut stream = tls::connect(running.https, &secure.config)?;
    match secure.protocol {
        Protocol::HttpOne => ask(&mut stream)?,
        Protocol::HttpTwo => ask_by_two(&mut stream)?,
    }
    Ok(Client::Tls(Box::new(stream)))
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

/// Frames by RFC 9113, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const STREAM: u8 = 1;

fn ask_by_two(stream: &mut (impl Read + Write)) -> anyhow::Result<()> {
    let mut greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    greeting.extend(frame(SETTINGS, 0, 0, &[])?);
    greeting.extend(frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        STREAM,
        &fields()?,
    )?);
    stream.write_all(&greeting)?;
    let mut content = Vec::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload)?;
        match kind {
            DATA => content.extend(payload),
            SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[])?)?,
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            anyhow::ensure!(content == SMALL.as_bytes(), "not what was asked for");
            return Ok(());
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let length = u8::try_from(payload.len())?;
    let head = [0, 0, length, kind, flags, 0, 0, 0, stream];
    Ok([&head[..], payload].concat())
}

/// `GET https://API/small` by RFC 7541: fields of the static table, values as they are.
fn fields() -> anyhow::Result<Vec<u8>> {
    const GET: u8 = 0x82;
    const HTTPS: u8 = 0x87;
    const PATH: u8 = 4;
    const AUTHORITY: u8 = 1;
    let mut block = vec![GET, HTTPS];
    for (name, value) in [(PATH, "/small"), (AUTHORITY, API)] {
        block.extend([name, u8::try_from(value.len())?]);
        block.extend(value.as_bytes());
    }
    Ok(block)
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
