//! Commands of tests: started, waited for with a limit, and what came of them.

use std::ffi::OsStr;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long one command may take before the test fails. Generous: a busy machine is no fault.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// How long something may take to become true.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Standard output as text, without white space at its end.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// Panics unless the exit code is this.
    ///
    /// # Panics
    /// With all that is known of the command.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.text(), self.stderr);
        self
    }

    /// Panics unless it failed with this error code of cofferdam.
    ///
    /// # Panics
    /// With all that is known of the command.
    #[track_caller]
    pub fn expect_error(self, code: &str) -> Self {
        assert!(self.stderr.contains(&format!("error[{code}]")), "no {code}: {self:?}");
        assert!(self.code.is_some_and(|code| code != 0), "{self:?}");
        self
    }
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub child: Child,
}

impl Running {
    /// Starts a command; its output is read when it is waited for.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child }
    }

    /// Its pid.
    ///
    /// # Panics
    /// Never: pids are positive.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid fits")
    }

    /// Sends a signal to it.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn signal(&self, signal: rustix::process::Signal) {
        crate::process::signal_process(self.pid(), signal);
    }

    /// Waits for its end; kills it and panics after [`COMMAND_LIMIT`].
    ///
    /// # Panics
    /// When it takes too long.
    #[must_use]
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let stdout = self.child.stdout.take().map(read_all);
        let stderr = self.child.stderr.take().map(read_all);
        let deadline = Instant::now() + COMMAND_LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            if Instant::now() > deadline {
                // It may have ended at the last moment.
                let _ = self.child.kill();
                panic!("the command did not end within {COMMAND_LIMIT:?}");
            }
            breathe();
        };
        let join = |reader: Option<std::thread::JoinHandle<Vec<u8>>>| {
            reader.map(|reader| reader.join().expect("the reader does not panic")).unwrap_or_default()
        };
        let stderr = String::from_utf8_lossy(&join(stderr)).into_owned();
        Finished { code: status.code(), stdout: join(stdout), stderr }
    }
}

fn read_all(mut stream: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What could be read before an error is what there is.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

/// Runs a command to its end.
#[must_use]
#[track_caller]
pub fn finish(command: Command) -> Finished {
    Running::start(command).finish()
}

/// A command, for tests: the one place of the test kit that names the type's constructor.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "tests are the caller's side; nothing of them is supervised")]
pub fn new_command(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

/// Waits until something is true.
///
/// # Panics
/// After [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        breathe();
    }
}

/// The pause between two looks at something that cannot be waited for.
#[expect(clippy::disallowed_methods, reason = "between two looks, with a limit around them")]
pub fn breathe() {
    std::thread::sleep(Duration::from_millis(5));
}
