//! What every error of cofferdam can say of itself: a stable code, whose fault it is, and the next step.
//!
//! Each operation has an error type of its own; [`Diagnose`] is what they share. [`Failure`] is an error made flat
//! for a file, a socket or a terminal. The text behind `cofferdam explain CODE` is the book's chapter on errors,
//! and a test holds the two lists together.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Whose fault a failure is, and whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The request is wrong; the same request fails again.
    Invalid,
    /// The thing named does not exist.
    NotFound,
    /// The thing to be made is there already.
    Exists,
    /// The thing is in a state in which this cannot be done.
    Conflict,
    /// Something that this needs is missing on the host, now.
    Unavailable,
    /// This runtime, kernel or host cannot do it at all.
    Unsupported,
    /// A resource has run out; trying later can help.
    Exhausted,
    /// A limit of time was reached; the outcome was made certain before this was returned.
    Timeout,
    /// A fault of cofferdam, or of a program that it drives.
    Internal,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $kind:ident;)+) => {
        /// The stable code of an error. Codes are never used again for another meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Code {
            $($(#[doc = $doc])+ #[serde(rename = $code)] $name,)+
        }

        impl Code {
            /// Every code, in order.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The code as users see it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code),+ }
            }

            /// Whose fault it is.
            #[must_use]
            pub fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind),+ }
            }
        }
    };
}

codes! {
    /// An id, a name or the value of an option is not valid.
    InvalidValue = "E0101", Invalid;
    /// The name belongs to another container.
    NameTaken = "E0102", Exists;
    /// No container has this id or name.
    NoSuchContainer = "E0103", NotFound;
    /// The start of an id fits more than one container.
    AmbiguousId = "E0104", Invalid;
    /// The bundle is not there or is not a directory.
    BundleMissing = "E0110", Invalid;
    /// config.json is not a regular file that can be opened.
    ConfigUnreadable = "E0111", Invalid;
    /// config.json is larger than the limit.
    ConfigTooLarge = "E0112", Invalid;
    /// config.json is not JSON, or not an OCI runtime configuration.
    ConfigInvalid = "E0113", Invalid;
    /// A field of the specification asks for something that cannot be right.
    SpecRefused = "E0114", Invalid;
    /// The root filesystem is missing or not a directory.
    RootfsMissing = "E0115", Invalid;
    /// The user is not known inside the root filesystem.
    UnknownUser = "E0116", Invalid;
    /// The source of a mount is missing.
    MountSourceMissing = "E0117", Invalid;
    /// This user may not do it.
    NotPermitted = "E0118", Invalid;
    /// The command does not exist inside the container. The shell sees 127.
    CommandNotFound = "E0120", Invalid;
    /// The command exists and cannot be executed. The shell sees 126.
    CommandNotExecutable = "E0121", Invalid;
    /// The runtime's binary is not there or cannot be executed.
    RuntimeMissing = "E0201", Unavailable;
    /// The binary is not a runtime that cofferdam knows.
    RuntimeUnrecognised = "E0202", Unsupported;
    /// This version of the runtime lacks what the request needs.
    RuntimeLacks = "E0203", Unsupported;
    /// The runtime failed.
    RuntimeFailed = "E0204", Internal;
    /// The runtime did not answer in time and was killed.
    RuntimeTimedOut = "E0205", Timeout;
    /// The runtime's answer could not be understood.
    RuntimeGarbled = "E0206", Internal;
    /// The pid that the runtime reported is not the container's.
    RuntimePid = "E0207", Internal;
    /// The supervisor died and nobody can tell how the container ended.
    RuntimeLost = "E0208", Internal;
    /// The memory limit is too small to start in.
    OutOfMemoryAtStart = "E0209", Invalid;
    /// This runsc has no nvproxy, and the specification has NVIDIA devices.
    NvproxyMissing = "E0301", Unsupported;
    /// There is no NVIDIA driver on this host.
    DriverMissing = "E0302", Unavailable;
    /// gVisor's nvproxy does not know this driver.
    DriverUnsupported = "E0303", Unsupported;
    /// There is no GPU like the one that was asked for, or not so many.
    NoSuchGpu = "E0304", NotFound;
    /// Others have the GPUs that were asked for.
    GpusTaken = "E0305", Exhausted;
    /// gVisor cannot give what was asked for of a GPU.
    GpuUnsupported = "E0306", Unsupported;
    /// No file describes a device of CDI.
    CdiUnresolved = "E0311", NotFound;
    /// Two files describe a device of CDI.
    CdiConflict = "E0312", Conflict;
    /// A file of CDI cannot be used.
    CdiInvalid = "E0313", Invalid;
    /// A file of CDI names something that is not there.
    CdiStale = "E0314", Unavailable;
    /// The network namespace is missing or is not one.
    NetworkNamespace = "E0401", Unavailable;
    /// The host's network was asked for implicitly.
    HostNetwork = "E0402", Invalid;
    /// This runsc cannot use a network namespace on this kernel.
    SandboxNetwork = "E0403", Unsupported;
    /// No network has this name.
    NoSuchNetwork = "E0404", NotFound;
    /// A plugin of CNI, or another program that networks need, is missing.
    NetworkProgramMissing = "E0405", Unavailable;
    /// A network could not be set up, checked or taken away.
    NetworkFailed = "E0406", Unavailable;
    /// A port of the host is taken.
    PortTaken = "E0407", Conflict;
    /// What a container may reach could not be enforced.
    EgressFailed = "E0408", Unavailable;
    /// A limit was asked for that this host's cgroups cannot enforce.
    CgroupUnavailable = "E0411", Unavailable;
    /// The container is in a state in which this cannot be done.
    WrongState = "E0501", Conflict;
    /// The container's supervisor does not answer.
    SupervisorUnreachable = "E0502", Unavailable;
    /// The operation was cancelled before it was complete.
    Cancelled = "E0503", Conflict;
    /// The container did not end within the time given.
    StillRunning = "E0504", Timeout;
    /// This process supervises another container already.
    AlreadySupervising = "E0505", Conflict;
    /// Something of a container could not be taken away.
    CleanupFailed = "E0506", Internal;
    /// The container's output is not kept.
    NoLog = "E0507", Conflict;
    /// journald does not listen.
    JournaldUnreachable = "E0508", Unavailable;
    /// A limit of this process is too low to work in.
    ResourceLimit = "E0509", Unavailable;
    /// The state directory cannot be used.
    StateDirectory = "E0601", Unavailable;
    /// A record in the state directory is damaged.
    RecordDamaged = "E0602", Internal;
    /// A record was written by a newer cofferdam.
    RecordTooNew = "E0603", Unsupported;
    /// A file of a container could not be written.
    StateWrite = "E0604", Exhausted;
    /// A reference to an image is not valid.
    BadReference = "E0701", Invalid;
    /// There is no such image, here or in the registry.
    NoSuchImage = "E0702", NotFound;
    /// The registry does not answer, or not as registries do.
    RegistryFailed = "E0703", Unavailable;
    /// The registry wants another login.
    RegistryDenied = "E0704", Invalid;
    /// An image is damaged, or not what its digest says, or harmful.
    ImageInvalid = "E0705", Invalid;
    /// An image is not made for this machine.
    NoSuchPlatform = "E0706", Unsupported;
    /// A container needs the image.
    ImageInUse = "E0707", Conflict;
    /// The store of images cannot be used.
    ImageStore = "E0708", Unavailable;
    /// A root filesystem could not be put together.
    RootfsFailed = "E0709", Unavailable;
    /// A file could not be copied into a container or out of it.
    CopyFailed = "E0710", Invalid;
    /// No volume has this name.
    NoSuchVolume = "E0711", NotFound;
    /// A container needs the volume.
    VolumeInUse = "E0712", Conflict;
    /// Something failed that should not; please report it.
    Internal = "E0901", Internal;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no error code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an error code of cofferdam")]
pub struct UnknownCode(String);

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let upper = text.to_ascii_uppercase();
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.as_str() == upper)
            .ok_or_else(|| UnknownCode(text.to_owned()))
    }
}

/// What an error says beside its message.
pub trait Diagnose: Error + Send + Sync + 'static {
    /// The stable code.
    fn code(&self) -> Code;

    /// What the user can do about it, as a sentence without a full stop. `None` if nothing useful is known.
    fn next_step(&self) -> Option<String>;
}

/// An error made flat: what failed, why, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The stable code.
    pub code: Code,
    /// What failed, in one line.
    pub what: String,
    /// The chain of causes, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
    /// The next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Failure {
    /// Makes an error flat, with its whole chain of sources.
    pub fn of<E: Diagnose + ?Sized>(error: &E) -> Self {
        let mut why = Vec::new();
        let what = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // A transparent wrapper repeats the text of what it wraps.
            if text != what && why.last() != Some(&text) {
                why.push(text);
            }
            source = cause.source();
        }
        Self { code: error.code(), what, why, next: error.next_step() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        for cause in &self.why {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl Error for Failure {}

impl Diagnose for Failure {
    fn code(&self) -> Code {
        self.code
    }

    fn next_step(&self) -> Option<String> {
        self.next.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_read_back() {
        for code in Code::ALL {
            assert_eq!(code.as_str().parse::<Code>().unwrap(), *code);
            assert_eq!(Code::ALL.iter().filter(|other| other.as_str() == code.as_str()).count(), 1, "{code}");
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
        assert!("E9999".parse::<Code>().is_err());
    }

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    impl Diagnose for Outer {
        fn code(&self) -> Code {
            Code::Internal
        }

        fn next_step(&self) -> Option<String> {
            Some("try again".into())
        }
    }

    #[test]
    fn a_failure_keeps_the_chain() {
        let failure = Failure::of(&Outer(std::io::Error::other("inner")));
        assert_eq!(failure.to_string(), "outer: inner");
        let text = serde_json::to_string(&failure).unwrap();
        assert_eq!(serde_json::from_str::<Failure>(&text).unwrap(), failure);
    }
}
