//! Putting what a request asks for into a specification.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{ResolvedUser, SpecEditor, capability};
use crate::request::ContainerPlan;

/// Puts the plan's wishes in. What the plan leaves open stays as it is.
pub(super) fn apply(
    editor: &mut SpecEditor,
    plan: &ContainerPlan,
    user: Option<&ResolvedUser>,
    volumes: &Path,
) {
    if !plan.args.is_empty() {
        editor.set("/process/args", plan.args.clone(), "COMMAND");
    }
    if let Some(cwd) = &plan.cwd {
        editor.set("/process/cwd", cwd.as_str(), "--workdir");
    }
    if let Some(user) = user {
        apply_user(editor, user);
    }
    set_env(editor, &plan.env, "--env");
    if let Some(hostname) = &plan.hostname {
        editor.set("/hostname", hostname.as_str(), "--hostname");
    }
    if plan.read_only {
        editor.set("/root/readonly", true, "--read-only");
    }
    apply_terminal(editor, plan.terminal);
    super::mounts::apply(editor, plan, volumes);
    apply_ulimits(editor, plan);
    if super::is_bundle(plan) {
        apply_capabilities(editor, plan);
    }
}

fn apply_user(editor: &mut SpecEditor, user: &ResolvedUser) {
    let mut value = json!({ "uid": user.uid, "gid": user.gid });
    if !user.additional_gids.is_empty() {
        value["additionalGids"] = user.additional_gids.clone().into();
    }
    editor.set("/process/user", value, "--user, looked up inside the root filesystem");
    if let Some(home) = &user.home
        && !has_env(editor, "HOME")
    {
        editor.push("/process/env", format!("HOME={home}"), "the user's home in /etc/passwd");
    }
}

fn has_env(editor: &SpecEditor, key: &str) -> bool {
    editor
        .entries("/process/env")
        .filter_map(Value::as_str)
        .any(|entry| entry.split_once('=').is_some_and(|(name, _)| name == key))
}

/// Puts environment entries in; an entry of the same key is replaced, so that no key is there twice.
fn set_env(editor: &mut SpecEditor, entries: &[String], reason: &str) {
    for entry in entries {
        let key = entry.split_once('=').map_or(entry.as_str(), |(key, _)| key);
        let position = editor.entries("/process/env").position(|old| {
            old.as_str().and_then(|old| old.split_once('=')).is_some_and(|(name, _)| name == key)
        });
        match position {
            Some(position) => editor.set(&format!("/process/env/{position}"), entry.as_str(), reason),
            None => editor.push("/process/env", entry.as_str(), reason),
        }
    }
}

/// Binds the files over the image's that say names to it, unless there is something else.
pub(super) fn apply_names(editor: &mut SpecEditor, files: &[(PathBuf, &'static str)]) {
    for (file, place) in files {
        if editor.entries("/mounts").any(|mount| mount["destination"] == *place) {
            continue;
        }
        let value = json!({
            "destination": place,
            "type": "bind",
            "source": file.to_string_lossy(),
            "options": ["bind", "rprivate", "rw"],
        });
        editor.push("/mounts", value, "names: the container's own, its resolvers and --add-host");
    }
}

/// The terminal is the caller's to give: a bundle that asks for one without a caller who has one would block in the
/// runtime, which waits for somebody to take it.
fn apply_terminal(editor: &mut SpecEditor, terminal: bool) {
    let reason = if terminal { "--tty" } else { "no --tty: the standard streams are pipes" };
    editor.set("/process/terminal", terminal, reason);
    if terminal && !has_env(editor, "TERM") {
        editor.push("/process/env", "TERM=xterm", "--tty: programs ask for it");
    }
}

/// A relative source is meant from the given bundle; the runtime gets another one.
pub(super) fn make_sources_absolute(editor: &mut SpecEditor, bundle: &Path) {
    let mounts: Vec<Value> = editor.entries("/mounts").cloned().collect();
    for (index, mount) in mounts.iter().enumerate().filter(|(_, mount)| super::view::is_bind(mount)) {
        let Some(source) = mount["source"].as_str().filter(|source| !source.starts_with('/')) else {
            continue;
        };
        let absolute = bundle.join(source).to_string_lossy().into_owned();
        editor.set(&format!("/mounts/{index}/source"), absolute, "relative to the given bundle");
    }
}

fn apply_ulimits(editor: &mut SpecEditor, plan: &ContainerPlan) {
    for limit in &plan.ulimits {
        let value = json!({ "type": limit.name, "soft": limit.soft, "hard": limit.hard });
        let position = editor.entries("/process/rlimits").position(|old| old["type"] == limit.name.as_str());
        match position {
            Some(position) => editor.set(&format!("/process/rlimits/{position}"), value, "--ulimit"),
            None => editor.push("/process/rlimits", value, "--ulimit"),
        }
    }
}

fn apply_capabilities(editor: &mut SpecEditor, plan: &ContainerPlan) {
    if plan.cap_add.is_empty() && plan.cap_drop.is_empty() {
        return;
    }
    // What is dropped goes from these too; what is added comes to them only where the image's files ask for it.
    for set in ["inheritable", "ambient"] {
        let path = format!("/process/capabilities/{set}");
        let base: Vec<String> = editor.entries(&path).filter_map(Value::as_str).map(str::to_owned).collect();
        let kept = capability::adjust(base.iter().cloned(), &[], &plan.cap_drop);
        if kept.len() < base.len() {
            editor.set(&path, kept, "--cap-drop");
        }
    }
    for set in ["bounding", "effective", "permitted"] {
        let path = format!("/process/capabilities/{set}");
        let base: Vec<String> = editor.entries(&path).filter_map(Value::as_str).map(str::to_owned).collect();
        let adjusted = capability::adjust(base.into_iter(), &plan.cap_add, &plan.cap_drop);
        editor.set(&path, adjusted, "--cap-add, --cap-drop");
    }
}
