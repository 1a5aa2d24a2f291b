//! The grammar of the commands on images.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::args::RegistryArgs;

pub(crate) const PULL_EXAMPLES: &str = "\
A name is resolved as docker does: alpine is docker.io/library/alpine:latest.
Other places: oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME].

Examples:
  cofferdam pull alpine:3.20
  cofferdam pull registry.example:5000/team/app@sha256:…
  cofferdam pull oci:build/app:latest";

#[derive(Debug, Clone, Args)]
pub(crate) struct PullArgs {
    /// For another machine, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    /// Print the id alone
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// Names of images
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ImagesArgs {
    /// Print ids alone
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print the digests of manifests, too
    #[arg(long)]
    pub(crate) digests: bool,
    /// Print whole ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// table, json, or a template such as '{{.Names}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Those of this name alone
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RmiArgs {
    /// Take the names away of an image that has several, or that a container was made of
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Names, ids, or beginnings of ids
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// The file, of `save`, of docker save, or an OCI layout's; standard input without it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Print no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SaveArgs {
    /// The file, or for oci the directory; standard output without it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// docker-archive, oci-archive or oci
    #[arg(long, value_name = "FORMAT", default_value = "docker-archive", hide_possible_values = true)]
    pub(crate) format: SaveFormat,
    /// Names, ids, or beginnings of ids
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

/// As what an image is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SaveFormat {
    DockerArchive,
    OciArchive,
    Oci,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct TagArgs {
    /// A name, an id, or the beginning of an id
    pub(crate) image: String,
    /// A further name for it
    pub(crate) name: String,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LoginArgs {
    /// The user
    #[arg(short, long)]
    pub(crate) username: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// The registry [default: docker.io]
    #[arg(value_name = "REGISTRY")]
    pub(crate) server: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CopyArgs {
    /// Keep owners
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// Copy what a link leads to, where SOURCE is one
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// CONTAINER:PATH, a path of the host, or - for an archive on standard input
    #[arg(value_name = "SOURCE", allow_hyphen_values = true)]
    pub(crate) source: String,
    /// The other of the two; - for an archive on standard output
    #[arg(value_name = "DESTINATION", allow_hyphen_values = true)]
    pub(crate) destination: String,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CommitArgs {
    /// Who has made it
    #[arg(short, long)]
    pub(crate) author: Option<String>,
    /// What was done
    #[arg(short, long)]
    pub(crate) message: Option<String>,
    /// An instruction of a Dockerfile, such as 'CMD ["nginx"]'
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,
    /// Let the container run on meanwhile
    #[arg(long)]
    pub(crate) no_pause: bool,
    /// Name, id, or the beginning of an id
    pub(crate) container: String,
    /// The image's name
    #[arg(value_name = "IMAGE")]
    pub(crate) name: Option<String>,
}

/// `image …`: the same words, and what has none of its own.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List images
    #[command(visible_alias = "list")]
    Ls(ImagesArgs),
    /// Fetch images from a registry, a directory or an archive
    Pull(PullArgs),
    /// Print all that is known of images, as JSON
    Inspect {
        /// A template such as '{{.Id}}'
        #[arg(long, value_name = "FORMAT")]
        format: Option<String>,
        /// Names, ids, or beginnings of ids
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(RmiArgs),
    /// Give an image a further name
    Tag(TagArgs),
    /// Write images to an archive
    Save(SaveArgs),
    /// Read images from an archive
    Load(LoadArgs),
    /// Remove images that have no name, and with --all those that no container was made of
    Prune {
        /// Those with a name, too
        #[arg(short, long)]
        all: bool,
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
    /// Check every file of the store against its digest. Ends with 1 if something is wrong
    Verify {
        /// Remove what is wrong, so that the next pull brings it anew
        #[arg(long)]
        remove: bool,
    },
}
