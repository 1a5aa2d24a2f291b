//! `ps --filter`: which rows of a list are wanted, in docker's grammar.

use cofferdam::engine::Row;
use cofferdam::error::{Code, Failure};

use crate::output::CliError;

/// One `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    key: Key,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Status,
    Name,
    Id,
    Label,
    Runtime,
    Owner,
    Root,
    Exited,
}

const KEYS: [(&str, Key); 8] = [
    ("status", Key::Status),
    ("name", Key::Name),
    ("id", Key::Id),
    ("label", Key::Label),
    ("runtime", Key::Runtime),
    ("owner", Key::Owner),
    ("root", Key::Root),
    ("exited", Key::Exited),
];

impl Filter {
    pub(crate) fn parse(text: &str) -> Result<Self, CliError> {
        let wrong = |why: String| {
            CliError(Failure {
                code: Code::InvalidValue,
                what: format!("--filter: `{text}` cannot be used"),
                why: vec![why],
                next: None,
            })
        };
        let (key, value) =
            text.split_once('=').ok_or_else(|| wrong("it is not of the form KEY=VALUE".into()))?;
        let known = KEYS.iter().find(|(name, _)| *name == key);
        let (_, key) = known.ok_or_else(|| {
            let names: Vec<&str> = KEYS.iter().map(|(name, _)| *name).collect();
            wrong(format!("the key `{key}` is not one of {}", names.join(", ")))
        })?;
        let value = if *key == Key::Runtime && value == "gvisor" { "runsc" } else { value };
        Ok(Self { key: *key, value: value.to_owned() })
    }

    fn fits(&self, row: &Row) -> bool {
        let value = self.value.as_str();
        match self.key {
            // A status may carry a remark: "running (unsupervised)".
            // docker calls what we and the runtimes call stopped by another word.
            Key::Status => {
                let value = if value == "exited" { "stopped" } else { value };
                row.status.split(' ').next() == Some(value)
            }
            Key::Name => row.name.as_deref().is_some_and(|name| name.contains(value)),
            Key::Id => row.id.starts_with(value),
            Key::Label => match value.split_once('=') {
                Some((key, value)) => row.labels.get(key).is_some_and(|label| label == value),
                None => row.labels.contains_key(value),
            },
            Key::Runtime => row.runtime == value,
            Key::Owner => row.owner() == value,
            Key::Root => row.root.as_os_str() == value,
            Key::Exited => row.exit_code.is_some_and(|code| code.to_string() == value),
        }
    }

    fn asks_for_ended(&self) -> bool {
        matches!(self.key, Key::Status | Key::Exited)
    }
}

/// Whether a row is wanted: one filter of each key must fit, as in docker.
pub(crate) fn wanted(row: &Row, filters: &[Filter], all: bool) -> bool {
    let shown = all || row.status != "stopped" || filters.iter().any(Filter::asks_for_ended);
    shown && filters.iter().all(|one| filters.iter().any(|other| other.key == one.key && other.fits(row)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn row() -> Row {
        Row {
            runtime: "runsc".into(),
            root: "/run/x".into(),
            id: "abcdef".into(),
            name: Some("web".into()),
            pid: Some(1),
            status: "running (unsupervised)".into(),
            exit: None,
            exit_code: None,
            bundle: "/b".into(),
            created: None,
            ours: true,
            command: vec![],
            labels: BTreeMap::from([("a".to_owned(), "1".to_owned())]),
            gpus: vec![],
            image: None,
            ports: vec![],
        }
    }

    fn fits(texts: &[&str]) -> bool {
        let filters: Vec<_> = texts.iter().map(|text| Filter::parse(text).unwrap()).collect();
        wanted(&row(), &filters, false)
    }

    #[test]
    fn one_of_each_key_must_fit() {
        assert!(fits(&[]) && fits(&["status=running"]) && fits(&["name=we", "id=abc", "runtime=gvisor"]));
        assert!(fits(&["status=paused", "status=running"]));
        assert!(!fits(&["status=paused", "name=web"]));
        assert!(fits(&["label=a"]) && fits(&["label=a=1"]) && !fits(&["label=a=2"]));
        assert!(fits(&["owner=cofferdam", "root=/run/x"]) && !fits(&["exited=0"]));
    }

    #[test]
    fn ended_containers_are_shown_when_they_are_asked_for() {
        let ended = Row { status: "stopped".into(), exit_code: Some(7), ..row() };
        assert!(!wanted(&ended, &[], false) && wanted(&ended, &[], true));
        assert!(wanted(&ended, &[Filter::parse("exited=7").unwrap()], false));
    }

    #[test]
    fn unknown_keys_are_refused() {
        for text in ["", "x", "nope=1"] {
            assert!(Filter::parse(text).is_err(), "{text:?}");
        }
    }
}
