//! State roots of runtimes on this machine: where they usually are, and which of them may be read.
//!
//! To list a root is to let a runtime parse whatever lies there. As root, that is done only where nobody else could
//! have put it: a root that another user can write to is named in a warning, with the command that looks at it as that
//! user. A root that the caller names is his own decision.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Engine;
use super::inventory::ListingWarning;
use crate::error::{Code, Failure};
use crate::id::ContainerId;
use crate::runtime::RuntimeKind;

/// Where runtimes keep their state unless they are told otherwise, and where others tell them to.
/// A `*` stands for one part of a path.
const USUAL_ROOTS: [(RuntimeKind, &str); 13] = [
    (RuntimeKind::Runc, "/run/runc"),
    (RuntimeKind::Crun, "/run/crun"),
    (RuntimeKind::Youki, "/run/youki"),
    (RuntimeKind::Runsc, "/run/runsc"),
    (RuntimeKind::Runsc, "/run/gvisor"),
    // docker: one root a configured runtime; the name of the runtime is in the path.
    (RuntimeKind::Runc, "/run/docker/runtime-*/moby"),
    // containerd: one root a namespace.
    (RuntimeKind::Runc, "/run/containerd/runc/*"),
    (RuntimeKind::Crun, "/run/containerd/crun/*"),
    (RuntimeKind::Runsc, "/run/containerd/runsc/*"),
    // Rootless runtimes.
    (RuntimeKind::Runc, "/run/user/*/runc"),
    (RuntimeKind::Crun, "/run/user/*/crun"),
    (RuntimeKind::Youki, "/run/user/*/youki"),
    (RuntimeKind::Runsc, "/run/user/*/runsc"),
];

/// A state root, and whose program keeps it.
pub(super) type Root = (RuntimeKind, PathBuf);

/// Roots to ask, and what is said of those that are not asked.
#[derive(Debug, Default)]
pub(super) struct ForeignRoots {
    pub(super) to_ask: Vec<Root>,
    pub(super) warnings: Vec<ListingWarning>,
}

impl Engine {
    /// The state roots below our own state directory, with the runtimes' names.
    pub(super) fn own_roots(&self) -> Vec<(String, PathBuf)> {
        let entries = std::fs::read_dir(self.state.path().join("runtime")).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
    }

    /// Removes locks from our own roots that belong to no container: `runsc list`, whoever calls it, makes one for each
    /// container that it has seen, also when that has been removed by then.
    pub(super) fn sweep_stale_locks(&self) {
        for (_, root) in self.own_roots() {
            let entries = std::fs::read_dir(&root).into_iter().flatten().flatten();
            for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
                let Some(id) = name.strip_suffix(".lock").and_then(|name| name.get(..crate::id::ID_LENGTH))
                else {
                    continue;
                };
                let Ok(id) = id.parse::<ContainerId>() else { continue };
                // The folder is made before the runtime is called, and goes after what the runtime has.
                let is_known = self.state.container(&id).path().exists();
                let has_state = root.join(name.replace(".lock", ".state")).exists();
                if !is_known && !has_state {
                    // Another process may have removed it.
                    let _ = std::fs::remove_file(root.join(&name));
                }
            }
        }
    }

    /// Roots that hold something that we have no record of. `named` are the caller's, `sandboxes` those on the command
    /// lines of living sandboxes.
    pub(super) fn foreign_roots(
        &self,
        named: &[Root],
        sandboxes: &[(i32, PathBuf)],
        known: &BTreeSet<String>,
    ) -> ForeignRoots {
        let mut found = ForeignRoots::default();
        let mut seen = BTreeSet::new();
        let mut is_new = |kind: RuntimeKind, root: &Path| -> Option<PathBuf> {
            let root = std::fs::canonicalize(root).ok()?;
            (seen.insert((kind, root.clone())) && holds_unknown(&root, known)).then_some(root)
        };
        for (kind, root) in named {
            found.to_ask.extend(is_new(*kind, root).map(|root| (*kind, root)));
        }
        for (kind, root) in self.likely_roots(sandboxes) {
            let Some(root) = is_new(kind, &root) else { continue };
            match trust(&root, self.host.uid) {
                Ok(()) => found.to_ask.push((kind, root)),
                Err(why) => found.warnings.push(not_asked(kind, root, why)),
            }
        }
        found
    }

    fn likely_roots(&self, sandboxes: &[(i32, PathBuf)]) -> Vec<Root> {
        let mut roots = Vec::new();
        for (kind, pattern) in USUAL_ROOTS {
            for root in expand(Path::new("/"), pattern) {
                roots.push((kind_in_path(&root).unwrap_or(kind), root));
            }
        }
        roots.extend(sandboxes.iter().map(|(_, root)| (RuntimeKind::Runsc, root.clone())));
        for (name, root) in self.own_roots() {
            roots.extend(RuntimeKind::from_name(&name).map(|kind| (kind, root)));
        }
        roots
    }
}

/// Why a root is not to be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Distrust {
    /// What another user could have written.
    path: PathBuf,
    why: String,
    /// That user, where it is one.
    uid: Option<u32>,
}

/// Whether nobody but this user and root can have written what is in a root.
fn trust(root: &Path, own: u32) -> Result<(), Distrust> {
    for ancestor in root.ancestors() {
        check(ancestor, own, ancestor != root)?;
    }
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        check(&entry.path(), own, false)?;
    }
    Ok(())
}

fn check(path: &Path, own: u32, sticky_will_do: bool) -> Result<(), Distrust> {
    let distrust = |why: String, uid| Err(Distrust { path: path.to_owned(), why, uid });
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        // It went meanwhile.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return distrust(error.to_string(), None),
    };
    if metadata.is_symlink() {
        return distrust("it is a symbolic link".into(), None);
    }
    if ![0, own].contains(&metadata.uid()) {
        return distrust(format!("it belongs to the user {}", metadata.uid()), Some(metadata.uid()));
    }
    let is_sticky = metadata.mode() & 0o1000 != 0;
    // What is not a directory is never written to through its root; a socket's mode may be anything.
    let is_open = metadata.mode() & 0o022 != 0 && (metadata.is_dir() || metadata.is_file());
    if is_open && !(sticky_will_do && is_sticky) {
        return distrust(format!("others may write to it (mode {:04o})", metadata.mode() & 0o7777), None);
    }
    Ok(())
}

fn not_asked(kind: RuntimeKind, root: PathBuf, distrust: Distrust) -> ListingWarning {
    let list = format!("{kind} --root {} list", root.display());
    let next = match distrust.uid {
        Some(uid) => format!("look as that user: `sudo -u '#{uid}' {list}`"),
        None => {
            format!("if you trust it all the same: `cofferdam ps --all --root {kind}={}`", root.display())
        }
    };
    let what = if distrust.path == root {
        format!("it is not listed, because {}", distrust.why)
    } else {
        format!("it is not listed, because of {}: {}", distrust.path.display(), distrust.why)
    };
    ListingWarning {
        place: root,
        failure: Failure { code: Code::NotPermitted, what, why: vec![], next: Some(next) },
    }
}

/// Whether a root has an entry that is not one of the known containers'. Ids of ours are at the start of each name.
fn holds_unknown(root: &Path, known: &BTreeSet<String>) -> bool {
    std::fs::read_dir(root).into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name.trim_start_matches("runsc-").get(..crate::id::ID_LENGTH).unwrap_or(&name).to_owned();
        !known.contains(&id)
    })
}

/// The directories that a pattern means; a `*` stands for any text within one part of the path.
fn expand(top: &Path, pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![top.to_owned()];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        found = match part.split_once('*') {
            None => found.into_iter().map(|path| path.join(part)).collect(),
            Some((before, after)) => found
                .into_iter()
                .flat_map(|path| std::fs::read_dir(path).into_iter().flatten().flatten())
                .filter(|entry| {
                    let name = entry.file_name();
                    let name = name.to_string_lossy();
                    name.len() >= before.len() + after.len()
                        && name.starts_with(before)
                        && name.ends_with(after)
                })
                .map(|entry| entry.path())
                .collect(),
        };
    }
    found.retain(|path| path.is_dir());
    found
}

/// The runtime that docker names in a root's path (`/run/docker/runtime-NAME/moby`).
fn kind_in_path(root: &Path) -> Option<RuntimeKind> {
    let name = root.components().find_map(|part| part.as_os_str().to_str()?.strip_prefix("runtime-"))?;
    RuntimeKind::ALL
        .into_iter()
        .find(|kind| name.contains(kind.binary_name()))
        .or_else(|| name.contains("gvisor").then_some(RuntimeKind::Runsc))
}

/// The living gVisor sandboxes, with the roots on their command lines.
pub(super) fn sandboxes() -> Vec<(i32, PathBuf)> {
    crate::proc::all_pids()
        .map(|pid| (pid, crate::proc::arguments(pid)))
        .filter(|(_, args)| args.first().is_some_and(|name| name == "runsc-sandbox"))
        .filter_map(|(pid, args)| {
            Some((pid, args.iter().find_map(|arg| arg.strip_prefix("--root=").map(PathBuf::from))?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_find_the_roots_of_docker_and_containerd() {
        let top = tempfile::tempdir().unwrap();
        for path in [
            "run/docker/runtime-runc/moby",
            "run/docker/runtime-runsc-kvm/moby",
            "run/containerd/runsc/k8s.io",
        ] {
            std::fs::create_dir_all(top.path().join(path)).unwrap();
        }
        std::fs::write(top.path().join("run/docker/runtime-file"), "").unwrap();
        let mut roots = expand(top.path(), "/run/docker/runtime-*/moby");
        roots.sort();
        let kinds: Vec<_> = roots.iter().map(|root| kind_in_path(root)).collect();
        assert_eq!(kinds, [Some(RuntimeKind::Runc), Some(RuntimeKind::Runsc)]);
        assert_eq!(expand(top.path(), "/run/containerd/runsc/*").len(), 1);
        assert_eq!(expand(top.path(), "/run/nothing/*").len(), 0);
    }

    #[test]
    fn a_root_is_trusted_only_if_nobody_else_could_have_written_it() {
        use std::os::unix::fs::PermissionsExt;
        let own = rustix::process::geteuid().as_raw();
        let top = tempfile::tempdir().unwrap();
        // `/tmp` above it is open to all, and sticky.
        let root = top.path().join("root");
        std::fs::create_dir_all(root.join("container")).unwrap();
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(&root, 0o711);
        trust(&root, own).unwrap();
        for (path, mode) in
            [(root.clone(), 0o1777), (root.join("container"), 0o775), (top.path().into(), 0o777)]
        {
            let before = std::fs::metadata(&path).unwrap().mode();
            set(&path, mode);
            assert_eq!(trust(&root, own).unwrap_err().path, path);
            set(&path, before & 0o7777);
        }
        std::os::unix::fs::symlink("/", root.join("link")).unwrap();
        assert!(trust(&root, own).unwrap_err().why.contains("symbolic link"));
        if own == 0 {
            std::fs::remove_file(root.join("link")).unwrap();
            std::os::unix::fs::chown(root.join("container"), Some(65534), None).unwrap();
            assert_eq!(trust(&root, own).unwrap_err().uid, Some(65534));
        }
    }

    #[test]
    fn a_lock_without_a_container_is_removed_and_nothing_else_is() {
        let keep = tempfile::tempdir().unwrap();
        let engine = Engine::open(&keep.path().join("s")).unwrap();
        let root = engine.state.runtime_root("runsc");
        std::fs::create_dir(&root).unwrap();
        let ids: Vec<ContainerId> = (0..3).map(|_| ContainerId::generate()).collect();
        let (_container, _lock) = engine.state.create_container(&ids[1]).unwrap();
        let file = |id: &ContainerId, end: &str| root.join(format!("{id}_sandbox:{id}.{end}"));
        ids.iter().for_each(|id| std::fs::write(file(id, "lock"), "").unwrap());
        std::fs::write(file(&ids[2], "state"), "").unwrap();
        std::fs::write(root.join("other.lock"), "").unwrap();
        engine.sweep_stale_locks();
        assert!(!file(&ids[0], "lock").exists(), "of no container");
        assert!(file(&ids[1], "lock").exists(), "of one that is known");
        assert!(file(&ids[2], "lock").exists(), "of one that runsc knows");
        assert!(root.join("other.lock").exists());
    }

    #[test]
    fn a_root_with_only_known_containers_is_not_asked() {
        let root = tempfile::tempdir().unwrap();
        let id = ContainerId::generate().to_string();
        let known = BTreeSet::from([id.clone()]);
        assert!(!holds_unknown(root.path(), &known));
        for name in [id.clone(), format!("{id}_sandbox:{id}.state"), format!("runsc-{id}.sock")] {
            std::fs::write(root.path().join(name), "").unwrap();
        }
        assert!(!holds_unknown(root.path(), &known));
        std::fs::create_dir(root.path().join("other")).unwrap();
        assert!(holds_unknown(root.path(), &known));
    }
}
