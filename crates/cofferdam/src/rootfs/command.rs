//! Whether a command can be executed in a root filesystem, decided before a runtime is asked.
//!
//! The runtimes' own words differ (runc: exit 1 and "no such file"; runsc: exit 128), and a missing interpreter looks
//! under runc like the container's own exit 1. Here the answer is the same for all.
//! Invariant: a refusal is certain. Where the answer cannot be known (a mount will cover the place, a foreign binary
//! format is registered), the command is let through and the runtime has the last word.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use object::read::{ReadCache, ReadRef};
use rustix::fs::{FileType, Stat};

use super::{Found, Rootfs};
use crate::error::{Code, Diagnose};
use crate::host::HostFacts;
use crate::id::quote;
use crate::spec::SpecView;

/// How far the kernel follows interpreters of interpreters.
const INTERPRETER_DEPTH: usize = 4;
/// How much of a file the kernel looks at for `#!` (`BINPRM_BUF_SIZE`).
const HEAD_BYTES: usize = 256;
/// The longest path of a dynamic loader (`PATH_MAX`).
const LOADER_PATH_LIMIT: u64 = 4096;

/// What of a process decides whether it can execute a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProcessFacts<'a> {
    /// The command.
    pub(super) command: &'a str,
    /// Its environment.
    pub(super) env: &'a [&'a str],
    /// Its working directory.
    pub(super) cwd: &'a str,
    /// Its user, and all its groups. `None` where a user namespace changes what they mean.
    pub(super) ids: Option<(u32, &'a [u32])>,
    /// Where mounts will cover the root filesystem.
    pub(super) covered: &'a [PathBuf],
    /// The host's machine architecture.
    pub(super) machine: &'a str,
    /// Whether the host has foreign binary formats registered.
    pub(super) foreign_binaries: bool,
}

/// A command that cannot be executed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No file of this name is there.
    #[error("the command {} does not exist in the container{searched}", quote(.command))]
    NotFound {
        /// The command.
        command: String,
        /// Where it was looked for, as the rest of a sentence.
        searched: String,
    },
    /// The file is there; the program that must execute it is not.
    #[error("the command {} needs {}, which does not exist in the container", quote(.command), quote(.needs))]
    InterpreterMissing {
        /// The command.
        command: String,
        /// The interpreter, or the dynamic loader.
        needs: String,
    },
    /// The file is there and cannot be executed.
    #[error("the command {} cannot be executed: {why}", quote(.command))]
    NotExecutable {
        /// The command.
        command: String,
        /// Why.
        why: String,
    },
    /// Its working directory is there and is none.
    #[error("the working directory {} of the container is not a directory", quote(.0))]
    NoDirectory(String),
    /// The root filesystem could not be read.
    #[error("the command {} could not be looked up", quote(.command))]
    Unreadable {
        /// The command.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Diagnose for CommandError {
    fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } | Self::InterpreterMissing { .. } => Code::CommandNotFound,
            Self::NotExecutable { .. } => Code::CommandNotExecutable,
            Self::NoDirectory(_) => Code::InvalidValue,
            Self::Unreadable { .. } => Code::RootfsMissing,
        }
    }

    fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { .. } => {
                "check the spelling, PATH, and that the root filesystem is the right one".into()
            }
            Self::InterpreterMissing { needs, .. } => {
                format!("put {} into the root filesystem, or use a static binary", quote(needs))
            }
            Self::NotExecutable { why, .. } if why.contains("permission") => "chmod +x it".into(),
            Self::NotExecutable { .. } => {
                "name a program of this machine, or a script that begins with #!".into()
            }
            Self::NoDirectory(_) => "name a directory with --workdir; one that is missing is made".into(),
            Self::Unreadable { .. } => "check the root filesystem's permissions".into(),
        })
    }
}

/// What is known of one candidate.
enum Verdict {
    Executable(PathBuf),
    Unknown,
    Missing,
    Refused(String),
}

/// Decides whether the process of a specification can be executed. `Ok` also where that cannot be known.
pub(crate) fn check_process(
    rootfs: &Rootfs,
    spec: SpecView<'_>,
    host: &HostFacts,
) -> Result<(), CommandError> {
    let ids = spec.ids();
    let covered: Vec<PathBuf> = spec.mount_destinations().collect();
    let process = ProcessFacts {
        command: spec.command().first().copied().unwrap_or_default(),
        env: &spec.env(),
        cwd: spec.cwd(),
        ids: ids.as_ref().map(|(uid, groups)| (*uid, groups.as_slice())),
        covered: &covered,
        machine: &host.machine,
        foreign_binaries: host.foreign_binaries,
    };
    check_cwd(rootfs, &process)?;
    check_command(rootfs, &process)
}

/// A directory that is missing is made by the runtime.
fn check_cwd(rootfs: &Rootfs, process: &ProcessFacts<'_>) -> Result<(), CommandError> {
    let no_directory = || Err(CommandError::NoDirectory(process.cwd.to_owned()));
    match rootfs.walk(Path::new(process.cwd), process.covered) {
        Ok(Found::File { stat, .. }) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => {
            no_directory()
        }
        Ok(Found::Broken(_)) => no_directory(),
        _ => Ok(()),
    }
}

fn check_command(rootfs: &Rootfs, process: &ProcessFacts<'_>) -> Result<(), CommandError> {
    let command = process.command.to_owned();
    let unreadable = |source| CommandError::Unreadable { command: command.clone(), source };
    let path = if command.contains('/') {
        match candidate(rootfs, process, &Path::new(process.cwd).join(&command)).map_err(unreadable)? {
            Verdict::Executable(path) => path,
            Verdict::Unknown => return Ok(()),
            Verdict::Missing => return Err(CommandError::NotFound { command, searched: String::new() }),
            Verdict::Refused(why) => return Err(CommandError::NotExecutable { command, why }),
        }
    } else {
        let Some(path) = search(rootfs, process)? else { return Ok(()) };
        path
    };
    check_format(rootfs, process, &path, 0)
}

/// Looks a command without a slash up in PATH, as execvp does. `None` where that cannot be known.
fn search(rootfs: &Rootfs, process: &ProcessFacts<'_>) -> Result<Option<PathBuf>, CommandError> {
    let command = process.command;
    // The last entry counts: that is the one that remains in an environment.
    let Some(path) = process.env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")) else {
        return Ok(None);
    };
    let mut refusal = None;
    for directory in path.split(':') {
        let directory = Path::new(process.cwd).join(directory);
        let verdict = candidate(rootfs, process, &directory.join(command))
            .map_err(|source| CommandError::Unreadable { command: command.to_owned(), source })?;
        match verdict {
            Verdict::Executable(path) => return Ok(Some(path)),
            Verdict::Unknown => return Ok(None),
            Verdict::Missing => {}
            Verdict::Refused(why) => refusal = refusal.or(Some(why)),
        }
    }
    Err(match refusal {
        Some(why) => CommandError::NotExecutable { command: command.to_owned(), why },
        None => CommandError::NotFound {
            command: command.to_owned(),
            searched: format!(", nor along PATH={path}"),
        },
    })
}

fn candidate(rootfs: &Rootfs, process: &ProcessFacts<'_>, path: &Path) -> io::Result<Verdict> {
    Ok(match rootfs.walk(path, process.covered)? {
        Found::Missing => Verdict::Missing,
        Found::Covered => Verdict::Unknown,
        Found::Broken(why) => Verdict::Refused(why.to_owned()),
        Found::File { path, stat } => match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if may_execute(&stat, process.ids) => Verdict::Executable(path),
            // It may give what the mode does not.
            FileType::RegularFile if rootfs.has_acl(&path) => Verdict::Unknown,
            FileType::RegularFile => {
                let mode = stat.st_mode & 0o7777;
                Verdict::Refused(format!(
                    "{} has no execute permission for its user (mode {mode:04o})",
                    path.display()
                ))
            }
            FileType::Directory => Verdict::Refused(format!("{} is a directory", path.display())),
            _ => Verdict::Refused(format!("{} is not a regular file", path.display())),
        },
    })
}

/// The kernel's rule: root needs any execute bit, others the bit of the class that they are in.
fn may_execute(stat: &Stat, ids: Option<(u32, &[u32])>) -> bool {
    let mode = stat.st_mode;
    match ids {
        None | Some((0, _)) => mode & 0o111 != 0,
        Some((uid, _)) if uid == stat.st_uid => mode & 0o100 != 0,
        Some((_, groups)) if groups.contains(&stat.st_gid) => mode & 0o010 != 0,
        Some(_) => mode & 0o001 != 0,
    }
}

/// Looks into the file: a script's interpreter and a program's loader must be there too.
fn check_format(
    rootfs: &Rootfs,
    process: &ProcessFacts<'_>,
    path: &Path,
    depth: usize,
) -> Result<(), CommandError> {
    let command = process.command.to_owned();
    let unreadable = |source| CommandError::Unreadable { command: command.clone(), source };
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let limit = u64::try_from(HEAD_BYTES).unwrap_or(u64::MAX);
    rootfs.open_regular(path).and_then(|file| file.take(limit).read_to_end(&mut head)).map_err(unreadable)?;
    let is_script = head.starts_with(b"#!");
    let needs = if head.starts_with(elf::ELFMAG.as_slice()) {
        match loader_of(rootfs, path, process.machine) {
            Ok(loader) => loader,
            Err(_) if process.foreign_binaries => None,
            Err(why) => return Err(CommandError::NotExecutable { command, why }),
        }
    } else if let Some(interpreter) = script_interpreter(&head) {
        Some(interpreter)
    } else if process.foreign_binaries {
        None
    } else {
        let why = "it is neither a program nor a script that begins with #!".to_owned();
        return Err(CommandError::NotExecutable { command, why });
    };
    let Some(needs) = needs else { return Ok(()) };
    match candidate(rootfs, process, &Path::new(process.cwd).join(&needs)).map_err(unreadable)? {
        // A loader is executed by the kernel as it is, whatever it names.
        Verdict::Executable(_) if !is_script => Ok(()),
        Verdict::Executable(next) if depth < INTERPRETER_DEPTH => {
            check_format(rootfs, process, &next, depth + 1)
        }
        Verdict::Executable(_) => {
            let why = "its interpreters name each other".to_owned();
            Err(CommandError::NotExecutable { command, why })
        }
        Verdict::Unknown => Ok(()),
        Verdict::Missing => Err(CommandError::InterpreterMissing { command, needs }),
        Verdict::Refused(why) => Err(CommandError::NotExecutable { command, why }),
    }
}

/// The interpreter that the `#!` line of a script names.
fn script_interpreter(head: &[u8]) -> Option<String> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let text = String::from_utf8_lossy(line);
    text.split_ascii_whitespace().next().map(str::to_owned)
}

/// The dynamic loader of a program, if it needs one; an error if the program is not for this machine.
fn loader_of(rootfs: &Rootfs, path: &Path, machine: &str) -> Result<Option<String>, String> {
    let file = rootfs.open_regular(path).map_err(|error| error.to_string())?;
    let data = ReadCache::new(file);
    match object::FileKind::parse(&data) {
        Ok(object::FileKind::Elf64) => {
            loader_of_class::<elf::FileHeader64<object::Endianness>, _>(&data, machine)
        }
        Ok(object::FileKind::Elf32) => {
            loader_of_class::<elf::FileHeader32<object::Endianness>, _>(&data, machine)
        }
        Ok(_) | Err(_) => Err("its ELF header is damaged".into()),
    }
}

fn loader_of_class<'data, H: FileHeader, R: ReadRef<'data>>(
    data: R,
    machine: &str,
) -> Result<Option<String>, String> {
    let damaged = |_| "its ELF header is damaged".to_owned();
    let header = H::parse(data).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    let native: &[_] = match machine {
        "x86_64" => &[elf::EM_X86_64, elf::EM_386],
        "aarch64" => &[elf::EM_AARCH64, elf::EM_ARM],
        // A machine that is not in this table is not judged.
        _ => return Ok(None),
    };
    let built_for = header.e_machine(endian);
    if !native.contains(&built_for) {
        return Err(format!(
            "it is built for another machine (ELF machine {built_for}); this one is {machine}"
        ));
    }
    for segment in header.program_headers(endian, data).map_err(damaged)? {
        if segment.p_filesz(endian).into() > LOADER_PATH_LIMIT {
            continue;
        }
        if let Ok(Some(loader)) = segment.interpreter(endian, data) {
            return Ok(Some(String::from_utf8_lossy(loader).into_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
