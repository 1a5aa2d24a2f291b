//! A small init before the container's own command (`--init`): it reaps orphans and passes signals on.
//!
//! It is a program of the host, bound into the container: docker's, podman's, or one of the packages `catatonit` and
//! `tini`. Their binaries are static, and so do not depend on what the root filesystem has.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::SpecEditor;
use crate::request::Refused;

/// Where it is in the container: on a file system of the container's own. runsc makes an empty file in the root
/// filesystem all the same, as for each mount.
pub(super) const DESTINATION: &str = "/dev/init";
/// Where packages put one.
const CANDIDATES: [&str; 6] = [
    "/usr/bin/catatonit",
    "/usr/libexec/podman/catatonit",
    "/usr/libexec/catatonit/catatonit",
    "/usr/bin/docker-init",
    "/usr/libexec/docker/docker-init",
    "/usr/bin/tini-static",
];

/// Finds one on this host.
///
/// # Errors
/// [`Refused`] says what to install.
pub(crate) fn find() -> Result<PathBuf, Refused> {
    let found = CANDIDATES.iter().map(PathBuf::from).find(|path| path.is_file());
    let why = || {
        format!(
            "there is none of {} on this host: install the package catatonit or tini",
            CANDIDATES.join(", ")
        )
    };
    found.ok_or_else(|| Refused::new("--init", why()))
}

/// Puts it before the command.
pub(super) fn apply(editor: &mut SpecEditor, init: &Path) {
    let mut args: Vec<Value> = vec![DESTINATION.into(), "--".into()];
    args.extend(editor.entries("/process/args").cloned());
    editor.set("/process/args", args, "--init: it reaps orphans and passes signals on");
    let mount = json!({
        "destination": DESTINATION,
        "type": "bind",
        "source": init.to_string_lossy(),
        "options": ["bind", "ro", "nosuid", "nodev"],
    });
    editor.push("/mounts", mount, "--init");
}

/// The command without it.
pub(super) fn without(args: Vec<&str>) -> Vec<&str> {
    match args.as_slice() {
        [DESTINATION, "--", command @ ..] => command.to_vec(),
        _ => args,
    }
}
