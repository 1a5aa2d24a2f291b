//! Signals by name and number, as people type them and as the kernel counts them.
//!
//! Not here: sending them (`sys`, `supervise`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A signal number that Linux has: 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signal(u8);

/// Names of the signals 1 to 31, in order (signal(7), x86 and Arm numbering).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// First real-time signal that libc leaves to programs.
const REALTIME_MIN: u8 = 34;
/// Last real-time signal.
const REALTIME_MAX: u8 = 64;

/// A text or number that names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a signal: give a name such as TERM or SIGTERM, or a number from 1 to 64")]
pub struct UnknownSignal(String);

impl Signal {
    /// SIGHUP, 1.
    pub const HUP: Self = Self(1);
    /// SIGINT, 2.
    pub const INT: Self = Self(2);
    /// SIGQUIT, 3.
    pub const QUIT: Self = Self(3);
    /// SIGKILL, 9.
    pub const KILL: Self = Self(9);
    /// SIGUSR1, 10.
    pub const USR1: Self = Self(10);
    /// SIGUSR2, 12.
    pub const USR2: Self = Self(12);
    /// SIGTERM, 15.
    pub const TERM: Self = Self(15);
    /// SIGCONT, 18.
    pub const CONT: Self = Self(18);
    /// SIGWINCH, 28.
    pub const WINCH: Self = Self(28);

    /// The signal with this number, if Linux has one.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        u8::try_from(number).ok().filter(|n| (1..=REALTIME_MAX).contains(n)).map(Self)
    }

    /// Its number, 1 to 64.
    #[must_use]
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }

    /// Whether it is sent to make a process end, by people and by service managers.
    #[must_use]
    pub fn asks_for_the_end(self) -> bool {
        matches!(self, Self::HUP | Self::INT | Self::QUIT | Self::KILL | Self::TERM)
    }

    /// Whether the kernel sends it to a process that does something impossible, or the process to itself (`abort`).
    #[must_use]
    pub fn is_fault(self) -> bool {
        // ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS.
        matches!(self.0, 4..=8 | 11 | 31)
    }

    /// The code by which shells report a death by this signal: 128 plus its number.
    #[must_use]
    pub fn shell_code(self) -> u8 {
        128 + self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n < 32 => write!(f, "SIG{}", NAMES[usize::from(n) - 1]),
            REALTIME_MIN => f.write_str("SIGRTMIN"),
            n if n > REALTIME_MIN => write!(f, "SIGRTMIN+{}", n - REALTIME_MIN),
            n => write!(f, "{n}"),
        }
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownSignal(text.to_owned());
        if let Ok(number) = text.parse::<i32>() {
            return Self::from_number(number).ok_or_else(unknown);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(position) = NAMES.iter().position(|known| *known == name) {
            return u8::try_from(position + 1).map(Self).map_err(|_| unknown());
        }
        let realtime = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(""), _) => Some(REALTIME_MIN),
            (_, Some("")) => Some(REALTIME_MAX),
            (Some(rest), _) => {
                rest.strip_prefix('+').and_then(|n| n.parse().ok()).and_then(|n| REALTIME_MIN.checked_add(n))
            }
            (_, Some(rest)) => {
                rest.strip_prefix('-').and_then(|n| n.parse().ok()).and_then(|n| REALTIME_MAX.checked_sub(n))
            }
            (None, None) => None,
        };
        realtime.filter(|n| (REALTIME_MIN..=REALTIME_MAX).contains(n)).map(Self).ok_or_else(unknown)
    }
}

impl TryFrom<String> for Signal {
    type Error = UnknownSignal;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Signal> for String {
    fn from(signal: Signal) -> Self {
        signal.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_numbers_are_read_as_people_type_them() {
        for text in ["TERM", "SIGTERM", "term", "sigterm", "15"] {
            assert_eq!(text.parse::<Signal>().unwrap(), Signal::TERM, "{text}");
        }
        assert_eq!("RTMIN+3".parse::<Signal>().unwrap().number(), 37);
        assert_eq!("SIGRTMAX".parse::<Signal>().unwrap().number(), 64);
        assert_eq!("RTMAX-1".parse::<Signal>().unwrap().number(), 63);
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for text in ["", "0", "65", "999", "-1", "SIG", "TERMINATE", "RTMIN+31", "RTMIN-1", "RTMAX-255", "9 "]
        {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn each_signal_survives_its_own_name(number in 1..=64) {
            let signal = Signal::from_number(number).unwrap();
            prop_assert_eq!(signal.to_string().parse::<Signal>().unwrap(), signal);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<Signal>();
        }
    }
}
