//! From an archive of somebody's to the folder that is deployed: what `docker save` writes, and the OCI image layout.
//!
//! The folder is the same for the same image, whatever archive it came in, as long as its layers are packed alike.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek as _, SeekFrom, Take};
use std::path::{Path, PathBuf};

use nebula_domain::image::{IMAGE_NAME_BYTES, Image, ImageDigest};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tar::EntryType;

use super::config::architecture;
use super::unpack::check;
use super::{
    CONFIG, ImageConfig, ImageError, LAYERS, MAX_JSON_BYTES, MAX_LAYERS, layer, layer_name,
};
use crate::archive::MAX_ENTRIES;

/// An archive may hold an image for this many machines, each as large as one may be.
const MACHINES: u64 = 4;
/// Index in index: more is nobody's doing.
const MAX_INDEXES: usize = 4;

/// What was made of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    pub image: Image,
    pub config: ImageConfig,
}

/// Docker's manifest.json: one entry for each image.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An index, or the layout's index.json.
#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// Reads the archive into the folder `into`, which is empty. Everything is checked that a node would check, but for what
/// the layers hold.
pub fn prepare(archive: &Path, into: &Path, max_bytes: u64) -> Result<Prepared, ImageError> {
    let mut source = Source::open(archive, max_bytes.saturating_mul(MACHINES))?;
    let Chosen {
        name,
        config,
        layers,
    } = source.choose(archive)?;
    if layers.len() > MAX_LAYERS {
        return Err(ImageError::TooManyLayers {
            actual: layers.len(),
            limit: MAX_LAYERS,
        });
    }
    let bytes = source.small(&config)?;
    let digest = ImageDigest(Sha256::digest(&bytes).into());
    let read = ImageConfig::read(&bytes)?;
    if read.layers.len() != layers.len() {
        return Err(ImageError::LayerCount(layers.len(), read.layers.len()));
    }
    let path = into.join(CONFIG);
    fs::write(&path, &bytes).map_err(ImageError::write(&path))?;
    let path = into.join(LAYERS);
    fs::create_dir(&path).map_err(ImageError::write(&path))?;
    for (number, (layer, expected)) in layers.iter().zip(&read.layers).enumerate() {
        let path = into.join(layer_name(number));
        let mut file = File::create(&path).map_err(ImageError::write(&path))?;
        io::copy(&mut source.open_file(layer)?, &mut file).map_err(ImageError::write(&path))?;
        let file = File::open(&path).map_err(ImageError::read(&path))?;
        let actual = layer::digest(file, max_bytes)?;
        check(&format!("layer {}", number + 1), *expected, actual)?;
    }
    Ok(Prepared {
        image: Image { name, digest },
        config: read,
    })
}

/// One image in the archive, by the names of its files there.
struct Chosen {
    name: String,
    config: String,
    layers: Vec<String>,
}

/// An archive with its files' places.
struct Source {
    file: File,
    files: BTreeMap<String, Place>,
}

enum Place {
    At {
        offset: u64,
        size: u64,
    },
    /// Older versions of Docker save a layer once, and links to it.
    Link(String),
}

impl Source {
    /// `limit`: bytes of an archive that is compressed as a whole, unpacked.
    fn open(path: &Path, limit: u64) -> Result<Source, ImageError> {
        match fs::metadata(path) {
            Ok(found) if found.is_file() => {}
            _ => return Err(ImageError::NoFile(path.to_owned())),
        }
        let open = || File::open(path).map_err(ImageError::read(path));
        let mut start = [0; 2];
        let short = open()?.read_exact(&mut start).is_err();
        let file = if !short && [[0x1f, 0x8b], [0x28, 0xb5]].contains(&start) {
            let mut whole = tempfile::tempfile().map_err(ImageError::write(path))?;
            let mut plain = layer::plain(open()?)?.take(limit.saturating_add(1));
            let copied = io::copy(&mut plain, &mut whole).map_err(ImageError::Damaged)?;
            if copied > limit {
                return Err(ImageError::ArchiveTooLarge { limit });
            }
            whole.rewind().map_err(ImageError::Damaged)?;
            whole
        } else {
            open()?
        };
        let files = places(&file).map_err(|error| match error {
            ImageError::Damaged(_) => ImageError::NoImage(path.to_owned()),
            error => error,
        })?;
        Ok(Source { file, files })
    }

    fn choose(&mut self, archive: &Path) -> Result<Chosen, ImageError> {
        let chosen = if self.files.contains_key("manifest.json") {
            self.saved()?
        } else if self.files.contains_key("index.json") {
            self.layout()?
        } else {
            return Err(ImageError::NoImage(archive.to_owned()));
        };
        let stem = archive.file_stem().unwrap_or_default().to_string_lossy();
        let name = chosen.name.unwrap_or_else(|| stem.into_owned());
        Ok(Chosen {
            name: printable(&name),
            config: chosen.config,
            layers: chosen.layers,
        })
    }

    fn saved(&mut self) -> Result<Unnamed, ImageError> {
        let saved: Vec<Saved> = self.json("manifest.json")?;
        let count = saved.len();
        let mut saved = saved.into_iter();
        match (saved.next(), saved.next()) {
            (Some(one), None) => Ok(Unnamed {
                name: one.repo_tags.and_then(|tags| tags.into_iter().next()),
                config: one.config,
                layers: one.layers,
            }),
            _ => Err(ImageError::Several(count)),
        }
    }

    fn layout(&mut self) -> Result<Unnamed, ImageError> {
        let mut index: Index = self.json("index.json")?;
        let mut name = None;
        for _ in 0..MAX_INDEXES {
            let found: Vec<Descriptor> = index.manifests.into_iter().filter(is_image).collect();
            let count = found.len();
            let fits: Vec<Descriptor> = match count {
                1 => found,
                _ => found.into_iter().filter(is_for_this_machine).collect(),
            };
            let mut fits = fits.into_iter();
            let (Some(one), None) = (fits.next(), fits.next()) else {
                return Err(ImageError::Several(count));
            };
            name = named(&one).or(name);
            let file = self.blob(&one.digest)?;
            if !one.media_type.contains("index") && !one.media_type.contains("manifest.list") {
                let manifest: Manifest = self.json(&file)?;
                let layers = manifest.layers.iter();
                let layers: Result<_, _> = layers.map(|layer| self.blob(&layer.digest)).collect();
                return Ok(Unnamed {
                    name,
                    config: self.blob(&manifest.config.digest)?,
                    layers: layers?,
                });
            }
            index = self.json(&file)?;
        }
        Err(ImageError::Several(0))
    }

    /// The file with this digest, whose content has it.
    fn blob(&mut self, digest: &str) -> Result<String, ImageError> {
        let expected: ImageDigest = digest.parse().map_err(|e| ImageError::Json {
            what: "the image's manifest".to_owned(),
            why: format!("{e}"),
        })?;
        let file = format!("blobs/sha256/{}", &digest["sha256:".len()..]);
        let mut hasher = Sha256::new();
        let mut from = self.open_file(&file)?;
        io::copy(&mut from, &mut hasher).map_err(ImageError::Damaged)?;
        check(&file, expected, ImageDigest(hasher.finalize().into()))?;
        Ok(file)
    }

    fn json<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, ImageError> {
        let bytes = self.small(name)?;
        serde_json::from_slice(&bytes).map_err(|error| ImageError::Json {
            what: name.to_owned(),
            why: error.to_string(),
        })
    }

    fn small(&mut self, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut from = self.open_file(name)?;
        let size = from.limit();
        if size > MAX_JSON_BYTES {
            return Err(ImageError::JsonTooLarge {
                what: name.to_owned(),
                bytes: size,
                limit: MAX_JSON_BYTES,
            });
        }
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).map_err(ImageError::Damaged)?;
        Ok(bytes)
    }

    fn open_file(&mut self, name: &str) -> Result<Take<&File>, ImageError> {
        let missing = || ImageError::Missing(name.to_owned());
        let place = match self.files.get(name).ok_or_else(missing)? {
            // Once: links to links are nobody's.
            Place::Link(target) => self.files.get(target).ok_or_else(missing)?,
            place => place,
        };
        let Place::At { offset, size } = *place else {
            return Err(missing());
        };
        let file = &mut self.file;
        file.seek(SeekFrom::Start(offset))
            .map_err(ImageError::Damaged)?;
        Ok((&self.file).take(size))
    }
}

struct Unnamed {
    name: Option<String>,
    config: String,
    layers: Vec<String>,
}

fn places(file: &File) -> Result<BTreeMap<String, Place>, ImageError> {
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek().map_err(ImageError::Damaged)? {
        let entry = entry.map_err(ImageError::Damaged)?;
        let path = PathBuf::from(String::from_utf8_lossy(&entry.path_bytes()).into_owned());
        let place = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => Place::At {
                offset: entry.raw_file_position(),
                size: entry.size(),
            },
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = String::from_utf8_lossy(&target).into_owned();
                Place::Link(plain(&path.parent().unwrap_or(Path::new("")).join(target)))
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default();
                Place::Link(plain(Path::new(&*String::from_utf8_lossy(&target))))
            }
            _ => continue,
        };
        files.insert(plain(&path), place);
        if files.len() > MAX_ENTRIES {
            return Err(ImageError::TooMany { limit: MAX_ENTRIES });
        }
    }
    Ok(files)
}

/// Without `.` and `..`.
fn plain(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}

/// Builders put notes about how an image was built beside it.
fn is_image(one: &Descriptor) -> bool {
    let notes = one.annotations.as_ref();
    let attests = notes.is_some_and(|notes| notes.contains_key("vnd.docker.reference.type"));
    let nowhere = one.platform.as_ref().is_some_and(|p| p.os == "unknown");
    !attests && !nowhere
}

fn is_for_this_machine(one: &Descriptor) -> bool {
    let platform = one.platform.as_ref();
    platform.is_some_and(|p| p.os == "linux" && p.architecture == architecture())
}

fn named(one: &Descriptor) -> Option<String> {
    let notes = one.annotations.as_ref()?;
    let name = notes.get("io.containerd.image.name");
    name.or_else(|| notes.get("org.opencontainers.image.ref.name"))
        .cloned()
}

/// A name that a release may have.
fn printable(name: &str) -> String {
    let good = |c: char| {
        if c.is_control() || c.is_whitespace() {
            '-'
        } else {
            c
        }
    };
    let mut name: String = name.chars().map(good).collect();
    while name.len() > IMAGE_NAME_BYTES {
        name.pop();
    }
    match name.is_empty() {
        true => "image".to_owned(),
        false => name,
    }
}
