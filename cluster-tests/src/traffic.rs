//! Users while releases go out: requests on connections that are kept, GET and POST by turns, and open connections of
//! another protocol that expect their bytes back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longer than any answer that is not lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// Failures that are kept word for word.
const KEPT: usize = 50;

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    failed: AtomicU64,
    sockets: AtomicU64,
    sockets_cut: AtomicU64,
    told: Mutex<Vec<String>>,
}

/// What came of all requests and connections.
#[derive(Debug, Clone)]
pub struct Report {
    pub requests: u64,
    pub failed: u64,
    /// Connections of another protocol that were held for their time.
    pub sockets: u64,
    /// Of them those that ended before.
    pub sockets_cut: u64,
    /// The first failures.
    pub told: Vec<String>,
}

pub struct Users {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<()>>,
}

impl Users {
    /// `per_edge` connections at each edge, that together make `per_second` requests, and with `socket_time` one more at
    /// each edge that is of another protocol and held for so long, again and again.
    pub fn arrive(
        edges: &[SocketAddr],
        host: &str,
        per_edge: u32,
        per_second: u32,
        socket_time: Option<Duration>,
    ) -> Users {
        let (stop, counts) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(Counts::default()),
        );
        let all = u32::try_from(edges.len()).expect("few edges") * per_edge;
        let every = Duration::from_secs(1) * all / per_second;
        let mut threads = Vec::new();
        for edge in edges {
            for _ in 0..per_edge {
                let (stop, counts) = (stop.clone(), counts.clone());
                let (edge, host) = (*edge, host.to_owned());
                threads.push(std::thread::spawn(move || {
                    ask(edge, &host, every, &stop, &counts);
                }));
            }
            if let Some(time) = socket_time {
                let (stop, counts) = (stop.clone(), counts.clone());
                let (edge, host) = (*edge, host.to_owned());
                threads.push(std::thread::spawn(move || {
                    hold(edge, &host, time, &stop, &counts);
                }));
            }
        }
        Users {
            stop,
            counts,
            threads,
        }
    }

    pub fn so_far(&self) -> Report {
        let counts = &self.counts;
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        Report {
            requests: of(&counts.requests),
            failed: of(&counts.failed),
            sockets: of(&counts.sockets),
            sockets_cut: of(&counts.sockets_cut),
            told: counts.told.lock().expect("no user panics").clone(),
        }
    }

    pub fn leave(self) -> Report {
        self.stop.store(true, Ordering::SeqCst);
        let report = |users: &Users| users.so_far();
        let mut users = self;
        for thread in std::mem::take(&mut users.threads) {
            thread.join().expect("no user panics");
        }
        report(&users)
    }
}

impl Counts {
    fn failure(&self, what: String) {
        let mut told = self.told.lock().expect("no user panics");
        if told.len() < KEPT {
            told.push(what);
        }
    }
}

fn open(edge: SocketAddr) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(edge)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

fn ask(edge: SocketAddr, host: &str, every: Duration, stop: &AtomicBool, counts: &Counts) {
    let mut connection: Option<BufReader<TcpStream>> = None;
    let mut turn = 0u64;
    while !stop.load(Ordering::SeqCst) {
        let at = Instant::now();
        turn += 1;
        let post = turn.is_multiple_of(2);
        counts.requests.fetch_add(1, Ordering::SeqCst);
        match one(&mut connection, edge, host, post) {
            Ok(200) => {}
            Ok(status) => {
                counts.failed.fetch_add(1, Ordering::SeqCst);
                counts.failure(format!("status {status} from {edge}, post: {post}"));
            }
            Err(error) => {
                connection = None;
                counts.failed.fetch_add(1, Ordering::SeqCst);
                counts.failure(format!("{edge}, post: {post}: {error}"));
            }
        }
        std::thread::sleep(every.saturating_sub(at.elapsed()));
    }
}

/// One request, and the status of its answer. A connection that the edge has announced to close is not used again.
fn one(
    connection: &mut Option<BufReader<TcpStream>>,
    edge: SocketAddr,
    host: &str,
    post: bool,
) -> std::io::Result<u16> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => open(edge)?,
    };
    let (method, body) = match post {
        true => ("POST", "x".repeat(512)),
        false => ("GET", String::new()),
    };
    let length = body.len();
    let request =
        format!("{method} / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.get_mut().write_all(request.as_bytes())?;
    let (mut line, mut length, mut closes) = (String::new(), 0, false);
    stream.read_line(&mut line)?;
    let bad = || std::io::Error::other("the answer was cut off");
    let status = line.split_whitespace().nth(1).ok_or_else(bad)?;
    let status: u16 = status.parse().map_err(|_| bad())?;
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(bad());
        }
        if line.trim().is_empty() {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(|_| bad())?;
        }
        closes |= lower.starts_with("connection: close");
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    if !closes {
        *connection = Some(stream);
    }
    Ok(status)
}

fn hold(edge: SocketAddr, host: &str, time: Duration, stop: &AtomicBool, counts: &Counts) {
    while !stop.load(Ordering::SeqCst) {
        counts.sockets.fetch_add(1, Ordering::SeqCst);
        if let Err(error) = socket(edge, host, time) {
            counts.sockets_cut.fetch_add(1, Ordering::SeqCst);
            counts.failure(format!("{edge}, a socket: {error}"));
        }
    }
}

/// A connection of another protocol: what is sent comes back, for so long.
fn socket(edge: SocketAddr, host: &str, time: Duration) -> std::io::Result<()> {
    let began = Instant::now();
    let mut stream = open(edge)?;
    let request =
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes())?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if !line.contains(" 101 ") {
        return Err(std::io::Error::other(format!("no switch: {line:?}")));
    }
    while line.trim() != "" {
        line.clear();
        stream.read_line(&mut line)?;
    }
    while began.elapsed() < time {
        stream.get_mut().write_all(b"ping\n")?;
        let mut back = [0; 5];
        stream.read_exact(&mut back)?;
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
