//! Extended headers: what the fields of a tar header are too small for (POSIX pax, and the older way of GNU).

use super::UnpackError;

/// The prefix of the names of extended attributes.
const ATTRIBUTE: &[u8] = b"SCHILY.xattr.";

/// What extended headers say of the next entry, or of all that follow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) modified: Option<(i64, u32)>,
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extended {
    /// Reads the records of an extended header, each `LENGTH KEY=VALUE\n`. A later one counts.
    pub(super) fn read(&mut self, mut records: &[u8]) -> Result<(), UnpackError> {
        while !records.is_empty() {
            let (record, rest) = split_record(records)?;
            records = rest;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad_record)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number(value)?),
                b"uid" => self.uid = Some(number(value)?),
                b"gid" => self.gid = Some(number(value)?),
                b"mtime" => self.modified = Some(time(value)?),
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(UnpackError::Unsupported("sparse files"));
                }
                key => {
                    if let Some(name) = key.strip_prefix(ATTRIBUTE) {
                        self.attributes.retain(|(known, _)| known != name);
                        self.attributes.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }

    /// What holds for one entry: what was said of it, and else what was said of all.
    pub(super) fn or(self, all: &Self) -> Self {
        let mut attributes = all.attributes.clone();
        attributes.retain(|(name, _)| !self.attributes.iter().any(|(known, _)| known == name));
        attributes.extend(self.attributes);
        Self {
            path: self.path.or_else(|| all.path.clone()),
            link: self.link.or_else(|| all.link.clone()),
            size: self.size.or(all.size),
            uid: self.uid.or(all.uid),
            gid: self.gid.or(all.gid),
            modified: self.modified.or(all.modified),
            attributes,
        }
    }
}

/// The first record, without its length and end, and what follows it.
fn split_record(records: &[u8]) -> Result<(&[u8], &[u8]), UnpackError> {
    let space = records.iter().take(20).position(|byte| *byte == b' ').ok_or_else(bad_record)?;
    let length = usize::try_from(number(&records[..space])?).map_err(|_| bad_record())?;
    let text = records.get(space + 1..length).ok_or_else(bad_record)?;
    let record = text.strip_suffix(b"\n").ok_or_else(bad_record)?;
    Ok((record, &records[length..]))
}

fn bad_record() -> UnpackError {
    UnpackError::damaged("a record of an extended header")
}

fn number(digits: &[u8]) -> Result<u64, UnpackError> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number);
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| UnpackError::damaged("a number of an extended header"))
}

/// Seconds, with a fraction or without; negative before 1970.
fn time(value: &[u8]) -> Result<(i64, u32), UnpackError> {
    let bad = || UnpackError::damaged("a time of an extended header");
    let text = std::str::from_utf8(value).map_err(|_| bad())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| bad())?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let nanoseconds: u32 = format!("{fraction:0<9.9}").parse().map_err(|_| bad())?;
    Ok(if whole.starts_with('-') && nanoseconds > 0 {
        (seconds.saturating_sub(1), 1_000_000_000 - nanoseconds)
    } else {
        (seconds, nanoseconds)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(records: &[u8]) -> Result<Extended, UnpackError> {
        let mut extended = Extended::default();
        extended.read(records).map(|()| extended)
    }

    #[test]
    fn records_are_read_by_their_length() {
        let extended =
            read(b"12 path=a\nb\n11 size=42\n20 mtime=-1.5000001\n37 SCHILY.xattr.user.x=a\n0 value=1 2\n")
                .unwrap();
        assert_eq!(extended.path.as_deref(), Some(&b"a\nb"[..]));
        assert_eq!(extended.size, Some(42));
        assert_eq!(extended.modified, Some((-2, 499_999_900)));
        assert_eq!(extended.attributes, [(b"user.x".to_vec(), b"a\n0 value=1 2".to_vec())]);
        let all = Extended { uid: Some(7), size: Some(1), ..Extended::default() };
        let both = extended.or(&all);
        assert_eq!((both.uid, both.size), (Some(7), Some(42)));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for records in [
            &b"x"[..],
            b"8 path=a\n",
            b"99 path=a\n",
            b"3 \n",
            b"0 path=a\n",
            b"-5 path=a\n",
            b"12 path=abcde",
            b"11 size=4x\n",
            b"12 mtime=now\n",
            b"9999999999999999999999 path=a\n",
            b"25 GNU.sparse.major=1\n",
        ] {
            assert!(read(records).is_err(), "{}", String::from_utf8_lossy(records));
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
