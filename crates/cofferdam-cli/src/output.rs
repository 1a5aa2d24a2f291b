//! Printing: results on standard output, everything else on standard error.

use std::error::Error;
use std::fmt;
use std::io::Write;

use anstyle::{AnsiColor, Style};
use cofferdam::error::{Code, Diagnose, Failure};
use serde::Serialize;

/// The exit code of a failure that is ours: docker's.
pub(crate) const OUR_FAILURE: u8 = 125;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const LABEL: Style = AnsiColor::Cyan.on_default();

/// Why a command failed. Everything that can say its code becomes one by `?`.
#[derive(Debug)]
pub(crate) struct CliError(pub(crate) Failure);

impl<E: Diagnose> From<E> for CliError {
    fn from(error: E) -> Self {
        Self(Failure::of(&error))
    }
}

impl CliError {
    /// Something that should not happen.
    pub(crate) fn internal(what: &str, error: &dyn Error) -> Self {
        Self(Failure {
            code: Code::Internal,
            what: what.to_owned(),
            why: vec![error.to_string()],
            next: None,
        })
    }
}

/// Prints an error in its three parts: what failed, why, and what to do next.
pub(crate) fn print_failure(failure: &Failure) {
    let mut text = format!("{ERROR}error[{}]{ERROR:#}: {}\n", failure.code, failure.what);
    for why in &failure.why {
        push_line(&mut text, "why", why);
    }
    if let Some(next) = &failure.next {
        push_line(&mut text, "next", next);
    }
    push_line(&mut text, "more", &format!("cofferdam explain {}", failure.code));
    say(&text);
}

fn push_line(text: &mut String, label: &str, content: &str) {
    text.push_str(&format!("  {LABEL}{label:>4}{LABEL:#}: {content}\n"));
}

/// Prints a sentence that the user should read, on standard error.
pub(crate) fn warn(sentence: impl fmt::Display) {
    say(&format!("{WARNING}warning{WARNING:#}: {sentence}\n"));
}

/// Prints a line of cofferdam's own on standard error.
pub(crate) fn note(line: impl fmt::Display) {
    say(&format!("cofferdam: {line}\n"));
}

/// Prints a question, or a part of one, on standard error.
pub(crate) fn prompt(text: &str) {
    say(text);
}

fn say(text: &str) {
    // Nobody is left to tell when standard error is gone.
    let _ = anstream::stderr().lock().write_all(text.as_bytes());
}

/// Prints a result on standard output.
///
/// A reader that has gone (`cofferdam ps | head -1`) ends the output, and is no failure.
pub(crate) fn print(text: impl fmt::Display) -> Result<(), CliError> {
    let mut out = anstream::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(CliError::internal("standard output cannot be written", &error)),
        Ok(()) => Ok(()),
    }
}

/// Prints a value as indented JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| CliError::internal("no JSON", &error))?;
    print(text)
}
