//! From a walk over a tree to the entries of an archive.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::FileType;

use super::attributes::{Attributes, Reader};
use super::walk::{Found, Identity, OpenFiles, Walk};
use super::{Packed, is_mounted_upon};
use crate::copy::CopyError;
use crate::unpack::entry::{Entry, Kind, LayerPath, printable};
use crate::unpack::{OPAQUE, UnpackLimits, WHITEOUT};

/// The first names of files that have more of them, in bytes: a container may give millions of files long paths. What is beyond
/// that is packed once for each name.
const NAMES_LIMIT: usize = 256 << 20;

/// Where entries go: an archive, or a directory.
pub(crate) trait Sink {
    /// Takes an entry without content.
    fn put(&mut self, entry: &Entry) -> Result<(), CopyError>;

    /// Takes a file with as much content as the entry says: of one that has grown, the beginning; where one has become
    /// shorter, zeros. Says whether it has become shorter.
    fn put_file(&mut self, entry: &Entry, file: &mut File, is_sparse: bool) -> Result<bool, CopyError>;

    /// Ends it.
    fn finish(self) -> Result<(), CopyError>;
}

/// What is made of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// A layer of an image: what overlayfs hides is a whiteout.
    Layer,
    /// Everything as it is.
    Tree,
    /// Everything but devices.
    Copy,
}

/// Where a tree goes, and what is known of what has gone there.
#[derive(Debug)]
pub(crate) struct Packer<S> {
    sink: S,
    style: Style,
    bytes_limit: u64,
    files: OpenFiles,
    attributes: Reader,
    /// Files that have more names than were seen of them, with the first name, and how many are still to come.
    names: HashMap<Identity, (LayerPath, u32)>,
    names_bytes: usize,
    done: Packed,
}

impl<S: Sink> Packer<S> {
    pub(crate) fn new(sink: S, style: Style, bytes_limit: u64) -> Result<Self, CopyError> {
        Ok(Self {
            sink,
            style,
            bytes_limit,
            files: OpenFiles::new()?,
            attributes: Reader::new(),
            names: HashMap::new(),
            names_bytes: 0,
            done: Packed::default(),
        })
    }

    /// Packs something, and all that is in it, below a name in the archive.
    pub(crate) fn put_all(&mut self, top: &Found, prefix: &[u8], crosses: bool) -> Result<(), CopyError> {
        let Some(directory) = self.put(top, prefix)? else { return Ok(()) };
        let mut walk = Walk::over(directory)?;
        while let Some(found) = walk.next()? {
            let path = match prefix {
                b"" => walk.path().to_vec(),
                prefix => [prefix, walk.path()].join(&b'/'),
            };
            if self.style == Style::Layer && is_mounted_upon(&found, &path) {
                continue;
            }
            let is_mount = !crosses && found.about.stx_mnt_id != top.about.stx_mnt_id;
            if is_mount && found.kind() != FileType::Directory {
                self.done.mounts_left_out += 1;
                continue;
            }
            let directory = self.put(&found, &path)?;
            if let Some(directory) = directory.filter(|_| !is_mount) {
                walk.enter(directory)?;
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Packed, CopyError> {
        self.sink.finish()?;
        Ok(self.done)
    }

    /// Packs one thing; gives a directory back, open for reading.
    fn put(&mut self, found: &Found, path: &[u8]) -> Result<Option<OwnedFd>, CopyError> {
        let parsed = parse(path)?;
        if self.style == Style::Layer && parsed.name().is_some_and(|name| name.starts_with(WHITEOUT)) {
            return Err(CopyError::refused(
                path,
                "in a layer, a name that begins with `.wh.` removes a file",
            ));
        }
        let entry = |kind| entry_of(found, parsed.clone(), kind);
        match found.kind() {
            FileType::Directory => return self.put_directory(found, entry(Kind::Directory)).map(Some),
            FileType::RegularFile => self.put_file(found, entry(Kind::File))?,
            FileType::Symlink => self.put_linked(found, entry(Kind::Symlink(found.link(path)?)))?,
            FileType::Fifo => self.put_linked(found, entry(Kind::Fifo))?,
            FileType::Socket => self.done.sockets_left_out += 1,
            kind => self.put_device(found, entry(device(found, kind)))?,
        }
        Ok(None)
    }

    fn put_directory(&mut self, found: &Found, mut entry: Entry) -> Result<OwnedFd, CopyError> {
        let directory = found.directory(entry.path.bytes())?;
        let attributes = self.attributes.read(directory.as_fd(), entry.path.bytes())?;
        let is_opaque = attributes.is_opaque;
        let name = if is_opaque { Some(beside(entry.path.bytes(), OPAQUE)?) } else { None };
        self.take(&mut entry, attributes)?;
        self.count(&entry)?;
        self.sink.put(&entry)?;
        if let Some(path) = name.filter(|_| self.style == Style::Layer) {
            self.put_mark(path, entry.modified)?;
        }
        Ok(directory)
    }

    fn put_file(&mut self, found: &Found, mut entry: Entry) -> Result<(), CopyError> {
        if let Some(link) = self.other_name(found, &entry) {
            self.count(&link)?;
            return self.sink.put(&link);
        }
        entry.size = found.about.stx_size;
        let mut file = found.file(entry.path.bytes(), &self.files)?;
        let attributes = self.attributes.read(file.as_fd(), entry.path.bytes())?;
        self.take(&mut entry, attributes)?;
        self.count(&entry)?;
        let is_sparse = found.about.stx_blocks.saturating_mul(512) < entry.size;
        self.done.shortened += u64::from(self.sink.put_file(&entry, &mut file, is_sparse)?);
        Ok(())
    }

    /// Packs what has no content, and may have other names.
    fn put_linked(&mut self, found: &Found, entry: Entry) -> Result<(), CopyError> {
        let entry = self.other_name(found, &entry).unwrap_or(entry);
        self.count(&entry)?;
        self.sink.put(&entry)
    }

    fn put_device(&mut self, found: &Found, entry: Entry) -> Result<(), CopyError> {
        match (self.style, &entry.kind) {
            (Style::Tree, _) => self.put_linked(found, entry),
            (Style::Layer, Kind::Device { is_block: false, major: 0, minor: 0 }) => {
                let name = [WHITEOUT, entry.path.name().unwrap_or_default()].concat();
                self.put_mark(beside(entry.path.parent(), &name)?, entry.modified)
            }
            (Style::Layer | Style::Copy, _) => {
                self.done.devices_left_out += 1;
                Ok(())
            }
        }
    }

    /// Packs an empty file that stands for something.
    fn put_mark(&mut self, path: LayerPath, modified: (i64, u32)) -> Result<(), CopyError> {
        let entry = Entry {
            path,
            kind: Kind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            modified: (modified.0, 0),
            size: 0,
            attributes: Vec::new(),
        };
        self.count(&entry)?;
        self.sink.put(&entry)
    }

    fn take(&mut self, entry: &mut Entry, attributes: Attributes) -> Result<(), CopyError> {
        if self.style == Style::Layer && attributes.is_partial {
            return Err(CopyError::refused(
                entry.path.bytes(),
                "a part of it is in a lower layer: the overlay is mounted with redirect_dir=on or metacopy=on",
            ));
        }
        self.done.attributes_left_out += attributes.left_out;
        entry.attributes = attributes.kept;
        Ok(())
    }

    /// Where a file was packed by another name, a link to that.
    fn other_name(&mut self, found: &Found, entry: &Entry) -> Option<Entry> {
        if found.about.stx_nlink < 2 {
            return None;
        }
        let identity = found.identity();
        let bytes = |path: &LayerPath| path.bytes().len() + size_of::<(Identity, LayerPath, u32)>();
        let Some((first, to_come)) = self.names.get_mut(&identity) else {
            if self.names_bytes < NAMES_LIMIT {
                self.names_bytes += bytes(&entry.path);
                self.names.insert(identity, (entry.path.clone(), found.about.stx_nlink - 1));
            }
            return None;
        };
        let kind = Kind::Hardlink(first.clone());
        *to_come -= 1;
        if *to_come == 0 {
            self.names_bytes -= bytes(first);
            self.names.remove(&identity);
        }
        Some(Entry { kind, size: 0, ..entry.clone() })
    }

    /// Counts an entry, as long as it may be packed.
    fn count(&mut self, entry: &Entry) -> Result<(), CopyError> {
        self.done.entries += 1;
        self.done.bytes = self.done.bytes.saturating_add(entry.size);
        let entries = UnpackLimits::default().entries;
        let path = || printable(entry.path.bytes());
        if self.done.entries > entries {
            return Err(CopyError::TooMuch { path: path(), limit: entries, of: "entries" });
        }
        if self.done.bytes > self.bytes_limit {
            return Err(CopyError::TooMuch { path: path(), limit: self.bytes_limit, of: "bytes" });
        }
        Ok(())
    }
}

/// What is known of something without opening it.
pub(crate) fn entry_of(found: &Found, path: LayerPath, kind: Kind) -> Entry {
    let about = &found.about;
    Entry {
        path,
        kind,
        mode: u32::from(about.stx_mode) & 0o7777,
        uid: about.stx_uid,
        gid: about.stx_gid,
        modified: (about.stx_mtime.tv_sec, about.stx_mtime.tv_nsec),
        size: 0,
        attributes: Vec::new(),
    }
}

fn device(found: &Found, kind: FileType) -> Kind {
    let about = &found.about;
    let is_block = kind == FileType::BlockDevice;
    Kind::Device { is_block, major: about.stx_rdev_major, minor: about.stx_rdev_minor }
}

/// A path of a tree, which a name of a whiteout can make too long.
pub(crate) fn parse(path: &[u8]) -> Result<LayerPath, CopyError> {
    LayerPath::parse(path).map_err(|_| CopyError::refused(path, "it is longer than a path or a name may be"))
}

/// A name in a directory.
fn beside(directory: &[u8], name: &[u8]) -> Result<LayerPath, CopyError> {
    parse(&[directory, name].join(&b'/'))
}
