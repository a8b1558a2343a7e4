//! Container images: from an archive as `docker save` or an OCI layout has it to an artifact, and from that to the root
//! folder that a program sees. Nothing here talks to a registry.
//!
//! As an artifact an image is a folder with `config.json`, the image's configuration byte for byte, and its layers in
//! `layers/0000`, `layers/0001` and so on, as they came. The configuration's SHA-256 is the image's digest, and it names
//! the SHA-256 of each unpacked layer: so a node checks all of what it unpacks against the one digest in the release.
//!
//! `source` makes the folder, `config` reads the configuration, `layer` reads a layer, `tree` is the pure rule of how
//! layers lie over each other, and `unpack` writes what comes of it.

mod config;
mod error;
mod layer;
mod source;
mod tree;
mod unpack;

pub use config::ImageConfig;
pub use error::ImageError;
pub use source::{Prepared, prepare};
pub(crate) use unpack::configuration;
pub use unpack::{resolve, unpack};

/// Of the artifact's folder.
pub(crate) const CONFIG: &str = "config.json";
const LAYERS: &str = "layers";

/// Layers of one image. Docker's own limit is 127.
pub const MAX_LAYERS: usize = 256;
/// Of a configuration, a manifest or an index: some lines for each layer and each step of a build.
pub const MAX_JSON_BYTES: u64 = 4 * 1024 * 1024;

fn layer_name(number: usize) -> String {
    format!("{LAYERS}/{number:04}")
}
