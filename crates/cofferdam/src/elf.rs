//! What ELF files say: whether they are some, and the SONAME of a shared library, by which programs load it.

use std::io::Read as _;
use std::path::Path;

use object::elf;
use object::read::ReadCache;
use object::read::elf::{Dyn, FileHeader};

/// The SONAME of a library; `None` where it has none, or is no 64-bit ELF file. Of a large file, little is read.
#[must_use]
pub(crate) fn soname(path: &Path) -> Option<String> {
    let data = ReadCache::new(std::fs::File::open(path).ok()?);
    let header = elf::FileHeader64::<object::Endianness>::parse(&data).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, &data).ok()?;
    let (entries, strings) = sections.dynamic(endian, &data).ok()??;
    let strings = sections.strings(endian, &data, strings).ok()?;
    let entry = entries.iter().find(|entry| entry.tag(endian) == elf::DT_SONAME)?;
    let name = std::str::from_utf8(entry.string(endian, strings).ok()?).ok()?;
    // It becomes part of a path.
    (!matches!(name, "" | "." | "..") && !name.contains('/')).then(|| name.to_owned())
}

/// Whether a file is a program or library itself, and not a script.
#[must_use]
pub(crate) fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == elf::ELFMAG
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_c_library_says_its_name() {
        let own_maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let library = own_maps
            .lines()
            .find_map(|line| line.split_whitespace().nth(5).filter(|path| path.contains("libc.so")));
        assert_eq!(soname(Path::new(library.unwrap())).as_deref(), Some("libc.so.6"));
        assert_eq!(soname(Path::new("/etc/passwd")), None);
        assert_eq!(soname(Path::new("/nonexistent")), None);
        assert_eq!(soname(&std::env::current_exe().unwrap()), None, "a program has none");
        assert!(is_elf(&std::env::current_exe().unwrap()) && is_elf(Path::new(library.unwrap())));
        assert!(!is_elf(Path::new("/etc/passwd")) && !is_elf(Path::new("/dev/null")));
    }
}
