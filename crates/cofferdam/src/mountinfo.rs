//! The mounts of this process's namespace, as the kernel lists them in `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountPoint {
    /// Where it is.
    pub(crate) place: PathBuf,
    /// Whether mounts below it go to its peers.
    pub(crate) shared: bool,
    /// Whether mounts below its master come to it.
    pub(crate) slave: bool,
}

/// All mounts, in the order in which they were made. Empty where /proc cannot be read.
pub(crate) fn mount_points() -> Vec<MountPoint> {
    parse(&std::fs::read("/proc/self/mountinfo").unwrap_or_default())
}

/// The mount that a path without symbolic links lies on: the deepest, and of several at one place the last.
pub(crate) fn mount_of<'a>(mounts: &'a [MountPoint], path: &Path) -> Option<&'a MountPoint> {
    let around = mounts.iter().filter(|mount| path.starts_with(&mount.place));
    around.max_by_key(|mount| mount.place.components().count())
}

fn parse(text: &[u8]) -> Vec<MountPoint> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `ID PARENT MAJOR:MINOR ROOT PLACE OPTIONS [FIELD...] - TYPE SOURCE OPTIONS`.
fn parse_line(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|byte| *byte == b' ');
    let place = PathBuf::from(OsString::from_vec(unescape(fields.nth(4)?)));
    let optional: Vec<&[u8]> = fields.skip(1).take_while(|field| *field != b"-").collect();
    let has = |start: &[u8]| optional.iter().any(|field| field.starts_with(start));
    Some(MountPoint { place, shared: has(b"shared:"), slave: has(b"master:") })
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let code = (*first == b'\\').then(|| after.get(..3)).flatten();
        let code = code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_propagation_are_read() {
        let text = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                     30 27 0:30 / /a\\040b rw shared:7 master:3 - tmpfs x rw\n\
                     31 30 0:31 / /a\\040b/c\\134 rw master:3 - tmpfs x rw\n\
                     32 27 0:32 / /a\\040b rw - tmpfs x rw\ngarbage\n\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 4, "{mounts:?}");
        let of = |path: &str| {
            let mount = mount_of(&mounts, Path::new(path)).unwrap();
            (mount.place.to_str().unwrap(), mount.shared, mount.slave)
        };
        assert_eq!(of("/x"), ("/", false, false));
        assert_eq!(of("/a b"), ("/a b", false, false), "the last one covers the others");
        assert_eq!(of("/a b/c\\/d"), ("/a b/c\\", false, true));
        assert!(mounts[1].shared && mounts[1].slave);
    }

    #[test]
    fn this_process_has_a_root() {
        assert!(mount_of(&mount_points(), Path::new("/")).is_some());
    }
}
