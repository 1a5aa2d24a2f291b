//! How an image comes, for whoever waits: bars on a terminal, a line for each layer elsewhere.

use std::collections::{HashMap, HashSet};
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use cofferdam_image::oci_spec::image::Digest;
use cofferdam_image::progress::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::output::note;

/// How many digits of a digest are shown.
const SHOWN_DIGITS: usize = 12;

/// Shows how an image comes, on standard error.
pub(crate) struct Shown {
    bars: MultiProgress,
    is_terminal: bool,
    is_quiet: bool,
    by_blob: Mutex<HashMap<String, ProgressBar>>,
    /// What has come or was unpacked, of what is not told of when it was there.
    moved: Mutex<HashSet<(String, Step)>>,
    sizes: Mutex<HashMap<String, u64>>,
}

/// What happens to a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Fetch,
    Unpack,
}

impl Shown {
    pub(crate) fn new() -> Self {
        Self::unless(false)
    }

    /// Shows nothing at all where it is to be quiet.
    pub(crate) fn unless(quiet: bool) -> Self {
        Self {
            bars: MultiProgress::new(),
            is_terminal: std::io::stderr().is_terminal(),
            is_quiet: quiet,
            by_blob: Mutex::default(),
            moved: Mutex::default(),
            sizes: Mutex::default(),
        }
    }

    fn with(&self, blob: &Digest, show: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self.by_blob.lock().unwrap_or_else(PoisonError::into_inner).get(blob.digest()) {
            show(bar);
        }
    }

    /// Notes that something is done, and not there already.
    fn moves(&self, blob: &Digest, step: Step) {
        if !self.is_terminal && !self.is_quiet {
            let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
            moved.insert((blob.digest().to_owned(), step));
        }
    }

    /// A line, where there are no bars.
    fn line(&self, blob: &Digest, step: Step, what: &str) {
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        if moved.remove(&(blob.digest().to_owned(), step)) {
            note(format_args!("{}: {what}", short(blob)));
        }
    }
}

impl Progress for Shown {
    fn total(&self, blob: &Digest, bytes: u64) {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).insert(blob.digest().to_owned(), bytes);
        if !self.is_terminal || self.is_quiet {
            return;
        }
        let bar = self.bars.add(ProgressBar::new(bytes));
        bar.set_style(style("{prefix} {msg:12} [{bar:30}] {bytes:>10} / {total_bytes}"));
        bar.set_prefix(short(blob));
        bar.set_message("fetching");
        let mut by_blob = self.by_blob.lock().unwrap_or_else(PoisonError::into_inner);
        by_blob.insert(blob.digest().to_owned(), bar);
    }

    fn advanced(&self, blob: &Digest, bytes: u64) {
        // What is there already comes in one piece.
        if self.sizes.lock().unwrap_or_else(PoisonError::into_inner).get(blob.digest()) != Some(&bytes) {
            self.moves(blob, Step::Fetch);
        }
        self.with(blob, |bar| bar.set_position(bytes));
    }

    fn done(&self, blob: &Digest) {
        self.line(blob, Step::Fetch, "fetched");
        self.with(blob, |bar| {
            bar.set_position(bar.length().unwrap_or_default());
            bar.set_message("fetched");
        });
    }

    fn extracting(&self, blob: &Digest, bytes: u64, of: u64) {
        self.moves(blob, Step::Unpack);
        self.with(blob, |bar| {
            bar.set_length(of);
            bar.set_position(bytes);
            bar.set_message("unpacking");
        });
    }

    fn extracted(&self, blob: &Digest) {
        self.line(blob, Step::Unpack, "unpacked");
        self.with(blob, |bar| bar.finish_with_message("unpacked"));
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn short(blob: &Digest) -> String {
    blob.digest().chars().take(SHOWN_DIGITS).collect()
}
