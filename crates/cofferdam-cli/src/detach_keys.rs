//! The keys that end an attachment and leave the container alone.

use std::str::FromStr;

/// A sequence of keys, as the bytes that a terminal sends for them. An empty one is never typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    /// How many of them have just been typed.
    typed: usize,
}

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Input for the container.
    Bytes(Vec<u8>),
    /// The keys.
    Detach,
}

impl DetachKeys {
    /// Ctrl-P Ctrl-Q: docker's.
    pub(crate) fn usual() -> Self {
        Self { keys: vec![0x10, 0x11], ..Self::none() }
    }

    /// No keys.
    pub(crate) fn none() -> Self {
        Self { keys: vec![], typed: 0 }
    }

    /// Takes what is typed. The beginning of the sequence is held back until it is clear that it is not one.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Typed {
        let mut out = Vec::with_capacity(bytes.len() + self.typed);
        for byte in bytes {
            if self.keys.get(self.typed) == Some(byte) {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    return Typed::Detach;
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.typed]);
            self.typed = 0;
            if self.keys.first() == Some(byte) {
                self.typed = 1;
            } else {
                out.push(*byte);
            }
        }
        Typed::Bytes(out)
    }
}

impl FromStr for DetachKeys {
    type Err = String;

    /// docker's grammar: letters, or `ctrl-` and one of `a` to `z`, `@`, `[`, `\\`, `]`, `^`, `_`; separated by commas.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self::none());
        }
        let keys = text.split(',').map(|key| {
            let wrong = || format!("`{key}` is not a key: write for example ctrl-p,ctrl-q");
            match (key.strip_prefix("ctrl-").map(str::as_bytes), key.as_bytes()) {
                (Some([letter @ (b'a'..=b'z' | b'@' | b'['..=b'_')]), _) => Ok(letter & 0x1f),
                (None, [byte]) if byte.is_ascii_graphic() => Ok(*byte),
                _ => Err(wrong()),
            }
        });
        Ok(Self { keys: keys.collect::<Result<_, _>>()?, typed: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &str, pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys: DetachKeys = keys.parse().unwrap();
        let mut all = Vec::new();
        for piece in pieces {
            match keys.take(piece) {
                Typed::Bytes(bytes) => all.extend(bytes),
                Typed::Detach => return (all, true),
            }
        }
        (all, false)
    }

    #[test]
    fn the_sequence_is_found_across_pieces_and_nothing_else_is_held_back_for_long() {
        let keys = "ctrl-p,ctrl-q";
        assert!(typed(keys, &[b"ls\n\x10\x11"]).1);
        assert_eq!(typed(keys, &[b"\x10", b"\x11"]), (vec![], true));
        assert_eq!(typed(keys, &[b"\x10", b"x"]), (b"\x10x".to_vec(), false));
        assert_eq!(typed(keys, &[b"\x10\x10\x11"]), (vec![], true), "the first is no part of it");
        assert_eq!(typed(keys, &[b"\x10\x10x"]), (b"\x10\x10x".to_vec(), false));
        assert_eq!(typed("", &[b"\x10\x11"]), (b"\x10\x11".to_vec(), false));
        assert!(typed("a,b", &[b"ab"]).1);
    }

    #[test]
    fn keys_are_read_as_docker_has_them() {
        let keys = |text: &str| text.parse::<DetachKeys>().map(|keys| keys.keys);
        assert_eq!(keys("ctrl-p,ctrl-q").unwrap(), [0x10, 0x11]);
        assert_eq!(keys("ctrl-@,ctrl-[,ctrl-_,x").unwrap(), [0, 0x1b, 0x1f, b'x']);
        for text in ["ctrl-", "ctrl-P", "ctrl-1", "ab", ",", "a,", "ctrl-pq", "é"] {
            assert!(keys(text).is_err(), "{text}");
        }
    }
}
