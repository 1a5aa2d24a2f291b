//! A client for plugins of the Container Network Interface, versions 0.3.0 to 1.1.0.
//!
//! - [`config`]: configurations of networks, read from directories with suspicion.
//! - [`result`]: what plugins answer.
//! - [`client`]: one call of one plugin, and chains of them.
//!
//! The specification: <https://github.com/containernetworking/cni/blob/main/SPEC.md>.

pub mod client;
pub mod config;
pub mod result;
mod version;

pub use client::{Client, Command, Parameters, ValidAttachment, default_plugin_directories};
pub use config::{Catalog, NetworkConfig, PluginConfig};
pub use result::{AddResult, Dns, Interface, IpAddress, PluginError, Route};
pub use version::CniVersion;
