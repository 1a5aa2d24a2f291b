//! Trees of containers that mean harm, and what is odd about others: nothing leads to the host, and nothing is waited for.

use std::ffi::OsStr;
use std::fs::{File, create_dir, create_dir_all, read, write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use cofferdam::error::{Code, Diagnose as _};
use cofferdam_image::copy::{CopyOptions, Destination, Source, into, out};
use cofferdam_image::pack::{TreeOptions, changes, layer, tree};
use cofferdam_testkit::lab::{finish, new_command};
use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags, makedev, mknodat, openat, setxattr};

use crate::copy::Sides;
use crate::overlay::open;
use crate::snapshot::snapshot;

/// A directory of the host that no container may reach, and what it is like.
pub(crate) struct Canary {
    pub(crate) directory: tempfile::TempDir,
    before: Vec<(u64, u32, i64, i64, Vec<u8>)>,
}

impl Canary {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        create_dir(directory.path().join("below")).unwrap();
        for name in ["secret", "below/secret"] {
            write(directory.path().join(name), "sings").unwrap();
        }
        let before = Self::look(directory.path());
        Self { directory, before }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    fn look(path: &Path) -> Vec<(u64, u32, i64, i64, Vec<u8>)> {
        let about = |path: &Path| {
            let about = path.symlink_metadata().unwrap();
            let content = if path.is_file() { read(path).unwrap() } else { Vec::new() };
            (about.ino(), about.mode(), about.ctime(), about.ctime_nsec(), content)
        };
        snapshot(path).keys().map(|below| about(&path.join(below))).collect()
    }

    #[track_caller]
    pub(crate) fn expect_untouched(&self) {
        assert_eq!(Self::look(self.path()), self.before);
    }
}

/// Whether a canary's content is anywhere in a tree.
pub(crate) fn sings(tree: &Path) -> bool {
    snapshot(tree).values().any(|seen| seen.content == b"sings")
}

pub(crate) fn links_lead_nowhere_else() {
    let canary = Canary::new();
    let sides = Sides::new();
    let secret = canary.path().join("secret");
    create_dir(sides.root("d")).unwrap();
    symlink(&secret, sides.root("d/absolute")).unwrap();
    symlink(canary.path(), sides.root("d/directory")).unwrap();
    symlink(format!("{}{}", "../".repeat(40), secret.display()), sides.root("d/up")).unwrap();
    symlink("loop", sides.root("d/loop")).unwrap();
    symlink("/proc/self/root", sides.root("d/magic")).unwrap();
    symlink(format!("/proc/{}/root/{}", std::process::id(), secret.display()), sides.root("d/pid")).unwrap();
    // Copied, they are links.
    let _done = sides.copy_out("/d", "").unwrap();
    for name in ["absolute", "directory", "up", "loop", "magic", "pid"] {
        assert!(sides.host("d").join(name).is_symlink(), "{name}");
    }
    // Followed, they lead to what the container has by that name, and that is nothing.
    let follow = CopyOptions { follows_link: true, ..CopyOptions::default() };
    for path in
        ["d/absolute", "d/directory", "d/directory/secret", "d/up", "d/loop", "d/magic/etc/passwd", "d/pid"]
    {
        assert!(sides.copy_out_with(path, "copied", &follow).is_err(), "{path}");
        assert!(sides.copy_out(&format!("{path}/."), "copied").is_err(), "{path}");
        assert!(!sides.host("copied").exists(), "{path}");
    }
    // A path that goes up does not leave the container.
    assert!(sides.copy_out(&format!("../../../..{}", secret.display()), "copied").is_err());
    // Into it: what is written through a link comes to lie in the container.
    write(sides.host("news"), "news").unwrap();
    for path in
        ["d/directory", "d/directory/below", "d/directory/secret", "d/up", "d/loop", "d/pid", "d/magic/tmp"]
    {
        assert!(sides.copy_in("news", path).is_err(), "{path}");
    }
    create_dir_all(sides.root(canary.path().strip_prefix("/").unwrap().to_str().unwrap())).unwrap();
    let _done = sides.copy_in("news", "d/directory").unwrap();
    let _done = sides.copy_in("news", "d/absolute").unwrap();
    assert_eq!(read(sides.root(&format!(".{}/news", canary.path().display()))).unwrap(), b"news");
    assert_eq!(read(sides.root(&format!(".{}", secret.display()))).unwrap(), b"news");
    // An archive's own names and links do not leave the destination either.
    let mut header = tar_of("../../escaped", b"x");
    let root = open(&sides.root(""));
    let unpack = |archive: &[u8]| {
        into(root.as_fd(), Path::new("/d"), Source::Archive(&mut &*archive), &CopyOptions::default())
    };
    assert!(unpack(&header).is_err());
    header = tar_of("directory/through", b"x");
    let _done = unpack(&header).unwrap();
    assert!(sides.root(&format!(".{}/through", canary.path().display())).is_file());
    // A tree and a layer have them as links.
    let bytes = &mut Vec::new();
    let _done = tree(root.as_fd(), &mut *bytes, &TreeOptions::default()).unwrap();
    let _done = layer(root.as_fd(), &mut *bytes).unwrap();
    assert!(!bytes.windows(5).any(|window| window == b"sings"));
    canary.expect_untouched();
}

/// A tar stream of one file, with a name that no honest program writes.
fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\x000000000\x000000000\0");
    put(124, format!("{:011o}\0{:011o}\0", content.len(), 0).as_bytes());
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header.extend_from_slice(content);
    header.resize(header.len().next_multiple_of(512) + 1024, 0);
    header
}

pub(crate) fn nothing_is_waited_for() {
    let sides = Sides::new();
    create_dir(sides.root("d")).unwrap();
    let node = |name: &str, kind, device| {
        mknodat(CWD, sides.root("d").join(name), kind, Mode::from_raw_mode(0o666), device).unwrap();
    };
    node("pipe", FileType::Fifo, 0);
    // Who opens /dev/tty or a watchdog does something by it.
    node("tty", FileType::CharacterDevice, makedev(5, 0));
    node("watchdog", FileType::CharacterDevice, makedev(10, 130));
    node("disk", FileType::BlockDevice, makedev(8, 0));
    let _socket = UnixListener::bind(sides.root("d/socket")).unwrap();
    write(sides.root("d/plain"), "x").unwrap();
    let done = sides.copy_out("d", "copy").unwrap();
    assert_eq!((done.devices_left_out, done.sockets_left_out), (3, 1));
    assert!(sides.host("copy/pipe").symlink_metadata().unwrap().file_type().is_fifo());
    assert!(!sides.host("copy/disk").exists());
    let _done = sides.copy_out("d/pipe", "").unwrap();
    let done = sides.copy_in("copy", "again").unwrap();
    assert_eq!(done.devices_left_out, 0);
    let root = open(&sides.root(""));
    let packed = tree(root.as_fd(), std::io::sink(), &TreeOptions::default()).unwrap();
    assert_eq!((packed.devices_left_out, packed.sockets_left_out), (0, 1));
    let packed = layer(root.as_fd(), std::io::sink()).unwrap();
    assert_eq!((packed.devices_left_out, packed.sockets_left_out), (3, 1));
    // A device of the host is not replaced by a file.
    let device = sides.host("device");
    mknodat(CWD, &device, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3)).unwrap();
    assert!(sides.copy_out("d/plain", "device").is_err());
    assert!(device.symlink_metadata().unwrap().file_type().is_char_device());
    // A file of /proc of which the content is still to come.
    let proc = openat(CWD, "/proc", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let done =
        out(proc.as_fd(), Path::new("kmsg"), Destination::Path(&sides.host("kmsg")), &CopyOptions::default());
    assert!(done.is_err() || sides.host("kmsg").metadata().unwrap().len() == 0);
}

pub(crate) fn any_name_is_copied() {
    let sides = Sides::new();
    let names: [&[u8]; 9] =
        [b"\xff\xfe", b"new\nline", b" ", b"-rf", b"...", b"a\\b", b"\x1b[2J", b"%s%n", "ü".as_bytes()];
    create_dir(sides.root("d")).unwrap();
    for name in names {
        let directory = sides.root("d").join(OsStr::from_bytes(name));
        create_dir(&directory).unwrap();
        write(directory.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let done = sides.copy_out("d", "copy").unwrap();
    assert_eq!(done.entries, 19);
    let _done = sides.copy_in("copy/.", "again").unwrap();
    let expected = snapshot(&sides.root("d"));
    assert!(expected == snapshot(&sides.host("copy")) && expected == snapshot(&sides.root("again")));
    let mut archive = Vec::new();
    let root = open(&sides.root("d"));
    let _done = tree(root.as_fd(), &mut archive, &TreeOptions::default()).unwrap();
    create_dir(sides.root("third")).unwrap();
    let third = open(&sides.root("third"));
    let _done = into(
        third.as_fd(),
        Path::new("/"),
        Source::Archive(&mut archive.as_slice()),
        &CopyOptions::default(),
    )
    .unwrap();
    let mut found = snapshot(&sides.root("third"));
    found.insert("".into(), expected[Path::new("")].clone());
    assert!(expected == found);
    // And many names.
    for number in 0..10_000 {
        write(sides.root("d/ü").join(number.to_string()), "").unwrap();
    }
    let done = sides.copy_out("d", "many").unwrap();
    assert_eq!(done.entries, 10_019);
    assert_eq!(std::fs::read_dir(sides.host("many/ü")).unwrap().count(), 10_001);
    let list = changes(root.as_fd(), &[]).unwrap();
    assert_eq!(list.len(), 10_018);
    // A name that is printed does nothing to a terminal.
    let error = sides.copy_out("d/\x1b[2J/\x1b[31m", "new").unwrap_err();
    assert!(!error.to_string().contains('\x1b'), "{error}");
}

/// Makes directories in each other, deeper than any path can say.
fn deep(top: &Path, name: &str, depth: usize) {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut at: OwnedFd = openat(CWD, top, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)).unwrap();
        at = openat(&at, name, flags, Mode::empty()).unwrap();
    }
    let file = openat(&at, "f", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644)).unwrap();
    rustix::io::write(&file, b"deep").unwrap();
}

pub(crate) fn holes_and_depths_are_bounded() {
    let sides = Sides::new();
    create_dir(sides.root("d")).unwrap();
    // A terabyte that takes no room; some bytes in the middle, and a hole at the end.
    let file = File::create(sides.root("d/sparse")).unwrap();
    file.set_len(1 << 40).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"data", 1 << 39).unwrap();
    let begun = std::time::Instant::now();
    let done = sides.copy_out("d", "copy").unwrap();
    assert_eq!(done.shortened, 0);
    let about = sides.host("copy/sparse").metadata().unwrap();
    assert!(about.len() == 1 << 40 && about.blocks() < 1024, "{about:?}");
    let mut data = [0; 4];
    let copied = open(&sides.host("copy/sparse"));
    std::os::unix::fs::FileExt::read_exact_at(&copied, &mut data, 1 << 39).unwrap();
    assert_eq!(&data, b"data");
    let _done = sides.copy_in("copy", "again").unwrap();
    assert!(sides.root("again/sparse").metadata().unwrap().blocks() < 1024);
    // An archive has zeros for holes, and no more of them than it may.
    let root = open(&sides.root("d"));
    let error = tree(root.as_fd(), std::io::sink(), &TreeOptions::default()).unwrap_err();
    assert!(error.to_string().contains("more than 274877906944 bytes"), "{error}");
    assert_eq!(error.code(), Code::CopyFailed);
    assert!(layer(root.as_fd(), std::io::sink()).is_err());
    file.set_len(1 << 20).unwrap();
    let mut bytes = Vec::new();
    let packed = tree(root.as_fd(), &mut bytes, &TreeOptions::default()).unwrap();
    assert_eq!((packed.bytes, bytes.len()), (1 << 20, (1 << 20) + 4096));

    // Deeper than files may be open.
    deep(&sides.root(""), "x", 1100);
    let _done = sides.copy_out("x", "deep").unwrap();
    assert_eq!(read(sides.host(&format!("deep{}/f", "/x".repeat(1099)))).unwrap(), b"deep");
    let packed = layer(open(&sides.root("x")).as_fd(), std::io::sink()).unwrap();
    assert_eq!(packed.entries, 1101);
    // And deeper than a path can say.
    create_dir(sides.root("abyss")).unwrap();
    deep(&sides.root("abyss"), &"y".repeat(250), 20);
    for error in [
        sides.copy_out("abyss", "abyss").unwrap_err(),
        tree(open(&sides.root("abyss")).as_fd(), std::io::sink(), &TreeOptions::default()).unwrap_err(),
        layer(open(&sides.root("abyss")).as_fd(), std::io::sink()).unwrap_err(),
        changes(open(&sides.root("abyss")).as_fd(), &[]).unwrap_err(),
    ] {
        assert!(error.to_string().contains("longer than"), "{error}");
    }
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    // The standard library would open them all at once.
    let mut remove = new_command("rm");
    remove.arg("-rf").args([sides.root("x"), sides.root("abyss"), sides.host("deep"), sides.host("abyss")]);
    drop(finish(remove).expect_code(0));
}

pub(crate) fn nothing_has_power_on_the_host() {
    let sides = Sides::new();
    create_dir(sides.root("d")).unwrap();
    write(sides.root("d/su"), "x").unwrap();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    setxattr(sides.root("d/su"), "security.capability", &capability, XattrFlags::empty()).unwrap();
    std::fs::set_permissions(sides.root("d/su"), std::fs::Permissions::from_mode(0o7777)).unwrap();
    std::fs::set_permissions(sides.root("d"), std::fs::Permissions::from_mode(0o2777)).unwrap();
    for keeps_owners in [false, true] {
        let options = CopyOptions { keeps_owners, ..CopyOptions::default() };
        let name = format!("copy-{keeps_owners}");
        let _done = sides.copy_out_with("d", &name, &options).unwrap();
        let copied = snapshot(&sides.host(&name));
        assert!(
            copied.values().all(|seen| seen.mode & 0o6000 == 0 && seen.attributes.is_empty()),
            "{copied:?}"
        );
    }
    // What an earlier copy brought is not written through, neither below the destination nor at it.
    let canary = Canary::new();
    create_dir(sides.root("bait")).unwrap();
    symlink(canary.path(), sides.root("bait/x")).unwrap();
    symlink(canary.path().join("secret"), sides.root("bait/y")).unwrap();
    let _done = sides.copy_out("bait", "").unwrap();
    for name in ["x", "y"] {
        std::fs::remove_file(sides.root("bait").join(name)).unwrap();
    }
    create_dir(sides.root("bait/x")).unwrap();
    write(sides.root("bait/x/secret"), "harm").unwrap();
    write(sides.root("bait/y"), "harm").unwrap();
    assert!(sides.copy_out("bait", "").is_err(), "a directory does not replace a link");
    let _done = sides.copy_out("bait/y", "bait").unwrap();
    assert!(!sides.host("bait/y").is_symlink());
    symlink(canary.path().join("secret"), sides.host("named")).unwrap();
    let _done = sides.copy_out("bait/y", "named").unwrap();
    assert_eq!(read(sides.host("named")).unwrap(), b"harm");
    canary.expect_untouched();
    // What is in the destination, and nothing beside it, has changed; directories there stay as they are.
    create_dir(sides.host("kept")).unwrap();
    std::fs::set_permissions(sides.host("kept"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let _done = sides.copy_out("d/.", "kept").unwrap();
    assert_eq!(sides.host("kept").metadata().unwrap().mode() & 0o7777, 0o700);
}
