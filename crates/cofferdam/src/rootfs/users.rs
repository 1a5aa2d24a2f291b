//! Users and groups by name, as the root filesystem's own /etc/passwd and /etc/group have them.

use std::io;
use std::path::{Path, PathBuf};

use super::Rootfs;
use crate::error::{Code, Diagnose};
use crate::id::quote;
use crate::request::{UserPart, UserSpec};
use crate::spec::ResolvedUser;

/// How much of /etc/passwd and /etc/group is read, in bytes.
const FILE_LIMIT: u64 = 4 << 20;

/// A user or group that cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such user.
    #[error("the user {} is not in the container's /etc/passwd", quote(.0))]
    User(String),
    /// No such group.
    #[error("the group {} is not in the container's /etc/group", quote(.0))]
    Group(String),
    /// A file is there and cannot be read.
    #[error("{file} of the container cannot be read")]
    Unreadable {
        /// Which.
        file: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Diagnose for UserError {
    fn code(&self) -> Code {
        Code::UnknownUser
    }

    fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::User(_) | Self::Group(_) => "give a number, as in --user 1000:1000".into(),
            Self::Unreadable { file, .. } => format!("make {file} a regular file, or remove it"),
        })
    }
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Finds the ids of a user. A number need not be in any file.
pub(crate) fn resolve_user(rootfs: &Rootfs, spec: &UserSpec) -> Result<ResolvedUser, UserError> {
    let passwd = read(rootfs, "/etc/passwd")?;
    let groups = read(rootfs, "/etc/group")?;
    let account = passwd.lines().filter_map(parse_account).find(|account| match &spec.user {
        UserPart::Id(id) => account.uid == *id,
        UserPart::Name(name) => account.name == name,
    });
    let uid = match (&spec.user, &account) {
        (_, Some(account)) => account.uid,
        (UserPart::Id(id), None) => *id,
        (UserPart::Name(name), None) => return Err(UserError::User(name.clone())),
    };
    let gid = match &spec.group {
        Some(UserPart::Id(id)) => *id,
        Some(UserPart::Name(name)) => groups
            .lines()
            .filter_map(parse_group)
            .find(|(group, ..)| group == name)
            .map(|(_, gid, _)| gid)
            .ok_or_else(|| UserError::Group(name.clone()))?,
        None => account.as_ref().map_or(0, |account| account.gid),
    };
    let mut additional_gids = Vec::new();
    if let (Some(account), None) = (&account, &spec.group) {
        for (_, group, members) in groups.lines().filter_map(parse_group) {
            if group != gid && members.split(',').any(|member| member == account.name) {
                additional_gids.push(group);
            }
        }
    }
    let home = account.map(|account| account.home).filter(|home| home.starts_with('/')).map(str::to_owned);
    Ok(ResolvedUser { uid, gid, additional_gids, home: home.or_else(|| Some("/".into())) })
}

/// Makes sure that a runtime can look its user up: runc opens both files, and waits for ever for a FIFO.
/// What a mount will cover is not looked at.
pub(crate) fn check_accounts(rootfs: &Rootfs, covered: &[PathBuf]) -> Result<(), UserError> {
    let is_covered = |file: &str| covered.iter().any(|mount| Path::new(file).starts_with(mount));
    for file in ["/etc/passwd", "/etc/group"].into_iter().filter(|file| !is_covered(file)) {
        match rootfs.open_regular(Path::new(file)) {
            // Not there, or not to be opened: then no runtime hangs on it either.
            Err(source) if source.kind() == io::ErrorKind::InvalidInput => {
                return Err(UserError::Unreadable { file, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// A file that is not there is an empty one.
fn read(rootfs: &Rootfs, file: &'static str) -> Result<String, UserError> {
    match rootfs.read_text(Path::new(file), FILE_LIMIT) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(UserError::Unreadable { file, source }),
    }
}

/// `name:password:uid:gid:comment:home:shell`; a line whose numbers are no ids is passed over, never read as 0.
fn parse_account(line: &str) -> Option<Account<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = fields.nth(1).and_then(parse_id)?;
    let gid = fields.next().and_then(parse_id)?;
    let home = fields.nth(1).unwrap_or_default();
    Some(Account { name, uid, gid, home })
}

/// `name:password:gid:members`.
fn parse_group(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let gid = fields.nth(1).and_then(parse_id)?;
    Some((name, gid, fields.next().unwrap_or_default()))
}

/// An id as the files have it: digits alone, and small enough not to turn into another one in 32 bits.
fn parse_id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|id| digits && i32::try_from(*id).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rootfs(passwd: &str, group: &str) -> (tempfile::TempDir, Rootfs) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        std::fs::write(directory.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(directory.path().join("etc/group"), group).unwrap();
        let rootfs = Rootfs::open(directory.path()).unwrap();
        (directory, rootfs)
    }

    fn resolve(rootfs: &Rootfs, text: &str) -> Result<ResolvedUser, UserError> {
        resolve_user(rootfs, &UserSpec::parse(text).unwrap())
    }

    #[test]
    fn names_numbers_and_groups() {
        let (_keep, rootfs) = rootfs(
            "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var/www:/bin/false\n",
            "root:x:0:\nwww:x:33:\nvideo:x:44:other,www\n",
        );
        let www = resolve(&rootfs, "www").unwrap();
        assert_eq!((www.uid, www.gid, www.additional_gids.as_slice()), (33, 33, &[44][..]));
        assert_eq!(www.home.as_deref(), Some("/var/www"));
        let www = resolve(&rootfs, "33:video").unwrap();
        assert_eq!((www.uid, www.gid, www.additional_gids.as_slice()), (33, 44, &[][..]));
        let free = resolve(&rootfs, "1234").unwrap();
        assert_eq!((free.uid, free.gid, free.home.as_deref()), (1234, 0, Some("/")));
        assert!(matches!(resolve(&rootfs, "nobody"), Err(UserError::User(_))));
        assert!(matches!(resolve(&rootfs, "www:nogroup"), Err(UserError::Group(_))));
    }

    #[test]
    fn a_hostile_passwd_makes_nobody_root() {
        let (_keep, rootfs) = rootfs(
            "a:x:4294967296:0::/:\na:x::0::/:\na:x:-1:0::/:\na:x:0x0:0::/:\n:x:0:0::/:\na\0:x:0:0::/:\na:x:+0:0::/:\n",
            "",
        );
        assert!(matches!(resolve(&rootfs, "a"), Err(UserError::User(_))));
    }

    #[test]
    fn a_link_out_of_the_root_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("etc/passwd")).unwrap();
        let rootfs = Rootfs::open(directory.path()).unwrap();
        assert!(resolve(&rootfs, "root").is_err(), "the link leads to itself inside the root");
    }
}
