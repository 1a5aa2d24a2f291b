//! The commands on images: `pull`, `images`, `rmi`, `tag`, `save`, `load`, and `image …`.

mod archive;
mod list;
mod login;
mod remove;

use cofferdam_image::ImageError;
use cofferdam_image::reference::{ImageName, reference};

use crate::cli::{ImageCommand, PullArgs, TagArgs};
use crate::context::Context;
use crate::images::{fetch, find_here, platform, store};
use crate::output::{CliError, OUR_FAILURE, note, print, print_failure};
use crate::progress::Shown;

pub(super) use archive::{load, save};
pub(super) use list::list;
pub(super) use login::{login, logout};
pub(super) use remove::{content, remove};

pub(super) async fn run(context: &Context, command: ImageCommand) -> Result<u8, CliError> {
    match command {
        ImageCommand::Ls(args) => list(context, &args),
        ImageCommand::Pull(args) => pull(context, args).await,
        ImageCommand::Inspect { format, images } => list::inspect(context, &images, format.as_deref()).await,
        ImageCommand::Rm(args) => remove(context, &args).await,
        ImageCommand::Tag(args) => tag(context, &args),
        ImageCommand::Save(args) => save(context, args).await,
        ImageCommand::Load(args) => load(context, args).await,
        ImageCommand::Prune { all, force } => remove::prune(context, all, force).await,
        ImageCommand::Verify { remove } => remove::verify(context, remove).await,
    }
}

/// Fetches images, and prints the id of each. Goes on after a failure.
pub(super) async fn pull(context: &Context, args: PullArgs) -> Result<u8, CliError> {
    let store = store(context)?;
    let platform = platform(args.platform.as_deref())?;
    let mut code = 0;
    for text in &args.images {
        let pulled = async {
            let shown = Shown::unless(args.quiet);
            let image = fetch(&store, &ImageName::parse(text)?, &platform, &args.registry, &shown).await?;
            // Now rather than at the first start.
            store.layers(&image, &shown).await?;
            if !args.quiet {
                note(format_args!("{text} is here, with manifest {}", image.manifest));
            }
            print(&image.id)
        };
        if let Err(error) = pulled.await {
            print_failure(&error.0);
            code = OUR_FAILURE;
        }
    }
    Ok(code)
}

/// Gives an image a further name.
pub(super) fn tag(context: &Context, args: &TagArgs) -> Result<u8, CliError> {
    let store = store(context)?;
    let (_, known_as) = find_here(&store, &args.image)?;
    let name = reference(&args.name)?;
    if name.digest().is_some() {
        let why = "a digest is not given to an image, it has one".into();
        return Err(ImageError::BadReference { reference: args.name.clone(), why }.into());
    }
    store.tag(&known_as, &name.whole())?;
    Ok(0)
}
