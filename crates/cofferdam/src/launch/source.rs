//! What a container is made from, opened.

use std::path::{Path, PathBuf};

use super::LaunchError;
use crate::bundle;
use crate::id::ContainerId;
use crate::request::Source;
use crate::rootfs::{Rootfs, RootfsError};
use crate::state::StateError;

/// The state root of a runtime, which some of them do not make private themselves.
pub(super) fn make_private(root: &Path) -> Result<(), StateError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|source| StateError::File {
        path: root.to_owned(),
        what: "made",
        source,
    })
}

type OpenedBundle = (PathBuf, serde_json::Value);

pub(super) fn open_source(
    source: &Source,
    id: &ContainerId,
) -> Result<(Option<OpenedBundle>, Rootfs), LaunchError> {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Ok(match source {
        Source::Bundle { path } => {
            let path = absolute(path);
            let config = bundle::read_config(&path)?;
            let rootfs = Rootfs::open(&bundle::root_of(&path, &config)?)?;
            (Some((path, config)), rootfs)
        }
        Source::Rootfs { path } => {
            // The user's own path may end in a link; a path inside a bundle may not.
            let resolved = std::fs::canonicalize(path)
                .map_err(|source| RootfsError::Unusable { path: path.clone(), source })?;
            (None, Rootfs::open(&resolved)?)
        }
        Source::Image(image) => (None, Rootfs::of_image(image, id)?),
    })
}
