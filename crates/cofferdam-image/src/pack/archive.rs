//! Writing a tar stream: POSIX ustar, with the extended headers of pax where a field is too small.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};

use rustix::fs::{SeekFrom as Place, seek};
use rustix::io::Errno;
use tar::{EntryType, Header};

use super::packer::Sink;
use crate::copy::CopyError;
use crate::unpack::entry::{Entry, Kind};

const BLOCK: usize = 512;
/// The longest name and target of a link in a header.
const NAME_FIELD: usize = 100;
/// The largest size and time in a header, which has 11 octal digits, and the largest owner, which has 7.
const LARGEST_SIZE: u64 = 0o777_7777_7777;
const LARGEST_OWNER: u32 = 0o777_7777;
/// How much of a file is read at once, in bytes.
const BUFFER: usize = 256 << 10;
/// What holes are written with.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A tar stream that is being written.
#[derive(Debug)]
pub(crate) struct Archive<W> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, buffer: vec![0; BUFFER] }
    }

    /// Writes what comes next of a file, and says how much it was.
    fn span(&mut self, entry: &Entry, file: &mut File, length: u64) -> Result<u64, CopyError> {
        let mut left = length;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
            match file.read(&mut self.buffer[..most]) {
                Ok(0) => break,
                Ok(count) => {
                    self.out.write_all(&self.buffer[..count]).map_err(CopyError::Output)?;
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(unreadable(entry)(Errno::from_io_error(&error).unwrap_or(Errno::IO)));
                }
            }
        }
        Ok(length - left)
    }

    /// Writes a file with holes, of which nothing is read, up to its last hole; says how much it was.
    fn segments(&mut self, entry: &Entry, file: &mut File) -> Result<u64, CopyError> {
        let mut at = 0;
        while at < entry.size {
            let start = match seek(&*file, Place::Data(at)) {
                Ok(start) if start < entry.size => start,
                Ok(_) | Err(Errno::NXIO) => break,
                Err(errno) => return Err(unreadable(entry)(errno)),
            };
            let end = seek(&*file, Place::Hole(start)).map_err(unreadable(entry))?.min(entry.size);
            self.zeros(start - at)?;
            file.seek(SeekFrom::Start(start))
                .map_err(|error| unreadable(entry)(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
            let copied = self.span(entry, file, end.saturating_sub(start))?;
            at = start + copied;
            if copied == 0 {
                break;
            }
        }
        Ok(at)
    }

    fn zeros(&mut self, mut count: u64) -> Result<(), CopyError> {
        while count > 0 {
            let most = usize::try_from(count).unwrap_or(ZEROS.len()).min(ZEROS.len());
            self.out.write_all(&ZEROS[..most]).map_err(CopyError::Output)?;
            count -= most as u64;
        }
        Ok(())
    }

    fn headers(&mut self, entry: &Entry) -> io::Result<()> {
        let mut name = entry.path.bytes().to_vec();
        match entry.kind {
            Kind::Directory if name.is_empty() => name.extend_from_slice(b"./"),
            Kind::Directory => name.push(b'/'),
            _ => {}
        }
        let records = records(entry, &name);
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            header.set_mode(0o644);
            header.set_size(records.len() as u64);
            set_field(
                &mut header.as_old_mut().name,
                &[b"PaxHeaders/", entry.path.name().unwrap_or(b".")].concat(),
            );
            header.set_cksum();
            self.out.write_all(header.as_bytes())?;
            self.out.write_all(&records)?;
            self.out.write_all(&ZEROS[..records.len().wrapping_neg() % BLOCK])?;
        }
        self.out.write_all(header(entry, &name).as_bytes())
    }
}

impl<W: Write> Sink for Archive<W> {
    fn put(&mut self, entry: &Entry) -> Result<(), CopyError> {
        self.headers(entry).map_err(CopyError::Output)
    }

    fn put_file(&mut self, entry: &Entry, file: &mut File, is_sparse: bool) -> Result<bool, CopyError> {
        self.headers(entry).map_err(CopyError::Output)?;
        let copied =
            if is_sparse { self.segments(entry, file)? } else { self.span(entry, file, entry.size)? };
        self.zeros(entry.size - copied)?;
        self.zeros(entry.size.wrapping_neg() % BLOCK as u64)?;
        Ok(!is_sparse && copied < entry.size)
    }

    fn finish(mut self) -> Result<(), CopyError> {
        self.zeros(2 * BLOCK as u64)?;
        self.out.flush().map_err(CopyError::Output)
    }
}

fn unreadable(entry: &Entry) -> impl FnOnce(Errno) -> CopyError {
    CopyError::file(entry.path.bytes(), "read")
}

/// The target that a header names.
fn target(entry: &Entry) -> &[u8] {
    match &entry.kind {
        Kind::Symlink(target) => target,
        Kind::Hardlink(target) => target.bytes(),
        Kind::File | Kind::Directory | Kind::Fifo | Kind::Device { .. } => b"",
    }
}

fn header(entry: &Entry, name: &[u8]) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(match entry.kind {
        Kind::File => EntryType::Regular,
        Kind::Directory => EntryType::Directory,
        Kind::Symlink(_) => EntryType::Symlink,
        Kind::Hardlink(_) => EntryType::Link,
        Kind::Fifo => EntryType::Fifo,
        Kind::Device { is_block: true, .. } => EntryType::Block,
        Kind::Device { is_block: false, .. } => EntryType::Char,
    });
    header.set_mode(entry.mode);
    header.set_uid(if entry.uid > LARGEST_OWNER { 0 } else { entry.uid.into() });
    header.set_gid(if entry.gid > LARGEST_OWNER { 0 } else { entry.gid.into() });
    header.set_size(if entry.size > LARGEST_SIZE { 0 } else { entry.size });
    header.set_mtime(
        u64::try_from(entry.modified.0).ok().filter(|time| *time <= LARGEST_SIZE).unwrap_or_default(),
    );
    set_field(&mut header.as_old_mut().name, name);
    set_field(&mut header.as_old_mut().linkname, target(entry));
    if let (Kind::Device { major, minor, .. }, Some(fields)) = (&entry.kind, header.as_ustar_mut()) {
        fields.set_device_major(*major);
        fields.set_device_minor(*minor);
    }
    header.set_cksum();
    header
}

/// Sets a name, or as much of it as there is room for: the whole of it is in an extended header then.
fn set_field(field: &mut [u8; NAME_FIELD], name: &[u8]) {
    let length = name.len().min(NAME_FIELD);
    field[..length].copy_from_slice(&name[..length]);
}

/// The records of an extended header, for what a header has no room for.
fn records(entry: &Entry, name: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    if name.len() > NAME_FIELD {
        record(&mut records, b"path", name);
    }
    if target(entry).len() > NAME_FIELD {
        record(&mut records, b"linkpath", target(entry));
    }
    if entry.size > LARGEST_SIZE {
        record(&mut records, b"size", entry.size.to_string().as_bytes());
    }
    if entry.uid > LARGEST_OWNER {
        record(&mut records, b"uid", entry.uid.to_string().as_bytes());
    }
    if entry.gid > LARGEST_OWNER {
        record(&mut records, b"gid", entry.gid.to_string().as_bytes());
    }
    let (seconds, nanoseconds) = entry.modified;
    if nanoseconds != 0 || !u64::try_from(seconds).is_ok_and(|seconds| seconds <= LARGEST_SIZE) {
        record(&mut records, b"mtime", time(seconds, nanoseconds).as_bytes());
    }
    for (name, value) in &entry.attributes {
        record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    records
}

/// Appends `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + digits(length) {
        length = rest + digits(length);
    }
    records.extend_from_slice(length.to_string().as_bytes());
    for part in [b" ", key, b"=", value, b"\n"] {
        records.extend_from_slice(part);
    }
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

/// Seconds with a fraction; before 1970 the fraction counts away from it, as the seconds do.
fn time(seconds: i64, nanoseconds: u32) -> String {
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    let text = if seconds < 0 {
        format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds)
    } else {
        format!("{seconds}.{nanoseconds:09}")
    };
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::unpack::entry::LayerPath;
    use crate::unpack::records::Records;

    #[test]
    fn times_are_written_as_they_are_read() {
        for (time_of, text) in [
            ((1, 250_000_000), "1.25"),
            ((1, 1), "1.000000001"),
            ((-2, 499_999_900), "-1.5000001"),
            ((-1, 500_000_000), "-0.5"),
            ((-7, 0), "-7"),
            ((10, 0), "10"),
        ] {
            assert_eq!(time(time_of.0, time_of.1), text);
        }
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![
            Just(Kind::Directory),
            Just(Kind::Fifo),
            Just(Kind::Device { is_block: true, major: 8, minor: 3 }),
            prop::collection::vec(1..=255_u8, 1..300).prop_map(Kind::Symlink),
            name().prop_map(|name| Kind::Hardlink(LayerPath::parse(&name).unwrap())),
        ]
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        let part = prop::collection::vec(prop_oneof![1..=45_u8, 48..=255_u8], 1..120);
        prop::collection::vec(part, 1..4).prop_map(|parts| parts.join(&b'/'))
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(
            name in name(), kind in kind(), mode in 0..0o10000_u32, uid in 0..u32::MAX, gid in 0..3_000_000_u32,
            seconds in any::<i32>(), far in any::<bool>(), nanoseconds in 0..1_000_000_000_u32,
            value in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let seconds = i64::from(seconds) << if far { 8 } else { 0 };
            let entry = Entry {
                path: LayerPath::parse(&name).unwrap(), kind, mode, uid, gid, modified: (seconds, nanoseconds), size: 0,
                attributes: vec![(b"user.x".to_vec(), value)],
            };
            let mut bytes = Vec::new();
            let mut archive = Archive::new(&mut bytes);
            archive.put(&entry).unwrap();
            archive.finish().unwrap();
            prop_assert_eq!(bytes.len() % BLOCK, 0);
            let mut records = Records::new(bytes.as_slice());
            prop_assert_eq!(records.next().unwrap(), Some(entry));
            prop_assert_eq!(records.next().unwrap(), None);
        }
    }
}
