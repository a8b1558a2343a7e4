//! A stream as an exchange sees it, against a server of the crate `h2`.

use bytes::Bytes;
use http::Response;
use nebula_domain::InstanceId;
use nebula_telemetry::Metrics;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Links, link};
use crate::config::Limits;
use crate::h1::{Decoder, End, Piece, find_lenient_end};
use crate::metrics::ProxyMetrics;
use crate::upstream::{Io, Target, Via};

/// Answers every request with the content it has, cut as `chunks` are, and with the trailer fields it has.
async fn echo(socket: TcpStream, chunks: Vec<usize>) {
    let mut connection = h2::server::handshake(socket).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let chunks = chunks.clone();
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut content = Vec::new();
            while let Some(piece) = body.data().await {
                let piece = piece.unwrap();
                body.flow_control().release_capacity(piece.len()).unwrap();
                content.extend_from_slice(&piece);
            }
            let trailers = body.trailers().await.unwrap().unwrap_or_default();
            let mut hints = Response::new(());
            *hints.status_mut() = http::StatusCode::EARLY_HINTS;
            respond.send_informational(hints).unwrap();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            let mut content = Bytes::from(content);
            for chunk in chunks {
                let piece = content.split_to(chunk.min(content.len()));
                stream.send_data(piece, false).unwrap();
            }
            stream.send_data(content, false).unwrap();
            stream.send_trailers(trailers).unwrap();
        });
    }
}

async fn stream(limits: &Limits, chunks: Vec<usize>) -> Io {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (socket, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    tokio::spawn(echo(accepted.unwrap().0, chunks));
    let metrics = ProxyMetrics::new(&Metrics::new());
    let patience = Duration::from_secs(20);
    let io = Io::Socket(socket.unwrap());
    let handle = link::open(io, limits, patience, &metrics).await.unwrap();
    let links = Arc::new(Links::new(limits, metrics));
    let via = Via::Local { address, run: 1 };
    let instance = InstanceId(1);
    let upstream = links.add(Target { instance, via }, handle, None);
    upstream.wire.into_parts().0
}

fn decode(body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut decoder = Decoder::new();
    let (mut rest, mut content) = (body, Vec::new());
    while !decoder.is_done() {
        let taken = match decoder.next(rest).unwrap() {
            Piece::Data(taken) => {
                content.extend_from_slice(&rest[..taken]);
                taken
            }
            Piece::Coding(taken) | Piece::End(taken) => taken,
        };
        rest = &rest[taken..];
    }
    assert!(rest.is_empty());
    (content, decoder.trailer().to_vec())
}

/// What is read when this is written in such pieces.
async fn said_back(limits: &Limits, pieces: &[&[u8]], room: usize, chunks: Vec<usize>) -> Vec<u8> {
    let io = stream(limits, chunks).await;
    let (mut from, mut to) = tokio::io::split(io);
    let write = async {
        for piece in pieces {
            to.write_all(piece).await.unwrap();
        }
    };
    let read = async {
        let mut read = Vec::new();
        let mut buffer = vec![0; room];
        loop {
            match from.read(&mut buffer).await.unwrap() {
                0 => return read,
                taken => read.extend_from_slice(&buffer[..taken]),
            }
        }
    };
    tokio::join!(write, read).1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn content_comes_back_however_it_is_cut(
        sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..3000), 0..6),
        chunked in any::<bool>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        chunks in prop::collection::vec(0..2000usize, 0..6),
        window in 700..5000u32,
        room in 1..5000usize,
    ) {
        let content = sent.concat();
        let mut bytes = b"POST / HTTP/1.1\r\nHost: a\r\n".to_vec();
        if chunked {
            bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for chunk in &sent {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\nX-Sum: 1\r\n\r\n");
        } else {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", content.len()).as_bytes());
            bytes.extend_from_slice(&content);
        }
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
        let limits = Limits { h2c_stream_window: window, ..Limits::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let read = runtime.block_on(said_back(&limits, &pieces, room, chunks));
        let hints = b"HTTP/1.1 103 Early Hints\r\n\r\n";
        let read = read.strip_prefix(hints).unwrap();
        prop_assert!(read.starts_with(b"HTTP/1.1 200 OK\r\n"));
        let End::At(end) = find_lenient_end(read, 0) else {
            panic!("no head");
        };
        let (back, trailer) = decode(&read[end..]);
        prop_assert_eq!(back, content);
        let expected: &[u8] = if chunked { b"x-sum: 1\r\n" } else { b"" };
        prop_assert_eq!(trailer, expected);
    }
}
