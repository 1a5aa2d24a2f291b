//! The entries of a tar stream, read as Go's archive/tar reads them, by which registries and other tools see a layer: two
//! readers that disagree about where an entry ends see different files (CVE-2025-62518).
//!
//! The fields of a header are parsed by the crate tar; its own iterator reads names and extended headers of any size into
//! memory, and cuts their values at line breaks.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::UnpackError;
use super::entry::{Entry, Kind, LayerPath};
use super::pax::Extended;

const BLOCK: usize = 512;
/// What the extended headers of one entry, or those for all entries, may have in bytes.
const EXTENDED_LIMIT: u64 = 1 << 20;
/// How many extended headers may come before one entry.
const EXTENDED_COUNT: usize = 16;
/// What may come after the end, in bytes: tar fills up the last record.
const TRAILER_LIMIT: u64 = 1 << 20;

/// The entries of a tar stream, one after the other.
#[derive(Debug)]
pub(crate) struct Records<R> {
    reader: R,
    /// Content of the last entry that was not read yet, and what fills its last block.
    content: u64,
    padding: u64,
    /// What was said of all entries, and in how many bytes.
    of_all: Extended,
    of_all_bytes: u64,
    has_ended: bool,
}

impl<R: Read> Records<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            content: 0,
            padding: 0,
            of_all: Extended::default(),
            of_all_bytes: 0,
            has_ended: false,
        }
    }

    /// The next entry; `None` at the end. What is left of the content of the last one is passed over.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, UnpackError> {
        self.pass_over()?;
        let (mut extended, mut bytes) = (Extended::default(), 0);
        for count in 0..=EXTENDED_COUNT {
            let Some(header) = self.header()? else {
                return if count == 0 {
                    Ok(None)
                } else {
                    Err(UnpackError::damaged("it ends before an entry"))
                };
            };
            let kind = header.entry_type();
            let is_extended = matches!(
                kind,
                EntryType::XHeader
                    | EntryType::XGlobalHeader
                    | EntryType::GNULongName
                    | EntryType::GNULongLink
            );
            if !is_extended {
                let extended = extended.or(&self.of_all);
                return self.entry(&header, extended).map(Some);
            }
            let size = field(header.entry_size())?;
            let total = if kind == EntryType::XGlobalHeader { &mut self.of_all_bytes } else { &mut bytes };
            *total = total.saturating_add(size);
            if *total > EXTENDED_LIMIT {
                return Err(UnpackError::damaged("extended headers of more than 1 MiB"));
            }
            let text = self.whole(size)?;
            match kind {
                EntryType::XHeader => extended.read(&text)?,
                EntryType::XGlobalHeader => self.of_all.read(&text)?,
                EntryType::GNULongName => extended.path = Some(until_nul(text)),
                _ => extended.link = Some(until_nul(text)),
            }
        }
        Err(UnpackError::damaged("too many extended headers before one entry"))
    }

    /// The content of the entry that was read last.
    pub(crate) fn content(&mut self) -> Content<'_, R> {
        Content(self)
    }

    /// Reads what comes after the end.
    pub(crate) fn drain(&mut self) -> Result<(), UnpackError> {
        let mut rest = (&mut self.reader).take(TRAILER_LIMIT + 1);
        let count = io::copy(&mut rest, &mut io::sink()).map_err(UnpackError::Read)?;
        if count > TRAILER_LIMIT {
            return Err(UnpackError::damaged("more than 1 MiB after its end"));
        }
        Ok(())
    }

    fn pass_over(&mut self) -> Result<(), UnpackError> {
        let (content, padding) = (self.content, self.padding);
        (self.content, self.padding) = (0, 0);
        if self.discard(content)? < content {
            return Err(UnpackError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        // The content of the last file may end the stream, as it does where `umoci insert` has made it.
        self.has_ended |= self.discard(padding)? < padding;
        Ok(())
    }

    fn discard(&mut self, count: u64) -> Result<u64, UnpackError> {
        io::copy(&mut (&mut self.reader).take(count), &mut io::sink()).map_err(UnpackError::Read)
    }

    /// The next header; `None` at the end, which are two blocks of zeros, or the end of the stream.
    fn header(&mut self) -> Result<Option<Header>, UnpackError> {
        if self.has_ended {
            return Ok(None);
        }
        let Some(block) = self.block()? else {
            self.has_ended = true;
            return Ok(None);
        };
        if block == [0; BLOCK] {
            self.has_ended = true;
            return match self.block()? {
                Some(next) if next != [0; BLOCK] => Err(UnpackError::damaged("a lone block of zeros")),
                _ => Ok(None),
            };
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum = field(header.cksum())?;
        let is_right = |count: fn(u8) -> i64| {
            let own: i64 = block
                .iter()
                .enumerate()
                .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { count(*byte) })
                .sum();
            own == i64::from(sum)
        };
        // Some old programs have summed signed bytes.
        if !is_right(i64::from) && !is_right(|byte| i64::from(byte.cast_signed())) {
            return Err(UnpackError::damaged("the checksum of a header is wrong"));
        }
        Ok(Some(header))
    }

    /// The next block; `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(UnpackError::Read(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(UnpackError::Read(error)),
            }
        }
        Ok(Some(block))
    }

    /// The whole of a small content.
    fn whole(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        self.begin_content(size);
        let mut bytes = Vec::new();
        self.content().read_to_end(&mut bytes).map_err(UnpackError::Read)?;
        self.pass_over()?;
        Ok(bytes)
    }

    const fn begin_content(&mut self, size: u64) {
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> Result<Entry, UnpackError> {
        let name = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let is_directory = name.ends_with(b"/");
        let path = LayerPath::parse(&name).map_err(|error| error.of(&name))?;
        let link = || {
            extended
                .link
                .clone()
                .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
                .unwrap_or_default()
        };
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous if is_directory => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(link()),
            EntryType::Link => Kind::Hardlink(LayerPath::parse(&link()).map_err(|error| error.of(&name))?),
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char | EntryType::Block => Kind::Device {
                is_block: header.entry_type() == EntryType::Block,
                major: header.device_major().ok().flatten().unwrap_or_default(),
                minor: header.device_minor().ok().flatten().unwrap_or_default(),
            },
            EntryType::GNUSparse => return Err(UnpackError::Unsupported("sparse files").of(&name)),
            _ => return Err(UnpackError::Unsupported("an entry of an unknown kind").of(&name)),
        };
        // Others have no content, whatever their size says.
        let size = match kind {
            Kind::File => extended.size.map_or_else(|| field(header.entry_size()), Ok)?,
            _ => 0,
        };
        self.begin_content(size);
        let seconds = || i64::try_from(header.mtime().unwrap_or_default()).unwrap_or(i64::MAX);
        Ok(Entry {
            path,
            kind,
            mode: field(header.mode())? & 0o7777,
            uid: owner(extended.uid.map_or_else(|| field(header.uid()), Ok)?)?,
            gid: owner(extended.gid.map_or_else(|| field(header.gid()), Ok)?)?,
            modified: extended.modified.unwrap_or_else(|| (seconds(), 0)),
            size,
            attributes: extended.attributes,
        })
    }
}

/// The content of one entry.
#[derive(Debug)]
pub(crate) struct Content<'a, R>(&'a mut Records<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.0.content).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.0.reader.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.content -= count as u64;
        Ok(count)
    }
}

fn field<T>(value: io::Result<T>) -> Result<T, UnpackError> {
    value.map_err(|error| UnpackError::damaged(error.to_string()))
}

/// `u32::MAX` stands for no user.
fn owner(id: u64) -> Result<u32, UnpackError> {
    let id = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| UnpackError::damaged("the number of a user or group"))
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    text.truncate(end);
    text
}
