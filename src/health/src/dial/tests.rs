//! Probes of real sockets.

use nebula_domain::spec::Codes;
use nebula_drivers::fake::FakeDriver;
use nebula_telemetry::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// As the loop asks, of an instance whose commands fail as `driver` says.
async fn probe(address: SocketAddr, spec: &ProbeSpec) -> Result<(), ProbeError> {
    let driver = FakeDriver::new(Clock::system());
    driver.fail_commands(InstanceId(2), Some("the disk is full"));
    let asked = Asked {
        instance: InstanceId(u64::from(address.port() == 2) + 1),
        address,
        surroundings: Arc::default(),
    };
    super::probe(&asked, spec, &driver).await
}

fn http(path: &str, timeout: Duration) -> ProbeSpec {
    ProbeSpec {
        kind: ProbeKind::http(path),
        timeout,
        ..ProbeSpec::default()
    }
}

/// Answers one connection with `answer` and returns what it was asked.
async fn server(answer: &'static [u8]) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            asked.push(byte[0]);
        }
        stream.write_all(answer).await.unwrap();
        String::from_utf8(asked).unwrap()
    });
    (address, asked)
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn asks_for_the_path_of_localhost_and_takes_200_to_399() {
    let (address, asked) = server(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    probe(address, &http("/healthz?full=1", LONG))
        .await
        .unwrap();
    let asked = asked.await.unwrap();
    assert!(
        asked.starts_with("GET /healthz?full=1 HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(
        asked.to_lowercase().contains("host: localhost\r\n"),
        "{asked}"
    );

    let (address, _asked) =
        server(b"HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 999999\r\n\r\n").await;
    probe(address, &http("/", LONG)).await.unwrap();

    for answer in [
        &b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"[..],
        &b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"[..],
    ] {
        let (address, _asked) = server(answer).await;
        assert!(matches!(
            probe(address, &http("/", LONG)).await,
            Err(ProbeError::Status { .. })
        ));
    }
}

#[tokio::test]
async fn rubbish_silence_and_an_oversized_head_are_failures() {
    let (address, _asked) = server(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    assert!(matches!(
        probe(address, &http("/", LONG)).await,
        Err(ProbeError::Http { .. })
    ));
    let (address, _asked) = server(b"").await;
    assert!(probe(address, &http("/", LONG)).await.is_err());
    let huge: &'static [u8] = Box::leak(
        format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(64 * 1024))
            .into_bytes()
            .into_boxed_slice(),
    );
    let (address, _asked) = server(huge).await;
    assert!(matches!(
        probe(address, &http("/", LONG)).await,
        Err(ProbeError::Http { .. })
    ));
    // Accepts by its backlog and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    assert!(matches!(
        probe(
            listener.local_addr().unwrap(),
            &http("/", Duration::from_millis(50))
        )
        .await,
        Err(ProbeError::Timeout(_))
    ));
}

#[tokio::test]
async fn tcp_needs_only_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    probe(address, &ProbeSpec::default()).await.unwrap();
    drop(listener);
    assert!(matches!(
        probe(address, &ProbeSpec::default()).await,
        Err(ProbeError::Connect { .. })
    ));
}

#[tokio::test]
async fn headers_are_sent_and_the_codes_are_those_that_were_asked_for() {
    let of = |codes: &str| ProbeSpec {
        kind: ProbeKind::Http {
            path: "/up".into(),
            headers: [("Authorization", "Bearer x"), ("Host", "api.test")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            codes: codes.parse::<Codes>().unwrap(),
        },
        timeout: LONG,
        ..ProbeSpec::default()
    };
    let answer = b"HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n";
    let (address, asked) = server(answer).await;
    probe(address, &of("204,503")).await.unwrap();
    let asked = asked.await.unwrap().to_lowercase();
    assert!(asked.contains("authorization: bearer x\r\n"), "{asked}");
    assert_eq!(asked.matches("host:").count(), 1, "{asked}");
    assert!(asked.contains("host: api.test\r\n"), "{asked}");

    let (address, _asked) = server(answer).await;
    let error = probe(address, &of("200-399")).await.unwrap_err();
    assert_eq!(error.to_string(), "GET /up answered 503");
}

#[tokio::test]
async fn a_command_fails_with_what_it_says() {
    let spec = ProbeSpec {
        kind: ProbeKind::Exec {
            command: "check".into(),
        },
        ..ProbeSpec::default()
    };
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    probe(at(1), &spec).await.unwrap();
    let error = probe(at(2), &spec).await.unwrap_err();
    assert_eq!(error.to_string(), "command: the disk is full");
}
