//! The program that tests deploy: answers every request with its instance and its `GREETING`.
//!
//! `/slow?ms=N` waits first, `/exit` ends the program, `/env/NAME` shows a variable.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").map_err(|_| std::io::Error::other("PORT is not set"))?;
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    println!("listening on {port}");
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || serve(stream));
    }
    Ok(())
}

/// Requests on one connection, one after the other; none of them has a body.
fn serve(stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        let path = line.split_whitespace().nth(1).unwrap_or("/").to_owned();
        let body = answer(&path);
        println!("{} {path}", line.split_whitespace().next().unwrap_or("?"));
        write!(
            writer,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        if path == "/exit" {
            std::process::exit(3);
        }
    }
}

fn answer(path: &str) -> String {
    if let Some(ms) = path
        .strip_prefix("/slow?ms=")
        .and_then(|ms| ms.parse().ok())
    {
        std::thread::sleep(Duration::from_millis(ms));
    }
    if let Some(name) = path.strip_prefix("/env/") {
        return std::env::var(name).unwrap_or_else(|_| "(unset)".to_owned());
    }
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "hello".to_owned());
    let instance = std::env::var("NEBULA_INSTANCE").unwrap_or_else(|_| "?".to_owned());
    format!("{greeting} from {instance}\n")
}
