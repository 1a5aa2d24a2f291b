//! Images: from a registry, a directory or an archive to the layers of a root filesystem.
//!
//! Invariant: everything that comes from an image or a registry is hostile. It is bounded, its digests are checked on
//! every byte, and none of it names a path outside of the store.
//!
//! - [`platform`]: which variant of an image is for a machine.
//! - [`mod@reference`]: names of images.
//! - [`registry`]: images in registries, and logins for them.
//! - [`source`]: where images come from.
//! - [`local`]: images in directories and archives.
//! - [`store`]: images that are here, and their layers.
//! - [`healthcheck`]: what an image says of its containers that docker alone knows.
//! - [`progress`]: what whoever waits is told.
//! - [`unpack`]: a layer becomes a directory for overlayfs.
//! - [`pack`]: a directory of overlayfs becomes a layer, and a root filesystem an archive.
//! - [`commit`]: a container becomes an image: its configuration.
//! - [`copy`]: files come out of a container, and into it.

pub mod commit;
pub mod copy;
mod decompress;
mod digest;
pub mod error;
pub mod healthcheck;
pub mod local;
mod manifest;
mod media;
pub mod pack;
pub mod platform;
pub mod progress;
pub mod reference;
pub mod registry;
pub mod source;
pub mod store;
pub mod unpack;

pub use copy::CopyError;
pub use error::ImageError;
/// The types of images, as the crate that they are from has them.
pub use oci_spec;
pub use platform::Platform;
pub use store::{Image, Store};
