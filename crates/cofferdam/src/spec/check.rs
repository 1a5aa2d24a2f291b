//! What a bundle's specification may not say, whichever runtime is to run it.
//!
//! The runtimes disagree here: runc refuses a relative working directory, runsc takes it; runc panics on `null`; both
//! take version 9.9.9. The same specification gets the same answer from us.

use std::path::{Component, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::Value;

use crate::request::{Refused, check_cwd, check_env_entry, check_string};

/// A uid or gid of -1, which the kernel takes for "no change".
const NO_ID: u32 = u32::MAX;

/// Checks a bundle's specification. Its syntax has been checked by parsing it.
///
/// # Errors
/// [`Refused`] names the field that cannot be right.
pub fn check(spec: &Value) -> Result<(), Refused> {
    let typed: Spec = serde_json::from_value(spec.clone())
        .map_err(|error| Refused::new("config.json", format!("it is not an OCI specification: {error}")))?;
    check_version(typed.version())?;
    let process = typed.process().as_ref().ok_or_else(|| Refused::new("process", "it is missing"))?;
    let args = process.args().as_deref().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(Refused::new("process.args", "there is no command"));
    }
    let rename = |name: &'static str| move |refused: Refused| Refused { field: name.to_owned(), ..refused };
    args.iter().try_for_each(|argument| check_string("process.args", argument))?;
    for entry in process.env().iter().flatten() {
        check_env_entry(entry).map_err(rename("process.env"))?;
    }
    let cwd = process.cwd().to_str().unwrap_or_default();
    check_cwd(cwd).map_err(rename("process.cwd"))?;
    if process.user().uid() == NO_ID || process.user().gid() == NO_ID {
        return Err(Refused::new(
            "process.user",
            format!("{NO_ID} is no id: the kernel takes it for \"no change\""),
        ));
    }
    check_mounts(&typed)?;
    check_hooks(spec)
}

fn check_version(version: &str) -> Result<(), Refused> {
    let field = "ociVersion";
    let mut parts = version.split(['.', '-', '+']);
    match parts.next().and_then(|major| major.parse::<u32>().ok()) {
        Some(1) if parts.next().is_some_and(|minor| minor.parse::<u32>().is_ok()) => Ok(()),
        Some(_) => Err(Refused::new(field, format!("{version} is not a version 1 of the OCI specification"))),
        None => Err(Refused::new(field, format!("{} is not a version", crate::id::quote(version)))),
    }
}

/// The root filesystem that a bundle names: absolute, or relative to the bundle and inside it.
pub(crate) fn root_path(spec: &Value) -> Result<PathBuf, Refused> {
    let field = "root.path";
    let path = spec.pointer("/root/path").and_then(Value::as_str);
    let path = path.ok_or_else(|| Refused::new(field, "it is missing, or no text"))?;
    if path.is_empty() || path.contains('\0') {
        return Err(Refused::new(field, format!("{} is no path", crate::id::quote(path))));
    }
    let path = PathBuf::from(path);
    if path.is_relative() && path.components().any(|part| part == Component::ParentDir) {
        return Err(Refused::new(field, "a relative root may not lead out of the bundle with `..`"));
    }
    Ok(path)
}

fn check_mounts(spec: &Spec) -> Result<(), Refused> {
    for mount in spec.mounts().iter().flatten() {
        let destination = mount.destination().to_string_lossy();
        crate::request::check_destination(&destination).map_err(|why| Refused::new("mounts", why))?;
    }
    Ok(())
}

/// Hooks are programs of the host, run with our privileges: only by absolute path.
fn check_hooks(spec: &Value) -> Result<(), Refused> {
    for (stage, hooks) in spec.pointer("/hooks").and_then(Value::as_object).into_iter().flatten() {
        for hook in hooks.as_array().into_iter().flatten() {
            let path = hook.get("path").and_then(Value::as_str).unwrap_or_default();
            if !path.starts_with('/') {
                return Err(Refused::new(
                    &format!("hooks.{stage}"),
                    format!("the path {} is not absolute", crate::id::quote(path)),
                ));
            }
        }
    }
    Ok(())
}
