//! Versions of NVIDIA's driver, and whether gVisor's nvproxy knows one.
//!
//! nvproxy speaks the driver's private interface, which changes with each release: it starts with the exact versions
//! that it lists, and ends with nothing but "EOF" otherwise (google/gvisor#12773). So that is decided before.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A version of the driver, such as `550.90.07`. The zeros of its text belong to it; they do not count in comparisons.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DriverVersion {
    text: String,
    numbers: Vec<u32>,
}

/// A text that is no version of a driver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no version of NVIDIA's driver, such as 550.90.07")]
pub struct NotAVersion(String);

impl FromStr for DriverVersion {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        /// More than any version has had.
        const MOST_DIGITS: usize = 5;
        let is_number = |part: &&str| {
            (1..=MOST_DIGITS).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
        };
        let parts: Vec<&str> = text.split('.').collect();
        let fits = (2..=3).contains(&parts.len()) && parts.iter().all(is_number);
        let numbers: Option<Vec<u32>> = parts.iter().map(|part| part.parse().ok()).collect();
        match numbers.filter(|_| fits) {
            Some(numbers) => Ok(Self { text: text.to_owned(), numbers }),
            None => Err(NotAVersion(text.chars().take(40).collect())),
        }
    }
}

impl TryFrom<String> for DriverVersion {
    type Error = NotAVersion;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DriverVersion> for String {
    fn from(version: DriverVersion) -> Self {
        version.text
    }
}

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for DriverVersion {
    fn eq(&self, other: &Self) -> bool {
        self.numbers == other.numbers
    }
}

impl Eq for DriverVersion {}

impl PartialOrd for DriverVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for DriverVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers)
    }
}

impl DriverVersion {
    /// The branch: versions of one share most of their interface.
    #[must_use]
    pub fn branch(&self) -> u32 {
        self.numbers[0]
    }

    /// How far two are from each other: first by branch, then within it.
    fn distance(&self, other: &Self) -> Vec<u32> {
        let longest = self.numbers.len().max(other.numbers.len());
        let number = |version: &Self, index: usize| version.numbers.get(index).copied().unwrap_or(0);
        (0..longest).map(|index| number(self, index).abs_diff(number(other, index))).collect()
    }
}

/// Reads the driver's version from the text of `/proc/driver/nvidia/version`.
#[must_use]
pub fn parse_driver_version(text: &str) -> Option<DriverVersion> {
    let line = text.lines().find(|line| line.starts_with("NVRM version:"))?;
    line.split_whitespace().find_map(|word| word.parse().ok())
}

/// Reads what `runsc nvproxy list-supported-drivers` prints: one version a line, other lines let be.
#[must_use]
pub fn parse_supported(text: &str) -> Vec<DriverVersion> {
    text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

/// What nvproxy's list says of a driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It is in it.
    Listed,
    /// It is not; this one of its branch is, the nearest.
    SameBranch(&'a DriverVersion),
    /// Nothing of its branch is; this is the nearest.
    OtherBranch(&'a DriverVersion),
    /// The list is empty.
    NoList,
}

/// Looks a driver up in nvproxy's list.
#[must_use]
pub fn look_up<'a>(driver: &DriverVersion, supported: &'a [DriverVersion]) -> Verdict<'a> {
    if supported.contains(driver) {
        return Verdict::Listed;
    }
    let of_branch = supported.iter().filter(|listed| listed.branch() == driver.branch());
    if let Some(nearest) = of_branch.min_by_key(|listed| listed.distance(driver)) {
        return Verdict::SameBranch(nearest);
    }
    let below = supported.iter().filter(|listed| *listed < driver).max();
    let above = supported.iter().filter(|listed| *listed > driver).min();
    let nearest = below.into_iter().chain(above);
    nearest
        .min_by_key(|listed| listed.branch().abs_diff(driver.branch()))
        .map_or(Verdict::NoList, Verdict::OtherBranch)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Verbatim of machines with these drivers.
    const CLOSED: &str = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri May 31 09:35:42 UTC 2024\n\
                          GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n";
    const OPEN: &str = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.172.08  Release Build  \
                        (dvs-builder@U22-I3-AE18-23-3)  Tue Jul  8 18:11:17 UTC 2025\n";

    #[test]
    fn the_version_is_read_from_what_the_kernel_says() {
        let version = |text| parse_driver_version(text).map(String::from);
        assert_eq!(version(CLOSED).as_deref(), Some("550.90.07"));
        assert_eq!(version(OPEN).as_deref(), Some("570.172.08"));
        for text in ["", "NVRM version:", "NVRM version: x86_64 12", "GCC version: 12.2.0", "\u{0}\u{1}"] {
            assert_eq!(version(text), None, "{text}");
        }
    }

    #[test]
    fn a_driver_is_looked_up_in_the_list() {
        // Of runsc 20240729.
        let listed = parse_supported(
            "535.104.12\n535.129.03\n535.154.05\n535.161.07\n550.54.14\n550.54.15\n550.90.07\n\nNOTE: x\n",
        );
        assert_eq!(listed.len(), 7);
        let found = |driver: &str| match look_up(&driver.parse().unwrap(), &listed) {
            Verdict::Listed => "listed".to_owned(),
            Verdict::SameBranch(nearest) => format!("branch {nearest}"),
            Verdict::OtherBranch(nearest) => format!("other {nearest}"),
            Verdict::NoList => "none".to_owned(),
        };
        assert_eq!(found("550.90.07"), "listed");
        assert_eq!(found("550.90.7"), "listed", "zeros do not count");
        assert_eq!(found("550.54.16"), "branch 550.54.15");
        assert_eq!(found("550.163.01"), "branch 550.90.07");
        assert_eq!(found("535.99.01"), "branch 535.104.12");
        assert_eq!(found("570.211.01"), "other 550.90.07");
        assert_eq!(found("470.42.01"), "other 535.104.12");
        assert_eq!(look_up(&"550.90.07".parse().unwrap(), &[]), Verdict::NoList);
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["", "550", "550.", ".90", "550.90.07.1", "550.x.07", "550.90.123456", "-1.2", " 550.90"]
        {
            assert!(text.parse::<DriverVersion>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (parse_driver_version(&text), parse_supported(&text));
            let _ = parse_driver_version(&format!("NVRM version: {text}"));
        }
    }
}
