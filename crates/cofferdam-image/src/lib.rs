//! Images: from a registry, a directory or an archive to the layers of a root filesystem.
//!
//! Invariant: everything that comes from an image or a registry is hostile. It is bounded, its digests are checked on
//! every byte, and none of it names a path outside of the store.
//!
//! - [`reference`]: names of images.
//! - [`source`]: where images come from.
//! - [`pack`]: a directory of overlayfs becomes a layer, and a root filesystem an archive.
//! - [`copy`]: files come out of a container, and into it.
//! - [`unpack`]: a layer becomes a directory for overlayfs.

pub mod copy;
pub mod error;
pub mod reference;
pub mod pack;
//! - [`local`]: images in directories and archives.
//! - [`store`]: images that are here, and their layers.
//! - [`platform`]: which variant of an image is for a machine.
//! - [`progress`]: what whoever waits is told.
//! - [`unpack`]: a layer becomes a directory for overlayfs.

mod decompress;
mod digest;
pub mod error;
pub mod local;
mod manifest;
mod media;
pub mod platform;
pub mod progress;
pub mod source;
pub mod store;
pub mod unpack;

pub use copy::CopyError;
pub use error::ImageError;
pub use platform::Platform;
pub use store::{Image, Store};
