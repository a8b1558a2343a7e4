//! The access log: one line for each request of the deployments that want it, in one file of the node.
//!
//! A request only hands over what happened; a thread of its own formats and writes. When it does not keep up, lines are
//! lost and counted, and no request waits.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use nebula_domain::InstanceId;
use nebula_domain::http::AccessLog;
use nebula_telemetry::Counter;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use crate::h1::RequestHead;
use crate::origin::Origin;

/// Lines that may wait: a tenth of a second of what a busy node answers.
const WAITING_LINES: usize = 8_192;
/// A line is in the file after so long at most.
const FLUSH: Duration = Duration::from_millis(200);
/// From this size on the file is put aside as `access.log.1`, the one before as `.2` and so on.
const FILE_BYTES: u64 = 64 << 20;
/// Files put aside.
const FILES_KEPT: u32 = 3;
/// Texts of clients are cut to this length.
const TEXT_BYTES: usize = 1024;

/// What happened to a request.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) form: AccessLog,
    /// When its head had come.
    pub(crate) at: SystemTime,
    pub(crate) took: Duration,
    pub(crate) deployment: String,
    pub(crate) client: IpAddr,
    pub(crate) method: String,
    pub(crate) host: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) protocol: &'static str,
    pub(crate) status: u16,
    /// Bytes to the client and from it, heads included.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// The instance that was asked last; none if none was.
    pub(crate) instance: Option<InstanceId>,
    pub(crate) request_id: String,
    pub(crate) referer: Option<String>,
    pub(crate) user_agent: Option<String>,
}

/// One node's. The file is opened with the first line.
pub(crate) struct AccessFile {
    path: PathBuf,
    lost: Counter,
    lines: OnceLock<Option<SyncSender<Entry>>>,
}

impl AccessFile {
    pub(crate) fn new(path: PathBuf, lost: Counter) -> AccessFile {
        AccessFile {
            path,
            lost,
            lines: OnceLock::new(),
        }
    }

    pub(crate) fn write(&self, entry: Entry) {
        let lines = self.lines.get_or_init(|| self.start());
        let taken = lines
            .as_ref()
            .is_some_and(|lines| lines.try_send(entry).is_ok());
        if !taken {
            self.lost.inc();
        }
    }

    fn start(&self) -> Option<SyncSender<Entry>> {
        let (lines, waiting) = sync_channel(WAITING_LINES);
        let writer = Writer {
            path: self.path.clone(),
            lost: self.lost.clone(),
            file: None,
            failed: false,
        };
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer.run(&waiting))
            .inspect_err(|error| tracing::error!(%error, "the access log cannot be written"))
            .ok()
            .map(|_| lines)
    }
}

struct Writer {
    path: PathBuf,
    lost: Counter,
    file: Option<(BufWriter<File>, u64)>,
    /// What went wrong was said.
    failed: bool,
}

impl Writer {
    /// Runs until the proxy is gone.
    fn run(mut self, lines: &Receiver<Entry>) {
        let mut line = Vec::new();
        // When what was written has to be in the file.
        let mut due: Option<Instant> = None;
        loop {
            let entry = match due {
                Some(due) => lines.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match entry {
                Ok(entry) => {
                    line.clear();
                    entry.format(&mut line);
                    let appended = self.append(&line);
                    self.note(appended);
                    due.get_or_insert_with(|| Instant::now() + FLUSH);
                }
                Err(RecvTimeoutError::Timeout) => {
                    due = None;
                    let flushed = self.flush();
                    self.note(flushed);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    // Nobody is left to be told.
                    let _ = self.flush();
                    return;
                }
            }
        }
    }

    fn note(&mut self, written: io::Result<()>) {
        match written {
            Ok(()) => self.failed &= self.file.is_none(),
            Err(error) => {
                self.lost.inc();
                self.file = None;
                if !self.failed {
                    self.failed = true;
                    let path = self.path.display();
                    tracing::warn!(%path, %error, "lines of the access log are lost");
                }
            }
        }
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        // One that could not be put aside is tried again when it has grown by as much.
        let mut kept = false;
        let full = self
            .file
            .as_ref()
            .is_some_and(|(_, size)| *size >= FILE_BYTES);
        if full {
            self.flush()?;
            self.file = None;
            if let Err(error) = put_aside(&self.path) {
                let path = self.path.display();
                tracing::warn!(%path, %error, "the access log cannot be put aside and goes on");
                kept = true;
            }
        }
        if self.file.is_none() {
            // Addresses of people: for the daemon's user alone.
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(&self.path)?;
            let size = if kept { 0 } else { file.metadata()?.len() };
            self.file = Some((BufWriter::new(file), size));
        }
        if let Some((file, size)) = &mut self.file {
            file.write_all(line)?;
            *size += line.len() as u64;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |(file, _)| file.flush())
    }
}

fn put_aside(path: &Path) -> io::Result<()> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..FILES_KEPT).rev() {
        match std::fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(path, numbered(1))
}

#[derive(Serialize)]
struct Json<'a> {
    time: &'a str,
    deployment: &'a str,
    client: IpAddr,
    method: &'a str,
    host: &'a str,
    target: &'a str,
    protocol: &'a str,
    status: u16,
    sent_bytes: u64,
    received_bytes: u64,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
}

impl Entry {
    /// What is known of a request when its head has come, if the deployment wants it written down.
    pub(crate) fn begin(
        form: AccessLog,
        deployment: &str,
        origin: &Origin,
        head: &RequestHead,
    ) -> Option<Entry> {
        if form == AccessLog::Off {
            return None;
        }
        let cut = |bytes: &[u8]| {
            String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_BYTES)]).into_owned()
        };
        let field = |name| head.fields().first(name).map(cut);
        Some(Entry {
            form,
            at: SystemTime::now(),
            took: Duration::ZERO,
            deployment: deployment.to_owned(),
            client: origin.client,
            method: cut(head.method.as_str().as_bytes()),
            host: cut(head.host().unwrap_or_default()),
            target: cut(head.target().as_bytes()),
            protocol: origin.protocol(head.version),
            status: 0,
            sent: 0,
            received: 0,
            instance: None,
            request_id: String::new(),
            referer: field("referer"),
            user_agent: field("user-agent"),
        })
    }

    fn format(&self, out: &mut Vec<u8>) {
        match self.form {
            AccessLog::Combined => self.combined(out),
            AccessLog::Json | AccessLog::Off => self.json(out),
        }
        out.push(b'\n');
    }

    fn json(&self, out: &mut Vec<u8>) {
        let at = OffsetDateTime::from(self.at);
        let at = at.replace_nanosecond(at.millisecond() as u32 * 1_000_000);
        let time = at.ok().and_then(|at| at.format(&Rfc3339).ok());
        let line = Json {
            time: &time.unwrap_or_default(),
            deployment: &self.deployment,
            client: self.client,
            method: &self.method,
            host: &self.host,
            target: &self.target,
            protocol: self.protocol,
            status: self.status,
            sent_bytes: self.sent,
            received_bytes: self.received,
            duration_ms: self.took.as_secs_f64() * 1_000.0,
            instance: self.instance.map(|instance| instance.to_string()),
            request_id: &self.request_id,
            referer: self.referer.as_deref(),
            user_agent: self.user_agent.as_deref(),
        };
        // Writing texts and numbers to memory does not fail.
        let _ = serde_json::to_writer(out, &line);
    }

    /// Apache's combined format, with its escapes: what a client sends cannot end a line or a field.
    fn combined(&self, out: &mut Vec<u8>) {
        let format =
            format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");
        let time = OffsetDateTime::from(self.at).format(&format);
        let (client, time) = (self.client, time.unwrap_or_default());
        let (status, sent) = (self.status, self.sent);
        out.extend_from_slice(format!("{client} - - [{time}] \"").as_bytes());
        escape(out, &self.method);
        out.push(b' ');
        escape(out, &self.target);
        out.extend_from_slice(format!(" {}\" {status} {sent} \"", self.protocol).as_bytes());
        escape(out, self.referer.as_deref().unwrap_or("-"));
        out.extend_from_slice(b"\" \"");
        escape(out, self.user_agent.as_deref().unwrap_or("-"));
        out.push(b'"');
    }
}

fn escape(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0x20..=0x7e => out.push(byte),
            _ => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(form: AccessLog) -> Entry {
        Entry {
            form,
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250),
            took: Duration::from_micros(1_234),
            deployment: "api".to_owned(),
            client: "192.0.2.7".parse().unwrap(),
            method: "GET".to_owned(),
            host: "api.example.test".to_owned(),
            target: "/a?b=1".to_owned(),
            protocol: "HTTP/1.1",
            status: 200,
            sent: 512,
            received: 80,
            instance: Some(InstanceId(4)),
            request_id: "r1".to_owned(),
            referer: None,
            user_agent: Some("a \"b\"\n\\c".to_owned()),
        }
    }

    fn line(entry: &Entry) -> String {
        let mut out = Vec::new();
        entry.format(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_as_their_readers_expect_them() {
        let json = line(&entry(AccessLog::Json));
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["time"], "2023-11-14T22:13:20.25Z");
        assert_eq!(read["instance"], InstanceId(4).to_string());
        assert_eq!(read["user_agent"], "a \"b\"\n\\c");
        assert_eq!(read["duration_ms"], 1.234);
        assert_eq!(read.get("referer"), None);
        assert_eq!(json.matches('\n').count(), 1);
        assert_eq!(
            line(&entry(AccessLog::Combined)),
            "192.0.2.7 - - [14/Nov/2023:22:13:20 +0000] \"GET /a?b=1 HTTP/1.1\" 200 512 \"-\" \"a \\\"b\\\"\\x0a\\\\c\"\n"
        );
    }

    #[test]
    fn a_full_file_is_put_aside_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let mut writer = Writer {
            path: path.clone(),
            lost: Counter::default(),
            file: None,
            failed: false,
        };
        for round in 0..6 {
            writer.append(format!("{round}\n").as_bytes()).unwrap();
            writer.flush().unwrap();
            if let Some((_, size)) = &mut writer.file {
                *size = FILE_BYTES;
            }
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("access.log"), "5\n");
        assert_eq!(read("access.log.1"), "4\n");
        assert_eq!(read("access.log.3"), "2\n");
        assert!(!folder.path().join("access.log.4").exists());
    }

    #[test]
    fn a_file_that_cannot_be_written_loses_lines_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let lost = Counter::default();
        let log = AccessFile::new(folder.path().join("missing/access.log"), lost.clone());
        log.write(entry(AccessLog::Json));
        let deadline = Instant::now() + Duration::from_secs(30);
        while lost.get() == 0 {
            assert!(Instant::now() < deadline, "nothing was counted");
            std::thread::yield_now();
        }
    }
}
