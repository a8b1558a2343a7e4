//! Why an image was refused.

use std::io;
use std::path::PathBuf;

use nebula_domain::image::ImageDigest;

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(
        "'{}' is no file: images are deployed from an archive, which 'docker save NAME -o FILE.tar' or 'skopeo copy docker://NAME oci-archive:FILE.tar' makes",
        .0.display()
    )]
    NoFile(PathBuf),
    #[error(
        "'{}' is no image archive: it has neither a manifest.json, as 'docker save' writes it, nor an index.json, as an OCI layout has it",
        .0.display()
    )]
    NoImage(PathBuf),
    #[error("the archive holds {0} images: save one of them alone")]
    Several(usize),
    #[error("the archive names '{0}', which is not in it")]
    Missing(String),
    #[error("{what} cannot be read: {why}")]
    Json { what: String, why: String },
    #[error("{what} has {bytes} bytes, over the limit of {limit} (image_json_bytes)")]
    JsonTooLarge {
        what: String,
        bytes: u64,
        limit: u64,
    },
    #[error("{what} is {actual}, and should be {expected}: the archive is damaged")]
    Digest {
        what: String,
        expected: ImageDigest,
        actual: ImageDigest,
    },
    #[error("the image has {0} layers and {1} digests of layers: the archive is damaged")]
    LayerCount(usize, usize),
    #[error("the image has {actual} layers, over the limit of {limit} (image_layers)")]
    TooManyLayers { actual: usize, limit: usize },
    #[error("the image is for {image}, and this machine is {machine}")]
    Platform { image: String, machine: String },
    #[error("the layers are compressed in a way that is not known here: use gzip or zstd")]
    Compression,
    #[error("'{path}' in a layer: {why}")]
    Entry { path: String, why: &'static str },
    #[error("'{path}' in a layer is {actual} {unit}, over the limit of {limit} ({name})")]
    TooLong {
        path: String,
        actual: usize,
        unit: &'static str,
        limit: usize,
        name: &'static str,
    },
    #[error("more than {limit} files, folders and links in the layers (artifact_entries)")]
    TooMany { limit: usize },
    #[error(
        "the links of the layers lead through more than {limit} names in all (image_link_names)"
    )]
    TooManyLinks { limit: usize },
    #[error("the archive has more than {limit} bytes unpacked (image_archive_bytes)")]
    ArchiveTooLarge { limit: u64 },
    #[error("the layers are larger than {limit} bytes in all (artifact_bytes)")]
    TooLarge { limit: u64 },
    #[error("{0}")]
    NoRoom(String),
    #[error("a layer is damaged or not a tar archive")]
    Damaged(#[source] io::Error),
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl ImageError {
    pub(super) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ImageError {
        let path = path.into();
        move |source| ImageError::Read { path, source }
    }

    pub(super) fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ImageError {
        let path = path.into();
        move |source| ImageError::Write { path, source }
    }

    pub(super) fn entry(path: &[u8], why: &'static str) -> ImageError {
        let path = nebula_domain::excerpt::excerpt(&String::from_utf8_lossy(path));
        ImageError::Entry { path, why }
    }
}
