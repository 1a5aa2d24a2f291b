//! A tar of which members are read where they lie.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{Mode, OFlags};

use super::Content;
use crate::decompress::{Compression, beginning, bytes_limit, decompressed};
use crate::error::ImageError;
use crate::store::Store;
use crate::unpack::{EntryKind, Records};

/// The entries of an archive: each layer of an image is some four of them.
const ENTRIES_LIMIT: u64 = 1 << 17;
/// Longer names are passed over: none that leads to a part of an image is longer.
const NAME_LIMIT: usize = 255;
/// The bytes of an archive that is compressed, or comes through a pipe, when it is uncompressed.
const SPOOLED_LIMIT: u64 = 256 << 30;
/// The first block of a tar, and what is in it: the formats of POSIX and GNU have it.
const TAR_BLOCK: usize = 512;
const TAR_MAGIC_AT: usize = 257;
const TAR_MAGIC: &[u8] = b"ustar";
/// How often a link leads to a link.
const LINKS: usize = 8;

/// An archive, and where its members are in it.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    file: File,
    members: HashMap<String, Member>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    File { at: u64, size: u64 },
    Link(String),
}

impl Archive {
    /// Opens an archive and reads its table. One that is compressed, or no regular file, is read to its end.
    pub(super) fn open(path: &Path, store: &Store) -> Result<Self, ImageError> {
        let failed = ImageError::file(path, "read");
        let mut file = File::open(path).map_err(&failed)?;
        let about = file.metadata().map_err(&failed)?;
        if !about.is_file() && !about.file_type().is_fifo() {
            return Err(ImageError::invalid(path.display(), "it is neither a file nor a pipe"));
        }
        let is_plain = about.is_file() && {
            let start = beginning(&mut file, Compression::MARK).map_err(&failed)?;
            file.rewind().map_err(&failed)?;
            Compression::of(&start) == Compression::None
        };
        if !is_plain {
            let most = match about.is_file() {
                true => bytes_limit(about.len()).min(SPOOLED_LIMIT),
                false => SPOOLED_LIMIT,
            };
            file = spool(path, file, most, store)?;
        }
        let members = table(path, &file)?;
        Ok(Self { path: path.to_owned(), file, members })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// For errors.
    pub(super) fn place(&self) -> String {
        self.path.display().to_string()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    fn find(&self, name: &str) -> Result<(u64, u64), ImageError> {
        let absent = || ImageError::invalid(self.path.display(), format!("it has no {name}"));
        let mut at = lexical(name).ok_or_else(absent)?;
        for _ in 0..LINKS {
            match self.members.get(&at) {
                Some(Member::File { at, size }) => return Ok((*at, *size)),
                Some(Member::Link(target)) => {
                    let folder = at.rsplit_once('/').map_or("", |(folder, _)| folder);
                    at = lexical(&format!("{folder}/{target}")).ok_or_else(absent)?;
                }
                None => return Err(absent()),
            }
        }
        Err(ImageError::invalid(self.path.display(), format!("{name} in it is a link to a link, and so on")))
    }

    pub(super) fn size(&self, name: &str) -> Result<u64, ImageError> {
        self.find(name).map(|(_, size)| size)
    }

    /// The content of a member, from an offset on.
    pub(super) fn content(&self, name: &str, offset: u64) -> Result<Content, ImageError> {
        let (at, size) = self.find(name)?;
        let offset = offset.min(size);
        // Another descriptor of the same file, with a position of its own.
        let file = File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
            .and_then(|mut file| file.seek(SeekFrom::Start(at + offset)).map(|_| file))
            .map_err(ImageError::file(&self.path, "read"))?;
        Ok(Content::File(file, size - offset))
    }

    /// The whole of a small member.
    pub(super) fn small(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let size = self.size(name)?;
        if size > limit {
            let why = format!("{name} in it has {size} bytes; the limit is {limit}");
            return Err(ImageError::invalid(self.path.display(), why));
        }
        let mut bytes = Vec::new();
        self.content(name, 0)?.read_to_end(&mut bytes).map_err(ImageError::file(&self.path, "read"))?;
        Ok(bytes)
    }
}

/// Writes what an archive has, uncompressed, to a file without a name, which goes with the last who has it open.
fn spool(path: &Path, archive: File, most: u64, store: &Store) -> Result<File, ImageError> {
    let folder = store.partial();
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let spooled: OwnedFd = rustix::fs::open(&folder, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| ImageError::file(&folder, "written")(error.into()))?;
    let mut spooled = File::from(spooled);
    let (_, mut content) = decompressed(archive).map_err(ImageError::file(path, "read"))?;
    // Before all of it is on the disk.
    let start = beginning(&mut content, TAR_BLOCK).map_err(ImageError::file(path, "uncompressed"))?;
    if start.len() < TAR_BLOCK || !start[TAR_MAGIC_AT..].starts_with(TAR_MAGIC) {
        return Err(ImageError::invalid(path.display(), "it is no tar, compressed with gzip or zstd or not"));
    }
    let copied = io::copy(&mut start.as_slice().chain(content).take(most + 1), &mut spooled)
        .map_err(ImageError::file(path, "uncompressed"))?;
    if copied > most {
        return Err(ImageError::invalid(
            path.display(),
            format!("uncompressed it has more than {most} bytes"),
        ));
    }
    spooled.rewind().map_err(ImageError::file(&folder, "written"))?;
    Ok(spooled)
}

/// A reader that knows where it is.
struct Counted<R> {
    stream: R,
    at: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.at.set(self.at.get() + count as u64);
        Ok(count)
    }
}

/// Reads which members there are, and where.
fn table(path: &Path, file: &File) -> Result<HashMap<String, Member>, ImageError> {
    let damaged = |error: crate::unpack::UnpackError| ImageError::invalid(path.display(), error);
    let at = Rc::new(Cell::new(0));
    let mut records =
        Records::new(Counted { stream: BufReader::with_capacity(1 << 18, file), at: at.clone() });
    let mut members = HashMap::new();
    let mut entries = 0;
    while let Some(entry) = records.next().map_err(damaged)? {
        entries += 1;
        if entries > ENTRIES_LIMIT {
            return Err(ImageError::invalid(
                path.display(),
                format!("it has more than {ENTRIES_LIMIT} entries"),
            ));
        }
        let member = match &entry.kind {
            EntryKind::File => Member::File { at: at.get(), size: entry.size },
            EntryKind::Symlink(target) if target.len() <= NAME_LIMIT => match std::str::from_utf8(target) {
                Ok(target) => Member::Link(target.to_owned()),
                Err(_) => continue,
            },
            EntryKind::Hardlink(target) => {
                match std::str::from_utf8(target.bytes()).ok().and_then(|name| members.get(name)) {
                    Some(Member::File { at, size }) => Member::File { at: *at, size: *size },
                    _ => continue,
                }
            }
            EntryKind::Symlink(_) | EntryKind::Directory | EntryKind::Fifo | EntryKind::Device { .. } => {
                continue;
            }
        };
        let Some(name) = std::str::from_utf8(entry.path.bytes()).ok().filter(|name| name.len() <= NAME_LIMIT)
        else {
            continue;
        };
        if members.insert(name.to_owned(), member).is_some() {
            // Two readers would take two different ones.
            return Err(ImageError::invalid(path.display(), format!("it has {name} twice")));
        }
    }
    Ok(members)
}

/// A name without `.` and `..`; `None` where it leads out.
fn lexical(name: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_and_never_lead_out() {
        assert_eq!(lexical("./a//b/../c").as_deref(), Some("a/c"));
        assert_eq!(lexical("a/../../b"), None);
        assert_eq!(lexical("/a").as_deref(), Some("a"));
    }
}
