//! The events of a state directory on disk: lines that any process appends, numbered under a lock.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{StateDir, StateError, lock};
use crate::event::{Event, Happening};
use crate::id::{ContainerId, ContainerName};
use crate::logs::{LineReader, begin_another, file_at, open_newest};

/// How large one file becomes, in bytes, before another one is begun.
const FILE_BYTES: u64 = 4 << 20;
/// How many are kept, the newest included.
const FILES: u32 = 4;
/// The longest event, in bytes: its number is looked for so far from the end of the file.
const EVENT_LIMIT: u64 = 256 << 10;
/// How long most are at most, in bytes.
const SHORT_EVENT: u64 = 4 << 10;

impl StateDir {
    /// Where the events are.
    #[must_use]
    pub(crate) fn events(&self) -> PathBuf {
        self.path.join("events")
    }

    /// Writes an event down, after all others; gives its number.
    ///
    /// # Errors
    /// [`StateError::File`]; nothing of it is written then.
    pub(crate) fn append_event(
        &self,
        id: &ContainerId,
        name: Option<&ContainerName>,
        what: Happening,
    ) -> Result<u64, StateError> {
        let folder = self.events();
        let failed = |source| StateError::File { path: folder.clone(), what: "written", source };
        let _guard = self.lock_events()?;
        let mut file = open_newest(&folder).map_err(failed)?;
        let seq = last_number(&folder, &mut file).map_err(failed)? + 1;
        let event = Event { seq, time: Timestamp::now(), id: id.clone(), name: name.cloned(), what };
        let mut line = serde_json::to_vec(&event).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        append(&folder, file, &line).map_err(failed)?;
        Ok(seq)
    }

    /// Writes the end of a container down, unless it has been: whoever closes a record after a crash does not know.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub(crate) fn append_end_once(
        &self,
        id: &ContainerId,
        name: Option<&ContainerName>,
        what: Happening,
    ) -> Result<(), StateError> {
        let Happening::Exit { restarts, .. } = what else {
            return self.append_event(id, name, what).map(drop);
        };
        if !self.has_end(id, restarts) {
            self.append_event(id, name, what)?;
        }
        Ok(())
    }

    fn has_end(&self, id: &ContainerId, run: u32) -> bool {
        let mut lines = LineReader::new(&self.events());
        while let Ok(Some(line)) = lines.next_line() {
            if let Ok(event) = serde_json::from_slice::<Event>(&line)
                && event.id == *id
                && matches!(event.what, Happening::Exit { restarts, .. } if restarts == run)
            {
                return true;
            }
        }
        false
    }

    fn lock_events(&self) -> Result<lock::FileLock, StateError> {
        let path = self.events().join(".lock");
        lock::FileLock::wait(&path).map_err(|source| StateError::File { path, what: "locked", source })
    }
}

/// The number of the last event, 0 before the first; `newest` is the newest file. A line that its writer did not come to
/// end is taken away.
fn last_number(folder: &Path, newest: &mut File) -> io::Result<u64> {
    if let Some(seq) = number_in(newest)? {
        return Ok(seq);
    }
    for age in 1..FILES {
        match File::open(file_at(folder, age)) {
            Ok(mut file) => {
                if let Some(seq) = number_in(&mut file)? {
                    return Ok(seq);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(0)
}

/// The number of the last event in a file. Nearly all events are short.
fn number_in(file: &mut File) -> io::Result<Option<u64>> {
    for reach in [SHORT_EVENT, EVENT_LIMIT] {
        if let Some(seq) = number_at_end(file, reach)? {
            return Ok(Some(seq));
        }
    }
    Ok(None)
}

/// The number of the last event, if all of it is so far from the end of the file.
fn number_at_end(file: &mut File, reach: u64) -> io::Result<Option<u64>> {
    let start = file.metadata()?.len().saturating_sub(reach);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(reach).read_to_end(&mut tail)?;
    let Some(end) = tail.iter().rposition(|byte| *byte == b'\n') else { return Ok(None) };
    if end + 1 < tail.len() {
        file.set_len(start + end as u64 + 1)?;
    }
    let last = tail[..end].split(|byte| *byte == b'\n').next_back().unwrap_or_default();
    Ok(serde_json::from_slice::<Event>(last).ok().map(|event| event.seq))
}

fn append(folder: &Path, mut file: File, line: &[u8]) -> io::Result<()> {
    let mut length = file.metadata()?.len();
    if length > 0 && length + line.len() as u64 > FILE_BYTES {
        (file, length) = (begin_another(folder, FILES)?, 0);
    }
    file.write_all(line).or_else(|error| {
        // A part of a line is no event.
        file.set_len(length)?;
        Err(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let keep = tempfile::tempdir().unwrap();
        let state = StateDir::open(&keep.path().join("s")).unwrap();
        (keep, state)
    }

    fn all(state: &StateDir) -> Vec<Event> {
        let mut lines = LineReader::new(&state.events());
        std::iter::from_fn(|| lines.next_line().unwrap())
            .map(|line| serde_json::from_slice(&line).unwrap())
            .collect()
    }

    #[test]
    fn events_of_many_writers_are_numbered_without_a_gap() {
        let (_keep, state) = state();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let id = ContainerId::generate();
                    for _ in 0..50 {
                        state.append_event(&id, None, Happening::Start).unwrap();
                    }
                });
            }
        });
        let numbers: Vec<u64> = all(&state).into_iter().map(|event| event.seq).collect();
        assert_eq!(numbers, (1..=400).collect::<Vec<u64>>());
    }

    #[test]
    fn numbers_go_on_in_a_new_file_and_after_a_torn_line() {
        let (_keep, state) = state();
        let id = ContainerId::generate();
        let long = Happening::Exec { command: vec!["x".repeat(100_000)], pid: 1 };
        for _ in 0..100 {
            state.append_event(&id, None, long.clone()).unwrap();
        }
        assert!(file_at(&state.events(), 1).exists(), "more than one file");
        let mut file = std::fs::OpenOptions::new().append(true).open(file_at(&state.events(), 0)).unwrap();
        file.write_all(b"{\"seq\":101,\"ti").unwrap();
        assert_eq!(state.append_event(&id, None, Happening::Remove).unwrap(), 101);
        let events = all(&state);
        assert!(events.windows(2).all(|pair| pair[1].seq == pair[0].seq + 1));
        assert_eq!(events.last().unwrap().what, Happening::Remove);
    }

    #[test]
    fn an_end_is_written_once() {
        let (_keep, state) = state();
        let id = ContainerId::generate();
        let end = Happening::Exit {
            code: 7,
            cause: crate::exit::Cause::Exited { code: 7 },
            asked_by: None,
            restarts: 0,
        };
        for _ in 0..3 {
            state.append_end_once(&id, None, end.clone()).unwrap();
        }
        state.append_end_once(&ContainerId::generate(), None, end.clone()).unwrap();
        assert_eq!(all(&state).len(), 2);
    }
}
