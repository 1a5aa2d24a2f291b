//! `images` and `image inspect`.

use bytesize::ByteSize;
use cofferdam_image::Image;
use cofferdam_image::reference::{familiar, reference};
use jiff::Timestamp;
use serde::Serialize;

use crate::cli::ImagesArgs;
use crate::commands::inspect_each;
use crate::commands::ps::ago;
use crate::context::Context;
use crate::images::{find_here, store};
use crate::output::{CliError, print, print_json};
use crate::table;
use crate::template::Template;

/// How many digits of an id are shown.
const SHOWN_DIGITS: usize = 12;

/// What is printed of an image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
struct Listed {
    id: String,
    names: Vec<String>,
    manifest: String,
    created: Option<String>,
    size: u64,
    platform: String,
    layers: Vec<String>,
}

impl Listed {
    fn of(image: &Image) -> Self {
        Self {
            id: image.id.to_string(),
            names: image.names.iter().map(|name| short_name(name)).collect(),
            manifest: image.manifest.to_string(),
            created: image.created().map(str::to_owned),
            size: image.size,
            platform: image.platform.to_string(),
            layers: image.layers.iter().map(ToString::to_string).collect(),
        }
    }

    fn short_id(&self, whole: bool) -> String {
        if whole {
            return self.id.clone();
        }
        let digits = self.id.split_once(':').map_or(self.id.as_str(), |(_, digits)| digits);
        digits.chars().take(SHOWN_DIGITS).collect()
    }

    /// A row for each name; a name is its repository and its tag.
    fn rows(&self, args: &ImagesArgs) -> Vec<[String; 6]> {
        let names = if self.names.is_empty() { vec!["<none>".to_owned()] } else { self.names.clone() };
        let row = |name: String| {
            let (repository, tag) = split(&name);
            let (repository, tag) = (repository.to_owned(), tag.unwrap_or("<none>").to_owned());
            let id = self.short_id(args.no_trunc);
            let size = ByteSize(self.size).display().si().to_string();
            [repository, tag, self.manifest.clone(), id, created_ago(self.created.as_deref()), size]
        };
        names.into_iter().map(row).collect()
    }
}

pub(crate) fn list(context: &Context, args: &ImagesArgs) -> Result<u8, CliError> {
    let wanted = args.name.as_deref().map(|name| reference(name).map(|name| familiar(&name))).transpose()?;
    // Without a tag and a digest, all of the repository are meant.
    let is_whole = args.name.as_deref().is_some_and(|name| name.contains('@') || split(name).1.is_some());
    let is_wanted = |image: &Listed| {
        let Some(wanted) = &wanted else { return true };
        image.names.iter().any(|name| name == wanted || !is_whole && split(name).0 == split(wanted).0)
    };
    let images: Vec<Listed> = store(context)?.images()?.iter().map(Listed::of).filter(is_wanted).collect();
    if args.quiet {
        images.iter().try_for_each(|image| print(image.short_id(args.no_trunc)))?;
        return Ok(0);
    }
    match args.format.as_deref() {
        None | Some("table") => print(lay_out(&images, args))?,
        Some("json") => print_json(&images)?,
        Some(text) => {
            let template = Template::parse(text)?;
            images.iter().try_for_each(|image| print(template.render(&to_value(image)?)?))?;
        }
    }
    Ok(0)
}

fn lay_out(images: &[Listed], args: &ImagesArgs) -> String {
    let rows = images.iter().flat_map(|image| image.rows(args));
    if args.digests {
        return table::render(["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"], rows);
    }
    let without = rows.map(|[repository, tag, _, id, created, size]| [repository, tag, id, created, size]);
    table::render(["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], without)
}

/// All that is known of images: what is listed, and the configuration as the image has it.
pub(super) async fn inspect(
    context: &Context,
    names: &[String],
    format: Option<&str>,
) -> Result<u8, CliError> {
    #[derive(Debug, Serialize)]
    struct Inspected {
        #[serde(flatten)]
        listed: Listed,
        config: cofferdam_image::oci_spec::image::ImageConfiguration,
    }
    let store = store(context)?;
    inspect_each(format, names, async |name| {
        let (image, _) = find_here(&store, name)?;
        to_value(&Inspected { listed: Listed::of(&image), config: image.config })
    })
    .await
}

/// A name's repository, and its tag.
fn split(name: &str) -> (&str, Option<&str>) {
    let name = name.split('@').next().unwrap_or(name);
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[last..].find(':') {
        Some(colon) => (&name[..last + colon], Some(&name[last + colon + 1..])),
        None => (name, None),
    }
}

/// The name as people write it.
pub(super) fn short_name(name: &str) -> String {
    reference(name).map_or_else(|_| name.to_owned(), |name| familiar(&name))
}

fn created_ago(created: Option<&str>) -> String {
    created.and_then(|text| text.parse::<Timestamp>().ok()).map_or_else(|| "-".to_owned(), ago)
}

fn to_value(value: &impl Serialize) -> Result<serde_json::Value, CliError> {
    serde_json::to_value(value).map_err(|error| CliError::internal("no JSON", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_a_repository_and_a_tag() {
        for (name, repository, tag) in [
            ("alpine:3.20", "alpine", Some("3.20")),
            ("localhost:5000/team/app", "localhost:5000/team/app", None),
            ("localhost:5000/app:1@sha256:00", "localhost:5000/app", Some("1")),
            ("quay.io/app@sha256:00", "quay.io/app", None),
        ] {
            assert_eq!(split(name), (repository, tag), "{name}");
        }
    }
}
