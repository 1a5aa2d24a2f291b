//! What a user asks to be mounted, in docker's three languages: `--volume`, `--mount` and `--tmpfs`.
//!
//! Invariant: what is parsed here is a pure function of the text. Whether a source exists is found out by the launch;
//! relative sources are made absolute by whoever knows the caller's directory.

mod mount_option;
mod record;
mod tmpfs_option;
mod volume_option;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::{LaunchRequest, Refused, Source, check_destination};
use crate::id::{VolumeName, quote};

pub use record::MountRecord;
pub(crate) use record::VOLUME_DATA;

/// The longest path that Linux takes (`PATH_MAX`), its NUL included.
const PATH_LIMIT_BYTES: usize = 4096;
/// How many volumes an image may want: each is a directory on the host.
const IMAGE_VOLUMES_LIMIT: usize = 100;

/// A mount that a user asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRequest {
    /// The option that asked for it.
    pub option: MountOption,
    /// Where it appears in the container: absolute, without `.`, `..` and double slashes.
    pub destination: String,
    /// What appears there.
    pub kind: MountKind,
    /// Whether the container may only read it.
    pub read_only: bool,
    /// What may be done with its files.
    pub flags: MountFlags,
    /// Words of docker's that have no meaning here.
    pub ignored: Vec<String>,
}

/// The options of the command line that ask for mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountOption {
    /// `--volume`.
    Volume,
    /// `--mount`.
    Mount,
    /// `--tmpfs`.
    Tmpfs,
    /// None of them: the image says that a directory is to outlive its container.
    Image,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A directory or file of the host.
    Bind {
        /// Its absolute path.
        source: PathBuf,
        /// Whether mounts below it, made later, go from one side to the other.
        propagation: Propagation,
        /// Whether what is mounted below it comes along.
        recursive: bool,
    },
    /// A volume.
    Volume {
        /// Its name; one that was made up where the user gave none.
        name: VolumeName,
        /// Whether the user gave none.
        anonymous: bool,
        /// Whether it gets what the image has at the destination, if it is new and empty.
        copy: bool,
        /// Its labels, if it is made.
        labels: BTreeMap<String, String>,
    },
    /// A file system in memory.
    Tmpfs(TmpfsOptions),
}

/// A file system in memory. What is `None` is left to the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TmpfsOptions {
    /// How much it holds, in bytes; half of the machine's memory without it.
    pub size_bytes: Option<u64>,
    /// The mode of its root; 1777 without it.
    pub mode: Option<u32>,
    /// The owner of its root.
    pub uid: Option<u32>,
    /// The group of its root.
    pub gid: Option<u32>,
    /// How many files it holds.
    pub inodes: Option<u64>,
}

/// What may be done with the files of a mount; `None` leaves it as it is on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// Whether they can be executed.
    pub exec: Option<bool>,
    /// Whether their set-user-id bits count.
    pub suid: Option<bool>,
    /// Whether device nodes among them work.
    pub dev: Option<bool>,
}

/// Whether later mounts below a mount go from the host into the container, and back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Neither.
    Private,
    /// Neither, also below what is mounted below it.
    #[default]
    RecursivePrivate,
    /// Both.
    Shared,
    /// Both, also below what is mounted below it.
    RecursiveShared,
    /// Into the container only.
    Slave,
    /// Into the container only, also below what is mounted below it.
    RecursiveSlave,
}

impl Propagation {
    const ALL: [Self; 6] = [
        Self::Private,
        Self::RecursivePrivate,
        Self::Shared,
        Self::RecursiveShared,
        Self::Slave,
        Self::RecursiveSlave,
    ];

    /// The word that docker and the OCI have for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::RecursivePrivate => "rprivate",
            Self::Shared => "shared",
            Self::RecursiveShared => "rshared",
            Self::Slave => "slave",
            Self::RecursiveSlave => "rslave",
        }
    }

    /// Whether mounts go from the container to the host.
    #[must_use]
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Shared | Self::RecursiveShared)
    }

    /// Whether mounts go from the host into the container only.
    #[must_use]
    pub fn is_slave(self) -> bool {
        matches!(self, Self::Slave | Self::RecursiveSlave)
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|propagation| propagation.word() == word)
    }
}

impl fmt::Display for MountOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Volume => "--volume",
            Self::Mount => "--mount",
            Self::Tmpfs => "--tmpfs",
            Self::Image => "the image's VOLUME",
        })
    }
}

impl MountRequest {
    /// Reads docker's `[SOURCE:]DESTINATION[:OPTIONS]`.
    ///
    /// # Errors
    /// Why the text is not one.
    pub fn parse(text: &str) -> Result<Self, String> {
        volume_option::parse(text)
    }

    /// Reads docker's `type=TYPE,source=SOURCE,target=DESTINATION,...`: one record of a CSV file.
    ///
    /// # Errors
    /// Why the text is not one.
    pub fn parse_mount(text: &str) -> Result<Self, String> {
        mount_option::parse(text)
    }

    /// A text for [`MountRequest::parse_mount`] whose source, if it begins with a dot, is meant from a directory that only the
    /// caller knows: `replace` makes it absolute.
    #[must_use]
    pub fn with_mount_source(text: &str, replace: impl Fn(&str) -> String) -> String {
        mount_option::with_source(text, replace)
    }

    /// Reads docker's `DESTINATION[:OPTIONS]` of a file system in memory.
    ///
    /// # Errors
    /// Why the text is not one.
    pub fn parse_tmpfs(text: &str) -> Result<Self, String> {
        tmpfs_option::parse(text)
    }

    fn of_image(destination: String) -> Self {
        let (name, labels) = (VolumeName::generate(), BTreeMap::new());
        Self {
            option: MountOption::Image,
            destination,
            kind: MountKind::Volume { name, anonymous: true, copy: true, labels },
            read_only: false,
            flags: MountFlags::default(),
            ignored: vec![],
        }
    }

    /// Its options in a specification.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let mut options: Vec<String> = match &self.kind {
            MountKind::Bind { propagation, recursive, .. } => {
                vec![if *recursive { "rbind" } else { "bind" }.into(), propagation.word().into()]
            }
            MountKind::Volume { .. } => vec!["rbind".into(), Propagation::default().word().into()],
            MountKind::Tmpfs(tmpfs) => tmpfs.words(),
        };
        options.push(if self.read_only { "ro" } else { "rw" }.into());
        options.extend(self.flags.words().map(str::to_owned));
        options
    }
}

impl MountFlags {
    /// docker's for a file system in memory: nothing in it is executed, and nothing in it has a privilege.
    const OF_TMPFS: Self = Self { exec: Some(false), suid: Some(false), dev: Some(false) };

    fn words(self) -> impl Iterator<Item = &'static str> {
        let word = |flag: Option<bool>, yes, no| flag.map(|flag| if flag { yes } else { no });
        let words = [
            word(self.exec, "exec", "noexec"),
            word(self.suid, "suid", "nosuid"),
            word(self.dev, "dev", "nodev"),
        ];
        words.into_iter().flatten()
    }

    /// Takes one of the six words; says whether it is one.
    fn take(&mut self, word: &str) -> bool {
        let (name, value) = word.strip_prefix("no").map_or((word, true), |name| (name, false));
        let flag = match name {
            "exec" => &mut self.exec,
            "suid" => &mut self.suid,
            "dev" => &mut self.dev,
            _ => return false,
        };
        *flag = Some(value);
        true
    }
}

impl TmpfsOptions {
    /// Open to all, as /tmp is. runc would take the mode of the directory below, and gVisor another one.
    const MODE: u32 = 0o1777;

    fn words(self) -> Vec<String> {
        let mut words = vec![format!("mode={:o}", self.mode.unwrap_or(Self::MODE))];
        words.extend(self.size_bytes.map(|bytes| format!("size={bytes}")));
        words.extend(self.uid.map(|uid| format!("uid={uid}")));
        words.extend(self.gid.map(|gid| format!("gid={gid}")));
        words.extend(self.inodes.map(|inodes| format!("nr_inodes={inodes}")));
        words
    }
}

/// The mounts that a request asks for, parents before what is mounted below them.
pub(super) fn parse_all(request: &LaunchRequest) -> Result<Vec<MountRequest>, Refused> {
    type Parse = fn(&str) -> Result<MountRequest, String>;
    let languages: [(MountOption, &[String], Parse); 3] = [
        (MountOption::Volume, &request.mounts, MountRequest::parse),
        (MountOption::Mount, &request.mount_options, MountRequest::parse_mount),
        (MountOption::Tmpfs, &request.tmpfs, MountRequest::parse_tmpfs),
    ];
    let mut mounts: Vec<MountRequest> = Vec::new();
    for (option, texts, parse) in languages {
        for text in texts {
            let mount = parse(text).map_err(|why| Refused::new(&option.to_string(), why))?;
            if let Some(other) = mounts.iter().find(|other| other.destination == mount.destination) {
                let why = format!(
                    "there is another mount at {}, by {}",
                    quote(&mount.destination),
                    if other.option == option { "the same option".into() } else { other.option.to_string() }
                );
                return Err(Refused::new(&option.to_string(), why));
            }
            mounts.push(mount);
        }
    }
    mounts.extend(of_image(request, &mounts)?);
    check_places(request, &mounts)?;
    mounts.sort_by_key(|mount| Path::new(&mount.destination).components().count());
    Ok(mounts)
}

/// docker's rule: where the image says so, and nothing else is mounted, there is a volume without a name.
fn of_image(request: &LaunchRequest, given: &[MountRequest]) -> Result<Vec<MountRequest>, Refused> {
    let Source::Image(image) = &request.source else { return Ok(vec![]) };
    let refused = |why| Refused::new(&format!("the configuration of {}", image.name), why);
    let places = &image.defaults.volumes;
    if places.len() > IMAGE_VOLUMES_LIMIT {
        let why = format!("it wants {} volumes; the limit is {IMAGE_VOLUMES_LIMIT}", places.len());
        return Err(refused(why));
    }
    // Two spellings of a place are one.
    let places: Result<BTreeSet<String>, _> = places.iter().map(|text| destination(text)).collect();
    let places = places.map_err(|why| refused(format!("its VOLUME: {why}")))?;
    let is_free = |place: &String| !given.iter().any(|mount| mount.destination == *place);
    Ok(places.into_iter().filter(is_free).map(MountRequest::of_image).collect())
}

/// Checks that no other option has something at the place of a mount.
fn check_places(request: &LaunchRequest, mounts: &[MountRequest]) -> Result<(), Refused> {
    let others = [
        ("--shm-size", request.shm_size.is_some(), "/dev/shm", "give the size to that mount"),
        ("--init", request.init, "/dev/init", "that is where the init is"),
    ];
    for (option, is_given, place, way_out) in others {
        if let Some(mount) = mounts.iter().find(|mount| is_given && mount.destination == place) {
            let why = format!("{} mounts something else at {place}: {way_out}", mount.option);
            return Err(Refused::new(option, why));
        }
    }
    Ok(())
}

/// Checks where a user's mount may appear, and writes it in the one way that names it.
fn destination(text: &str) -> Result<String, String> {
    check_destination(text)?;
    if text.len() >= PATH_LIMIT_BYTES {
        return Err(format!(
            "the destination {} has {} bytes; Linux takes less than {PATH_LIMIT_BYTES}",
            quote(text),
            text.len()
        ));
    }
    let parts = Path::new(text).components().filter_map(|part| match part {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    let clean: String = parts.flat_map(|part| ["/", part]).collect();
    if clean == "/proc" {
        return Err("the destination `/proc` is where the kernel speaks to the container".into());
    }
    Ok(clean)
}

/// Checks a path of the host.
fn bind_source(text: &str) -> Result<PathBuf, String> {
    if text.contains('\0') || text.len() >= PATH_LIMIT_BYTES {
        return Err(format!("the source {} is no path", quote(text)));
    }
    if Path::new(text).is_absolute() {
        return Ok(text.into());
    }
    Err(format!("the source {} is not an absolute path", quote(text)))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
