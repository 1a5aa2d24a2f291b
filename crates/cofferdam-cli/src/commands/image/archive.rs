//! `load` and `save`: images from archives, and into them.

use std::path::Path;

use cofferdam_image::local::images;
use cofferdam_image::reference::reference;

use super::list::short_name;
use crate::cli::LoadArgs;
use crate::context::Context;
use crate::images::{platform, store};
use crate::output::{CliError, print};
use crate::progress::Shown;

/// Reads all images of an archive, or a layout, and prints what docker prints.
pub(crate) async fn load(context: &Context, args: LoadArgs) -> Result<u8, CliError> {
    let store = store(context)?;
    let input = args.input.as_deref().unwrap_or(Path::new("/dev/stdin"));
    let shown = Shown::unless(args.quiet);
    for image in images(input, &store)? {
        let names: Vec<String> =
            image.names().iter().filter_map(|name| Some(reference(name).ok()?.whole())).collect();
        let platform = platform(None)?;
        let first = names.first().map(String::as_str);
        let loaded = store.acquire(&image, first, &platform, &shown).await?;
        for name in names.iter().skip(1) {
            store.tag(loaded.id.as_ref(), name)?;
        }
        if names.is_empty() {
            print(format_args!("Loaded image ID: {}", loaded.id))?;
        }
        names.iter().try_for_each(|name| print(format_args!("Loaded image: {}", short_name(name))))?;
    }
    Ok(0)
}
