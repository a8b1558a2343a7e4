//! The program that tests deploy: answers every request with its instance and its `GREETING`.
//!
//! `/slow?ms=N` waits first, `/exit` ends the program, `/env/NAME` shows a variable, `Upgrade: echo` makes the connection
//! one that sends back what comes, `/code/NAME` answers with the code that is in the file NAME of its folder (200
//! while there is none). With `FAULT` it is a bad release: `exit` ends at once, `exit-after=MS` later, `mute`
//! never listens, `error` answers 500, `slow=MS` takes its time, `hog` takes memory without end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").map_err(|_| std::io::Error::other("PORT is not set"))?;
    let fault = std::env::var("FAULT").unwrap_or_default();
    match fault.as_str() {
        "exit" => {
            println!("this release cannot start");
            std::process::exit(1);
        }
        "mute" => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        "hog" => hog(),
        _ => {}
    }
    if let Some(ms) = number(&fault, "exit-after=") {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(ms));
            println!("this release ends early");
            std::process::exit(3);
        });
    }
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    println!("listening on {port}");
    for stream in listener.incoming() {
        let (stream, fault) = (stream?, fault.clone());
        std::thread::spawn(move || serve(stream, &fault));
    }
    Ok(())
}

/// `key=NUMBER`.
fn number(text: &str, key: &str) -> Option<u64> {
    text.strip_prefix(key)?.parse().ok()
}

/// Takes memory until somebody ends it; at most 4 GiB, so that a machine without limits survives a mistake.
fn hog() {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for _ in 0..4096 {
        all.push(vec![1; 1 << 20]);
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("nobody stopped it at {} MiB", all.len());
}

/// Requests on one connection, one after the other; bodies have a length.
fn serve(stream: TcpStream, fault: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let (mut header, mut length, mut upgrades) = (String::new(), 0, false);
        while reader.read_line(&mut header)? > 2 {
            let lower = header.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            upgrades |= lower.starts_with("upgrade:");
            header.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        if upgrades {
            return echo(&mut reader, &mut writer);
        }
        let path = line.split_whitespace().nth(1).unwrap_or("/").to_owned();
        if let Some(ms) = number(fault, "slow=") {
            std::thread::sleep(Duration::from_millis(ms));
        }
        let body = answer(&path);
        println!("{} {path}", line.split_whitespace().next().unwrap_or("?"));
        let code = match fault {
            "error" => 500,
            _ => code(&path),
        };
        // In one piece: what Nagle's algorithm holds back of several waits for a delayed acknowledgement, some 40 ms.
        let head = format!(
            "HTTP/1.1 {code} As-Told\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        writer.write_all((head + &body).as_bytes())?;
        if path == "/exit" {
            std::process::exit(3);
        }
    }
}

fn code(path: &str) -> u16 {
    let told = path
        .strip_prefix("/code/")
        .and_then(|name| std::fs::read_to_string(name).ok());
    told.and_then(|code| code.trim().parse().ok())
        .unwrap_or(200)
}

fn echo(reader: &mut impl Read, writer: &mut TcpStream) -> std::io::Result<()> {
    writer.write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
    )?;
    let mut piece = [0; 1024];
    loop {
        let read = reader.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        writer.write_all(&piece[..read])?;
    }
}

fn answer(path: &str) -> String {
    if let Some(ms) = number(path, "/slow?ms=") {
        std::thread::sleep(Duration::from_millis(ms));
    }
    if let Some(name) = path.strip_prefix("/env/") {
        return std::env::var(name).unwrap_or_else(|_| "(unset)".to_owned());
    }
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "hello".to_owned());
    let instance = std::env::var("NEBULA_INSTANCE").unwrap_or_else(|_| "?".to_owned());
    format!("{greeting} from {instance}\n")
}
