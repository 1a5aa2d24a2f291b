//! `cp`, `diff`, `export` and `commit`: what is in a container, and what it has written.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;

use cofferdam::engine::View;
use cofferdam::error::{Code, Diagnose, Failure};
use cofferdam::lifecycle::Status;
use cofferdam_image::commit::{Commit, commit as configure, merged};
use cofferdam_image::copy::{self, CopyOptions, Destination, Source};
use cofferdam_image::error::disk_fault;
use cofferdam_image::oci_spec::image::ImageConfiguration;
use cofferdam_image::pack::{self, Packed, TreeOptions};
use cofferdam_image::reference::reference;
use cofferdam_image::store::{NewImage, WriteLayer};
use cofferdam_image::{CopyError, ImageError};
use jiff::Timestamp;
use serde_json::Value;

use crate::args::refuse;
use crate::cli::{CommitArgs, CopyArgs};
use crate::context::Context;
use crate::forward::Incoming;
use crate::images::store;
use crate::output::{CliError, print, warn};
use crate::output_file::OutputFile;

/// A place that a caller names: on the host, or in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place<'a> {
    Host(&'a Path),
    Stream,
    Container { name: &'a str, path: &'a Path },
}

impl<'a> Place<'a> {
    /// docker's rule: what begins like a path is one; otherwise what comes before a colon names a container.
    fn parse(text: &'a str) -> Self {
        match text.split_once(':') {
            _ if text == "-" => Self::Stream,
            _ if text.starts_with(['/', '.']) => Self::Host(Path::new(text)),
            Some((name, path)) if !name.is_empty() => Self::Container { name, path: Path::new(path) },
            _ => Self::Host(Path::new(text)),
        }
    }
}

/// Copies files between a container and the host.
pub(super) async fn copy(context: &Context, args: &CopyArgs) -> Result<u8, CliError> {
    let options = CopyOptions {
        keeps_owners: args.archive,
        follows_link: args.follow_link,
        crosses_file_systems: true,
    };
    let (from, to) = (Place::parse(&args.source), Place::parse(&args.destination));
    let packed = match (from, to) {
        (Place::Container { name, path }, Place::Host(to)) => {
            let root = root_of(context, name).await?;
            copy::out(root.as_fd(), path, Destination::Path(to), &options)
        }
        (Place::Container { name, path }, Place::Stream) => {
            let root = root_of(context, name).await?;
            let mut out = archive_output()?;
            copy::out(root.as_fd(), path, Destination::Archive(&mut out), &options)
        }
        (Place::Host(from), Place::Container { name, path }) => {
            let root = root_to_write(context, name).await?;
            copy::into(root.as_fd(), path, Source::Path(from), &options)
        }
        (Place::Stream, Place::Container { name, path }) => {
            let root = root_to_write(context, name).await?;
            copy::into(root.as_fd(), path, Source::Archive(&mut io::stdin().lock()), &options)
        }
        (Place::Container { .. }, Place::Container { .. }) => {
            return Err(refuse("cp", "one of the two is a container; between two, go by the host"));
        }
        _ => return Err(refuse("cp", "neither is in a container: write CONTAINER:PATH")),
    };
    tell(&packed?);
    Ok(0)
}

/// Packs all files of a container.
pub(super) async fn export(context: &Context, name: &str, output: Option<&Path>) -> Result<u8, CliError> {
    let root = root_of(context, name).await?;
    let options = TreeOptions::default();
    let packed = match output {
        Some(path) => {
            let file = OutputFile::create(path, 0o666)?;
            let packed = pack::tree(root.as_fd(), file.writer()?, &options)?;
            file.keep()?;
            packed
        }
        None => pack::tree(root.as_fd(), archive_output()?, &options)?,
    };
    tell(&packed);
    Ok(0)
}

/// Lists what a container has changed of its image, as docker does.
pub(super) async fn diff(context: &Context, name: &str) -> Result<u8, CliError> {
    let view = context.engine.find(name).await?;
    let written = context.engine.open_written(&view)?;
    let layers = written.open_layers()?;
    let lowers: Vec<_> = layers.iter().map(AsFd::as_fd).collect();
    for change in pack::changes(written.upper.as_fd(), &lowers)? {
        print(change)?;
    }
    Ok(0)
}

/// Makes an image of what a container has written.
pub(super) async fn commit(context: &Context, args: &CommitArgs) -> Result<u8, CliError> {
    let name = args.name.as_deref().map(reference).transpose()?.map(|name| name.whole());
    let view = context.engine.find(&args.container).await?;
    let written = context.engine.open_written(&view)?;
    let store = store(context)?;
    let base = store.find_kept(&written.image.id)?;
    let configuration = changed(&store.configuration(&base)?, &base.config, &view, args)?;
    // From here on neither a signal nor SIGKILL leaves it paused.
    let mut incoming = Incoming::catch().map_err(|error| CliError::internal("signals", &error))?;
    let is_paused = !args.no_pause && view.status() == Status::Running;
    let _thaw = if is_paused { Some(context.engine.thaw_after(&view).await) } else { None };
    if is_paused {
        context.engine.pause(&args.container).await?;
    }
    let layer: WriteLayer = Box::new(move |out| {
        pack::layer(written.upper.as_fd(), out).map(|packed| tell(&packed)).map_err(unpackable)
    });
    let new = NewImage { base: Some(base), layer: Some(layer), configuration };
    let made = tokio::select! {
        made = store.put_image(new, name.as_deref()) => made.map_err(CliError::from),
        _ = incoming.asked_to_end() => Err(interrupted()),
    };
    // Whatever became of the image: the container goes on.
    let resumed = if is_paused { context.engine.resume(&args.container).await } else { Ok(()) };
    print(made?.id)?;
    resumed?;
    Ok(0)
}

/// The configuration of the new image: what other tools know of the old one stays in it.
fn changed(
    whole: &Value,
    parent: &ImageConfiguration,
    view: &View,
    args: &CommitArgs,
) -> Result<Value, CliError> {
    // The store reckons the layers itself.
    let nothing = format!("sha256:{}", "0".repeat(64));
    let made = configure(
        parent,
        &Commit {
            diff_id: &nothing,
            created: &Timestamp::now().to_string(),
            created_by: &view.record.command.join(" "),
            author: args.author.as_deref(),
            message: args.message.as_deref(),
            changes: &args.change,
        },
    )?;
    merged(whole, parent, &made).map_err(|error| CliError::internal("no JSON", &error))
}

fn interrupted() -> CliError {
    CliError(Failure { code: Code::Cancelled, what: "no image was made".into(), why: vec![], next: None })
}

fn unpackable(error: CopyError) -> ImageError {
    if let Some(kind) = disk_fault(&error) {
        return ImageError::File { path: "the new layer".into(), what: "written", source: kind.into() };
    }
    let Failure { what, why, .. } = Failure::of(&error);
    tracing::debug!(code = %error.code(), "the layer was not packed");
    ImageError::Invalid {
        what: "what the container has written".into(),
        why: [vec![what], why].concat().join(": "),
    }
}

/// Opens the root filesystem of a container.
async fn root_of(context: &Context, name: &str) -> Result<std::os::fd::OwnedFd, CliError> {
    let view = context.engine.find(name).await?;
    Ok(context.engine.open_root(&view)?)
}

/// The same, to bring something into it.
async fn root_to_write(context: &Context, name: &str) -> Result<std::os::fd::OwnedFd, CliError> {
    let view = context.engine.find(name).await?;
    if view.record.sandboxed && view.status().is_live() && view.status() != Status::Created {
        warn(format_args!(
            "{}: a guest of gVisor does not see this where it has looked before, until it is started again",
            view.title()
        ));
    }
    Ok(context.engine.open_root(&view)?)
}

fn archive_output() -> Result<impl Write, CliError> {
    let out = io::stdout();
    if out.is_terminal() {
        return Err(refuse("-", "an archive is not written to a terminal"));
    }
    Ok(io::BufWriter::with_capacity(1 << 20, out))
}

/// Says what could not be taken along.
fn tell(packed: &Packed) {
    for (count, what) in [
        (packed.devices_left_out, "device nodes were left out"),
        (packed.sockets_left_out, "sockets were left out"),
        (packed.mounts_left_out, "files that are mounted were left out"),
        (packed.attributes_left_out, "extended attributes were left out"),
        (packed.shortened, "files became shorter meanwhile, and are filled up with zeros"),
    ] {
        if count > 0 {
            warn(format_args!("{count} {what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart_as_docker_does() {
        let container = |name, path| Place::Container { name, path: Path::new(path) };
        for (text, place) in [
            ("web:/etc/hosts", container("web", "/etc/hosts")),
            ("web:etc", container("web", "etc")),
            ("./a:b", Place::Host(Path::new("./a:b"))),
            ("/a:b", Place::Host(Path::new("/a:b"))),
            ("file", Place::Host(Path::new("file"))),
            (":x", Place::Host(Path::new(":x"))),
            ("-", Place::Stream),
        ] {
            assert_eq!(Place::parse(text), place, "{text}");
        }
    }
}
