//! Layers that mean harm, and layers that do not, and a place to unpack them in.

mod good;
mod harm;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

use super::*;

/// A tar stream made entry by entry, with names that no honest program writes.
#[derive(Default)]
struct Layer(Vec<u8>);

impl Layer {
    fn entry(mut self, kind: EntryType, name: &str, link: &str, content: &[u8]) -> Self {
        self.put(&Self::header(kind, name, link, content.len() as u64), content);
        self
    }

    fn header(kind: EntryType, name: &str, link: &str, size: u64) -> Header {
        let mut header = Header::new_gnu();
        let fields = header.as_gnu_mut().unwrap();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(size);
        header.set_cksum();
        header
    }

    fn put(&mut self, header: &Header, content: &[u8]) {
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn raw(mut self, header: &Header, content: &[u8]) -> Self {
        self.put(header, content);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name, "", content.as_bytes())
    }

    fn directory(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, b"")
    }

    fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, b"")
    }

    fn pax(self, records: &[(&str, &str)]) -> Self {
        let record = |(key, value): &(&str, &str)| {
            let rest = format!(" {key}={value}\n");
            let mut length = rest.len() + 1;
            while length != rest.len() + length.to_string().len() {
                length = rest.len() + length.to_string().len();
            }
            format!("{length}{rest}")
        };
        let text: String = records.iter().map(record).collect();
        self.entry(EntryType::XHeader, "pax", "", text.as_bytes())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A target, and things beside it that no layer may touch.
struct Scene(tempfile::TempDir);

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("outside/below")).unwrap();
        std::fs::write(directory.path().join("outside/canary"), "sings").unwrap();
        std::fs::create_dir(directory.path().join("target")).unwrap();
        Self(directory)
    }

    fn outside(&self) -> PathBuf {
        self.0.path().join("outside")
    }

    fn target(&self) -> PathBuf {
        self.0.path().join("target")
    }

    fn unpack_within(&self, layer: &[u8], limits: &UnpackLimits) -> Result<Unpacked, UnpackError> {
        let before = seen(&self.outside(), true);
        let done = unpack(layer, File::open(self.target()).unwrap().as_fd(), limits);
        assert_eq!(seen(&self.outside(), true), before, "nothing outside was touched");
        let beside: Vec<_> = std::fs::read_dir(self.0.path()).unwrap().collect();
        assert_eq!(beside.len(), 2, "nothing came beside the target: {beside:?}");
        done
    }

    fn unpack(&self, layer: &[u8]) -> Result<Unpacked, UnpackError> {
        self.unpack_within(layer, &UnpackLimits::default())
    }

    /// What lies in the target, with what it is: `name`, `name/`, `name -> target`, `name!` for a whiteout, `name|`.
    fn names(&self) -> Vec<String> {
        let name = |(path, what): (PathBuf, Seen)| format!("{}{}", path.display(), what.mark);
        seen(&self.target(), false).into_iter().map(name).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    mark: String,
    mode: u32,
    owner: (u32, u32),
    modified: i64,
    content: Vec<u8>,
    /// Where it has other names, the first of them.
    first_name: PathBuf,
    /// For things that must not be touched at all.
    identity: Option<(u64, i64)>,
}

fn seen(root: &Path, exactly: bool) -> BTreeMap<PathBuf, Seen> {
    fn visit(
        root: &Path,
        below: &Path,
        exactly: bool,
        firsts: &mut BTreeMap<u64, PathBuf>,
        found: &mut BTreeMap<PathBuf, Seen>,
    ) {
        let mut names: Vec<_> =
            std::fs::read_dir(root.join(below)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            let path = below.join(name);
            let about = root.join(&path).symlink_metadata().unwrap();
            let kind = about.file_type();
            let mark = if kind.is_dir() {
                "/".to_owned()
            } else if kind.is_symlink() {
                format!(" -> {}", std::fs::read_link(root.join(&path)).unwrap().display())
            } else if kind.is_char_device() {
                assert_eq!(about.rdev(), 0, "only whiteouts are devices: {path:?}");
                "!".to_owned()
            } else if kind.is_fifo() {
                "|".to_owned()
            } else {
                String::new()
            };
            let content = if kind.is_file() { std::fs::read(root.join(&path)).unwrap() } else { Vec::new() };
            let first_name = match kind.is_dir() {
                true => path.clone(),
                false => firsts.entry(about.ino()).or_insert_with(|| path.clone()).clone(),
            };
            let what = Seen {
                mark,
                mode: about.mode() & 0o7777,
                owner: (about.uid(), about.gid()),
                modified: about.mtime(),
                content,
                first_name,
                identity: exactly.then(|| (about.ino(), about.ctime_nsec())),
            };
            found.insert(path.clone(), what);
            if kind.is_dir() {
                visit(root, &path, exactly, firsts, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    visit(root, Path::new(""), exactly, &mut BTreeMap::new(), &mut found);
    found
}

fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
