//! Images of containers.

pub mod unpack;
