//! A place to run `cofferdam` in: a state directory and a runtime of its own, counted before and after.

use std::ffi::{OsStr, OsString};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::census::{Census, cgroups};
pub use crate::command::{
    COMMAND_LIMIT, Finished, PATIENCE, Running, breathe, eventually, finish, new_command,
};
use crate::fixture;
use crate::private_host::PrivateHost;
use crate::runtimes::Choice;

/// Runs its second argument and those after it with the first one, a directory, in place of /dev.
const SEES_OTHER_DEVICES: &str =
    "mount --rbind /dev/pts \"$1/pts\" && mount --rbind \"$1\" /dev && shift && exec \"$@\"";

/// One state directory, one runtime, one root filesystem.
#[derive(Debug)]
pub struct Lab {
    directory: tempfile::TempDir,
    cofferdam: PathBuf,
    runtime: PathBuf,
    /// Which runtime.
    pub choice: Choice,
    /// A root filesystem of busybox.
    pub rootfs: PathBuf,
    parent: String,
    before: Census,
    /// What its commands see in place of /dev.
    devices: OnceLock<PathBuf>,
    /// Where its commands run, if not on the machine itself.
    host: OnceLock<PrivateHost>,
}

impl Lab {
    /// A lab for a runtime. `cofferdam` is the binary under test.
    ///
    /// # Panics
    /// When it cannot be set up.
    #[must_use]
    pub fn new(cofferdam: &Path, choice: &Choice) -> Self {
        // Short: sockets lie below it.
        let directory = tempfile::Builder::new().prefix("cfl").tempdir_in("/tmp").expect("/tmp is writable");
        let binary = choice.binary().expect("the need for it was checked");
        let runtime = if *choice == Choice::Fake { crate::fake::install(directory.path()) } else { binary };
        let rootfs = fixture::rootfs(directory.path());
        let unique = directory.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let before = Census::of_directory(directory.path());
        Self {
            rootfs,
            cofferdam: cofferdam.to_owned(),
            runtime,
            choice: choice.clone(),
            // Hyphens in the name of a slice are slices above it.
            parent: if is_by_systemd() {
                format!("cofferdamlab{unique}.slice")
            } else {
                format!("cofferdam-lab-{unique}")
            },
            before,
            directory,
            devices: OnceLock::new(),
            host: OnceLock::new(),
        }
    }

    /// The lab's directory, for files of the test.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path().join("s")
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path().join("d")
    }

    /// The runtime's binary.
    #[must_use]
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// The runtime's state root in this lab.
    #[must_use]
    pub fn runtime_root(&self) -> PathBuf {
        self.state().join("runtime").join(self.runtime.file_name().unwrap_or_default())
    }

    /// The cgroup below which this lab's containers are.
    #[must_use]
    pub fn cgroup_parent(&self) -> String {
        format!("/{}", self.parent)
    }

    /// The cgroup of a container of this lab.
    #[must_use]
    pub fn cgroup_of(&self, id: &str) -> String {
        let suffix = if is_by_systemd() { ".scope" } else { "" };
        format!("/{}/cofferdam-{id}{suffix}", self.parent)
    }

    /// A command of cofferdam in this lab, not started yet.
    #[must_use]
    pub fn command<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = match (self.devices.get(), self.host.get()) {
            (None, None) => new_command(&self.cofferdam),
            (None, Some(host)) => host.command(&self.cofferdam),
            (Some(devices), _) => {
                let mut command = new_command("unshare");
                command
                    .args(["--mount", "sh", "-c", SEES_OTHER_DEVICES, "sh"])
                    .args([devices, &self.cofferdam]);
                command
            }
        };
        command
            .args(args)
            .env("PATH", self.search_path())
            .env("COFFERDAM_STATE_DIR", self.state())
            .env("COFFERDAM_DATA_DIR", self.data())
            .env("COFFERDAM_RUNTIME", &self.runtime)
            .env("COFFERDAM_CGROUP_MANAGER", if is_by_systemd() { "systemd" } else { "cgroupfs" })
            .env_remove("COFFERDAM_LOG")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    /// Has all later commands see a directory of device nodes in place of /dev, in mount namespaces of their own.
    ///
    /// # Panics
    /// When they see another one already.
    pub fn see_devices(&self, directory: &Path) {
        self.devices.set(directory.to_owned()).expect("it is set once");
    }

    /// Has all later commands run on a host of their own, whose network they may change.
    ///
    /// # Panics
    /// When they run on one already, or it cannot be made.
    pub fn move_to_private_host(&self) -> &PrivateHost {
        self.host.set(PrivateHost::new()).expect("it is set once");
        self.host.get().expect("it was set")
    }

    /// The runtime under test comes first: it need not be installed.
    fn search_path(&self) -> OsString {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = self.runtime.parent().map(Path::to_owned);
        std::env::join_paths(own.into_iter().chain(std::env::split_paths(&path))).unwrap_or(path)
    }

    /// The pid of the state directory's keeper, if there is one.
    #[must_use]
    pub fn keeper(&self) -> Option<i32> {
        let stream = UnixStream::connect(self.state().join("keeper.sock")).ok()?;
        let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
        Some(peer.pid.as_raw_nonzero().get())
    }

    /// Runs a command of cofferdam to its end.
    #[must_use]
    pub fn cofferdam(&self, args: &[&str]) -> Finished {
        finish(self.command(args))
    }

    /// Arguments of `run` or `create` for this lab's root filesystem, before the options and the command.
    #[must_use]
    pub fn launch_args(&self, verb: &str, options: &[&str], command: &[&str]) -> Vec<String> {
        let rootfs = self.rootfs.to_string_lossy();
        self.image_args(verb, &[&["--rootfs", &rootfs], options].concat(), command)
    }

    /// Arguments of `run` or `create` for an image: the options, then the image and the command.
    #[must_use]
    pub fn image_args(&self, verb: &str, options: &[&str], words: &[&str]) -> Vec<String> {
        let parent = if is_by_systemd() { self.parent.clone() } else { self.cgroup_parent() };
        let own = [verb, "--cgroup-parent", &parent];
        own.iter().chain(options).chain(words).map(|arg| (*arg).to_owned()).collect()
    }

    /// `cofferdam run` of an image, and its command, to its end.
    #[must_use]
    pub fn run_image(&self, options: &[&str], words: &[&str]) -> Finished {
        finish(self.command(self.image_args("run", options, words)))
    }

    /// `cofferdam run` of a command in this lab's root filesystem, to its end.
    #[must_use]
    pub fn run(&self, options: &[&str], command: &[&str]) -> Finished {
        finish(self.command(self.launch_args("run", options, command)))
    }

    /// `cofferdam run`, started and not waited for.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_run(&self, options: &[&str], command: &[&str]) -> Running {
        Running::start(self.command(self.launch_args("run", options, command)))
    }

    /// `cofferdam run --detach`; gives the id.
    #[must_use]
    #[track_caller]
    pub fn run_detached(&self, options: &[&str], command: &[&str]) -> String {
        let options: Vec<&str> = ["--detach"].iter().chain(options).copied().collect();
        self.run(&options, command).expect_code(0).text()
    }

    /// `cofferdam inspect` of one container.
    #[must_use]
    #[track_caller]
    pub fn inspect(&self, container: &str) -> Value {
        self.cofferdam(&["inspect", container]).expect_code(0).json()[0].take()
    }

    /// The report of a container that has ended.
    #[must_use]
    #[track_caller]
    pub fn report(&self, container: &str) -> Value {
        self.cofferdam(&["wait", "--format", "json", container]).expect_code(0).json()
    }

    /// Calls the runtime itself, behind cofferdam's back.
    #[must_use]
    pub fn call_runtime(&self, args: &[&str]) -> Finished {
        let mut command = new_command(&self.runtime);
        command.arg("--root").arg(self.runtime_root()).args(args).stdin(Stdio::null());
        finish(command)
    }

    /// Panics if anything of this lab is left on the machine but records of containers.
    ///
    /// # Panics
    /// With what is left.
    #[track_caller]
    pub fn expect_no_leftovers(&self) {
        settle(|| self.leftovers());
    }

    /// Panics if anything of this lab is left on the machine, records included.
    ///
    /// # Panics
    /// With what is left.
    #[track_caller]
    pub fn expect_clean(&self) {
        settle(|| {
            let mut left = self.leftovers();
            for directory in ["containers", "names", "logs"] {
                let kept = entries(&self.state().join(directory))
                    .into_iter()
                    .filter(|path| !path.ends_with(".lock"));
                left.extend(kept.map(|path| format!("record {}", path.display())));
            }
            // What a container of an image has written goes with it.
            let written = entries(&self.data().join("rootfs")).into_iter();
            left.extend(written.map(|path| format!("rootfs {}", path.display())));
            left
        });
    }

    fn leftovers(&self) -> Vec<String> {
        // Another test's `list` asks the roots of every living sandbox, and runsc's makes a lock for each container that
        // it has seen, also after its end. The next look of ours removes that.
        drop(self.cofferdam(&["ps", "--own", "--quiet"]));
        let mut left = Census::of_directory(self.path()).more_than(&self.before);
        // A test may have put its state directory on a file system of its own.
        let own = format!(" {} ", self.state().display());
        left.retain(|line| !(line.starts_with("mount ") && line.contains(&own)));
        left.extend(self.host.get().map(|host| host.mounts_below(self.path())).unwrap_or_default());
        for parent in cgroups(|name| name == self.parent) {
            let directories = entries(Path::new(parent.trim_start_matches("cgroup "))).into_iter();
            left.extend(
                directories.filter(|path| path.is_dir()).map(|path| format!("cgroup {}", path.display())),
            );
        }
        let roots = entries(&self.state().join("runtime"));
        // crun keeps compiled seccomp profiles, which belong to no container.
        let states = roots.iter().flat_map(|root| entries(root)).filter(|path| !path.ends_with(".cache"));
        left.extend(states.map(|path| format!("state {}", path.display())));
        // Runtimes may keep files of their own in a root filesystem (`.gvisor.filestore`), and must not.
        let is_hidden =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        left.extend(
            entries(&self.rootfs)
                .into_iter()
                .filter(is_hidden)
                .map(|path| format!("file {}", path.display())),
        );
        left
    }
}

/// Whether systemd is to make the cgroups of containers: the tier of tests says so.
fn is_by_systemd() -> bool {
    std::env::var("COFFERDAM_TEST_CGROUP_MANAGER").is_ok_and(|manager| manager == "systemd")
}

/// Waits until nothing is left: a monitor may be at it still.
#[track_caller]
fn settle(look: impl Fn() -> Vec<String>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = look();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {left:#?}");
        breathe();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Let the next test begin on a clean machine; the assertion has been made.
            let ids = self.cofferdam(&["ps", "--all", "--own", "--quiet"]).text();
            for id in ids.lines() {
                drop(self.cofferdam(&["rm", "--force", id]));
            }
        }
        // A monitor may be clearing its container away still; where a test has failed, it stays.
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let parents = cgroups(|name| name == self.parent);
            let left = parents
                .iter()
                .filter(|parent| std::fs::remove_dir(parent.trim_start_matches("cgroup ")).is_err());
            if left.count() == 0 || Instant::now() > deadline {
                return;
            }
            breathe();
        }
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
