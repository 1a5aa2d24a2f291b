//! The caller's terminal: raw mode, given back whatever happens, and its size, passed on.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::output::warn;

/// The terminal's settings before raw mode.
static ORIGINAL: OnceLock<Termios> = OnceLock::new();

/// Raw mode of the caller's terminal, as long as it lives.
#[derive(Debug)]
#[must_use = "raw mode ends when it is dropped"]
pub(crate) struct RawMode(());

impl RawMode {
    /// Puts the terminal on standard input into raw mode, if there is one. That it cannot be is only said: the container
    /// runs already.
    pub(crate) fn enter_if_possible() -> Option<Self> {
        if !stdin_is_terminal() {
            return None;
        }
        let entered = Self::enter();
        entered
            .inspect_err(|error| warn(format_args!("the terminal cannot be put into raw mode: {error}")))
            .ok()
    }

    /// Puts the terminal on standard input into raw mode.
    fn enter() -> io::Result<Self> {
        let original = tcgetattr(io::stdin())?;
        let mut raw = original.clone();
        raw.make_raw();
        if ORIGINAL.set(original).is_ok() {
            // A release build aborts on a panic, without dropping anything.
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                hook(panic);
            }));
        }
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some(original) = ORIGINAL.get() {
        // The terminal may have gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, original);
    }
}

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// The size of the caller's terminal, in lines and columns; `None` without one.
pub(crate) fn own_size() -> Option<(u16, u16)> {
    window_size().map(|size| (size.ws_row, size.ws_col))
}

fn window_size() -> Option<Winsize> {
    [tcgetwinsize(io::stdin()), tcgetwinsize(io::stdout())].into_iter().find_map(Result::ok)
}

/// Gives a container's terminal the size of the caller's.
pub(crate) fn copy_size(terminal: impl AsFd) {
    if let Some(size) = window_size() {
        // The container may have ended.
        let _ = tcsetwinsize(terminal, size);
    }
}
