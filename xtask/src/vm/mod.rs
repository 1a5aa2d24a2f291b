//! The tier of tests for what this machine's own cgroups cannot show: a small Debian in an emulator, with pure cgroup v2,
//! crun, and a kernel that is not the host's.
//!
//! The suite is built here and run there; the machine's disks are files below `target/vm`. KVM is not asked for: where
//! there is one, it may not take a Debian kernel, and nothing here depends on speed.

mod image;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use cofferdam_testkit::runtimes::{RUNSC_DEBIAN, fetched, workspace};
use xshell::{Shell, cmd};

use crate::{packages, runtimes, step};

/// Programs of this machine that are needed, with Debian's packages of them.
const NEEDED: [(&str, &str); 4] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mmdebstrap", "mmdebstrap"),
    ("zstd", "zstd"),
    ("mke2fs", "e2fsprogs"),
];
/// How long the machine may run, in seconds.
const TIME_LIMIT_S: &str = "1500";
/// Its memory, in MiB. The suite's files lie in it.
const MEMORY_MIB: &str = "3072";

/// What runs there unless something else is asked for: crun as a whole, which hybrid cgroups keep from running here, and
/// of the others what depends on the cgroup.
const USUAL: [&str; 9] = [
    "crun::",
    "runc::memory::",
    "runc::limits::",
    "runc::exit::",
    "runc::options::",
    "runsc-20240729::memory::",
    "runsc-20240729::limits::",
    "runsc-20240729::exit::",
    "runsc-20240729::options::",
];

/// The machine's first process.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Init {
    /// The script `init.sh`: nobody but the runtimes has to do with cgroups.
    Script,
    /// systemd, which may be asked for cgroups, and runs the script as its only service.
    Systemd,
}

impl Init {
    /// The kernel's parameters for it.
    fn parameters(self) -> &'static str {
        match self {
            Self::Script => "init=/init",
            // It prints escape sequences to a terminal that is not dumb.
            Self::Systemd => "init=/lib/systemd/systemd systemd.unit=vm.service TERM=dumb",
        }
    }

    /// What runs there unless something else is asked for.
    fn usual(self) -> Vec<String> {
        match self {
            Self::Script => USUAL.iter().map(|&name| name.to_owned()).collect(),
            // Not what has many sandboxes run out of memory: that takes minutes there.
            Self::Systemd => ["runc::memory::", "crun::memory::"]
                .into_iter()
                .map(str::to_owned)
                .chain(
                    ["runc", "crun", "runsc-20240729"]
                        .into_iter()
                        .flat_map(|name| ["exit", "limits"].map(|part| format!("{name}::{part}::"))),
                )
                .collect(),
        }
    }

    /// Who makes the containers' cgroups there.
    fn cgroup_manager(self) -> &'static str {
        match self {
            Self::Script => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }
}

pub(crate) fn run(shell: &Shell, init: Init, filters: &[String]) -> Result<()> {
    packages::install(shell, &NEEDED)?;
    runtimes::fetch_debian(shell)?;
    let directory = workspace().canonicalize()?.join("target/vm");
    image::ensure_built(shell, &directory)?;
    let usual = init.usual();
    let input = pack(shell, &directory, init, if filters.is_empty() { &usual } else { filters })?;
    step("running the tests in the emulator");
    let code = boot(&directory, &input, init)?;
    ensure!(code == 0, "the tests in the emulator ended with {code}");
    Ok(())
}

/// Builds the suite, and packs it and what it needs into a disk.
fn pack(shell: &Shell, directory: &Path, init: Init, filters: &[String]) -> Result<PathBuf> {
    step("building the tests");
    cmd!(shell, "cargo build --package cofferdam-testkit --bins").quiet().run()?;
    let suite = build_suite(shell)?;
    let root = workspace().canonicalize()?;
    let packed = tempfile::tempdir_in(directory)?;
    let target = root.join("target");
    let files = [suite.clone(), target.join("debug/cofferdam"), target.join("debug/fake-runtime")]
        .into_iter()
        .chain([fetched(RUNSC_DEBIAN)].into_iter().filter(|path| path.is_file()));
    for file in files {
        let path = file.canonicalize()?;
        let inside =
            packed.path().join("tree").join(path.strip_prefix(&root).context("it is built below target")?);
        std::fs::create_dir_all(inside.parent().context("it has a directory")?)?;
        std::fs::copy(&path, &inside)?;
        // Debugging symbols are most of it.
        cmd!(shell, "strip --strip-debug {inside}").quiet().ignore_status().ignore_stderr().run()?;
    }
    // Paths of the test kit go through it.
    std::fs::create_dir_all(packed.path().join("tree/crates/cofferdam-testkit"))?;
    std::fs::write(packed.path().join("run.sh"), script(&root, &suite, init, filters)?)?;
    let image = directory.join("input.img");
    let tree = packed.path();
    let size: u64 = cmd!(shell, "du --summarize --block-size=M {tree}")
        .quiet()
        .read()?
        .split('M')
        .next()
        .and_then(|number| number.parse().ok())
        .context("du prints a size")?;
    let size = format!("{}M", size + size / 5 + 8);
    // What there was of an earlier run.
    let _ = std::fs::remove_file(&image);
    cmd!(shell, "mke2fs -q -t ext4 -O ^has_journal -m 0 -d {tree} {image} {size}").quiet().run()?;
    Ok(image)
}

/// Builds the conformance suite; gives its path.
fn build_suite(shell: &Shell) -> Result<PathBuf> {
    let arguments = ["--package", "cofferdam-cli", "--features", "failpoints", "--test", "conformance"];
    let text = cmd!(shell, "cargo test {arguments...} --no-run --message-format json")
        .quiet()
        .ignore_stderr()
        .read()?;
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let executables = messages.filter(|message| message["target"]["name"] == "conformance");
    let mut paths = executables.filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
    paths.next_back().context("cargo does not say where the suite is")
}

/// What the machine runs: the suite, at the paths at which it was built, once for each filter.
fn script(root: &Path, suite: &Path, init: Init, filters: &[String]) -> Result<String> {
    use std::fmt::Write;
    let (root, suite, manager) = (root.display(), suite.display(), init.cgroup_manager());
    // How many of what is measured there are; an emulator is slow.
    let bulk: u32 = std::env::var("COFFERDAM_TEST_BULK").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let mut text = format!(
        "mkdir -p {root} && mount --bind /in/tree {root} && command -v crun && command -v runc || exit 125\n\
         # What is missing here is an error.\n\
         export CI=true COFFERDAM_TEST_BULK={bulk} COFFERDAM_TEST_CGROUP_MANAGER={manager}\ncode=0\n"
    );
    for filter in filters {
        ensure!(
            filter.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:-".contains(&b)),
            "no such test: {filter}"
        );
        writeln!(text, "{suite} --test-threads 2 {filter} || code=1")?;
    }
    text.push_str("exit $code\n");
    Ok(text)
}

/// Starts the machine, prints what it says, and gives the exit code of what it ran.
#[expect(clippy::disallowed_methods, reason = "xshell cannot print what a program says as it says it")]
fn boot(directory: &Path, input: &Path, init: Init) -> Result<i32> {
    let (kernel, root) = (directory.join("vmlinux"), directory.join("root.img"));
    let status = tempfile::NamedTempFile::new_in(directory)?;
    let disk = |path: &Path, id: &str, options: &str| {
        format!("file={},format=raw,if=none,id={id},{options}", path.display())
    };
    // It does not outlive us: it takes whole CPUs.
    let mut machine = Command::new("setpriv");
    machine
        .args(["--pdeathsig", "TERM", "timeout"])
        .args(["--kill-after", "5", TIME_LIMIT_S, "qemu-system-x86_64", "-nodefaults", "-no-user-config"])
        .args(["-no-reboot", "-display", "none", "-M", "q35", "-accel", "tcg,thread=multi,tb-size=512"])
        .args(["-cpu", "max", "-smp", "2", "-m", MEMORY_MIB])
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", &format!("{COMMAND_LINE} {}", init.parameters())])
        // Two disks on one bus come up in any order: the root alone is on this one.
        .args([
            "-drive",
            &disk(&root, "root", "snapshot=on,cache=unsafe"),
            "-device",
            "nvme,drive=root,serial=root",
        ])
        .args(["-drive", &disk(input, "in", "readonly=on"), "-device", "virtio-blk-pci,drive=in"])
        .args(["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"])
        .args(["-serial", "stdio", "-serial", &format!("file:{}", status.path().display())])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut machine = machine.spawn().context("the emulator cannot be started")?;
    let console = machine.stdout.take().context("it has a console")?;
    for line in BufReader::new(console).split(b'\n') {
        println!("{}", String::from_utf8_lossy(&line?).trim_end());
    }
    machine.wait()?;
    let code = std::fs::read_to_string(status.path())?;
    match code.trim().parse() {
        Ok(code) => Ok(code),
        Err(_) => bail!("the machine did not come to its end within {TIME_LIMIT_S} s, or it panicked"),
    }
}

/// The kernel's.
const COMMAND_LINE: &str = "root=/dev/nvme0n1 rootfstype=ext4 rootwait rw console=ttyS0 quiet loglevel=3 panic=-1 \
                            mitigations=off nokaslr random.trust_cpu=on";
