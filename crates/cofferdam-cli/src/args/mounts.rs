//! The options that mount something, as docker has them.

use std::path::Path;

use clap::Args;
use cofferdam::request::{LaunchRequest, MountRequest};

use super::absolute;

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
    pub(super) fn fill(&self, request: &mut LaunchRequest) {
        request.mounts = self.volume.iter().map(|text| with_absolute_source(text)).collect();
        request.mount_options =
            self.mount.iter().map(|text| MountRequest::with_mount_source(text, from_here)).collect();
        request.tmpfs.clone_from(&self.tmpfs);
        request.storage_opt.clone_from(&self.storage_opt);
    }
}

fn with_absolute_source(text: &str) -> String {
    match text.split_once(':') {
        Some((source, rest)) if source.starts_with('.') => format!("{}:{rest}", from_here(source)),
        _ => text.to_owned(),
    }
}

/// A relative path from the current directory, without `.` and `..` where that needs no look.
fn from_here(source: &str) -> String {
    // Without a current directory it stays relative, and is refused as that.
    absolute(Path::new(source)).map_or_else(|_| source.to_owned(), |path| path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_that_begin_with_a_dot_are_meant_from_here() {
        let here = std::env::current_dir().unwrap();
        let here = here.display();
        let volume = with_absolute_source;
        assert_eq!(volume("./x:/y:ro"), format!("{here}/x:/y:ro"));
        assert_eq!(volume(".:/y"), format!("{here}:/y"));
        assert_eq!(volume("../x:/y"), format!("{here}/../x:/y"));
        for text in ["/x:/y", "name:/y", "/y", "", "./y"] {
            assert_eq!(volume(text), text);
        }
        let mount = |text: &str| MountRequest::with_mount_source(text, from_here);
        assert_eq!(mount("type=bind,source=./x,target=/y"), format!("type=bind,source={here}/x,target=/y"));
        assert_eq!(mount("src=.,target=/y"), format!("src={here},target=/y"));
        assert_eq!(mount("target=/y,\"source=./a,b\",ro"), format!("target=/y,\"source={here}/a,b\",ro"));
        assert_eq!(mount("SRC=./x,dst=/y"), format!("SRC={here}/x,dst=/y"));
        assert_eq!(mount("source=./a\"b"), "source=./a\"b", "it is refused later");
        for text in ["type=bind,source=/x,target=/y", "source=name,target=./y", "target=/source=./x", ""] {
            assert_eq!(mount(text), text);
        }
    }
}
