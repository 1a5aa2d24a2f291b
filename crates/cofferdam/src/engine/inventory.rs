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

use super::roots::{ForeignRoots, sandboxes};
use super::{Engine, View};
use crate::error::{Code, Failure};
use crate::id::quote;
use crate::request::Source;
use crate::runtime::{
    self, DEFAULT_START_LIMIT, ListedContainer, LocateError, RuntimeConfig, RuntimeError, RuntimeKind, locate,
};
use crate::state::StateError;

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
    /// The GPUs that it has, by their index, if it is ours and has not ended.
    pub gpus: Vec<u32>,
    /// The image that it is made of, if it is ours and is of one.
    pub image: Option<String>,
    /// Its published ports, such as `127.0.0.1:8080->80/tcp`, if it is ours and lives.
    pub ports: Vec<String>,
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
        let sandboxes = sandboxes();
        let ForeignRoots { to_ask, warnings } = self.foreign_roots(extra, &sandboxes, &known);
        for (kind, root) in to_ask {
            let cache = self.state.cache();
            queries.spawn(async move {
                let result = list_root(kind, &root, &cache).await;
                (kind, root, result)
            });
        }
        let mut foreign = Listing { rows: vec![], warnings };
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
        let lost = sandboxes.iter().filter(|(_, root)| !root.is_dir());
        foreign.warnings.extend(lost.map(|(pid, root)| lost_sandbox(*pid, root)));
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
    let gpus = view.record.gpus.iter().map(|gpu| gpu.index).filter(|_| view.report.is_none()).collect();
    let attachment = view.record.attachment.as_ref().filter(|_| status.is_live());
    let ports = attachment.iter().flat_map(|attachment| &attachment.ports).map(ToString::to_string).collect();
    let image = match &view.record.source {
        Source::Image(image) => Some(image.name.clone()),
        Source::Bundle { .. } | Source::Rootfs { .. } => None,
    };
    let health = view.record.health.as_ref().map(|health| health.status).filter(|_| status.is_live());
    let status = match health {
        _ if status.is_live() && !view.supervised => format!("{status} (unsupervised)"),
        Some(health) => format!("{status} ({health})"),
        None => status.to_string(),
    };
    Row {
        runtime: view.record.runtime.name,
        root: view.record.runtime.root,
        id: view.container.id.to_string(),
        name: view.record.name.map(|name| name.to_string()),
        pid,
        status,
        exit: view.report.as_ref().map(|report| report.cause.word().to_owned()),
        exit_code: view.report.as_ref().map(|report| report.cause.shell_code()),
        bundle: match view.record.source {
            Source::Bundle { path } | Source::Rootfs { path } => path,
            Source::Image(_) => view.record.rootfs,
        },
        created: Some(view.record.created),
        ours: true,
        command: view.record.command,
        labels: view.record.labels,
        gpus,
        image,
        ports,
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
        gpus: vec![],
        image: None,
        ports: vec![],
    }
}
