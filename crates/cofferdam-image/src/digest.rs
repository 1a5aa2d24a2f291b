//! Digests of content.

use std::io::{self, Read};

use data_encoding::HEXLOWER;
use oci_spec::image::{Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha256, Sha512};

use crate::error::ImageError;

/// A digest in the making.
#[derive(Debug, Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// For content that is to have this digest. Other algorithms than SHA-256 and SHA-512 are refused.
    pub(crate) fn of(digest: &Digest) -> Result<Self, ImageError> {
        match digest.algorithm() {
            DigestAlgorithm::Sha256 => Ok(Self::Sha256(Sha256::new())),
            DigestAlgorithm::Sha512 => Ok(Self::Sha512(Box::default())),
            other => Err(ImageError::invalid(
                digest,
                format!("the digest `{other}` is not one that is checked here"),
            )),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Whether what was hashed has the digest; if not, the digest that it has.
    pub(crate) fn check(self, digest: &Digest) -> Result<(), String> {
        let hex = match self {
            Self::Sha256(hasher) => HEXLOWER.encode(&hasher.finalize()),
            Self::Sha512(hasher) => HEXLOWER.encode(&hasher.finalize()),
        };
        if hex == digest.digest() { Ok(()) } else { Err(format!("{}:{hex}", digest.algorithm())) }
    }
}

/// The SHA-256 digest of bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Result<Digest, ImageError> {
    finished(Sha256::new().chain_update(bytes))
}

/// The SHA-256 digest that a hasher has come to.
pub(crate) fn finished(hasher: Sha256) -> Result<Digest, ImageError> {
    let text = format!("sha256:{}", HEXLOWER.encode(&hasher.finalize()));
    Digest::try_from(text).map_err(|error| ImageError::invalid("a digest", error))
}

/// Sees to it that bytes have a digest.
pub(crate) fn check(bytes: &[u8], digest: &Digest) -> Result<(), ImageError> {
    let mut hasher = Hasher::of(digest)?;
    hasher.update(bytes);
    hasher
        .check(digest)
        .map_err(|actual| ImageError::invalid(digest, format!("its content has the digest {actual}")))
}

/// A stream that is hashed while it is read.
#[derive(Debug)]
pub(crate) struct Hashed<R> {
    pub(crate) stream: R,
    pub(crate) hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// The name of a blob while it is under way.
pub(crate) fn partial_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm(), digest.digest())
}

/// The path of a blob in an image layout. The algorithm is one of two, and the rest hexadecimal digits: others are refused.
pub(crate) fn path_in_layout(digest: &Digest) -> Result<String, ImageError> {
    Hasher::of(digest)?;
    Ok(format!("blobs/{}/{}", digest.algorithm(), digest.digest()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_held_to_its_digest() {
        let empty =
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse().unwrap();
        assert_eq!(sha256(b"").unwrap(), empty);
        check(b"", &empty).unwrap();
        assert!(check(b"x", &empty).unwrap_err().to_string().contains("has the digest sha256:2d711642"));
        let long = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";
        check(b"", &long.parse().unwrap()).unwrap();
        for other in [
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            "sha384:38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b",
        ] {
            assert!(check(b"", &other.parse().unwrap()).is_err(), "{other}");
        }
    }
}
