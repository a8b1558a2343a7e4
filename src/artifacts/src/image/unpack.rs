//! An image's root folder on the disk, from the unpacked artifact. Trusts nothing in it but what its digest vouches for.
//!
//! Contents are written first, under numbers, in a folder that no layer names. When all layers are read, folders are made,
//! then each content gets its paths, and links come last: nothing is ever written through a link.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use nebula_domain::image::ImageDigest;
use sha2::{Digest, Sha256};

use super::layer::{self, Take};
use super::tree::{Entry, Folder, Node, Root};
use super::{CONFIG, ImageConfig, ImageError, MAX_JSON_BYTES, layer_name};

const BUFFER_BYTES: usize = 64 * 1024;
/// As many as Linux follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Makes the folder `into`, which must not exist and whose parent nobody else writes to, from the image in the folder
/// `tree`. `room` says before so many more bytes are written whether they may be. On an error, what there is of `into`
/// is left for the caller to remove.
///
/// Folders and executable files have mode 0755, other files 0644, whatever the layers say: the program's user is none of
/// those that the image knows, and set-user-id bits mean nothing here.
pub fn unpack(
    tree: &Path,
    into: &Path,
    expected: ImageDigest,
    max_bytes: u64,
    room: &dyn Fn(u64) -> Result<(), String>,
) -> Result<ImageConfig, ImageError> {
    let config = configuration(tree, expected)?;
    let contents = into.with_extension("contents");
    make(&contents)?;
    let mut taken = Taken {
        root: Root::default(),
        contents: &contents,
        count: 0,
        room,
        buffer: vec![0; BUFFER_BYTES],
    };
    let mut left = max_bytes;
    for (number, expected) in config.layers.iter().enumerate() {
        taken.root.begin_layer();
        let name = layer_name(number);
        let path = tree.join(&name);
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ImageError::Missing(name.clone()),
            _ => ImageError::read(&path)(error),
        })?;
        let actual = layer::read(file, &mut left, max_bytes, &mut taken)?;
        check(&format!("layer {}", number + 1), *expected, actual)?;
    }
    make(into)?;
    folders(taken.root.top(), into, &contents)?;
    links(taken.root.top(), into)?;
    fs::remove_dir_all(&contents).map_err(ImageError::write(&contents))?;
    Ok(config)
}

/// The configuration, if it is the one whose digest this is.
pub(crate) fn configuration(tree: &Path, expected: ImageDigest) -> Result<ImageConfig, ImageError> {
    let path = tree.join(CONFIG);
    let file = File::open(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ImageError::Missing(CONFIG.to_owned()),
        _ => ImageError::read(&path)(error),
    })?;
    let mut bytes = Vec::new();
    let read = file.take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(ImageError::read(&path))?;
    if bytes.len() as u64 > MAX_JSON_BYTES {
        return Err(ImageError::JsonTooLarge {
            what: CONFIG.to_owned(),
            bytes: bytes.len() as u64,
            limit: MAX_JSON_BYTES,
        });
    }
    check(
        "the image",
        expected,
        ImageDigest(Sha256::digest(&bytes).into()),
    )?;
    ImageConfig::read(&bytes)
}

pub(super) fn check(
    what: &str,
    expected: ImageDigest,
    actual: ImageDigest,
) -> Result<(), ImageError> {
    if expected == actual {
        return Ok(());
    }
    Err(ImageError::Digest {
        what: what.to_owned(),
        expected,
        actual,
    })
}

/// Where a path of an image leads, below `root` and without links, as a program in the image would follow it. What is not
/// there is taken for a folder that can be made. `None`: it leads through a file, or in a circle.
///
/// For a root that nobody changes.
pub fn resolve(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut todo: Vec<PathBuf> = vec![path.to_owned()];
    let mut at = PathBuf::new();
    let mut links = 0;
    while let Some(path) = todo.pop() {
        let mut parts = path.components();
        let Some(first) = parts.next() else { continue };
        todo.push(parts.as_path().to_owned());
        match first {
            Component::RootDir | Component::Prefix(_) => at.clear(),
            Component::CurDir => {}
            Component::ParentDir => drop(at.pop()),
            Component::Normal(name) => {
                let next = at.join(name);
                match fs::symlink_metadata(root.join(&next)) {
                    Ok(found) if found.is_symlink() => {
                        links += 1;
                        if links > MAX_LINKS {
                            return None;
                        }
                        todo.push(fs::read_link(root.join(&next)).ok()?);
                    }
                    Ok(found) if found.is_dir() => at = next,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => at = next,
                    Ok(_) | Err(_) => return None,
                }
            }
        }
    }
    Some(at)
}

struct Taken<'a> {
    root: Root,
    contents: &'a Path,
    count: u64,
    room: &'a dyn Fn(u64) -> Result<(), String>,
    buffer: Vec<u8>,
}

impl Take for Taken<'_> {
    fn content(
        &mut self,
        from: &mut dyn Read,
        size: u64,
        executable: bool,
    ) -> Result<u64, ImageError> {
        (self.room)(size).map_err(ImageError::NoRoom)?;
        let number = self.count;
        self.count += 1;
        let path = content(self.contents, number);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(if executable { 0o755 } else { 0o644 })
            .open(&path)
            .map_err(ImageError::write(&path))?;
        let mut copied = 0;
        loop {
            let count = match from.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ImageError::Damaged(error)),
            };
            copied += count as u64;
            file.write_all(&self.buffer[..count])
                .map_err(ImageError::write(&path))?;
        }
        match copied == size {
            true => Ok(number),
            false => Err(ImageError::Damaged(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn entry(&mut self, path: &[u8], entry: Entry<'_>) -> Result<(), ImageError> {
        self.root.add(path, entry)
    }
}

fn content(contents: &Path, number: u64) -> PathBuf {
    contents.join(number.to_string())
}

fn make(dir: &Path) -> Result<(), ImageError> {
    let made = DirBuilder::new().mode(0o755).create(dir);
    made.map_err(ImageError::write(dir))
}

fn folders(folder: &Folder, at: &Path, contents: &Path) -> Result<(), ImageError> {
    for (name, item) in folder {
        let path = at.join(OsStr::from_bytes(name));
        match &item.node {
            Node::Folder(inner) => {
                make(&path)?;
                folders(inner, &path, contents)?;
            }
            Node::File(number) => {
                let linked = fs::hard_link(content(contents, *number), &path);
                linked.map_err(ImageError::write(&path))?;
            }
            Node::Link(_) => {}
        }
    }
    Ok(())
}

fn links(folder: &Folder, at: &Path) -> Result<(), ImageError> {
    for (name, item) in folder {
        let path = at.join(OsStr::from_bytes(name));
        match &item.node {
            Node::Folder(inner) => links(inner, &path)?,
            Node::File(_) => {}
            Node::Link(target) => {
                let made = symlink(OsStr::from_bytes(target), &path);
                made.map_err(ImageError::write(&path))?;
            }
        }
    }
    Ok(())
}
