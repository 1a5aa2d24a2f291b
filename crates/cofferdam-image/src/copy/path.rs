//! Paths as `docker cp` reads them, and its rules for where a copy goes. Pure.

use super::CopyError;

/// A path that a user has given, below `/` or the working directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// As it was given.
    pub(super) text: Vec<u8>,
    /// It ends in `/` or `/.`, and means a directory.
    pub(super) is_directory: bool,
    /// It ends in `/.`, and means what is in the directory.
    pub(super) is_content: bool,
}

impl Given {
    pub(super) fn parse(text: &[u8]) -> Result<Self, CopyError> {
        if text.is_empty() || text.contains(&0) {
            return Err(CopyError::refused(text, "it is empty, or has a NUL in it"));
        }
        let is_content = text == b"." || text.ends_with(b"/.");
        let is_directory = is_content || text == b".." || text.ends_with(b"/") || text.ends_with(b"/..");
        Ok(Self { text: text.to_vec(), is_directory, is_content })
    }

    /// The path in a container: below its root, without `.`, and with `..` taken away with what is before it, as docker does
    /// before it looks at any link. Empty for the root.
    pub(super) fn in_container(&self) -> Vec<u8> {
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in self.text.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        parts.join(&b'/')
    }
}

/// A path without its last part, and that; the first is empty where there is only one.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// What is at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    Nothing,
    /// Anything but a directory.
    File,
    Directory,
}

/// Where a copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    /// It becomes the destination, in the directory above that.
    Itself,
    /// Into the directory that the destination is, by the name of the source.
    Inside,
    /// What is in the source goes into the directory that the destination is.
    Content,
}

/// The rules of `docker cp`.
pub(super) fn place(
    source: &Given,
    source_is_directory: bool,
    destination: &Given,
    there: There,
) -> Result<Placement, CopyError> {
    let refused = |why| Err(CopyError::refused(&destination.text, why));
    if source.is_directory && !source_is_directory {
        return Err(CopyError::refused(&source.text, "it is no directory, and its path ends as that of one"));
    }
    match (there, source_is_directory) {
        (There::Nothing, false) if destination.is_directory => refused("there is no such directory"),
        (There::File, true) => refused("a directory is not copied to a file"),
        (There::File, false) if destination.is_directory => {
            refused("it is no directory, and its path ends as that of one")
        }
        (There::Nothing, _) | (There::File, false) => Ok(Placement::Itself),
        (There::Directory, true) if source.is_content => Ok(Placement::Content),
        (There::Directory, _) => Ok(Placement::Inside),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_containers_are_below_the_root() {
        for (text, path, is_directory, is_content) in [
            ("/etc/passwd", "etc/passwd", false, false),
            ("etc/passwd", "etc/passwd", false, false),
            ("/etc/", "etc", true, false),
            ("/etc/.", "etc", true, true),
            ("/", "", true, false),
            (".", "", true, true),
            ("/../../etc", "etc", false, false),
            ("/a/../b/./c", "b/c", false, false),
            ("/a/..", "", true, false),
            ("/a.", "a.", false, false),
            ("/a/...", "a/...", false, false),
        ] {
            let given = Given::parse(text.as_bytes()).unwrap();
            assert_eq!(given.in_container(), path.as_bytes(), "{text}");
            assert_eq!((given.is_directory, given.is_content), (is_directory, is_content), "{text}");
        }
        assert!(Given::parse(b"").is_err());
        assert!(Given::parse(b"a\0b").is_err());
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"/c"), (&b""[..], &b"c"[..]));
        assert_eq!(split(b"c"), (&b""[..], &b"c"[..]));
    }

    /// The table of docker's manual for `docker cp`.
    #[test]
    fn copies_go_where_docker_puts_them() {
        use Placement::{Content, Inside, Itself};
        use There::{Directory, File, Nothing};
        for (source, is_directory, destination, there, placement) in [
            ("f", false, "new", Nothing, Some(Itself)),
            ("f", false, "new/", Nothing, None),
            ("f", false, "new/.", Nothing, None),
            ("f", false, "file", File, Some(Itself)),
            ("f", false, "file/", File, None),
            ("f", false, "dir", Directory, Some(Inside)),
            ("f", false, "dir/", Directory, Some(Inside)),
            ("f/", false, "dir", Directory, None),
            ("f/.", false, "dir", Directory, None),
            ("d", true, "new", Nothing, Some(Itself)),
            ("d", true, "new/", Nothing, Some(Itself)),
            ("d/", true, "new", Nothing, Some(Itself)),
            ("d/.", true, "new", Nothing, Some(Itself)),
            ("d", true, "file", File, None),
            ("d/.", true, "file", File, None),
            ("d", true, "dir", Directory, Some(Inside)),
            ("d/", true, "dir", Directory, Some(Inside)),
            ("d/.", true, "dir", Directory, Some(Content)),
            ("d/.", true, "dir/", Directory, Some(Content)),
            ("d/.", true, "dir/.", Directory, Some(Content)),
        ] {
            let given = |text: &str| Given::parse(text.as_bytes()).unwrap();
            let placed = place(&given(source), is_directory, &given(destination), there);
            assert_eq!(placed.ok(), placement, "{source} to {destination}");
        }
    }
}
