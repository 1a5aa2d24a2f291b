//! A container's files, seen from the host.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::{Engine, EngineError, View};
use crate::error::{Code, Failure};
use crate::lifecycle::Status;
use crate::request::{ImageUse, Source};
use crate::rootfs::overlay;

/// What a container of an image has written, and what that lies over.
#[derive(Debug)]
pub struct Written {
    /// The upper directory of its overlay.
    pub upper: OwnedFd,
    /// The image.
    pub image: ImageUse,
}

impl Engine {
    /// Opens a container's root directory. Of one that runs under runc, it is what its processes see, mounts included; of a
    /// sandbox and of one that does not run, what is below them.
    ///
    /// # Errors
    /// [`EngineError`] where it cannot be opened any more.
    pub fn open_root(&self, view: &View) -> Result<OwnedFd, EngineError> {
        let record = &view.record;
        let runs = matches!(view.status(), Status::Running | Status::Paused) && !record.sandboxed;
        if let Some(process) = record.process.as_ref().filter(|_| runs) {
            let opened = open_directory(Path::new(&format!("/proc/{}/root", process.pid)));
            // It was that process, and no other that got its number since.
            if let Ok(root) = opened
                && process.is_alive(&self.host.boot_id)
            {
                return Ok(root);
            }
        }
        open_directory(&record.rootfs)
    }

    /// Opens what a container of an image has written.
    ///
    /// # Errors
    /// [`EngineError::Refused`] for a container of something else, which keeps no account of what it writes.
    pub fn open_written(&self, view: &View) -> Result<Written, EngineError> {
        let Source::Image(image) = &view.record.source else {
            return Err(Failure {
                code: Code::InvalidValue,
                what: format!("{} was not made of an image", view.title()),
                why: vec![
                    "it writes into its root filesystem, and nothing tells what was there before".into(),
                ],
                next: Some("`cofferdam export` packs all of it".into()),
            }
            .into());
        };
        let upper = open_directory(&overlay::upper_of(image, &view.container.id))?;
        Ok(Written { upper, image: (**image).clone() })
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, EngineError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let what = "the container's root filesystem cannot be opened";
    openat(CWD, path, flags, Mode::empty())
        .map_err(|errno| EngineError::Kernel { what, source: errno.into() })
}

impl Written {
    /// Opens the layers, the topmost first, as overlayfs has them.
    ///
    /// # Errors
    /// [`EngineError::Kernel`].
    pub fn open_layers(&self) -> Result<Vec<OwnedFd>, EngineError> {
        self.image.layers.iter().rev().map(PathBuf::as_path).map(open_directory).collect()
    }
}
