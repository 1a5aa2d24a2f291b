//! What the media types of an image's parts say, in the spelling of OCI and of Docker.

use oci_spec::image::MediaType;

use crate::error::ImageError;

pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+";
const DOCKER_LAYERS: [&str; 4] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.container.image.rootfs.diff+x-gtar",
];
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.";

/// What a name of an image can lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    Manifest,
    Index,
}

/// What a manifest or index is.
pub(crate) fn root(media_type: &MediaType) -> Result<Root, ImageError> {
    match media_type {
        MediaType::ImageManifest => Ok(Root::Manifest),
        MediaType::ImageIndex => Ok(Root::Index),
        other if other.as_ref() == DOCKER_MANIFEST => Ok(Root::Manifest),
        other if other.as_ref() == DOCKER_INDEX => Ok(Root::Index),
        other if other.as_ref().starts_with(DOCKER_SCHEMA1) => Err(ImageError::invalid(
            other,
            "it is a manifest of Docker's schema 1, which names no layers that can be verified; push the image again with a tool of after 2017",
        )),
        other => Err(ImageError::invalid(other, "it is no manifest of an image, and no index of them")),
    }
}

/// Sees to it that something is the configuration of an image, and not of an artifact, such as a chart or a signature.
pub(crate) fn check_config(media_type: &MediaType) -> Result<(), ImageError> {
    match media_type {
        MediaType::ImageConfig => Ok(()),
        other if other.as_ref() == DOCKER_CONFIG => Ok(()),
        other => Err(ImageError::invalid(
            format!("the configuration `{other}`"),
            "it is none of a container's image; this is an artifact of another kind",
        )),
    }
}

/// Sees to it that something is a layer that can be unpacked. How it is compressed tells its content.
pub(crate) fn check_layer(media_type: &MediaType) -> Result<(), ImageError> {
    let refused = |why: &str| Err(ImageError::invalid(format!("the layer `{media_type}`"), why));
    match media_type {
        MediaType::ImageLayer | MediaType::ImageLayerGzip | MediaType::ImageLayerZstd => Ok(()),
        MediaType::ImageLayerNonDistributable
        | MediaType::ImageLayerNonDistributableGzip
        | MediaType::ImageLayerNonDistributableZstd => {
            refused("it is a foreign layer, that registries do not have")
        }
        other if DOCKER_LAYERS.contains(&other.as_ref()) => Ok(()),
        other if other.as_ref().starts_with(DOCKER_FOREIGN) => {
            refused("it is a foreign layer, that registries do not have")
        }
        other if other.as_ref().ends_with("+encrypted") => {
            refused("it is encrypted; decrypt the image with skopeo, and push that")
        }
        _ => refused("it is no tar, and none compressed with gzip or zstd"),
    }
}

/// OCI's name for the type of a layer that Docker has another name for.
pub(crate) fn as_oci(media_type: &MediaType) -> MediaType {
    match DOCKER_LAYERS.iter().position(|docker| *docker == media_type.as_ref()) {
        Some(0) => MediaType::ImageLayer,
        Some(1 | 3) => MediaType::ImageLayerGzip,
        Some(2) => MediaType::ImageLayerZstd,
        Some(_) | None => media_type.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_known_and_others_are_refused_with_a_word() {
        let is_layer = |text: &str| check_layer(&MediaType::from(text));
        for ending in ["", "+gzip", "+zstd"] {
            is_layer(&format!("application/vnd.oci.image.layer.v1.tar{ending}")).unwrap();
        }
        DOCKER_LAYERS.iter().for_each(|text| is_layer(text).unwrap());
        for (text, word) in [
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "foreign"),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "foreign"),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
            ("application/vnd.wasm.content.layer.v1+wasm", "no tar"),
        ] {
            assert!(is_layer(text).unwrap_err().to_string().contains(word), "{text}");
        }
        let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        assert!(root(&schema1.into()).unwrap_err().to_string().contains("schema 1"));
        assert_eq!(root(&DOCKER_INDEX.into()).unwrap(), Root::Index);
    }
}
