//! Packages of the system: which are missing, and their installation on Debian.

use anyhow::{Result, bail};
use xshell::{Cmd, Shell, cmd};

use crate::step;

/// The archive's list of Debian 12's backports.
const BACKPORTS_LIST: &str = "/etc/apt/sources.list.d/cofferdam-backports.list";

/// Packages that Debian 12 has in a release that is too old: gVisor, and the emulator.
const BACKPORTED: [&str; 2] = ["runsc", "qemu-system-x86"];

/// What Debian's release file says.
pub(crate) struct System {
    is_debian: bool,
    codename: String,
}

impl System {
    pub(crate) fn probe() -> Self {
        let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim_matches('"').to_owned()).unwrap_or_default()
        };
        let like = format!("{} {}", field("ID="), field("ID_LIKE="));
        Self { is_debian: like.split(' ').any(|word| word == "debian"), codename: field("VERSION_CODENAME=") }
    }

    /// Whether runsc comes from the backports here.
    pub(crate) fn needs_backports(&self) -> bool {
        self.is_debian && self.codename == "bookworm"
    }
}

/// Whether a program is along PATH, or where programs of root are.
pub(crate) fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(usual).any(|directory| directory.join(name).is_file())
}

/// Installs the packages of those programs that are missing. `programs` are pairs of program and package.
pub(crate) fn install(shell: &Shell, programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        programs.iter().filter(|(program, _)| !has_program(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let system = System::probe();
    if !system.is_debian {
        bail!(
            "these packages are missing and this is not a Debian: install your system's {}\n\
             runc: https://github.com/opencontainers/runc/releases\n\
             gVisor: https://gvisor.dev/docs/user_guide/install/",
            missing.join(", ")
        );
    }
    step(&format!("installing {}", missing.join(", ")));
    update(shell)?;
    let is_backported = |package: &&str| system.needs_backports() && BACKPORTED.contains(package);
    let (backported, plain): (Vec<&str>, Vec<&str>) = missing.into_iter().partition(is_backported);
    let words = ["install", "--yes", "--no-install-recommends"];
    if !plain.is_empty() {
        apt(shell, &words, &plain)?;
    }
    if !backported.is_empty() {
        enable_backports(shell)?;
        apt(shell, &[&words[..], &["--target-release", "bookworm-backports"]].concat(), &backported)?;
    }
    Ok(())
}

/// Makes Debian 12's backports known to apt.
pub(crate) fn enable_backports(shell: &Shell) -> Result<()> {
    let known = cmd!(shell, "apt-cache policy").quiet().read()?.contains("bookworm-backports");
    if !known {
        step(&format!("adding the backports of Debian 12 ({BACKPORTS_LIST})"));
        let line = "deb http://deb.debian.org/debian bookworm-backports main\n";
        as_root(shell, &["tee", BACKPORTS_LIST]).stdin(line).ignore_stdout().run()?;
        update(shell)?;
    }
    Ok(())
}

fn update(shell: &Shell) -> Result<()> {
    Ok(as_root(shell, &["apt-get", "update", "--quiet", "--quiet"]).run()?)
}

fn apt(shell: &Shell, args: &[&str], packages: &[&str]) -> Result<()> {
    let words: Vec<&str> = ["apt-get", "--quiet"].iter().chain(args).chain(packages).copied().collect();
    Ok(as_root(shell, &words).env("DEBIAN_FRONTEND", "noninteractive").run()?)
}

fn as_root<'a>(shell: &'a Shell, words: &[&str]) -> Cmd<'a> {
    let mut all = sudo();
    all.extend(words);
    let (program, args) = (all[0], &all[1..]);
    cmd!(shell, "{program} {args...}").quiet()
}

/// `sudo` for whoever is not root.
pub(crate) fn sudo() -> Vec<&'static str> {
    if is_root() { vec![] } else { vec!["sudo"] }
}

pub(crate) fn is_root() -> bool {
    cofferdam_testkit::needs::Need::Root.is_met()
}
