//! The small languages of single options: sizes, users, mounts, networks, limits.
//!
//! Each parser is a pure function of the text; its error is the reason alone, to which the caller adds the option.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::id::quote;

/// What lxcfs and the like put over files of the kernel's: runc allows these alone.
const PROC_FILES: [&str; 9] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
];
/// Open files without which runc cannot start a process.
const OPEN_FILES_FLOOR: u64 = 16;

/// The largest uid or gid that is taken as a number: docker's rule. Above it, 32-bit arithmetic in some program
/// turns it into another user (CVE-2024-40635).
const USER_ID_LIMIT: u32 = i32::MAX as u32;

/// Reads a size as docker writes it: a number with an optional unit b, k, m, g or t, each 1024 times the last.
///
/// # Errors
/// Why the text is not a size.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let error = || format!("{} is not a size: write for example 512m or 2g", quote(text));
    let lower = text.trim().to_ascii_lowercase();
    let digits_end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits_end);
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(error()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().map_err(|_| error())?;
    let scale = 1_u64 << shift;
    const FRACTION_DIGITS: usize = 9;
    if fraction.is_empty()
        || fraction.len() > FRACTION_DIGITS
        || !fraction.bytes().all(|b| b.is_ascii_digit())
    {
        return Err(error());
    }
    let parts: u64 = fraction.parse().map_err(|_| error())?;
    let divisor = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| error())?);
    let extra = u64::try_from(u128::from(parts) * u128::from(scale) / divisor).map_err(|_| error())?;
    whole.checked_mul(scale).and_then(|bytes| bytes.checked_add(extra)).ok_or_else(error)
}

/// A user or a group, by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserPart {
    /// By number.
    Id(u32),
    /// By its name in the root filesystem's /etc/passwd or /etc/group.
    Name(String),
}

/// `USER[:GROUP]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSpec {
    /// The user.
    pub user: UserPart,
    /// The group; without it the user's own.
    pub group: Option<UserPart>,
}

impl UserSpec {
    /// Reads `USER[:GROUP]`.
    ///
    /// # Errors
    /// Why the text is not one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        Ok(Self { user: user_part(user)?, group: group.map(user_part).transpose()? })
    }
}

fn user_part(text: &str) -> Result<UserPart, String> {
    if text.bytes().next().is_some_and(|b| b.is_ascii_digit() || b == b'-' || b == b'+') {
        return match text.parse::<u32>() {
            Ok(id) if id <= USER_ID_LIMIT && !text.starts_with('+') => Ok(UserPart::Id(id)),
            _ => Err(format!("{} is not an id from 0 to {USER_ID_LIMIT}", quote(text))),
        };
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$');
    if text.is_empty() || text.len() > 256 || !text.chars().all(allowed) {
        return Err(format!("{} is not a user or group", quote(text)));
    }
    Ok(UserPart::Name(text.to_owned()))
}

/// Checks where a mount may appear: an absolute path without `..`, and not the root itself.
pub(crate) fn check_destination(destination: &str) -> Result<(), String> {
    let path = Path::new(destination);
    let climbs = path.components().any(|part| part == Component::ParentDir);
    if !path.is_absolute() || climbs || destination.contains('\0') {
        return Err(format!("the destination {} is not an absolute path without `..`", quote(destination)));
    }
    if path.starts_with("/proc") && path != Path::new("/proc") && !PROC_FILES.contains(&destination) {
        return Err(format!(
            "the destination {} is inside /proc, where the kernel speaks to the container",
            quote(destination)
        ));
    }
    if path.components().count() < 2 {
        return Err("the destination `/` would hide the root filesystem".into());
    }
    Ok(())
}

/// How a container is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NetworkMode {
    /// A namespace of its own with nothing but a loopback.
    None,
    /// The host's own network.
    Host,
    /// A network of CNI, such as `bridge`, in a namespace of its own.
    Cni {
        /// Its name.
        network: String,
    },
    /// The network of another container.
    Container {
        /// Its name, its id, or the beginning of its id.
        container: String,
    },
    /// A prepared network namespace.
    Namespace {
        /// Its path, such as `/run/netns/x`.
        path: PathBuf,
    },
}

impl NetworkMode {
    /// Reads `none`, `host`, `ns:PATH`, `container:NAME`, or the name of a network of CNI.
    ///
    /// # Errors
    /// Why the text is not one.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "host" => Ok(Self::Host),
            Some(("container", container)) if !container.is_empty() => {
                Ok(Self::Container { container: container.to_owned() })
            }
            None if is_network_name(text) => Ok(Self::Cni { network: text.to_owned() }),
            Some(("ns", path)) if path.starts_with('/') => Ok(Self::Namespace { path: path.into() }),
            Some(("ns", path)) => Err(format!("{} is not an absolute path", quote(path))),
            _ => Err(format!(
                "{} is not a network: use none, host, bridge or another network of CNI, container:NAME or ns:PATH",
                quote(text)
            )),
        }
    }
}

/// Whether a text can be the name of a network of CNI: the specification's rule for names.
fn is_network_name(text: &str) -> bool {
    let is_first = |byte: u8| byte.is_ascii_alphanumeric();
    text.bytes().next().is_some_and(is_first)
        && text.bytes().all(|byte| is_first(byte) || matches!(byte, b'_' | b'.' | b'-'))
}

/// A resource limit of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// OCI name, such as `RLIMIT_NOFILE`.
    pub name: String,
    /// Soft limit; `u64::MAX` is none.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is none.
    pub hard: u64,
}

impl Ulimit {
    /// Reads `NAME=SOFT[:HARD]`, where a value may be `unlimited` or -1.
    ///
    /// # Errors
    /// Why the text is not one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let error = || format!("{} is not of the form NAME=SOFT[:HARD]", quote(text));
        let (name, values) = text.split_once('=').ok_or_else(error)?;
        let value = |text: &str| match text {
            "unlimited" | "-1" => Ok(u64::MAX),
            _ => text.parse::<u64>().map_err(|_| error()),
        };
        let (soft, hard) = match values.split_once(':') {
            Some((soft, hard)) => (value(soft)?, value(hard)?),
            None => (value(values)?, value(values)?),
        };
        if soft > hard {
            return Err(format!("the soft limit of {} is above its hard limit", quote(text)));
        }
        let name = format!("RLIMIT_{}", name.to_ascii_uppercase());
        if !crate::host::is_resource(&name) {
            return Err(format!("{} names no resource that Linux limits", quote(text)));
        }
        if name == "RLIMIT_NOFILE" && soft < OPEN_FILES_FLOOR {
            return Err(format!(
                "{} is too little to start a process in: give at least {OPEN_FILES_FLOOR}",
                quote(text)
            ));
        }
        Ok(Self { name, soft, hard })
    }
}
