//! Copies that are meant well, by docker's rules.

use std::fs::{File, create_dir, create_dir_all, read, read_link, write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

use cofferdam::error::{Code, Diagnose as _};
use cofferdam_image::copy::{CopyError, CopyOptions, Destination, Source, into, out};
use cofferdam_image::pack::Packed;
use cofferdam_testkit::lab::{finish, new_command};
use rustix::fs::XattrFlags;

use crate::overlay::{Numbers, grow, open};
use crate::snapshot::{assert_same, snapshot};

/// A container's root, and a place of the host beside it.
pub(crate) struct Sides {
    pub(crate) directory: tempfile::TempDir,
}

impl Sides {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["root", "host"] {
            create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory }
    }

    /// A path in the container.
    pub(crate) fn root(&self, path: &str) -> PathBuf {
        self.directory.path().join("root").join(path)
    }

    /// A path of the host.
    pub(crate) fn host(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("{}/host/{path}", self.directory.path().display()))
    }

    pub(crate) fn copy_out_with(
        &self,
        path: &str,
        to: &str,
        options: &CopyOptions,
    ) -> Result<Packed, CopyError> {
        let root = open(&self.root(""));
        out(root.as_fd(), Path::new(path), Destination::Path(&self.host(to)), options)
    }

    pub(crate) fn copy_out(&self, path: &str, to: &str) -> Result<Packed, CopyError> {
        self.copy_out_with(path, to, &CopyOptions::default())
    }

    pub(crate) fn copy_in_with(
        &self,
        from: &str,
        path: &str,
        options: &CopyOptions,
    ) -> Result<Packed, CopyError> {
        let root = open(&self.root(""));
        into(root.as_fd(), Path::new(path), Source::Path(&self.host(from)), options)
    }

    pub(crate) fn copy_in(&self, from: &str, path: &str) -> Result<Packed, CopyError> {
        self.copy_in_with(from, path, &CopyOptions::default())
    }
}

/// The table of docker's manual: source, destination, and a path that there is afterwards; `None` where it is an error.
const RULES: [(&str, &str, Option<&str>); 22] = [
    ("file", "new", Some("new")),
    ("file", "new/", None),
    ("file", "old", Some("old")),
    ("file", "old/", None),
    ("file", "there", Some("there/file")),
    ("file", "there/", Some("there/file")),
    ("file", "there/.", Some("there/file")),
    ("file", "nowhere/new", None),
    ("file/", "there", None),
    ("file/.", "there", None),
    ("dir", "new", Some("new/below/deep")),
    ("dir", "new/", Some("new/below/deep")),
    ("dir", "old", None),
    ("dir", "nowhere/new", None),
    ("dir", "there", Some("there/dir/below/deep")),
    ("dir/", "there", Some("there/dir/below/deep")),
    ("dir/.", "there", Some("there/below/deep")),
    ("dir/.", "new", Some("new/below/deep")),
    ("dir/.", "old", None),
    ("dir/../dir/below", "there", Some("there/below/deep")),
    ("missing", "there", None),
    ("missing/.", "there", None),
];

fn prepare(from: &Path, to: &Path) {
    create_dir_all(from.join("dir/below")).unwrap();
    write(from.join("dir/below/deep"), "content").unwrap();
    write(from.join("file"), "content").unwrap();
    create_dir_all(to.join("there")).unwrap();
    write(to.join("old"), "old").unwrap();
}

fn by_the_rules(side: impl Fn(&Sides, &str, &str) -> Result<Packed, CopyError>, to_host: bool) {
    for (source, destination, expected) in RULES {
        let sides = Sides::new();
        let (root, host) = (sides.root(""), sides.host(""));
        if to_host {
            prepare(&root, &host)
        } else {
            prepare(&host, &root)
        }
        let target = if to_host { host } else { root };
        let before = snapshot(&target);
        let done = side(&sides, source, destination);
        match expected {
            Some(path) => {
                let _done = done.unwrap_or_else(|error| panic!("{source} to {destination}: {error:?}"));
                assert_eq!(read(target.join(path)).unwrap(), b"content", "{source} to {destination}");
            }
            None => {
                let error = done.expect_err(&format!("{source} to {destination}"));
                assert_eq!(error.code(), Code::CopyFailed);
                assert_same(&before, &snapshot(&target), &format!("{source} to {destination}"));
            }
        }
    }
}

pub(crate) fn files_come_out_by_the_rules() {
    by_the_rules(|sides, source, destination| sides.copy_out(&format!("/{source}"), destination), true);
    // The whole root is what is in it.
    let sides = Sides::new();
    prepare(&sides.root(""), &sides.host(""));
    let _done = sides.copy_out("/", "there").unwrap();
    assert_eq!(read(sides.host("there/file")).unwrap(), b"content");
}

pub(crate) fn files_go_in_by_the_rules() {
    by_the_rules(|sides, source, destination| sides.copy_in(source, &format!("/{destination}")), false);
}

pub(crate) fn links_are_copied_or_followed() {
    let sides = Sides::new();
    prepare(&sides.root(""), &sides.host(""));
    symlink("/dir/below/deep", sides.root("link")).unwrap();
    symlink("/dir", sides.root("way")).unwrap();
    let follow = CopyOptions { follows_link: true, ..CopyOptions::default() };
    let _done = sides.copy_out("link", "there").unwrap();
    assert_eq!(read_link(sides.host("there/link")).unwrap(), Path::new("/dir/below/deep"));
    // What was copied is replaced, and not written through.
    let _done = sides.copy_out_with("link", "there", &follow).unwrap();
    assert!(!sides.host("there/link").is_symlink());
    assert_eq!(read(sides.host("there/link")).unwrap(), b"content");
    let _done = sides.copy_out("way/below", "there").unwrap();
    assert_eq!(read(sides.host("there/below/deep")).unwrap(), b"content");
    let _done = sides.copy_out("way/.", "there").unwrap();
    let _done = sides.copy_out_with("way", "new", &follow).unwrap();
    assert_eq!(read(sides.host("new/below/deep")).unwrap(), b"content");

    // Into it: the container's links lead to places in the container.
    symlink("/dir", sides.root("to-dir")).unwrap();
    symlink("/dir/made", sides.root("dangling")).unwrap();
    symlink("dir/below/deep", sides.root("to-file")).unwrap();
    write(sides.host("news"), "news").unwrap();
    let _done = sides.copy_in("news", "to-dir").unwrap();
    assert_eq!(read(sides.root("dir/news")).unwrap(), b"news");
    let _done = sides.copy_in("news", "dangling").unwrap();
    assert_eq!(read(sides.root("dir/made")).unwrap(), b"news");
    let _done = sides.copy_in("news", "to-file").unwrap();
    assert_eq!(read(sides.root("dir/below/deep")).unwrap(), b"news");
    assert!(sides.root("to-file").is_symlink());
    // A directory does not become a file, nor the other way round.
    create_dir(sides.root("dir/x")).unwrap();
    create_dir(sides.host("holder")).unwrap();
    write(sides.host("holder/x"), "").unwrap();
    assert!(sides.copy_in("holder/.", "dir").is_err());
    assert!(sides.root("dir/x").is_dir());
    create_dir(sides.host("holder2")).unwrap();
    create_dir(sides.host("holder2/news")).unwrap();
    assert!(sides.copy_in("holder2/.", "dir").is_err());
    assert!(sides.root("dir/news").is_file());
}

pub(crate) fn owners_and_modes_are_those_of_the_side() {
    let sides = Sides::new();
    for side in [sides.root("d"), sides.host("d")] {
        create_dir(&side).unwrap();
        write(side.join("f"), "x").unwrap();
        std::fs::hard_link(side.join("f"), side.join("g")).unwrap();
        rustix::fs::setxattr(side.join("f"), "user.note", b"n", XattrFlags::empty()).unwrap();
        for path in [side.clone(), side.join("f")] {
            lchown(&path, Some(1000), Some(2000)).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o6751)).unwrap();
        }
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5);
        File::open(&side).unwrap().set_modified(time).unwrap();
        File::open(side.join("f")).unwrap().set_modified(time).unwrap();
    }
    let about = |path: PathBuf| {
        let about = path.symlink_metadata().unwrap();
        assert_eq!((about.mtime(), about.mtime_nsec()), (1_000_000_000, 5), "{}", path.display());
        (about.uid(), about.gid(), about.mode() & 0o7777)
    };
    let keep = CopyOptions { keeps_owners: true, ..CopyOptions::default() };
    let _done = sides.copy_out("d", "plain").unwrap();
    let _done = sides.copy_out_with("d", "kept", &keep).unwrap();
    for name in ["", "f", "g"] {
        assert_eq!(about(sides.host("plain").join(name)), (0, 0, 0o751));
        assert_eq!(about(sides.host("kept").join(name)), (1000, 2000, 0o751));
    }
    assert_eq!(sides.host("plain/f").metadata().unwrap().nlink(), 2);
    assert!(snapshot(&sides.host("kept")).values().all(|seen| seen.attributes.is_empty()));
    let _done = sides.copy_in("d", "plain").unwrap();
    let _done = sides.copy_in_with("d", "kept", &keep).unwrap();
    assert_eq!(about(sides.root("plain/f")), (0, 0, 0o751));
    assert_eq!(about(sides.root("plain")), (0, 0, 0o751));
    assert_eq!(about(sides.root("kept/f")), (1000, 2000, 0o6751));
    assert_eq!(sides.root("kept/f").metadata().unwrap().nlink(), 2);
    assert_same(&snapshot(&sides.host("d")), &snapshot(&sides.root("kept")), "kept");
    // A directory that is there stays as it is.
    create_dir(sides.root("there")).unwrap();
    std::fs::set_permissions(sides.root("there"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let _done = sides.copy_in_with("d/.", "there", &keep).unwrap();
    assert_eq!(sides.root("there").metadata().unwrap().mode() & 0o7777, 0o700);
    // A program of root's is root's.
    write(sides.host("su"), "x").unwrap();
    std::fs::set_permissions(sides.host("su"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    let _done = sides.copy_in("su", "/su").unwrap();
    assert_eq!(sides.root("su").metadata().unwrap().mode() & 0o7777, 0o4755);
}

pub(crate) fn archives_go_in_and_come_out() {
    for seed in 0..4 {
        let sides = Sides::new();
        create_dir(sides.root("tree")).unwrap();
        grow(&sides.root("tree"), &mut Numbers(seed), 40);
        let mut archive = Vec::new();
        let root = open(&sides.root(""));
        let keep = CopyOptions { keeps_owners: true, ..CopyOptions::default() };
        let packed =
            out(root.as_fd(), Path::new("/tree"), Destination::Archive(&mut archive), &keep).unwrap();
        assert_eq!(packed.entries, 41);
        // GNU tar sees the directory by its name.
        write(sides.host("a.tar"), &archive).unwrap();
        let mut extract = new_command("tar");
        extract.args(["--extract", "--preserve-permissions", "--same-owner", "--numeric-owner", "--xattrs"]);
        extract.args(["--xattrs-include=user.*", "--file"]).arg(sides.host("a.tar"));
        extract.arg("--directory").arg(sides.host(""));
        drop(finish(extract).expect_code(0));
        assert_same(&snapshot(&sides.root("tree")), &snapshot(&sides.host("tree")), "out");
        // And in again, below a link.
        create_dir(sides.root("place")).unwrap();
        symlink("/place", sides.root("link")).unwrap();
        let done = into(root.as_fd(), Path::new("/link"), Source::Archive(&mut archive.as_slice()), &keep);
        assert_eq!(done.unwrap().entries, 41);
        assert_same(&snapshot(&sides.root("tree")), &snapshot(&sides.root("place/tree")), "in");
        // The same by paths of the host.
        let _done = sides.copy_out_with("tree", "by-path", &keep).unwrap();
        let _done = sides.copy_in_with("tree/.", "by-path", &keep).unwrap();
        assert_same(&snapshot(&sides.root("tree")), &snapshot(&sides.root("by-path")), "by path");
    }
    // Only into a directory that is there; and by names in it.
    let sides = Sides::new();
    let root = open(&sides.root(""));
    let unpack = |path: &str, archive: &[u8]| {
        into(root.as_fd(), Path::new(path), Source::Archive(&mut &*archive), &CopyOptions::default())
    };
    assert!(unpack("/missing", &[0; 1024]).is_err());
    assert!(unpack("/", b"no tar").is_err());
    create_dir_all(sides.root("usr/lib")).unwrap();
    symlink("usr/lib", sides.root("lib")).unwrap();
    let mut archive = new_command("sh");
    create_dir_all(sides.host("s/lib/new")).unwrap();
    write(sides.host("s/lib/new/f"), "x").unwrap();
    archive.args(["-c", "tar -C \"$0/s\" -c lib/new/f"]).arg(sides.host(""));
    let bytes = finish(archive).expect_code(0).stdout;
    let _done = unpack("/", &bytes).unwrap();
    assert_eq!(read(sides.root("usr/lib/new/f")).unwrap(), b"x");
    assert!(sides.root("lib").is_symlink());
}
