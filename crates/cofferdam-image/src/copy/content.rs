//! The content of a file, copied to another one with its holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{SeekFrom, copy_file_range, ftruncate, seek};
use rustix::io::Errno;

use super::CopyError;
use crate::unpack::entry::Entry;

/// How much is copied at once through memory, in bytes, where the kernel does not copy from one file system to the other.
const BUFFER: usize = 256 << 10;
/// How much the kernel is asked to copy at once, in bytes: a signal waits for it.
const AT_ONCE: usize = 64 << 20;

/// Copies as much as the entry says. Says whether the file has become shorter: what is missing is a hole.
pub(super) fn copy_content(
    from: &File,
    to: &File,
    entry: &Entry,
    is_sparse: bool,
) -> Result<bool, CopyError> {
    let failed = |errno| CopyError::file(entry.path.bytes(), "copied")(errno);
    let mut copier = Copier { from, to, in_kernel: true, buffer: Vec::new() };
    let end = if is_sparse {
        copier.segments(entry.size).map_err(failed)?;
        0
    } else {
        copier.span(0, entry.size).map_err(failed)?
    };
    if end < entry.size {
        ftruncate(to, entry.size).map_err(failed)?;
    }
    Ok(!is_sparse && end < entry.size)
}

struct Copier<'a> {
    from: &'a File,
    to: &'a File,
    in_kernel: bool,
    buffer: Vec<u8>,
}

impl Copier<'_> {
    fn segments(&mut self, size: u64) -> Result<(), Errno> {
        let mut at = 0;
        while at < size {
            let start = match seek(self.from, SeekFrom::Data(at)) {
                Ok(start) if start < size => start,
                Ok(_) | Err(Errno::NXIO) => break,
                Err(errno) => return Err(errno),
            };
            let end = seek(self.from, SeekFrom::Hole(start))?.min(size);
            at = self.span(start, end)?;
            if at < end || at == start {
                break;
            }
        }
        Ok(())
    }

    /// Copies from one place to another, and says where it ended: before the end where the file does.
    fn span(&mut self, mut at: u64, end: u64) -> Result<u64, Errno> {
        while at < end {
            let count = match self.some(at, end - at) {
                Ok(0) => break,
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            at += count as u64;
        }
        Ok(at)
    }

    fn some(&mut self, at: u64, most: u64) -> Result<usize, Errno> {
        if self.in_kernel {
            let (mut from, mut to) = (at, at);
            let most = usize::try_from(most).unwrap_or(AT_ONCE).min(AT_ONCE);
            match copy_file_range(self.from, Some(&mut from), self.to, Some(&mut to), most) {
                // Some file systems say that there is nothing, where a read has something.
                Ok(0) => {}
                Ok(count) => return Ok(count),
                Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::IO) => {
                    self.in_kernel = false
                }
                Err(errno) => return Err(errno),
            }
        }
        if self.buffer.is_empty() {
            self.buffer.resize(BUFFER, 0);
        }
        let most = usize::try_from(most).unwrap_or(BUFFER).min(BUFFER);
        let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let count = self.from.read_at(&mut self.buffer[..most], at).map_err(errno)?;
        self.to.write_all_at(&self.buffer[..count], at).map_err(errno)?;
        Ok(count)
    }
}
