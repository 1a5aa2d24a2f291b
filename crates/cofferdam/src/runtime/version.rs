//! Versions of runtimes as their binaries print them.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::RuntimeKind;

/// A version that can be compared with another of the same runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeVersion {
    /// `1.4.3`: runc, crun and youki.
    Numbered(u32, u32, u32),
    /// `20240729`: gVisor's releases are dates.
    Dated(u32),
    /// None that can be compared: a build without one says `VERSION_MISSING` or a commit.
    Unknown,
}

impl RuntimeVersion {
    /// Whether this is at least the other; `None` when they cannot be compared.
    #[must_use]
    pub fn at_least(&self, other: &Self) -> Option<bool> {
        let order = match (self, other) {
            (Self::Numbered(a, b, c), Self::Numbered(x, y, z)) => (a, b, c).cmp(&(x, y, z)),
            (Self::Dated(a), Self::Dated(b)) => a.cmp(b),
            _ => return None,
        };
        Some(order != Ordering::Less)
    }
}

impl fmt::Display for RuntimeVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Numbered(major, minor, patch) => write!(f, "{major}.{minor}.{patch}"),
            Self::Dated(date) => write!(f, "{date}"),
            Self::Unknown => f.write_str("of unknown version"),
        }
    }
}

/// Reads which runtime and version a binary says it is from the output of its `--version`.
#[must_use]
pub fn parse_version(output: &str) -> Option<(RuntimeKind, RuntimeVersion)> {
    output.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let kind = match words.next()? {
            "runc" => RuntimeKind::Runc,
            "crun" => RuntimeKind::Crun,
            "youki" => RuntimeKind::Youki,
            "runsc" => RuntimeKind::Runsc,
            _ => return None,
        };
        // "runc version 1.1.5+ds1", "crun version 1.8.1", "youki version: 0.5.7", "runsc version release-20240729.0".
        let version = words.find(|word| !word.starts_with("version")).unwrap_or_default();
        let parsed = match kind {
            RuntimeKind::Runsc => dated(version),
            RuntimeKind::Runc | RuntimeKind::Crun | RuntimeKind::Youki => numbered(version),
        };
        Some((kind, parsed.unwrap_or(RuntimeVersion::Unknown)))
    })
}

fn numbered(text: &str) -> Option<RuntimeVersion> {
    let mut numbers = text.trim_start_matches('v').split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let major = numbers.next()?.ok()?;
    let minor = numbers.next()?.ok()?;
    let patch = numbers.next().and_then(Result::ok).unwrap_or(0);
    Some(RuntimeVersion::Numbered(major, minor, patch))
}

/// Finds the first run of eight digits that can be a date: `release-20240729.0`, `0.0~20240729.0`.
fn dated(text: &str) -> Option<RuntimeVersion> {
    const FIRST_YEAR: u32 = 2018;
    text.split(|c: char| !c.is_ascii_digit())
        .filter(|digits| digits.len() == 8)
        .filter_map(|digits| digits.parse::<u32>().ok())
        .find(|date| date / 10_000 >= FIRST_YEAR)
        .map(RuntimeVersion::Dated)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_read_from_verbatim_output() {
        let cases = [
            (
                "runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1+deb12u1\nspec: 1.0.2-dev\n",
                RuntimeKind::Runc,
                RuntimeVersion::Numbered(1, 1, 5),
            ),
            ("runc version 1.4.3\nspec: 1.3.0\n", RuntimeKind::Runc, RuntimeVersion::Numbered(1, 4, 3)),
            ("runc version 1.2.0-rc.1\n", RuntimeKind::Runc, RuntimeVersion::Numbered(1, 2, 0)),
            (
                "crun version 1.8.1\ncommit: f8a0\nrundir: /run/crun\n",
                RuntimeKind::Crun,
                RuntimeVersion::Numbered(1, 8, 1),
            ),
            ("youki version: 0.5.7\ncommit: x\n", RuntimeKind::Youki, RuntimeVersion::Numbered(0, 5, 7)),
            (
                "runsc version 0.0~20221219.0\nspec: 1.0.2-dev\n",
                RuntimeKind::Runsc,
                RuntimeVersion::Dated(20_221_219),
            ),
            (
                "runsc version release-20260817.0\nspec: 1.2.1\n",
                RuntimeKind::Runsc,
                RuntimeVersion::Dated(20_260_817),
            ),
            ("runsc version VERSION_MISSING\nspec: 1.2.1\n", RuntimeKind::Runsc, RuntimeVersion::Unknown),
        ];
        for (text, kind, version) in cases {
            assert_eq!(parse_version(text), Some((kind, version)), "{text}");
        }
        for text in ["", "Docker version 28.2.2", "runcible 1", "{\"a\": 1}"] {
            assert_eq!(parse_version(text), None, "{text}");
        }
    }

    #[test]
    fn only_like_versions_compare() {
        let old = RuntimeVersion::Dated(20_240_729);
        assert_eq!(old.at_least(&RuntimeVersion::Dated(20_240_807)), Some(false));
        assert_eq!(
            RuntimeVersion::Numbered(1, 10, 0).at_least(&RuntimeVersion::Numbered(1, 9, 9)),
            Some(true)
        );
        assert_eq!(RuntimeVersion::Unknown.at_least(&old), None);
    }

    proptest! {
        #[test]
        fn no_output_panics(text in ".*") {
            let _ = parse_version(&text);
            let _ = parse_version(&format!("runsc version {text}"));
            let _ = parse_version(&format!("runc version {text}"));
        }
    }
}
