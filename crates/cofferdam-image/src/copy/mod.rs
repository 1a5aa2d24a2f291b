//! Copying files out of a container and into it.

mod error;

pub use error::CopyError;
