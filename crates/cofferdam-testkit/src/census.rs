//! What a container can leave behind on a machine: processes, mounts, cgroups, namespaces, files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long what is on its way out may take to be gone. Killed processes, for one, are reaped by a slow PID 1.
const PATIENCE: Duration = Duration::from_secs(20);

/// Names in command lines that mean a runtime or us.
const PROGRAMS: [&str; 5] = ["runsc", "runc", "crun", "fake-runtime", "cofferdam"];
/// Directories in which runtimes put temporary files.
const TEMPORARY: [&str; 4] = ["/tmp", "/var/tmp", "/run", "/dev/shm"];

/// Everything of one machine at one moment. Entries are texts that name them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census(BTreeSet<String>);
/// crun makes this directory at each call, whatever its `--root` says.
const CRUNS_OWN: &str = "/run/crun";

impl Census {
    /// Counts the whole machine.
    #[must_use]
    pub fn of_machine() -> Self {
        let mut all = BTreeSet::new();
        all.extend(processes(|command, cgroup| {
            PROGRAMS.iter().any(|program| command.contains(program)) || cgroup.contains("/cofferdam-")
        }));
        all.extend(mounts(|_| true));
        all.extend(cgroups(|name| name.starts_with("cofferdam-")));
        for directory in TEMPORARY {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            let suspicious = |name: &String| PROGRAMS.iter().any(|program| name.contains(program));
            let paths = names.filter(suspicious).map(|name| format!("{directory}/{name}"));
            all.extend(paths.filter(|path| path != CRUNS_OWN).map(|path| format!("file {path}")));
        }
        Self(all)
    }

    /// Counts what names one directory: a state directory, say.
    #[must_use]
    pub fn of_directory(directory: &Path) -> Self {
        let text = directory.to_string_lossy().into_owned();
        let mut all = BTreeSet::new();
        all.extend(processes(|command, _| command.contains(&text)));
        all.extend(mounts(|line| line.contains(&text)));
        Self(all)
    }

    /// What is there now and was not there before.
    #[must_use]
    pub fn more_than(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }

    /// Waits until nothing is there that was not there before; gives what stays.
    #[must_use]
    pub fn settle(take: impl Fn() -> Self, before: &Self) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let more = take().more_than(before);
            if more.is_empty() || Instant::now() > deadline {
                return more;
            }
            crate::lab::breathe();
        }
    }
}

fn processes(wanted: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let own = std::process::id();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| {
            let read =
                |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let command = read("cmdline").replace('\0', " ");
            let start = read("stat").rsplit(')').next()?.split_whitespace().nth(19)?.to_owned();
            // A zombie has no command line; it is whoever's child it is, and counted by its cgroup.
            wanted(&command, &read("cgroup")).then(|| format!("process {pid} (started {start}): {command}"))
        })
        .collect()
}

fn mounts(wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // `ip netns add` makes it once, and leaves it.
    let is_of_ip = |line: &str| line.split(' ').nth(4) == Some("/run/netns");
    text.lines().filter(|line| wanted(line) && !is_of_ip(line)).map(|line| format!("mount {line}")).collect()
}

/// Cgroups by the name of their last part, three levels deep in each hierarchy.
pub(crate) fn cgroups(wanted: impl Fn(&str) -> bool + Copy) -> Vec<String> {
    let mut found = Vec::new();
    look(Path::new("/sys/fs/cgroup"), 3, wanted, &mut found);
    found.into_iter().map(|path| format!("cgroup {}", path.display())).collect()
}

fn look(directory: &Path, depth: usize, wanted: impl Fn(&str) -> bool + Copy, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if wanted(&entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        } else if depth > 1 {
            look(&entry.path(), depth - 1, wanted, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_found() {
        let before = Census::of_machine();
        let name = format!("/dev/shm/cofferdam-census-{}", std::process::id());
        std::fs::write(&name, "").unwrap();
        let more = Census::of_machine().more_than(&before);
        std::fs::remove_file(&name).unwrap();
        assert!(more.iter().any(|entry| entry.contains(&name)), "{more:?}");
    }
}
