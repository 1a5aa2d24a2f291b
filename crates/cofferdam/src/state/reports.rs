//! Reports of containers that are forgotten already (`--rm`), kept for a while: whoever asks a little late still gets the
//! exit code.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::file::write_json;
use super::{StateDir, StateError, record};
use crate::exit::{ExitReport, REPORT_VERSION};

/// How often those are looked for whose time is over: a busy machine has thousands.
const SWEEP_PAUSE: Duration = Duration::from_secs(60);

/// A kept report, by the name of its file: `ID.SECONDS.json`, the time until when since 1970.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    id: String,
    until: i64,
}

impl StateDir {
    /// Keeps a report for so long.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub(crate) fn keep_report(&self, report: &ExitReport, time: Duration) -> Result<(), StateError> {
        // One that is too far away to be told is kept as long as there are times.
        let until = Timestamp::now().checked_add(time).unwrap_or(Timestamp::MAX);
        let until = until.as_second() + i64::from(until.subsec_nanosecond() > 0);
        write_json(&self.reports().join(format!("{}.{until}.json", report.id)), report)?;
        self.sweep_reports_at_times();
        Ok(())
    }

    /// The kept report of a container by its id, its name, or the beginning of its id: the newest that fits.
    #[must_use]
    pub fn kept_report(&self, text: &str) -> Option<ExitReport> {
        let now = Timestamp::now().as_second();
        let read =
            |kept: Kept| record::read_versioned::<ExitReport>(&kept.path, REPORT_VERSION).ok().flatten();
        let by_id = |kept: &Kept| kept.until > now && !text.is_empty() && kept.id.starts_with(text);
        let newest = |reports: Vec<ExitReport>| reports.into_iter().max_by_key(|report| report.ended);
        newest(self.kept_reports().filter(by_id).filter_map(read).collect()).or_else(|| {
            let by_name =
                |report: &ExitReport| report.name.as_ref().is_some_and(|name| name.to_string() == text);
            let reports = self.kept_reports().filter(|kept| kept.until > now).filter_map(read);
            newest(reports.filter(by_name).collect())
        })
    }

    /// Removes those whose time is over; gives their files.
    pub(crate) fn sweep_reports(&self) -> Vec<PathBuf> {
        let mut over = self.expired_reports();
        // Another process may have been faster.
        over.retain(|path| std::fs::remove_file(path).is_ok());
        over
    }

    /// The files of those whose time is over.
    pub(crate) fn expired_reports(&self) -> Vec<PathBuf> {
        let now = Timestamp::now().as_second();
        self.kept_reports().filter(|kept| kept.until <= now).map(|kept| kept.path).collect()
    }

    fn sweep_reports_at_times(&self) {
        let stamp = self.reports().join(".swept");
        let swept = std::fs::metadata(&stamp).and_then(|metadata| metadata.modified());
        let is_recent = swept.is_ok_and(|swept| swept.elapsed().is_ok_and(|since| since < SWEEP_PAUSE));
        if !is_recent && std::fs::write(&stamp, "").is_ok() {
            self.sweep_reports();
        }
    }

    fn kept_reports(&self) -> impl Iterator<Item = Kept> {
        let entries = std::fs::read_dir(self.reports()).into_iter().flatten().flatten();
        entries.filter_map(|entry| {
            let path = entry.path();
            let (id, until) = path.file_name()?.to_str()?.strip_suffix(".json")?.split_once('.')?;
            let (id, until) = (id.to_owned(), until.parse().ok()?);
            Some(Kept { path, id, until })
        })
    }

    fn reports(&self) -> PathBuf {
        self.path.join("reports")
    }
}
