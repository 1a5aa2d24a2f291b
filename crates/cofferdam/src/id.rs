//! Ids that cofferdam makes and names that users give.
//!
//! Invariant: a [`ContainerId`] is 32 lower-case hexadecimal digits. Its fixed length matters: runsc matches ids by
//! prefix (`runsc delete abcd` deletes `abcdef`), and an id that is a prefix of no other cannot be confused.
//! A name is a label on an id and is never given to a runtime.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Code, Diagnose};

/// Digits of an id.
pub const ID_LENGTH: usize = 32;
/// Digits of an id that tables show, as docker does.
pub const SHORT_ID_LENGTH: usize = 12;
/// The longest name: a DNS label, so that it can be a host name too.
pub const NAME_LENGTH_LIMIT: usize = 63;
/// The longest name of a volume: a file name (255 bytes), with room for what is put around it when it is removed.
pub const VOLUME_NAME_LIMIT: usize = 200;

/// The id of a container, the same for cofferdam and for the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// The name that a user gave to a container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName(String);

/// The name of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(String);

/// A text that is no id or name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Not 32 lower-case hexadecimal digits.
    #[error("{} is not a container id: an id is {ID_LENGTH} lower-case hexadecimal digits", quote(.0))]
    Id(String),
    /// Empty, too long, or with other characters.
    #[error(
        "{} is not a container name: use 1 to {NAME_LENGTH_LIMIT} of A-Z a-z 0-9 _ . - and begin with a letter or digit",
        quote(.0)
    )]
    Name(String),
    /// It would hide the container whose id it is.
    #[error("{} cannot be a container's name: it has the form of an id", quote(.0))]
    NameLikeId(String),
    /// Too short, too long, or with other characters.
    #[error(
        "{} is not a volume's name: use 2 to {VOLUME_NAME_LIMIT} of A-Z a-z 0-9 _ . - and begin with a letter or digit",
        quote(.0)
    )]
    Volume(String),
}

impl Diagnose for InvalidId {
    fn code(&self) -> Code {
        Code::InvalidValue
    }

    fn next_step(&self) -> Option<String> {
        match self {
            Self::Id(_) => Some("`cofferdam ps --all --no-trunc` prints whole ids".into()),
            Self::Name(_) | Self::NameLikeId(_) => Some("leave --name out to have only an id".into()),
            Self::Volume(_) => None,
        }
    }
}

/// Quotes foreign text for a message: escaped, and cut where it is long.
#[must_use]
pub fn quote(text: &str) -> String {
    const SHOWN: usize = 64;
    let mut cut: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().count() > SHOWN {
        cut.push_str("...");
    }
    format!("`{cut}`")
}

impl ContainerId {
    /// Makes a new id from the kernel's random numbers.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first digits, for tables.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..SHORT_ID_LENGTH]
    }
}

impl FromStr for ContainerId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if text.len() == ID_LENGTH && digits {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId::Id(text.to_owned()))
        }
    }
}

impl ContainerName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let is_id = text.parse::<ContainerId>().is_ok();
        if is_id {
            return Err(InvalidId::NameLikeId(text.to_owned()));
        }
        if starts_well && text.len() <= NAME_LENGTH_LIMIT && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId::Name(text.to_owned()))
        }
    }
}

impl VolumeName {
    /// Makes the name of a volume that its user has given none: 64 hexadecimal digits, as docker's.
    #[must_use]
    pub fn generate() -> Self {
        let half = || uuid::Uuid::new_v4().simple().to_string();
        Self(half() + &half())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolumeName {
    type Err = InvalidId;

    /// docker's rule: two characters at least, so that it is not taken for a drive of another system.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if starts_well && (2..=VOLUME_NAME_LIMIT).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId::Volume(text.to_owned()))
        }
    }
}

macro_rules! text_newtype {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}

text_newtype!(ContainerId);
text_newtype!(ContainerName);
text_newtype!(VolumeName);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn generated_ids_are_ids_and_differ() {
        let one = ContainerId::generate();
        assert_eq!(one.as_str().parse::<ContainerId>().unwrap(), one);
        assert_ne!(one, ContainerId::generate());
    }

    #[test]
    fn hostile_names_are_refused() {
        let long = "a".repeat(1000);
        for text in
            ["", ".", "..", "../x", "a/b", "-x", "--help", "a\0b", "a\nb", "%0a", "ä", " a", "a ", &long]
        {
            assert!(text.parse::<ContainerName>().is_err(), "{text:?}");
            assert!(text.parse::<ContainerId>().is_err(), "{text:?}");
            assert!(text.parse::<VolumeName>().is_err(), "{text:?}");
        }
        assert!("a".parse::<VolumeName>().is_err() && "ab".parse::<VolumeName>().is_ok());
        assert!("a".repeat(VOLUME_NAME_LIMIT).parse::<VolumeName>().is_ok());
    }

    #[test]
    fn volumes_without_a_name_get_one_of_64_digits() {
        let name = VolumeName::generate();
        assert_eq!(name.as_str().len(), 64);
        assert_eq!(name.as_str().parse::<VolumeName>().unwrap(), name);
    }

    #[test]
    fn a_long_name_is_cut_in_the_message() {
        let message = "a".repeat(1000).parse::<ContainerName>().unwrap_err().to_string();
        assert!(message.len() < 300, "{message}");
    }

    proptest! {
        #[test]
        fn a_name_is_one_path_component(text in ".{0,80}") {
            if let Ok(name) = text.parse::<ContainerName>() {
                let path = std::path::Path::new("/x").join(name.as_str());
                prop_assert_eq!(path.components().count(), 3);
                prop_assert!(!name.as_str().starts_with(['-', '.']));
            }
        }
    }
}
