//! Users while releases go out: requests on connections that are kept, GET and POST by turns, every other POST with a key that lets
//! it be repeated, and open connections of another protocol that expect their bytes back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// Longer than any answer that is not lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// Failures that are kept word for word.
const KEPT: usize = 50;

/// What is asked, in words that a failure tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Get,
    /// May have its effect once, and nobody knows whether it had it when its instance is lost.
    Post,
    PostWithKey,
}

impl Kind {
    fn of(turn: u64) -> Kind {
        match turn % 4 {
            0 => Kind::Post,
            2 => Kind::PostWithKey,
            _ => Kind::Get,
        }
    }
}

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

impl Report {
    /// POSTs that were answered 502, since nobody may send them again.
    pub fn lost_posts(&self) -> usize {
        let is_lost = |told: &&String| told.starts_with("502 ") && told.ends_with(" Post");
        self.told.iter().filter(is_lost).count()
    }
}

pub struct Users {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<()>>,
}

impl Users {
    /// `per_edge` connections at each edge, each from an address of its own, that together make `per_second` requests, and with
    /// `socket_time` one more at each edge that is of another protocol and held for so long, again and again.
    pub fn arrive(
        edges: &[SocketAddr],
        host: &str,
        per_edge: u8,
        per_second: u32,
        socket_time: Option<Duration>,
    ) -> Users {
        let (stop, counts) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(Counts::default()),
        );
        let all = u32::try_from(edges.len()).expect("few edges") * u32::from(per_edge);
        let every = Duration::from_secs(1) * all / per_second;
        let mut threads = Vec::new();
        for (edge, third) in edges.iter().zip(0..) {
            let way = |fourth| Way {
                from: Ipv4Addr::new(127, 9, third, fourth),
                edge: *edge,
                host: host.to_owned(),
            };
            for fourth in 1..=per_edge {
                let (stop, counts, way) = (stop.clone(), counts.clone(), way(fourth));
                threads.push(std::thread::spawn(move || ask(&way, every, &stop, &counts)));
            }
            if let Some(time) = socket_time {
                let (stop, counts, way) = (stop.clone(), counts.clone(), way(per_edge + 1));
                threads.push(std::thread::spawn(move || hold(&way, time, &stop, &counts)));
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

/// From whom to whom. Who has an address of their own is a visitor of their own, and stays with one release of two.
struct Way {
    from: Ipv4Addr,
    edge: SocketAddr,
    host: String,
}

fn open(way: &Way) -> std::io::Result<BufReader<TcpStream>> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((way.from, 0)).into())?;
    socket.connect(&way.edge.into())?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

fn ask(way: &Way, every: Duration, stop: &AtomicBool, counts: &Counts) {
    let edge = way.edge;
    let mut connection: Option<BufReader<TcpStream>> = None;
    let mut turn = 0u64;
    while !stop.load(Ordering::SeqCst) {
        let at = Instant::now();
        turn += 1;
        let kind = Kind::of(turn);
        counts.requests.fetch_add(1, Ordering::SeqCst);
        match one(&mut connection, way, kind) {
            Ok(200) => {}
            Ok(status) => {
                counts.failed.fetch_add(1, Ordering::SeqCst);
                counts.failure(format!("{status} from {edge} for {kind:?}"));
            }
            Err(error) => {
                connection = None;
                counts.failed.fetch_add(1, Ordering::SeqCst);
                counts.failure(format!("{edge}, {kind:?}: {error}"));
            }
        }
        std::thread::sleep(every.saturating_sub(at.elapsed()));
    }
}

/// One request, and the status of its answer. A connection that the edge has announced to close is not used again.
fn one(
    connection: &mut Option<BufReader<TcpStream>>,
    way: &Way,
    kind: Kind,
) -> std::io::Result<u16> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => open(way)?,
    };
    let (method, key, body) = match kind {
        Kind::Get => ("GET", "", String::new()),
        Kind::Post => ("POST", "", "x".repeat(512)),
        Kind::PostWithKey => ("POST", "Idempotency-Key: \"1\"\r\n", "x".repeat(512)),
    };
    let (host, length) = (&way.host, body.len());
    let request = format!(
        "{method} / HTTP/1.1\r\nHost: {host}\r\n{key}Content-Length: {length}\r\n\r\n{body}"
    );
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

fn hold(way: &Way, time: Duration, stop: &AtomicBool, counts: &Counts) {
    while !stop.load(Ordering::SeqCst) {
        counts.sockets.fetch_add(1, Ordering::SeqCst);
        if let Err(error) = socket(way, time) {
            counts.sockets_cut.fetch_add(1, Ordering::SeqCst);
            counts.failure(format!("{}, a socket: {error}", way.edge));
        }
    }
}

/// A connection of another protocol: what is sent comes back, for so long.
fn socket(way: &Way, time: Duration) -> std::io::Result<()> {
    let began = Instant::now();
    let mut stream = open(way)?;
    let host = &way.host;
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
