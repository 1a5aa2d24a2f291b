//! The extended attributes of a file: those that go with it, and what overlayfs says by its own.

use std::os::fd::BorrowedFd;

use rustix::fs::{fgetxattr, flistxattr};
use rustix::io::Errno;

use crate::copy::CopyError;

/// What programs may do, and users' own.
const CAPABILITY: &[u8] = b"security.capability";
const OF_USERS: &[u8] = b"user.";
/// What overlayfs keeps for itself, where it is mounted by root and where by others.
const OF_OVERLAY: &[u8] = b"trusted.overlay.";
const OF_USERS_OVERLAY: &[u8] = b"user.overlay.";
/// The longest list of names, and the longest value, that Linux has (XATTR_LIST_MAX, XATTR_SIZE_MAX).
const LONGEST: usize = 64 << 10;
/// All attributes of one file, in bytes: half of what is read of a layer's extended headers.
const ALL_LIMIT: usize = 512 << 10;

/// Whether a layer or an archive may set an attribute. Others are for the host's security modules, or would be read by overlayfs
/// (`trusted.overlay.redirect` leads anywhere).
pub(crate) fn is_portable(name: &[u8]) -> bool {
    name == CAPABILITY || name.starts_with(OF_USERS)
}

/// The extended attributes of one file.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    /// Those that go with it, sorted by their names.
    pub(crate) kept: Vec<(Vec<u8>, Vec<u8>)>,
    /// How many do not, as no archive can say their names.
    pub(crate) left_out: u64,
    /// A directory that hides what is below it.
    pub(crate) is_opaque: bool,
    /// A part of it is in a lower layer: overlayfs has moved the directory, or copied no content.
    pub(crate) is_partial: bool,
}

/// Reads attributes, with a buffer that is used again.
#[derive(Debug)]
pub(crate) struct Reader(Vec<u8>);

impl Reader {
    pub(crate) fn new() -> Self {
        Self(vec![0; LONGEST])
    }

    /// The attributes of an open file or directory.
    pub(crate) fn read(&mut self, file: BorrowedFd<'_>, path: &[u8]) -> Result<Attributes, CopyError> {
        let mut attributes = Attributes::default();
        let length = match flistxattr(file, self.0.as_mut_slice()) {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(attributes),
            Ok(length) => length,
            Err(errno) => return Err(CopyError::file(path, "asked for its attributes")(errno)),
        };
        let names = self.0[..length].to_vec();
        let mut bytes = 0;
        for name in names.split(|byte| *byte == 0) {
            if let Some(own) = name.strip_prefix(OF_OVERLAY) {
                attributes.is_opaque |=
                    own == b"opaque" && self.value(file, name, path)?.as_deref() == Some(b"y");
                attributes.is_partial |= matches!(own, b"redirect" | b"metacopy");
                continue;
            }
            if !is_portable(name) || name.starts_with(OF_USERS_OVERLAY) {
                continue;
            }
            if name.contains(&b'=') {
                attributes.left_out += 1;
                continue;
            }
            // It may have been removed meanwhile.
            let Some(value) = self.value(file, name, path)? else { continue };
            bytes += name.len() + value.len();
            if bytes > ALL_LIMIT {
                return Err(CopyError::refused(path, "its extended attributes have more than 512 KiB"));
            }
            attributes.kept.push((name.to_vec(), value));
        }
        attributes.kept.sort_unstable();
        Ok(attributes)
    }

    fn value(
        &mut self,
        file: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<Option<Vec<u8>>, CopyError> {
        match fgetxattr(file, name, self.0.as_mut_slice()) {
            Ok(length) => Ok(Some(self.0[..length].to_vec())),
            Err(Errno::NODATA) => Ok(None),
            Err(errno) => Err(CopyError::file(path, "asked for its attributes")(errno)),
        }
    }
}
