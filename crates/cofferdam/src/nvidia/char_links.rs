//! Links by which systemd finds devices.
//!
//! When systemd writes a scope's rules for devices again (`systemctl daemon-reload`), it finds each device by its number
//! in /dev/char. NVIDIA's driver makes no links there, so that containers lose their GPUs (nvidia-container-toolkit#48).

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{major, minor};

/// Where they lie.
const FOLDER: &str = "/dev/char";

/// Makes the link of each of these nodes that has none.
///
/// # Errors
/// The first that cannot be made; the others are still tried.
pub fn make_char_links<'a>(nodes: impl IntoIterator<Item = &'a Path>) -> io::Result<()> {
    let mut result = Ok(());
    for node in nodes {
        match make_link(Path::new(FOLDER), node) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists && result.is_ok() => {
                result = Err(error)
            }
            _ => {}
        }
    }
    result
}

fn make_link(folder: &Path, node: &Path) -> io::Result<()> {
    let number = std::fs::metadata(node)?.rdev();
    std::fs::create_dir_all(folder)?;
    std::os::unix::fs::symlink(node, folder.join(format!("{}:{}", major(number), minor(number))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("char");
        make_link(&folder, Path::new("/dev/null")).unwrap();
        assert_eq!(std::fs::read_link(folder.join("1:3")).unwrap(), Path::new("/dev/null"));
        assert_eq!(
            make_link(&folder, Path::new("/dev/null")).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert!(make_link(&folder, Path::new("/dev/nonexistent")).is_err());
    }
}
