//! The options that mount something, as docker has them.

use std::path::Path;

use clap::Args;
use cofferdam::request::LaunchRequest;

use super::absolute;
use crate::output::CliError;

/// What is mounted into a container.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Storage")]
pub(crate) struct MountArgs {
    /// Mount a path of the host, or a volume by its name; options: ro, nocopy, noexec, nosuid, nodev, rslave, rshared
    #[arg(short, long, value_name = "[SOURCE:]DESTINATION[:OPTIONS]")]
    pub(crate) volume: Vec<String>,
    /// The same in words: type=bind|volume|tmpfs,source=...,target=...[,readonly]
    #[arg(long, value_name = "KEY=VALUE,...")]
    pub(crate) mount: Vec<String>,
    /// Mount a file system in memory; options: size=64m, mode=1777, uid=, gid=, exec, ro
    #[arg(long, value_name = "DESTINATION[:OPTIONS]")]
    pub(crate) tmpfs: Vec<String>,
    /// Limit what a container of an image writes to its root filesystem: size=10g
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) storage_opt: Vec<String>,
}

impl MountArgs {
    /// Puts them into a request; a source that begins with a dot is meant from the current directory, as in docker.
    pub(super) fn fill(&self, request: &mut LaunchRequest) -> Result<(), CliError> {
        request.mounts =
            self.volume.iter().map(|text| with_absolute_source(text)).collect::<Result<_, _>>()?;
        request.mount_options =
            self.mount.iter().map(|text| with_absolute_field(text)).collect::<Result<_, _>>()?;
        request.tmpfs.clone_from(&self.tmpfs);
        request.storage_opt.clone_from(&self.storage_opt);
        Ok(())
    }
}

fn with_absolute_source(text: &str) -> Result<String, CliError> {
    match text.split_once(':') {
        Some((source, rest)) if source.starts_with('.') => Ok(format!("{}:{rest}", from_here(source)?)),
        _ => Ok(text.to_owned()),
    }
}

/// The same for a field of `--mount`; a field in quotes has its source after one.
fn with_absolute_field(text: &str) -> Result<String, CliError> {
    for key in ["source=", "src="] {
        for start in [key.to_owned(), format!("\"{key}"), format!(",{key}"), format!(",\"{key}")] {
            let at = if start.starts_with(',') {
                text.find(&start)
            } else {
                text.starts_with(&start).then_some(0)
            };
            let Some(begin) = at.map(|at| at + start.len()).filter(|begin| text[*begin..].starts_with('.'))
            else {
                continue;
            };
            let is_quoted = start.contains('"');
            let end =
                text[begin..].find(if is_quoted { '"' } else { ',' }).map_or(text.len(), |at| begin + at);
            return Ok(format!("{}{}{}", &text[..begin], from_here(&text[begin..end])?, &text[end..]));
        }
    }
    Ok(text.to_owned())
}

/// A relative path from the current directory, without `.` and `..` where that needs no look.
fn from_here(source: &str) -> Result<String, CliError> {
    Ok(absolute(Path::new(source))?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_that_begin_with_a_dot_are_meant_from_here() {
        let here = std::env::current_dir().unwrap();
        let here = here.display();
        let volume = |text: &str| with_absolute_source(text).unwrap();
        assert_eq!(volume("./x:/y:ro"), format!("{here}/x:/y:ro"));
        assert_eq!(volume(".:/y"), format!("{here}:/y"));
        assert_eq!(volume("../x:/y"), format!("{here}/../x:/y"));
        for text in ["/x:/y", "name:/y", "/y", "", "./y"] {
            assert_eq!(volume(text), text);
        }
        let mount = |text: &str| with_absolute_field(text).unwrap();
        assert_eq!(mount("type=bind,source=./x,target=/y"), format!("type=bind,source={here}/x,target=/y"));
        assert_eq!(mount("src=.,target=/y"), format!("src={here},target=/y"));
        assert_eq!(mount("target=/y,\"source=./a,b\",ro"), format!("target=/y,\"source={here}/a,b\",ro"));
        for text in ["type=bind,source=/x,target=/y", "source=name,target=./y", "target=/source=./x", ""] {
            assert_eq!(mount(text), text);
        }
    }
}
