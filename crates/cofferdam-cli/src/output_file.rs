//! Files that commands write an archive to: they appear under their names when they are whole.

use std::fs::{File, OpenOptions, Permissions};
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use crate::args::refuse;
use crate::output::CliError;

/// How much is written at once, in bytes.
const BUFFER: usize = 1 << 20;

/// A file that is written to.
#[derive(Debug)]
pub(crate) struct OutputFile {
    /// As it was given.
    path: PathBuf,
    target: Target,
}

#[derive(Debug)]
enum Target {
    /// A file that takes its name at the end, and what that is.
    New(NamedTempFile, PathBuf),
    /// A device or a pipe that is there, and stays what it is.
    There(File),
}

impl OutputFile {
    /// Opens a file with this mode, less the umask's. What is no regular file is written to as it is; a link is followed.
    pub(crate) fn create(path: &Path, mode: u32) -> Result<Self, CliError> {
        let failed = |error: std::io::Error| unwritable(path, &error);
        let target = match std::fs::metadata(path) {
            Ok(there) if !there.is_file() => {
                Target::There(OpenOptions::new().write(true).open(path).map_err(failed)?)
            }
            there => {
                let name = if there.is_ok() { path.canonicalize().map_err(failed)? } else { path.to_owned() };
                let folder = name.parent().filter(|folder| !folder.as_os_str().is_empty());
                let folder = folder.unwrap_or_else(|| Path::new(".")).to_owned();
                let mut builder = Builder::new();
                let file = builder
                    .prefix(".cofferdam-")
                    .permissions(Permissions::from_mode(mode))
                    .tempfile_in(folder);
                Target::New(file.map_err(failed)?, name)
            }
        };
        Ok(Self { path: path.to_owned(), target })
    }

    /// What is written to.
    pub(crate) fn writer(&self) -> Result<BufWriter<File>, CliError> {
        let file = match &self.target {
            Target::New(file, _) => file.reopen(),
            Target::There(file) => file.try_clone(),
        };
        Ok(BufWriter::with_capacity(BUFFER, file.map_err(|error| unwritable(&self.path, &error))?))
    }

    /// Gives it its name, now that it is whole. One that is dropped before goes.
    pub(crate) fn keep(self) -> Result<(), CliError> {
        match self.target {
            Target::New(file, name) => {
                file.persist(name).map(drop).map_err(|error| unwritable(&self.path, &error.error))
            }
            Target::There(_) => Ok(()),
        }
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> CliError {
    refuse("--output", &format!("{} cannot be written: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn write(path: &Path) {
        let file = OutputFile::create(path, 0o600).unwrap();
        file.writer().unwrap().write_all(b"new").unwrap();
        file.keep().unwrap();
    }

    #[test]
    fn what_is_no_file_stays_what_it_is() {
        use std::os::unix::fs::FileTypeExt;
        let place = tempfile::tempdir().unwrap();
        let link = place.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        write(&link);
        assert!(link.is_symlink());
        assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }

    #[test]
    fn a_file_is_replaced_when_the_new_one_is_whole() {
        let place = tempfile::tempdir().unwrap();
        let (path, link) = (place.path().join("file"), place.path().join("link"));
        std::fs::write(&path, "old").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        drop(OutputFile::create(&link, 0o600).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        write(&link);
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2, "and nothing is left beside it");
    }
}
