//! What lies in a directory, to be compared.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// `/`, `|`, `!`, ` -> target`, or nothing for a file.
    pub(crate) mark: String,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) modified: (i64, i64),
    pub(crate) content: Vec<u8>,
    pub(crate) attributes: BTreeMap<String, Vec<u8>>,
    /// Where it has other names, the first of them.
    pub(crate) first_name: PathBuf,
}

pub(crate) type Snapshot = BTreeMap<PathBuf, Seen>;

/// All that is in a directory, and under an empty path itself.
pub(crate) fn snapshot(root: &Path) -> Snapshot {
    let (mut found, mut firsts) = (Snapshot::new(), BTreeMap::new());
    // Through what may be a descriptor's link.
    visit(&root.join("."), Path::new(""), &mut firsts, &mut found);
    found
}

fn visit(root: &Path, below: &Path, firsts: &mut BTreeMap<u64, PathBuf>, found: &mut Snapshot) {
    let path = root.join(below);
    let about = path.symlink_metadata().unwrap();
    let kind = about.file_type();
    let mark = if kind.is_dir() {
        "/".to_owned()
    } else if kind.is_symlink() {
        format!(" -> {}", path.read_link().unwrap().display())
    } else if kind.is_char_device() {
        "!".to_owned()
    } else if kind.is_fifo() {
        "|".to_owned()
    } else if kind.is_socket() {
        "=".to_owned()
    } else {
        String::new()
    };
    let has_attributes = kind.is_dir() || kind.is_file();
    let seen = Seen {
        mark,
        mode: about.mode() & 0o7777,
        // A whiteout is made anew, and has nothing of its own.
        owner: if kind.is_char_device() { (0, 0) } else { (about.uid(), about.gid()) },
        modified: if kind.is_char_device() { (0, 0) } else { (about.mtime(), about.mtime_nsec()) },
        content: if kind.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() },
        attributes: if has_attributes { attributes(&path) } else { BTreeMap::new() },
        first_name: match kind.is_dir() || kind.is_char_device() {
            true => below.to_owned(),
            false => firsts.entry(about.ino()).or_insert_with(|| below.to_owned()).clone(),
        },
    };
    found.insert(below.to_owned(), seen);
    if kind.is_dir() {
        let mut names: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            visit(root, &below.join(name), firsts, found);
        }
    }
}

/// The attributes that go with a file, and whether it hides what is below it.
fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut buffer = vec![0; 64 << 10];
    let length = rustix::fs::listxattr(&path, buffer.as_mut_slice()).unwrap();
    let names = String::from_utf8(buffer[..length].to_vec()).unwrap();
    let wanted = |name: &&str| {
        name.starts_with("user.") || *name == "security.capability" || *name == "trusted.overlay.opaque"
    };
    let value = |name: &str| {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::getxattr(&path, name, value.as_mut_slice()).unwrap();
        value[..length].to_vec()
    };
    names.split_terminator('\0').filter(wanted).map(|name| (name.to_owned(), value(name))).collect()
}

/// Says where two trees differ.
#[track_caller]
pub(crate) fn assert_same(ours: &Snapshot, theirs: &Snapshot, what: &str) {
    for (path, seen) in ours {
        assert_eq!(Some(seen), theirs.get(path), "{what}: {}", path.display());
    }
    let more: Vec<_> = theirs.keys().filter(|path| !ours.contains_key(*path)).collect();
    assert!(more.is_empty(), "{what}: {more:?} is missing");
}
