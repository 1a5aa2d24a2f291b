//! `create` and `run --detach`: containers that a monitor supervises.

use std::io::Write;
use std::path::{Path, PathBuf};

use cofferdam::engine::{DetachRequest, MonitorReply};
use cofferdam::request::{LaunchRequest, StdioFiles};
use cofferdam::runtime::RuntimeConfig;

use crate::args::{absolute, refuse};
use crate::cli::{MakingArgs, StreamArgs};
use crate::context::Context;
use crate::images::obtain_if_named;
use crate::output::{CliError, print, warn};

pub(super) async fn create(context: &Context, args: MakingArgs) -> Result<u8, CliError> {
    let image = obtain_if_named(context, &args.launch, &args.command).await?;
    let mut request = args.request(image.as_ref())?;
    request.log = Some(args.log.request()?);
    let config = args.launch.runtime.config(context)?;
    context.engine.sweep_at_times().await;
    if args.interactive && args.streams.stdin.is_some() {
        return Err(refuse("--interactive", "its input comes from --stdin already"));
    }
    let background = Background { start: false, streams: &args.streams, interactive: args.interactive };
    detached(context, config, request, background, args.cidfile.as_deref()).await
}

/// How a container is in the background.
pub(super) struct Background<'a> {
    /// Whether its process is started too.
    pub(super) start: bool,
    pub(super) streams: &'a StreamArgs,
    /// Whether whoever attaches can send it input.
    pub(super) interactive: bool,
}

/// Makes a container in the background, and prints its id.
pub(super) async fn detached(
    context: &Context,
    config: RuntimeConfig,
    launch: LaunchRequest,
    background: Background<'_>,
    cidfile: Option<&Path>,
) -> Result<u8, CliError> {
    let cidfile = cidfile.map(IdFile::reserve).transpose()?;
    let streams = background.streams;
    let file = |path: &Option<PathBuf>| path.as_deref().map(absolute).transpose();
    let stdio = StdioFiles {
        interactive: background.interactive,
        stdin: file(&streams.stdin)?,
        stdout: file(&streams.stdout)?,
        stderr: file(&streams.stderr)?,
    };
    let request = DetachRequest { runtime: config, launch, start: background.start, stdio };
    match context.engine.detach(request).await? {
        MonitorReply::Made { id, warnings, .. } => {
            warnings.iter().for_each(warn);
            if let Some(file) = cidfile {
                file.fill(id.as_str());
            }
            print(&id)?;
            Ok(0)
        }
        MonitorReply::Failed(failure) => Err(CliError(failure)),
    }
}

/// A file for the id, made before the container so that two callers cannot share it. Goes if it is not filled.
#[derive(Debug)]
pub(super) struct IdFile {
    path: PathBuf,
    file: std::fs::File,
    filled: bool,
}

impl IdFile {
    pub(super) fn reserve(path: &Path) -> Result<Self, CliError> {
        let file = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|error| refuse("--cidfile", &format!("{}: {error}", path.display())))?;
        Ok(Self { path: path.to_owned(), file, filled: false })
    }

    /// Writes the id. That it cannot be written is only said: the container is there, and is not lost for that.
    pub(super) fn fill(mut self, id: &str) {
        match self.file.write_all(id.as_bytes()) {
            Ok(()) => self.filled = true,
            Err(error) => warn(format_args!("--cidfile: {} cannot be written: {error}", self.path.display())),
        }
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.filled {
            // It is empty, and ours.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
