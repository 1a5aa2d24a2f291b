//! Copying files out of a container and into it, by the rules of `docker cp`.
//!
//! Invariant: the container is hostile, and changes its files while they are copied. No link of it leads to the host: its side
//! is walked by descriptors below its root. On the host nothing is written but below the destination, by names that are made
//! anew; and nothing of the container's has power there: no set-user-ID, no device, no attribute.

mod content;
mod error;
mod path;
mod resolve;
mod target;

use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{FileType, ResolveFlags};

pub use error::CopyError;

use crate::pack::{Archive, Packed, Packer, Sink as _, Style, TreeOptions};
use crate::unpack::entry::Kind;
use crate::unpack::records::Records;
use path::{Given, Placement, There, place};
use resolve::{Goal, IN_CONTAINER, Origin, goal_in, goal_on_host, origin_in, origin_on_host};
use target::{Ground, Owner, Target};

/// How files are copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Whether owners are kept (`docker cp --archive`). Without it, files belong to who runs this when they come out, and to
    /// root in the container. Archives that come out keep them always.
    pub keeps_owners: bool,
    /// Whether the source is what a link leads to, where it is a link (`docker cp --follow-link`). Links below it stay links.
    pub follows_link: bool,
    /// Whether what is mounted below the source, in the container, is copied with it.
    pub crosses_file_systems: bool,
}

/// Where files go that come out of a container.
#[expect(missing_debug_implementations, reason = "a writer need not have any")]
pub enum Destination<'a> {
    /// A path of the host.
    Path(&'a Path),
    /// A tar stream that is not compressed, in which the source has its own name.
    Archive(&'a mut dyn Write),
}

/// Where files come from that go into a container.
#[expect(missing_debug_implementations, reason = "a reader need not have any")]
pub enum Source<'a> {
    /// A path of the host.
    Path(&'a Path),
    /// A tar stream that is not compressed.
    Archive(&'a mut dyn Read),
}

/// No way leads out of the directory, and none through a link.
const BELOW: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Copies out of a container. `root` is its root directory: that of the merged overlay, or `/proc/PID/root` opened. Blocks, and
/// needs to be root.
///
/// What replaces a file or link of the host is a new one, and directories that are there stay as they are. set-user-ID and
/// set-group-ID, extended attributes and devices do not come to the host; links come as links, with the text that they have.
/// Files keep their holes and their time of change.
///
/// # Errors
/// [`CopyError`]; what was copied so far stays.
pub fn out(
    root: BorrowedFd<'_>,
    path: &Path,
    destination: Destination<'_>,
    options: &CopyOptions,
) -> Result<Packed, CopyError> {
    let given = Given::parse(path.as_os_str().as_bytes())?;
    let origin = origin_in(root, &given, options.follows_link)?;
    let is_directory = origin.found.kind() == FileType::Directory;
    let crosses = options.crosses_file_systems;
    match destination {
        Destination::Archive(writer) => {
            let content = Given { is_directory: true, is_content: true, ..given.clone() };
            // There is no destination that could refuse it.
            let placement = place(&given, is_directory, &content, There::Directory)?;
            let prefix = name_in(placement, &origin, b"");
            let mut packer = Packer::new(Archive::new(writer), Style::Tree, TreeOptions::default().bytes)?;
            packer.put_all(&origin.found, prefix, crosses)?;
            packer.finish()
        }
        Destination::Path(path) => {
            let to = Given::parse(path.as_os_str().as_bytes())?;
            let goal = goal_on_host(&to)?;
            let placement = place(&given, is_directory, &to, goal.there)?;
            let owner = if options.keeps_owners { Owner::Same } else { Owner::Caller };
            copy(&origin, placement, goal, owner, crosses, true)
        }
    }
}

/// Copies into a container, whose root directory `root` is, as for [`out`]. Blocks, and needs to be root.
///
/// A path in the container may lead through links of it: they lead to places in it. Directories that are there stay as they
/// are. set-user-ID and set-group-ID are kept only where the owner is. Of an archive, devices are left out; directories that
/// it has no entry for are made.
///
/// # Errors
/// [`CopyError`]; what was copied so far stays.
pub fn into(
    root: BorrowedFd<'_>,
    path: &Path,
    source: Source<'_>,
    options: &CopyOptions,
) -> Result<Packed, CopyError> {
    let to = Given::parse(path.as_os_str().as_bytes())?;
    let goal = goal_in(root, &to)?;
    let owner = if options.keeps_owners { Owner::Same } else { Owner::Root };
    match source {
        Source::Path(path) => {
            let given = Given::parse(path.as_os_str().as_bytes())?;
            let origin = origin_on_host(&given, options.follows_link)?;
            let is_directory = origin.found.kind() == FileType::Directory;
            let placement = place(&given, is_directory, &to, goal.there)?;
            copy(&origin, placement, goal, owner, true, false)
        }
        Source::Archive(reader) => {
            if goal.there != There::Directory {
                return Err(CopyError::refused(
                    &to.text,
                    "an archive is unpacked into a directory that is there",
                ));
            }
            let start = root.try_clone_to_owned();
            let start = start.map_err(CopyError::Output)?;
            let ground =
                Ground { start, prefix: to.in_container(), resolve: IN_CONTAINER, makes_parents: true };
            unpack(reader, Target::new(ground, owner, false)?)
        }
    }
}

fn copy(
    origin: &Origin,
    placement: Placement,
    goal: Goal,
    owner: Owner,
    crosses: bool,
    is_host: bool,
) -> Result<Packed, CopyError> {
    let Goal { directory, name, .. } = goal;
    let ground = Ground { start: directory, prefix: Vec::new(), resolve: BELOW, makes_parents: false };
    let target = Target::new(ground, owner, is_host)?;
    let mut packer = Packer::new(target, Style::Copy, u64::MAX)?;
    packer.put_all(&origin.found, name_in(placement, origin, &name), crosses)?;
    packer.finish()
}

/// By which name the source goes into the directory of the destination; empty where what is in it does.
fn name_in<'a>(placement: Placement, origin: &'a Origin, name: &'a [u8]) -> &'a [u8] {
    match placement {
        Placement::Itself => name,
        Placement::Inside => &origin.name,
        Placement::Content => b"",
    }
}

fn unpack(archive: &mut dyn Read, mut target: Target) -> Result<Packed, CopyError> {
    let mut records = Records::new(archive);
    let mut done = Packed::default();
    while let Some(entry) = records.next().map_err(CopyError::Archive)? {
        done.entries += 1;
        done.bytes = done.bytes.saturating_add(entry.size);
        match entry.kind {
            Kind::Device { .. } => done.devices_left_out += 1,
            Kind::File => target.put_stream(&entry, &mut records.content())?,
            _ => target.put(&entry)?,
        }
    }
    target.finish()?;
    records.drain().map_err(CopyError::Archive)?;
    Ok(done)
}
