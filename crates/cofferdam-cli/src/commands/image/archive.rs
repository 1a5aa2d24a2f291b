//! `load` and `save`: images from archives, and into them.

use std::io::IsTerminal;
use std::path::Path;

use cofferdam_image::local::images;
use cofferdam_image::reference::reference;
use cofferdam_image::store::ArchiveFormat;

use super::list::short_name;
use crate::args::refuse;
use crate::cli::{LoadArgs, SaveArgs, SaveFormat};
use crate::context::Context;
use crate::images::{find_here, platform, store};
use crate::output::{CliError, print};
use crate::output_file::OutputFile;
use crate::progress::Shown;

/// Reads all images of an archive, or a layout, and prints what docker prints.
pub(crate) async fn load(context: &Context, args: LoadArgs) -> Result<u8, CliError> {
    let store = store(context)?;
    let input = args.input.as_deref().unwrap_or_else(|| Path::new("/dev/stdin"));
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

/// Writes images to an archive, or a layout.
pub(crate) async fn save(context: &Context, args: SaveArgs) -> Result<u8, CliError> {
    let store = store(context)?;
    let saved = args.images.iter().map(|text| {
        let (image, known_as) = find_here(&store, text)?;
        // By an id, it goes without names, as with docker.
        let names = if image.names.contains(&known_as) { vec![known_as] } else { vec![] };
        Ok((image, names))
    });
    let saved = saved.collect::<Result<Vec<_>, CliError>>()?;
    let format = match args.format {
        SaveFormat::DockerArchive => ArchiveFormat::Docker,
        SaveFormat::OciArchive => ArchiveFormat::Oci,
        SaveFormat::Oci => {
            let output =
                args.output.ok_or_else(|| refuse("--output", "an OCI layout is a directory: name it"))?;
            return Ok(store.save_directory(saved, &output).await.map(|()| 0)?);
        }
    };
    match &args.output {
        Some(path) => {
            // Of the owner alone, as docker has it.
            let file = OutputFile::create(path, 0o600)?;
            store.save(saved, format, file.writer()?).await?;
            file.keep()?;
        }
        None if std::io::stdout().is_terminal() => {
            return Err(refuse("--output", "an archive is not written to a terminal"));
        }
        None => store.save(saved, format, std::io::stdout()).await?,
    }
    Ok(0)
}
