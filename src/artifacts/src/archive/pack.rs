//! Writes a [`Manifest`]'s archive: once to learn its digest, once more to send it.

use std::fs::File;
use std::io::{self, Read, Write};

use bytes::Bytes;
use nebula_domain::Digest;
use tokio::sync::mpsc;

use super::{ArchiveError, Kind, Manifest, Stamp};

/// One piece of [`stream`]: large enough to be cheap, small enough that a few of them are nothing.
const PIECE_BYTES: usize = 128 * 1024;
/// Pieces ready before the reader asks.
const PIECES_AHEAD: usize = 4;

/// An archive's name and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    pub digest: Digest,
    pub size_bytes: u64,
}

/// Reads everything once and keeps nothing.
pub fn measure(manifest: &Manifest) -> Result<Measured, ArchiveError> {
    pack(manifest, io::sink())
}

/// Writes the archive. A file that is no longer as [`scan`](super::scan) saw it is an error.
pub fn pack(manifest: &Manifest, writer: impl Write) -> Result<Measured, ArchiveError> {
    let counted = Counted {
        inner: writer,
        hasher: blake3::Hasher::new(),
        size_bytes: 0,
    };
    let mut builder = tar::Builder::new(counted);
    for entry in &manifest.entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        match &entry.kind {
            Kind::Folder => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                let path = format!("{}/", entry.path);
                builder
                    .append_data(&mut header, path, io::empty())
                    .map_err(ArchiveError::Output)?;
            }
            Kind::Link { target } => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                builder
                    .append_link(&mut header, &entry.path, target)
                    .map_err(ArchiveError::Output)?;
            }
            Kind::File { stamp, executable } => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(if *executable { 0o755 } else { 0o644 });
                header.set_size(stamp.size);
                append_file(&mut builder, &mut header, manifest, &entry.path, *stamp)?;
            }
        }
    }
    let mut counted = builder.into_inner().map_err(ArchiveError::Output)?;
    counted.flush().map_err(ArchiveError::Output)?;
    Ok(Measured {
        digest: Digest(*counted.hasher.finalize().as_bytes()),
        size_bytes: counted.size_bytes,
    })
}

fn append_file<W: Write>(
    builder: &mut tar::Builder<W>,
    header: &mut tar::Header,
    manifest: &Manifest,
    path: &str,
    stamp: Stamp,
) -> Result<(), ArchiveError> {
    let read = |source| ArchiveError::Read {
        path: path.to_owned(),
        source,
    };
    let changed = || ArchiveError::Changed {
        path: path.to_owned(),
    };
    let file = File::open(manifest.root.join(path)).map_err(read)?;
    // Also refuses what has since become a link to elsewhere: it has another inode.
    if Stamp::of(&file.metadata().map_err(read)?) != stamp {
        return Err(changed());
    }
    let mut exact = Exact {
        file: &file,
        left: stamp.size,
        fault: None,
    };
    let result = builder.append_data(header, path, &mut exact);
    match (exact.fault.take(), exact.left) {
        (Some(fault), _) => return Err(read(fault)),
        (None, 0) => {}
        // It ended early; the header had promised more.
        (None, _) if result.is_ok() => return Err(changed()),
        (None, _) => {}
    }
    result.map_err(ArchiveError::Output)?;
    if Stamp::of(&file.metadata().map_err(read)?) != stamp {
        return Err(changed());
    }
    Ok(())
}

/// No more than the promised bytes, and tells an error of reading from one of writing.
struct Exact<'a> {
    file: &'a File,
    left: u64,
    fault: Option<io::Error>,
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        match self.file.read(&mut buffer[..room]) {
            Ok(count) => {
                self.left -= count as u64;
                Ok(count)
            }
            Err(error) => {
                self.fault = Some(io::Error::new(error.kind(), error.to_string()));
                Err(error)
            }
        }
    }
}

struct Counted<W> {
    inner: W,
    hasher: blake3::Hasher,
    size_bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size_bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The archive as a stream of pieces, for an upload. Ends with an error when the folder is no longer
/// what was measured; whoever receives it would find the digest wrong as well. Needs a tokio runtime.
pub fn stream(
    manifest: Manifest,
    expected: Measured,
) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
    let (sender, mut receiver) = mpsc::channel(PIECES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let pieces = io::BufWriter::with_capacity(PIECE_BYTES, Pieces(sender.clone()));
        let result = match pack(&manifest, pieces) {
            Ok(measured) if measured == expected => return,
            Ok(_) => ArchiveError::FolderChanged,
            Err(error) => error,
        };
        // Nobody may be listening any more: then nobody misses it.
        let _ = sender.blocking_send(Err(io::Error::other(result)));
    });
    futures::stream::poll_fn(move |context| receiver.poll_recv(context))
}

struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
