//! Why a folder or an archive was refused, always naming the path.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("'{}' does not exist", .0.display())]
    NoSuchFolder(PathBuf),
    #[error("'{}' is not a folder: give the folder that holds it", .0.display())]
    NotAFolder(PathBuf),
    #[error("there are no files in {0}")]
    Empty(String),
    #[error("'{path}' leaves the folder: absolute paths and '..' are not allowed")]
    Escapes { path: String },
    #[error("'{path}' has an empty or '.' part in its name")]
    BadName { path: String },
    #[error(
        "'{path}' is a link to '{target}', which is outside the folder or cannot be told to be inside: use a relative link in which '..' comes first, or copy the file"
    )]
    LinkOutside { path: String, target: String },
    #[error("'{path}' lies below a link or a file, not below a folder")]
    BelowLink { path: String },
    #[error("'{path}' is {what}: only files, folders and links can be deployed")]
    Special { path: String, what: &'static str },
    #[error(
        "'{first}' and '{second}' differ only in upper and lower case, which some systems take for the same name"
    )]
    CaseClash { first: String, second: String },
    #[error("'{path}' occurs twice")]
    Duplicate { path: String },
    #[error("the name '{shown}' is not valid UTF-8")]
    NotUtf8 { shown: String },
    #[error("'{path}' is {actual} {unit}, over the limit of {limit} ({name})")]
    TooLong {
        path: String,
        actual: usize,
        unit: &'static str,
        limit: usize,
        name: &'static str,
    },
    #[error("more than {limit} files, folders and links (artifact_entries)")]
    TooMany { limit: usize },
    #[error("the files are larger than {limit} bytes in all (artifact_bytes)")]
    TooLarge { limit: u64 },
    #[error("'{path}' changed while it was read: deploy again when nothing writes to the folder")]
    Changed { path: String },
    #[error("the folder changed while it was read: deploy again when nothing writes to it")]
    FolderChanged,
    #[error("cannot read '{path}'")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot write '{path}'")]
    Write {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("the archive is damaged or not a tar archive")]
    Damaged(#[source] io::Error),
    #[error("the archive cannot be written on")]
    Output(#[source] io::Error),
}
