//! `--tmpfs DESTINATION[:OPTIONS]`.

use super::{MountFlags, MountKind, MountOption, MountRequest, TmpfsOptions, destination};
use crate::id::quote;
use crate::request::parse_size;

/// The largest mode of a directory.
const MODE_LIMIT: u32 = 0o7777;

pub(super) fn parse(text: &str) -> Result<MountRequest, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let mut mount = MountRequest {
        option: MountOption::Tmpfs,
        destination: destination(target)?,
        kind: MountKind::Tmpfs(TmpfsOptions::default()),
        read_only: false,
        flags: MountFlags::OF_TMPFS,
        ignored: vec![],
    };
    let mut tmpfs = TmpfsOptions::default();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some((key, value)) => tmpfs.take(key, value)?,
            None if mount.flags.take(option) => {}
            None if option == "ro" || option == "rw" => mount.read_only = option == "ro",
            None => return Err(unknown(option)),
        }
    }
    mount.kind = MountKind::Tmpfs(tmpfs);
    Ok(mount)
}

impl TmpfsOptions {
    fn take(&mut self, key: &str, value: &str) -> Result<(), String> {
        let number = || value.parse().map_err(|_| format!("{key}={}: it is not a number", quote(value)));
        match key {
            "size" => self.size_bytes = Some(size(value)?),
            "mode" => self.mode = Some(mode(value)?),
            "uid" => self.uid = Some(number()?),
            "gid" => self.gid = Some(number()?),
            "nr_inodes" => self.inodes = Some(parse_size(value)?),
            _ => return Err(unknown(key)),
        }
        Ok(())
    }
}

fn unknown(option: &str) -> String {
    format!(
        "the option {} is not known here: use size=64m, mode=1777, uid=, gid=, nr_inodes=, ro, rw, exec, noexec, suid, \
         nosuid, dev or nodev",
        quote(option)
    )
}

/// A size; for the kernel, 0 is no limit, which nobody means.
pub(super) fn size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("the size 0 would be no limit: leave it out for that".into()),
        bytes => Ok(bytes),
    }
}

/// The mode of a directory, in octal.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let digits = text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| digits && *mode <= MODE_LIMIT)
        .ok_or_else(|| format!("{} is not a mode in octal, such as 1777", quote(text)))
}
