//! Layers and archives, whose content tells how it is compressed: media types are often wrong, and an archive has none.

use std::io::{self, BufReader, Cursor, Read};

/// How much is read from a file at once, in bytes.
const BUFFER: usize = 128 << 10;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The first of the frames that zstd passes over; tools put them in front too.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
/// The binary logarithm of the largest window of zstd: 128 MiB, what the program zstd takes without being told to. It is the
/// memory that one stream can have.
const ZSTD_WINDOW_LOG: u32 = 27;

/// How many times as large as it was compressed content may be. Programs and text are 2 to 10 times; gzip cannot do more than
/// 1032 times, and zstd tens of thousands.
const RATIO_LIMIT: u64 = 256;
/// Content of up to so many bytes may have any ratio: a small one of zeros is no harm.
const RATIO_FREE: u64 = 1 << 30;

/// How much content may be, in bytes, which is so long when it is compressed.
pub(crate) fn bytes_limit(compressed: u64) -> u64 {
    compressed.saturating_mul(RATIO_LIMIT).max(RATIO_FREE)
}

/// How content is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Reads the first bytes of a stream, up to so many. One read of a pipe may give less.
pub(crate) fn beginning(stream: &mut impl Read, bytes: usize) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(bytes);
    stream.take(bytes as u64).read_to_end(&mut start)?;
    Ok(start)
}

impl Compression {
    /// How many of the first bytes tell.
    pub(crate) const MARK: usize = ZSTD.len();

    /// What the first bytes tell.
    pub(crate) fn of(start: &[u8]) -> Self {
        if start.starts_with(&GZIP) {
            Self::Gzip
        } else if start.starts_with(&ZSTD)
            || (start.first().is_some_and(|byte| byte & 0xf0 == 0x50)
                && start[1..].starts_with(&ZSTD_SKIPPABLE))
        {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// What is in a stream that may be compressed. All members of gzip and frames of zstd are read, to the end of the stream.
pub(crate) fn decompressed<'a>(
    stream: impl Read + Send + 'a,
) -> io::Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let mut stream = BufReader::with_capacity(BUFFER, stream);
    let start = beginning(&mut stream, Compression::MARK)?;
    let compression = Compression::of(&start);
    let stream = Cursor::new(start).chain(stream);
    let inner: Box<dyn Read + Send> = match compression {
        Compression::None => Box::new(stream),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(stream)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(stream)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    };
    Ok((compression, inner))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn read(content: &[u8]) -> io::Result<(Compression, Vec<u8>)> {
        let (compression, mut stream) = decompressed(content)?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        Ok((compression, bytes))
    }

    #[test]
    fn content_tells_how_it_is_compressed_and_every_part_of_it_is_read() {
        let zstd = |content: &[u8]| zstd::encode_all(content, 1).unwrap();
        let skippable = [&[0x53, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9], zstd(b"one").as_slice()].concat();
        assert_eq!(read(b"plain").unwrap(), (Compression::None, b"plain".to_vec()));
        assert_eq!(read(b"").unwrap(), (Compression::None, vec![]));
        assert_eq!(
            read(&[gzip(b"one"), gzip(b"two")].concat()).unwrap(),
            (Compression::Gzip, b"onetwo".to_vec())
        );
        assert_eq!(
            read(&[zstd(b"one"), zstd(b"two")].concat()).unwrap(),
            (Compression::Zstd, b"onetwo".to_vec())
        );
        assert_eq!(read(&skippable).unwrap(), (Compression::Zstd, b"one".to_vec()));
        let whole = gzip(b"content");
        assert!(read(&whole[..whole.len() - 3]).is_err(), "a stream that is cut is no stream");
    }

    /// A stream that gives a byte at a time, as a pipe may.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let room = buffer.len().min(1);
            self.0.read(&mut buffer[..room])
        }
    }

    #[test]
    fn a_stream_that_comes_in_small_pieces_is_known_too() {
        let zstd = zstd::encode_all(&b"content"[..], 1).unwrap();
        for (content, expected) in [
            (gzip(b"content"), Compression::Gzip),
            (zstd, Compression::Zstd),
            (b"content".to_vec(), Compression::None),
        ] {
            let (compression, mut stream) = decompressed(Slow(&content)).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            assert_eq!((compression, text.as_str()), (expected, "content"));
        }
    }

    #[test]
    fn a_window_that_would_take_all_memory_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(30).unwrap();
        encoder.long_distance_matching(true).unwrap();
        encoder.write_all(&[0; 100]).unwrap();
        let content = encoder.finish().unwrap();
        let error = read(&content).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }
}
