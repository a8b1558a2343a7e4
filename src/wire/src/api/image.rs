//! Container images.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The image that a deployment runs; its content is the artifact's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// What people call it, such as `shop:1.4`.
    pub name: String,
    /// Of its configuration, which Docker calls the image's id: `sha256:` and 64 hexadecimal digits.
    pub digest: String,
}
