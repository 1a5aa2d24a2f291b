//! The one place of this crate that starts programs: helpers that keep logins, `docker-credential-NAME`.
//!
//! Their protocol is docker's: a verb as argument; a host, or a login as JSON, on standard input; a login as JSON on
//! standard output; an error as text there, with a status that is not zero.
//!
//! The process may have a reaper of its own (`cofferdam`'s core has), which takes the status of any child. Where that has
//! happened, what a helper printed decides.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::task::JoinHandle;

use super::credentials::Login;
use super::fault::shown;
use super::secret::Secret;

/// How long a helper may take. Some ask a person to unlock a key ring.
const HELPER_LIMIT: Duration = Duration::from_secs(60);

/// How much of a helper's output is read, in bytes; the longest tokens have a few thousand.
const OUTPUT_LIMIT: u64 = 64 << 10;

/// The user's name that stands for an identity token.
const TOKEN_USER: &str = "<token>";

/// What helpers say where they have nothing: docker's own know it by these words.
const NOT_FOUND: [&str; 2] = ["credentials not found in native keychain", "no credentials server URL"];

/// A helper for logins that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HelperError {
    /// It could not be started.
    #[error(
        "{program} could not be started; install it along PATH, or take its name out of the file of logins"
    )]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It could not be spoken to.
    #[error("{program} could not be spoken to")]
    Pipe {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long, and was killed.
    #[error("{program} did not end within {} s", HELPER_LIMIT.as_secs())]
    TimedOut {
        /// The program.
        program: String,
    },
    /// It said that it failed.
    #[error("{program} failed{message}")]
    Failed {
        /// The program.
        program: String,
        /// What it said, after a colon; nothing where that may be a login.
        message: String,
    },
    /// It printed what is no login.
    #[error("{program} printed no login")]
    Answer {
        /// The program.
        program: String,
    },
}

/// A login, as helpers have it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spoken {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    username: String,
    secret: Secret,
}

/// What a helper did.
struct Done {
    /// Whether it said by its status that it failed; `None` where somebody else took that.
    succeeded: Option<bool>,
    output: Vec<u8>,
}

/// Asks a helper for a login. Cancel safe: it is killed.
pub(super) async fn get(helper: &str, server: &str) -> Result<Option<Login>, HelperError> {
    let done = run(helper, "get", server.as_bytes()).await?;
    let spoken = serde_json::from_slice::<Spoken>(&done.output);
    match (done.succeeded, spoken) {
        (Some(true) | None, Ok(spoken)) if spoken.username.is_empty() && spoken.secret.is_empty() => Ok(None),
        (Some(true) | None, Ok(spoken)) if spoken.username == TOKEN_USER => {
            Ok(Some(Login::IdentityToken(spoken.secret)))
        }
        (Some(true) | None, Ok(spoken)) => {
            Ok(Some(Login::Password { user: spoken.username, secret: spoken.secret }))
        }
        (Some(false) | None, _) if done.found_nothing() => Ok(None),
        (Some(false), _) => Err(done.failure(helper)),
        // What it printed may be a part of a login, so it is not shown.
        (Some(true) | None, Err(_)) => Err(HelperError::Answer { program: program(helper) }),
    }
}

/// Gives a helper a login to keep. A dropped call may have stored it.
pub(super) async fn store(helper: &str, server: &str, login: &Login) -> Result<(), HelperError> {
    let (username, secret) = match login {
        Login::Password { user, secret } => (user.clone(), secret.clone()),
        Login::IdentityToken(secret) => (TOKEN_USER.to_owned(), secret.clone()),
    };
    let spoken = Spoken { server_url: server.to_owned(), username, secret };
    let input = serde_json::to_vec(&spoken).map_err(|_| HelperError::Answer { program: program(helper) })?;
    let done = run(helper, "store", &input).await?;
    if done.has_succeeded() { Ok(()) } else { Err(done.failure(helper)) }
}

/// Makes a helper forget a login; whether it had one, as far as it says that.
pub(super) async fn erase(helper: &str, server: &str) -> Result<bool, HelperError> {
    let done = run(helper, "erase", server.as_bytes()).await?;
    if done.has_succeeded() {
        Ok(true)
    } else if done.found_nothing() {
        Ok(false)
    } else {
        Err(done.failure(helper))
    }
}

impl Done {
    fn has_succeeded(&self) -> bool {
        // One that stores or erases prints nothing unless it fails.
        self.succeeded.unwrap_or_else(|| self.output.trim_ascii().is_empty())
    }

    fn found_nothing(&self) -> bool {
        let text = String::from_utf8_lossy(&self.output);
        NOT_FOUND.iter().any(|words| text.contains(words))
    }

    fn failure(&self, helper: &str) -> HelperError {
        let text = String::from_utf8_lossy(&self.output);
        let text = text.trim();
        // An error is a text. What looks like JSON may be a login.
        let message =
            if text.is_empty() || text.contains('{') { String::new() } else { format!(": {}", shown(text)) };
        HelperError::Failed { program: program(helper), message }
    }
}

fn program(helper: &str) -> String {
    format!("docker-credential-{}", shown(helper))
}

async fn run(helper: &str, verb: &str, input: &[u8]) -> Result<Done, HelperError> {
    let program = program(helper);
    // A name with a slash would be a path, and not a program that was installed.
    if helper.contains('/') || helper.contains('\0') {
        let source = io::Error::from(io::ErrorKind::InvalidInput);
        return Err(HelperError::Spawn { program, source });
    }
    tracing::debug!(program, verb, "asks a helper for logins");
    let mut running = Running::start(&program, verb)
        .map_err(|source| HelperError::Spawn { program: program.clone(), source })?;
    match tokio::time::timeout(HELPER_LIMIT, running.converse(input)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(source)) => Err(HelperError::Pipe { program, source }),
        Err(_) => Err(HelperError::TimedOut { program }),
    }
}

/// A helper that runs. Dropped before it has ended, it is killed with what it has started.
struct Running {
    pid: Option<Pid>,
    /// `None` where it had ended, and been reaped, before it could be held.
    handle: Option<OwnedFd>,
    /// Gives whether it succeeded; `None` where somebody else has taken its status.
    end: JoinHandle<Option<bool>>,
    stdin: Option<Sender>,
    stdout: Receiver,
}

impl Running {
    #[expect(clippy::disallowed_methods, reason = "this is the one file of this crate that starts programs")]
    fn start(program: &str, verb: &str) -> io::Result<Self> {
        let (stdin_end, stdin) = io::pipe()?;
        let (stdout, stdout_end) = io::pipe()?;
        let (stdin, stdout) = (Sender::from_owned_fd(stdin.into())?, Receiver::from_owned_fd(stdout.into())?);
        let mut command = Command::new(program);
        command.arg(verb).process_group(0).current_dir("/").env_clear().envs(environment());
        // Its standard error is for people whom it tells to touch a key.
        command.stdin(stdin_end).stdout(stdout_end).stderr(Stdio::inherit());
        let mut child = command.spawn()?;
        // The parent's copies of its ends live in the command.
        drop(command);
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let handle = pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        // It outlives this value only until the killed child is gone.
        let end = tokio::task::spawn_blocking(move || child.wait().ok().map(|status| status.success()));
        Ok(Self { pid, handle, end, stdin: Some(stdin), stdout })
    }

    /// Writes its input, reads its output, and waits for its end.
    async fn converse(&mut self, input: &[u8]) -> io::Result<Done> {
        let stdin = self.stdin.take();
        let write = async {
            if let Some(mut stdin) = stdin {
                // One that does not read its input has its reasons; its answer tells.
                let _ = stdin.write_all(input).await;
            }
        };
        let mut output = Vec::new();
        let mut limited = (&mut self.stdout).take(OUTPUT_LIMIT + 1);
        let ((), read) = tokio::join!(write, limited.read_to_end(&mut output));
        read?;
        if output.len() as u64 > OUTPUT_LIMIT {
            return Err(io::Error::other(format!("it printed more than {OUTPUT_LIMIT} bytes")));
        }
        let succeeded = (&mut self.end).await.map_err(io::Error::other)?;
        Ok(Done { succeeded, output })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let (Some(pid), Some(handle)) = (self.pid, &self.handle) else { return };
        // Its pid names its group for as long as it is there itself.
        if !self.end.is_finished() && rustix::process::pidfd_send_signal(handle, Signal::KILL).is_ok() {
            // ESRCH: the group has gone.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

/// The environment of a helper. Everything else of ours stays with us.
fn environment() -> Vec<(OsString, OsString)> {
    const KEPT: [&str; 12] = [
        // Where programs are.
        "PATH",
        // Where helpers, and the key rings behind them, have their files.
        "HOME",
        "USER",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "XDG_RUNTIME_DIR",
        "PASSWORD_STORE_DIR",
        "GNUPGHOME",
        // How secret services are reached.
        "DBUS_SESSION_BUS_ADDRESS",
        "DISPLAY",
        "WAYLAND_DISPLAY",
        "GPG_TTY",
    ];
    // The settings of clouds, whose helpers log in by them.
    const PREFIXES: [&str; 5] = ["AWS_", "GOOGLE_", "CLOUDSDK_", "AZURE_", "DOCKER_CREDENTIAL_"];
    let is_kept = |name: &OsStr| {
        name.to_str().is_some_and(|name| {
            KEPT.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
    };
    std::env::vars_os().filter(|(name, _)| is_kept(name)).collect()
}
