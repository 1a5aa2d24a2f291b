//! `gc`: what killed processes have left behind.

use cofferdam::engine::{Leftover, LeftoverKind};
use cofferdam_image::store::Freed;

use super::image::content;
use crate::cli::GcFormat;
use crate::context::Context;
use crate::images::{Containers, store, store_dir};
use crate::output::{CliError, note, print, print_json};
use crate::table::render;

/// The exit code when something could not be taken away.
const LEFT: u8 = 1;

pub(super) async fn gc(context: &Context, only_show: bool, format: GcFormat) -> Result<u8, CliError> {
    let mut found = context.engine.collect_garbage(only_show).await?;
    // After the root filesystems, which use layers.
    found.extend(collect_images(context, only_show).await);
    match format {
        GcFormat::Json => print_json(&found)?,
        GcFormat::Table if found.is_empty() => print("nothing is left behind")?,
        GcFormat::Table => {
            let titles = ["KIND", "WHAT", "WHY", "DONE"];
            print(render(titles, found.iter().map(row)))?;
        }
    }
    Ok(if !only_show && found.iter().any(|item| !item.done) { LEFT } else { 0 })
}

/// Frees the content of images that nobody needs. Images themselves are kept: `image prune` removes them.
async fn collect_images(context: &Context, only_show: bool) -> Option<Leftover> {
    let path = store_dir(context);
    if !path.exists() {
        return None;
    }
    let users = Containers(context.engine.rootfs_dir());
    let collected = async {
        let store = store(context)?;
        let freed = if only_show { store.unneeded(&users).await } else { store.gc_soon(&users).await };
        Ok::<_, CliError>(freed?)
    };
    let leftover = |what, why: &str, done, failure| {
        Some(Leftover { kind: LeftoverKind::Image, what, why: why.to_owned(), done, failure })
    };
    let unneeded = "neither an image nor a container needs it";
    match collected.await {
        Ok(None) => {
            note("the store of images is in use, and was not looked through");
            None
        }
        Ok(Some(freed)) if freed == Freed::default() => None,
        Ok(Some(freed)) => leftover(content(&freed), unneeded, !only_show, None),
        Err(error) => {
            leftover(path.display().to_string(), "it could not be looked through", false, Some(error.0))
        }
    }
}

fn row(item: &Leftover) -> [String; 4] {
    let done = match &item.failure {
        Some(failure) => failure.to_string(),
        None if item.done => "yes".into(),
        None => "no".into(),
    };
    [item.kind.word().into(), item.what.clone(), item.why.clone(), done]
}
