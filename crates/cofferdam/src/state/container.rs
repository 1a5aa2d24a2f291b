//! The folder of one container: where each file of it is.

use std::path::{Path, PathBuf};

use super::StateError;
use super::file::write_json;
use super::record::{self, Record};
use crate::exit::ExitReport;
use crate::id::ContainerId;

/// Space for the last report and record, in bytes, and for an inode.
const RESERVE_BYTES: usize = 16 << 10;

/// The folder of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerDir {
    /// The container.
    pub id: ContainerId,
    pub(super) path: PathBuf,
}

impl ContainerDir {
    /// The same folder as it is called before it is whole, and while it is removed.
    pub(super) fn hidden(&self) -> Self {
        Self { id: self.id.clone(), path: self.path.with_file_name(format!(".{}", self.id)) }
    }

    /// The folder of a container of any state directory.
    pub(crate) fn found_at(id: ContainerId, path: PathBuf) -> Self {
        Self { id, path }
    }

    /// What the user calls the container: its name, or the short id.
    pub(crate) fn title(&self) -> String {
        let record = self.read_record().ok().flatten();
        record.map_or_else(|| self.id.short().to_owned(), |record| record.title())
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bundle that the runtime gets.
    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        self.path.join("bundle")
    }

    /// Where the supervisor listens.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// Where the runtime sends a terminal.
    #[must_use]
    pub fn console_socket(&self) -> PathBuf {
        self.path.join("console.sock")
    }

    /// Where the runtime writes the container's pid.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.path.join("pid")
    }

    /// Sets space aside that the report of the end will need: a file system that has been filled by then must not cost
    /// the container's exit.
    ///
    /// # Errors
    /// [`StateError::File`] when there is not even that much.
    pub(crate) fn set_reserve_aside(&self) -> Result<(), StateError> {
        let path = self.reserve_file();
        std::fs::write(&path, [0; RESERVE_BYTES]).map_err(|source| StateError::File {
            path,
            what: "written",
            source,
        })
    }

    /// Gives that space back.
    pub(crate) fn release_reserve(&self) {
        // It may have been given back before.
        let _ = std::fs::remove_file(self.reserve_file());
    }

    fn reserve_file(&self) -> PathBuf {
        self.path.join("reserve")
    }

    /// The runtime's log.
    #[must_use]
    pub fn runtime_log(&self) -> PathBuf {
        self.path.join("runtime.log")
    }

    /// How much output is on its way into the log.
    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    fn report_file(&self) -> PathBuf {
        self.path.join("report.json")
    }

    fn edits_file(&self) -> PathBuf {
        self.path.join("edits.json")
    }

    /// Writes the report of the container's end, into the space that was set aside for it where there is no other.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn write_report(&self, report: &ExitReport) -> Result<(), StateError> {
        write_json(&self.report_file(), report).or_else(|_| {
            self.release_reserve();
            write_json(&self.report_file(), report)
        })
    }

    /// Reads the report of the container's end; `None` when it has not ended.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn read_report(&self) -> Result<Option<ExitReport>, StateError> {
        record::read_versioned(&self.report_file(), crate::exit::REPORT_VERSION)
    }

    /// Writes the report of a run after which the container is started again.
    pub(crate) fn write_last_report(&self, report: &ExitReport) -> Result<(), StateError> {
        write_json(&self.last_report_file(), report)
    }

    /// Reads the report of the last run after which the container was started again, or is to be; `None` when there is
    /// none.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn read_last_report(&self) -> Result<Option<ExitReport>, StateError> {
        record::read_versioned(&self.last_report_file(), crate::exit::REPORT_VERSION)
    }

    /// Reads the report of the run that a record is about; `None` where that has none yet.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn read_report_of_run(&self, record: &Record) -> Result<Option<ExitReport>, StateError> {
        Ok(self.read_last_report()?.filter(|last| last.restarts == record.restarts.count))
    }

    fn last_report_file(&self) -> PathBuf {
        self.path.join("last-report.json")
    }

    /// Writes how the specification was changed.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn write_edits(&self, edits: &[crate::spec::Edit]) -> Result<(), StateError> {
        write_json(&self.edits_file(), &edits)
    }

    /// Reads how the specification was changed; empty when that is not known.
    #[must_use]
    pub fn read_edits(&self) -> Vec<crate::spec::Edit> {
        std::fs::read(self.edits_file())
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }
}
