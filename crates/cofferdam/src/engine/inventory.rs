//! Every container on the machine, of every runtime and state root, not only ours.
//!
//! A runtime's own `list` shows what is below one root; whoever gives another root than the one that the container was
//! made with sees nothing. Here the roots are looked for: the usual places, those of living gVisor sandboxes, those
//! that the caller names, and our own.
//! Invariant: a root or a container that cannot be read costs a warning, never the list.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use tokio::task::JoinSet;

use super::{Engine, View};
use crate::error::{Code, Failure};
use crate::id::quote;
use crate::runtime::{
    self, DEFAULT_START_LIMIT, ListedContainer, LocateError, RuntimeConfig, RuntimeError, RuntimeKind, locate,
};
use crate::state::StateError;

/// Where runtimes keep their state unless they are told otherwise, and where others tell them to.
/// A `*` stands for one part of a path.
const USUAL_ROOTS: [(RuntimeKind, &str); 14] = [
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
    (RuntimeKind::Runsc, "/tmp/runsc"),
];

/// One container of the list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The runtime's name.
    pub runtime: String,
    /// Its state root: what `--root` has to be for the runtime's own commands to see it.
    pub root: PathBuf,
    /// The container's id; foreign ids are any text.
    pub id: String,
    /// Its name, if it is ours and has one.
    pub name: Option<String>,
    /// The pid of its process or sandbox.
    pub pid: Option<i32>,
    /// Its status.
    pub status: String,
    /// How it ended, if it is ours and has.
    pub exit: Option<String>,
    /// The exit code that a shell saw, if it is ours and has ended.
    pub exit_code: Option<u8>,
    /// Its bundle.
    pub bundle: PathBuf,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Whether cofferdam made it, in this state directory.
    pub ours: bool,
    /// Its command, if it is ours.
    pub command: Vec<String>,
    /// Its labels, if it is ours.
    pub labels: BTreeMap<String, String>,
}

impl Row {
    /// Whose it is, as far as its state root tells.
    #[must_use]
    pub fn owner(&self) -> &'static str {
        let in_path = |part: &str| self.root.components().any(|component| component.as_os_str() == part);
        match self.ours {
            true => "cofferdam",
            false if in_path("docker") => "docker",
            false if in_path("containerd") => "containerd",
            false => "other",
        }
    }
}

/// A list, and what is missing from it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Listing {
    /// The containers.
    pub rows: Vec<Row>,
    /// What could not be read.
    pub warnings: Vec<ListingWarning>,
}

/// A root or container that could not be read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ListingWarning {
    /// What.
    pub place: PathBuf,
    /// Why.
    pub failure: Failure,
}

impl Engine {
    /// Lists every container that can be found. `extra` are further roots to look at.
    ///
    /// # Errors
    /// [`StateError`] when our own state directory cannot be read.
    pub async fn list_all(&self, extra: &[(RuntimeKind, PathBuf)]) -> Result<Listing, StateError> {
        let mut listing = self.list_own().await?;
        let known: BTreeSet<String> = listing.rows.iter().map(|row| row.id.clone()).collect();
        let mut queries = JoinSet::new();
        for (kind, root) in self.foreign_roots(extra, &known) {
            let cache = self.state.cache();
            queries.spawn(async move {
                let result = list_root(kind, &root, &cache).await;
                (kind, root, result)
            });
        }
        let mut foreign = Listing::default();
        while let Some(done) = queries.join_next().await {
            let Ok((kind, root, result)) = done else { continue };
            match result {
                Ok(found) => {
                    let rows =
                        found.containers.into_iter().filter(|container| !known.contains(&container.id));
                    foreign.rows.extend(rows.map(|container| row_of_foreign(kind, &root, container)));
                    let unread = found.unread.into_iter().filter(|id| !known.contains(id));
                    foreign.warnings.extend(unread.map(|id| unreadable(kind, &root, &id)));
                }
                Err(failure) => foreign.warnings.push(ListingWarning { place: root, failure }),
            }
        }
        foreign
            .warnings
            .extend(extra.iter().filter(|(_, root)| !root.is_dir()).map(|(_, root)| missing_root(root)));
        let lost = sandboxes().into_iter().filter(|(_, root)| !root.is_dir());
        foreign.warnings.extend(lost.map(|(pid, root)| lost_sandbox(pid, &root)));
        foreign.rows.sort_by(|a, b| (&a.root, &a.id).cmp(&(&b.root, &b.id)));
        foreign.warnings.sort_by(|a, b| a.place.cmp(&b.place));
        listing.rows.extend(foreign.rows);
        listing.warnings.extend(foreign.warnings);
        Ok(listing)
    }

    /// Lists our own containers: from their records, without calling a runtime.
    ///
    /// # Errors
    /// [`StateError`] when the state directory cannot be read.
    pub async fn list_own(&self) -> Result<Listing, StateError> {
        let (views, broken) = self.containers().await?;
        Ok(Listing {
            rows: views.into_iter().map(row_of_ours).collect(),
            warnings: broken
                .into_iter()
                .map(|(container, error)| ListingWarning {
                    place: container.path().to_owned(),
                    failure: Failure::of(&error),
                })
                .collect(),
        })
    }

    /// The state roots below our own state directory, with the runtimes' names.
    pub(super) fn own_roots(&self) -> Vec<(String, PathBuf)> {
        let entries = std::fs::read_dir(self.state.path().join("runtime")).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
    }

    /// Roots that hold something that we have no record of.
    fn foreign_roots(
        &self,
        extra: &[(RuntimeKind, PathBuf)],
        known: &BTreeSet<String>,
    ) -> Vec<(RuntimeKind, PathBuf)> {
        let mut roots: Vec<(RuntimeKind, PathBuf)> = extra.to_vec();
        for (kind, pattern) in USUAL_ROOTS {
            for root in expand(Path::new("/"), pattern) {
                roots.push((kind_in_path(&root).unwrap_or(kind), root));
            }
        }
        roots.extend(sandboxes().into_iter().map(|(_, root)| (RuntimeKind::Runsc, root)));
        for (name, root) in self.own_roots() {
            if let Some(kind) = RuntimeKind::from_name(&name) {
                roots.push((kind, root));
            }
        }
        let mut seen = BTreeSet::new();
        roots
            .into_iter()
            .filter_map(|(kind, root)| Some((kind, std::fs::canonicalize(root).ok()?)))
            .filter(|(kind, root)| seen.insert((*kind, root.clone())) && holds_unknown(root, known))
            .collect()
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

/// What is below a root.
struct RootListing {
    containers: Vec<ListedContainer>,
    /// Ids that have a state file there and that the runtime does not list: it passes over what it cannot read.
    unread: BTreeSet<String>,
}

async fn list_root(kind: RuntimeKind, root: &Path, cache: &Path) -> Result<RootListing, Failure> {
    let before = ids_on_disk(kind, root);
    let path = std::env::var_os("PATH");
    let (name, binary) =
        locate(kind.binary_name(), path.as_deref()).map_err(|error: LocateError| Failure::of(&error))?;
    let config = RuntimeConfig {
        name,
        binary,
        root: root.to_owned(),
        platform: None,
        start_limit: DEFAULT_START_LIMIT,
    };
    let runtime = runtime::open(config, cache).await.map_err(|error: RuntimeError| Failure::of(&error))?;
    let mut containers = runtime.list().await.map_err(|error| Failure::of(&error))?;
    for container in &mut containers {
        // runsc's list does not say when; the birth of its state file does.
        container.created = container.created.or_else(|| birth_of_state(root, &container.id));
    }
    // What came or went meanwhile is no fault.
    let mut unread: BTreeSet<String> = ids_on_disk(kind, root).intersection(&before).cloned().collect();
    for container in &containers {
        unread.remove(&container.id);
    }
    Ok(RootListing { containers, unread })
}

/// The ids that have a state file below a root.
fn ids_on_disk(kind: RuntimeKind, root: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let id_of = |name: String| match kind {
        RuntimeKind::Runsc => Some(name.strip_suffix(".state")?.split_once("_sandbox:")?.0.to_owned()),
        RuntimeKind::Runc => root.join(&name).join("state.json").exists().then_some(name),
        RuntimeKind::Crun => root.join(&name).join("status").exists().then_some(name),
        RuntimeKind::Youki => root.join(&name).join("state.json").exists().then_some(name),
    };
    names.filter_map(id_of).collect()
}

fn unreadable(kind: RuntimeKind, root: &Path, id: &str) -> ListingWarning {
    let failure = Failure {
        code: Code::RuntimeGarbled,
        what: format!("{kind} has a state file of the container {} and cannot read it", quote(id)),
        why: vec![],
        next: Some(format!("`{kind} --root {} state {id}` says why", root.display())),
    };
    ListingWarning { place: root.to_owned(), failure }
}

fn missing_root(root: &Path) -> ListingWarning {
    let failure = Failure {
        code: Code::InvalidValue,
        what: "there is no such directory".into(),
        why: vec![],
        next: Some("check the path that was given with --root".into()),
    };
    ListingWarning { place: root.to_owned(), failure }
}

fn lost_sandbox(pid: i32, root: &Path) -> ListingWarning {
    let failure = Failure {
        code: Code::RuntimeGarbled,
        what: format!(
            "the gVisor sandbox with pid {pid} lives, and its state root is gone: no command reaches it"
        ),
        why: vec![],
        next: Some(format!("`kill -9 {pid}` ends it")),
    };
    ListingWarning { place: root.to_owned(), failure }
}

fn birth_of_state(root: &Path, id: &str) -> Option<Timestamp> {
    if id.contains('/') {
        return None;
    }
    let candidates = [format!("{id}_sandbox:{id}.lock"), format!("{id}.lock"), id.to_owned()];
    let metadata = candidates.iter().find_map(|name| std::fs::metadata(root.join(name)).ok())?;
    Timestamp::try_from(metadata.created().ok()?).ok()
}

fn row_of_ours(view: View) -> Row {
    let status = view.status();
    let pid = view.record.process.as_ref().map(|process| process.pid).filter(|_| status.is_live());
    let unsupervised = status.is_live() && !view.supervised;
    Row {
        runtime: view.record.runtime.name,
        root: view.record.runtime.root,
        id: view.container.id.to_string(),
        name: view.record.name.map(|name| name.to_string()),
        pid,
        status: if unsupervised { format!("{status} (unsupervised)") } else { status.to_string() },
        exit: view.report.as_ref().map(|report| report.cause.word().to_owned()),
        exit_code: view.report.as_ref().map(|report| report.cause.shell_code()),
        bundle: match view.record.source {
            crate::request::Source::Bundle { path } | crate::request::Source::Rootfs { path } => path,
        },
        created: Some(view.record.created),
        ours: true,
        command: view.record.command,
        labels: view.record.labels,
    }
}

fn row_of_foreign(kind: RuntimeKind, root: &Path, container: ListedContainer) -> Row {
    Row {
        runtime: kind.to_string(),
        root: root.to_owned(),
        id: container.id,
        name: None,
        pid: container.pid,
        status: container.status,
        exit: None,
        exit_code: None,
        bundle: container.bundle,
        created: container.created,
        ours: false,
        command: vec![],
        labels: BTreeMap::new(),
    }
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
fn sandboxes() -> Vec<(i32, PathBuf)> {
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
    use crate::id::ContainerId;

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
