//! A service that keeps a count in its volume `data`, if it has one, and tells what else it was given.
//!
//! `/add` counts one more and is answered once that is on the disk; `/count` tells the count, `/place` where it lies,
//! `/env/NAME` the value of a variable, `/via/NAME/path` what the deployment NAME answers, which this one depends
//! on, and `/reach/ADDRESS` whether anybody listens at an address: `reached`, or why not. It ends at its start with code 42, and says so in its volume, when another has the volume too.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context;

const TWO_AT_ONCE: i32 = 42;
/// Whoever does not answer by then is not reached.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> anyhow::Result<()> {
    let port = std::env::var("PORT").context("PORT is not set")?;
    let data = std::env::var_os("NEBULA_VOLUME_DATA").map(PathBuf::from);
    let _mine = data.as_deref().map(alone).transpose()?;
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    let counting = Mutex::new(());
    std::thread::scope(|scope| {
        for stream in listener.incoming().flatten() {
            let (data, counting) = (data.as_deref(), &counting);
            scope.spawn(move || {
                if let Err(error) = serve(stream, data, counting) {
                    eprintln!("a request failed: {error}");
                }
            });
        }
    });
    Ok(())
}

/// The volume is this process's alone, or it ends.
fn alone(data: &Path) -> anyhow::Result<File> {
    let file = File::create(data.join("mine"))?;
    if file.try_lock().is_err() {
        fs::write(data.join("two-at-once"), "")?;
        std::process::exit(TWO_AT_ONCE);
    }
    Ok(file)
}

fn serve(stream: TcpStream, data: Option<&Path>, counting: &Mutex<()>) -> io::Result<()> {
    let mut lines = BufReader::new(&stream).lines();
    let Some(first) = lines.next().transpose()? else {
        // A probe of the port.
        return Ok(());
    };
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let (code, body) = match answer(path, data, counting) {
        Ok(body) => ("200 OK", body),
        Err(error) => ("500 Internal Server Error", error.to_string()),
    };
    let length = body.len();
    let mut stream = &stream;
    write!(
        stream,
        "HTTP/1.1 {code}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn answer(path: &str, data: Option<&Path>, counting: &Mutex<()>) -> io::Result<String> {
    let missing = |what: &str| io::Error::new(io::ErrorKind::NotFound, what.to_owned());
    let steps: Vec<&str> = path.split('/').skip(1).collect();
    match (steps.as_slice(), data) {
        (["env", name], _) => std::env::var(name).map_err(io::Error::other),
        (["via", name, path @ ..], _) => {
            let variable = |what: &str| {
                let name = format!("NEBULA_{}_{what}", name.to_ascii_uppercase());
                std::env::var(name).map_err(io::Error::other)
            };
            let mut other = TcpStream::connect((
                variable("HOST")?.as_str(),
                variable("PORT")?.parse().map_err(io::Error::other)?,
            ))?;
            let path = path.join("/");
            write!(
                other,
                "GET /{path} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n"
            )?;
            let mut all = String::new();
            other.read_to_string(&mut all)?;
            let (_, body) = all
                .split_once("\r\n\r\n")
                .ok_or_else(|| missing("no answer"))?;
            Ok(body.to_owned())
        }
        (["reach", address], _) => {
            let address = address.parse().map_err(io::Error::other)?;
            let reached = TcpStream::connect_timeout(&address, PATIENCE);
            Ok(match reached {
                Ok(_) => "reached".to_owned(),
                Err(error) => error.kind().to_string(),
            })
        }
        (["count"], Some(data)) => Ok(count(data)?.to_string()),
        (["add"], Some(data)) => {
            let _turn = counting.lock().map_err(|_| missing("the turn"))?;
            let more = count(data)? + 1;
            let aside = data.join("count.new");
            fs::write(&aside, more.to_string())?;
            File::open(&aside)?.sync_all()?;
            fs::rename(&aside, data.join("count"))?;
            File::open(data)?.sync_all()?;
            Ok(more.to_string())
        }
        (["place"], Some(data)) => Ok(data.display().to_string()),
        _ => Ok("here".to_owned()),
    }
}

fn count(data: &Path) -> io::Result<u64> {
    match fs::read_to_string(data.join("count")) {
        Ok(text) => text.parse().map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}
