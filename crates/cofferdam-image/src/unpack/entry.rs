//! One entry of a layer, and the names in it.

use super::UnpackError;

/// The longest path, and the longest part of one, that Linux takes.
pub(crate) const PATH_MAX: usize = 4095;
const NAME_MAX: usize = 255;
/// More of a name is not printed.
const PRINTED: usize = 100;

/// A path below the root of a layer: no part of it is empty, `.` or `..`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct LayerPath(Vec<u8>);

impl LayerPath {
    /// Reads a name of a layer. `/` at its beginning and end, and `.`, count for nothing, as for every tool; `..` is refused.
    pub(crate) fn parse(name: &[u8]) -> Result<Self, UnpackError> {
        if name.contains(&0) {
            return Err(UnpackError::BadName("it has a NUL in it"));
        }
        let parts: Vec<&[u8]> =
            name.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
        if parts.contains(&&b".."[..]) {
            return Err(UnpackError::BadName("`..` leads out of its directory"));
        }
        if parts.iter().any(|part| part.len() > NAME_MAX) {
            return Err(UnpackError::BadName("a part of it is longer than 255 bytes"));
        }
        let path = parts.join(&b'/');
        if path.len() > PATH_MAX {
            return Err(UnpackError::BadName("it is longer than 4095 bytes"));
        }
        Ok(Self(path))
    }

    /// Its bytes, without a `/` at either end; empty for the root.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The directory that it is in; empty for the root.
    pub(crate) fn parent(&self) -> &[u8] {
        let end = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        &self.0[..end]
    }

    /// Its last part; `None` for the root.
    pub(crate) fn name(&self) -> Option<&[u8]> {
        let start = self.0.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        Some(&self.0[start..]).filter(|name| !name.is_empty())
    }
}

/// A name for messages: short, and harmless on a terminal.
pub(crate) fn printable(name: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(name).chars().take(PRINTED).collect();
    text.escape_debug().to_string()
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file, whose content comes next.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, whose target is text.
    Symlink(Vec<u8>),
    /// Another name of a file of this layer.
    Hardlink(LayerPath),
    /// A named pipe.
    Fifo,
    /// A device node, with its numbers.
    Device { is_block: bool, major: u32, minor: u32 },
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: LayerPath,
    pub(crate) kind: Kind,
    /// The permissions, with set-user-ID and the like.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(crate) modified: (i64, u32),
    /// The bytes of content that follow.
    pub(crate) size: u64,
    /// Extended attributes: names with their values.
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_every_tool_reads_them() {
        for (name, path, parent, last) in [
            ("a", "a", "", Some("a")),
            ("/a/b/", "a/b", "a", Some("b")),
            ("./a//./b/c", "a/b/c", "a/b", Some("c")),
            ("./", "", "", None),
            ("/", "", "", None),
            ("...", "...", "", Some("...")),
        ] {
            let parsed = LayerPath::parse(name.as_bytes()).unwrap();
            assert_eq!(parsed.bytes(), path.as_bytes(), "{name}");
            assert_eq!(parsed.parent(), parent.as_bytes(), "{name}");
            assert_eq!(parsed.name(), last.map(str::as_bytes), "{name}");
        }
        for name in ["..", "a/../b", "/../etc", "a/..", &"x".repeat(256), &"x/".repeat(2100), "a\0b"] {
            assert!(LayerPath::parse(name.as_bytes()).is_err(), "{name}");
        }
    }

    #[test]
    fn what_is_printed_is_short_and_harmless() {
        assert_eq!(printable(b"\x1b[2J\n\xff"), "\\u{1b}[2J\\n\u{fffd}");
        assert_eq!(printable("x/".repeat(1000).as_bytes()).len(), PRINTED);
    }
}
