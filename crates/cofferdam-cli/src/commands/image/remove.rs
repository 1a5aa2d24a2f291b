//! `rmi`, `image prune` and `image verify`.

use bytesize::ByteSize;
use cofferdam_image::store::{Freed, Prune};

use super::list::short_name;
use crate::cli::RmiArgs;
use crate::commands::prune::confirmed;
use crate::context::Context;
use crate::images::{Containers, find_here, store};
use crate::output::{CliError, OUR_FAILURE, note, print, print_failure};

/// The exit code when something of the store is broken.
const BROKEN: u8 = 1;

/// Takes names away, and images with the last of theirs; prints what docker prints. Goes on after a failure.
pub(crate) async fn remove(context: &Context, args: &RmiArgs) -> Result<u8, CliError> {
    let store = store(context)?;
    let users = Containers(context.engine.rootfs_dir());
    let mut code = 0;
    for text in &args.images {
        let removed = async {
            let (_, known_as) = find_here(&store, text)?;
            let removed = store.remove(&known_as, args.force, &users).await?;
            for name in &removed.untagged {
                print(format_args!("Untagged: {}", short_name(name)))?;
            }
            removed.deleted.iter().try_for_each(|id| print(format_args!("Deleted: {id}")))
        };
        if let Err(error) = removed.await {
            print_failure(&error.0);
            code = OUR_FAILURE;
        }
    }
    Ok(code)
}

pub(super) async fn prune(context: &Context, all: bool, force: bool) -> Result<u8, CliError> {
    let (what, which) = if all {
        ("All images that no container was made of are removed.", Prune::Unused)
    } else {
        ("Images without a name are removed.", Prune::Untagged)
    };
    if !force && !confirmed(what)? {
        return Ok(0);
    }
    let users = Containers(context.engine.rootfs_dir());
    let freed = store(context)?.prune(&users, which).await?;
    freed.images.iter().try_for_each(print)?;
    note(said(&freed));
    Ok(0)
}

/// How much content it is, in words.
pub(crate) fn content(freed: &Freed) -> String {
    format!("{} blobs, {} unpacked layers, {} partial", freed.blobs, freed.layers, freed.partials)
}

/// What was freed, in a line.
fn said(freed: &Freed) -> String {
    let size = ByteSize(freed.bytes).display().si();
    format!("{size} freed: {}", content(freed))
}

pub(super) async fn verify(context: &Context, remove: bool) -> Result<u8, CliError> {
    let store = store(context)?;
    let verified = store.verify().await?;
    for broken in &verified.broken {
        print(format_args!("{}: {}", broken.what, broken.why))?;
    }
    note(format_args!(
        "{} blobs have their digests, {} layers are unpacked, {} things are left over, {} broken",
        verified.blobs,
        verified.layers,
        verified.leftovers,
        verified.broken.len()
    ));
    if remove {
        store.remove_broken(&verified)?;
    } else if !verified.is_sound() {
        note(
            "`cofferdam image verify --remove` takes what is broken away, so that the next pull brings it anew",
        );
    }
    Ok(if verified.is_sound() { 0 } else { BROKEN })
}
