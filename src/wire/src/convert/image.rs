//! Container images, between text and the domain's types.

use nebula_domain::Rejection;
use nebula_domain::image::Image;

use crate::api::{self, ApiError};

pub(super) fn image(wire: &api::Image) -> Result<Image, ApiError> {
    let digest = wire.digest.parse();
    Ok(Image {
        name: wire.name.clone(),
        digest: digest.map_err(|error| {
            let error: nebula_domain::image::ImageError = error;
            ApiError::from(&Rejection::Spec(error.into()))
        })?,
    })
}

pub(super) fn told(image: &Image) -> api::Image {
    api::Image {
        name: image.name.clone(),
        digest: image.digest.to_string(),
    }
}
