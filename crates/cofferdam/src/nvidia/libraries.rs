//! The directories of the driver's libraries: those that distributions use, and those that this host's linker knows.

use std::path::{Path, PathBuf};

use ld_so_cache::parsers::parse_ld_cache;

use super::DriverRoot;

/// Where distributions keep libraries, and where containers look for them.
const DIRECTORIES: [&str; 8] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib/aarch64-linux-gnu/nvidia/current",
    "/usr/lib64",
    "/usr/lib",
    "/lib64",
    "/usr/local/nvidia/lib64",
];
/// What the linker has found beforehand (ldconfig(8)). An installer that uses another directory tells it.
const LINKER_CACHE: &str = "/etc/ld.so.cache";
/// More is no cache of a linker.
const CACHE_LIMIT: u64 = 16 << 20;
/// Libraries that a driver always has.
const LANDMARKS: [&str; 2] = ["libcuda.so", "libnvidia-ml.so"];

/// The directories of libraries below a root.
#[derive(Debug)]
pub struct LibraryDirectories {
    /// Where each is on this host, and by which path a container knows it.
    directories: Vec<(PathBuf, String)>,
}

impl LibraryDirectories {
    /// Those that there are, each once: `/lib64` may be a link to `/usr/lib64`.
    #[must_use]
    pub fn of(root: &DriverRoot) -> Self {
        let mut directories: Vec<(PathBuf, String)> = Vec::new();
        let told = linker_directories(&root.join(LINKER_CACHE), &LANDMARKS);
        for name in DIRECTORIES.into_iter().map(str::to_owned).chain(told) {
            if let Ok(real) = root.join(&name).canonicalize()
                && !directories.iter().any(|(known, _)| *known == real)
            {
                directories.push((real, name));
            }
        }
        Self { directories }
    }

    /// Where each is on this host, with the path by which a container knows it.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.directories.iter().map(|(real, name)| (real.as_path(), name.as_str()))
    }

    /// The first library of a name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        self.directories.iter().map(|(path, _)| path.join(name)).find(|path| path.exists())
    }
}

/// Where the linker finds libraries whose name begins with one of these; none where it has no cache, as without glibc.
fn linker_directories(cache: &Path, names: &[&str]) -> Vec<String> {
    let is_sound = std::fs::metadata(cache).is_ok_and(|about| about.is_file() && about.len() <= CACHE_LIMIT);
    let entries = Some(cache)
        .filter(|_| is_sound)
        .and_then(|cache| std::fs::read(cache).ok())
        .and_then(|data| parse_ld_cache(newer_part(&data)).ok())
        .and_then(|cache| cache.get_entries().ok())
        .unwrap_or_default();
    let wanted = entries.iter().filter(|entry| names.iter().any(|name| entry.library_name.starts_with(name)));
    wanted
        .filter_map(|entry| Some(Path::new(&entry.library_path).parent()?.to_string_lossy().into_owned()))
        .collect()
}

/// glibc before 2.32 wrote its cache behind one of the format before (`ldconfig -c compat`), which the crate does not read.
fn newer_part(data: &[u8]) -> &[u8] {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    memchr::memmem::find(data, MAGIC).map_or(data, |start| &data[start..])
}

#[cfg(test)]
mod tests {
    use cofferdam_testkit::gpu_host::{DRIVER, GpuHost};
    use cofferdam_testkit::lab::new_command;

    use super::*;

    #[test]
    fn a_directory_that_only_the_linker_knows_is_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let host = GpuHost::new(directory.path(), 1, DRIVER);
        let own = host.root().join("opt/driver/lib");
        std::fs::create_dir_all(own.parent().unwrap()).unwrap();
        std::fs::rename(host.root().join("usr/lib/x86_64-linux-gnu"), &own).unwrap();
        std::fs::write(host.root().join("etc/ld.so.conf"), "/opt/driver/lib\n").unwrap();
        for format in ["new", "compat"] {
            let mut ldconfig = new_command("/sbin/ldconfig");
            ldconfig.args(["-c", format, "-r"]).arg(host.root());
            assert!(ldconfig.status().unwrap().success());
            // The stand-ins for libraries of the driver are copies of the C library, by whose SONAME the linker knows them.
            let cache = host.root().join("etc/ld.so.cache");
            assert_eq!(linker_directories(&cache, &["libc.so"]), ["/opt/driver/lib"], "{format}");
            assert_eq!(linker_directories(&cache, &LANDMARKS), <[&str; 0]>::default(), "{format}");
        }
    }

    #[test]
    fn a_cache_that_is_missing_or_damaged_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("ld.so.cache");
        assert!(linker_directories(&cache, &LANDMARKS).is_empty());
        let whole = std::fs::read("/etc/ld.so.cache").unwrap();
        for length in [0, 5, 47, 48, 100, whole.len() / 2] {
            std::fs::write(&cache, &whole[..length]).unwrap();
            assert!(linker_directories(&cache, &["libnothing"]).is_empty(), "{length}");
        }
    }
}
