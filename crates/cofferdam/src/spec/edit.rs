//! Changing a specification and writing down why.
//!
//! A specification is kept as JSON, not as typed structs: a field that is newer than our types then reaches the
//! runtime as it was given, instead of being dropped in silence.
//! Invariant: the JSON is changed through [`SpecEditor`] only, and each change leaves an [`Edit`] with its reason.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One change of a specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// JSON pointer of the changed place, such as `/linux/cgroupsPath`.
    pub path: String,
    /// What was done there.
    pub action: EditAction,
    /// Why.
    pub reason: String,
}

/// What an edit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EditAction {
    /// A value was put where there was none.
    Added,
    /// Another value was put in place of the one there.
    Changed,
    /// The value was taken away.
    Removed,
}

/// A specification under change.
#[derive(Debug, Clone)]
pub struct SpecEditor {
    value: Value,
    edits: Vec<Edit>,
    warnings: Vec<String>,
}

impl SpecEditor {
    /// Begins with a specification as it was given. It must be a JSON object.
    #[must_use]
    pub fn new(value: Value) -> Self {
        Self { value, edits: vec![], warnings: vec![] }
    }

    /// The value at a JSON pointer.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Value> {
        self.value.pointer(path)
    }

    /// The text at a JSON pointer.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<&str> {
        self.get(path).and_then(Value::as_str)
    }

    /// The entries of the array at a JSON pointer; none where there is no array.
    pub fn entries(&self, path: &str) -> impl Iterator<Item = &Value> {
        self.get(path).and_then(Value::as_array).into_iter().flatten()
    }

    /// The whole specification.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Puts a value; objects on the way are made. Putting what is there already is no edit.
    pub fn set(&mut self, path: &str, value: impl Into<Value>, reason: &str) {
        let value = value.into();
        let action = match self.get(path) {
            Some(old) if *old == value => return,
            Some(Value::Null) | None => EditAction::Added,
            Some(_) => EditAction::Changed,
        };
        *slot(&mut self.value, path) = value;
        self.note(path, action, reason);
    }

    /// Adds an entry to the end of an array; the array is made where there is none.
    pub fn push(&mut self, path: &str, entry: impl Into<Value>, reason: &str) {
        let array = slot(&mut self.value, path);
        if !array.is_array() {
            *array = Value::Array(vec![]);
        }
        let mut index = 0;
        if let Value::Array(entries) = array {
            index = entries.len();
            entries.push(entry.into());
        }
        self.note(&format!("{path}/{index}"), EditAction::Added, reason);
    }

    /// Puts an entry into an array before the one at a position; at its end where it is shorter.
    pub fn insert(&mut self, path: &str, position: usize, entry: impl Into<Value>, reason: &str) {
        match slot(&mut self.value, path) {
            Value::Array(entries) if position < entries.len() => {
                entries.insert(position, entry.into());
                self.note(&format!("{path}/{position}"), EditAction::Added, reason);
            }
            _ => self.push(path, entry, reason),
        }
    }

    /// Takes away what is at a JSON pointer; says whether there was anything.
    pub fn remove(&mut self, path: &str, reason: &str) -> bool {
        let Some((parent, key)) = path.rsplit_once('/') else { return false };
        let removed = self
            .value
            .pointer_mut(parent)
            .and_then(Value::as_object_mut)
            .and_then(|map| map.shift_remove(key));
        let found = removed.is_some_and(|value| !value.is_null());
        if found {
            self.note(path, EditAction::Removed, reason);
        }
        found
    }

    /// Takes those entries out of an array for which `reason_to_drop` gives a reason.
    pub fn drop_entries(&mut self, path: &str, reason_to_drop: impl Fn(&Value) -> Option<String>) {
        let Some(entries) = self.value.pointer_mut(path).and_then(Value::as_array_mut) else { return };
        let mut dropped = Vec::new();
        let mut index = 0;
        entries.retain(|entry| {
            let reason = reason_to_drop(entry);
            if let Some(reason) = &reason {
                dropped.push((index, reason.clone()));
            }
            index += 1;
            reason.is_none()
        });
        for (index, reason) in dropped {
            self.note(&format!("{path}/{index}"), EditAction::Removed, &reason);
        }
    }

    /// Keeps a sentence that the user should read before the container starts.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    /// The specification, the edits in order, and the warnings.
    #[must_use]
    pub fn finish(self) -> (Value, Vec<Edit>, Vec<String>) {
        (self.value, self.edits, self.warnings)
    }

    fn note(&mut self, path: &str, action: EditAction, reason: &str) {
        self.edits.push(Edit { path: path.to_owned(), action, reason: reason.to_owned() });
    }
}

/// The place of a pointer, made where it is missing. Keys of ours hold no `~`, so pointers need no unescaping.
fn slot<'a>(value: &'a mut Value, path: &str) -> &'a mut Value {
    path.split('/').skip(1).fold(value, |place, key| {
        let index = key
            .parse::<usize>()
            .ok()
            .filter(|index| place.as_array().is_some_and(|list| *index < list.len()));
        match index {
            Some(index) => &mut place[index],
            None => {
                if !place.is_object() {
                    *place = Value::Object(Map::new());
                }
                &mut place[key]
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_change_has_its_reason() {
        let mut editor = SpecEditor::new(json!({ "process": { "args": ["a"] }, "x": 1 }));
        editor.set("/linux/cgroupsPath", "/c", "ours");
        editor.set("/x", 1, "nothing changes");
        editor.set("/x", 2, "other");
        editor.push("/process/env", "A=1", "asked for");
        editor.push("/process/env", "B=2", "asked for");
        assert!(editor.remove("/x", "gone") && !editor.remove("/x", "gone"));
        assert!(!editor.remove("/nowhere/at/all", "gone"));
        let (value, edits, _) = editor.finish();
        assert_eq!(
            value,
            json!({ "process": { "args": ["a"], "env": ["A=1", "B=2"] }, "linux": { "cgroupsPath": "/c" } })
        );
        let paths: Vec<&str> = edits.iter().map(|edit| edit.path.as_str()).collect();
        assert_eq!(paths, ["/linux/cgroupsPath", "/x", "/process/env/0", "/process/env/1", "/x"]);
    }

    #[test]
    fn entries_are_dropped_with_their_first_position() {
        let mut editor = SpecEditor::new(json!({ "l": [1, 2, 3, 4] }));
        editor.drop_entries("/l", |entry| (entry.as_u64()? % 2 == 0).then(|| "even".to_owned()));
        let (value, edits, _) = editor.finish();
        assert_eq!(value, json!({ "l": [1, 3] }));
        assert_eq!(edits.iter().map(|e| e.path.as_str()).collect::<Vec<_>>(), ["/l/1", "/l/3"]);
    }

    #[test]
    fn an_entry_is_put_before_another() {
        let mut editor = SpecEditor::new(json!({ "l": [1, 3] }));
        editor.insert("/l", 1, 2, "between");
        editor.insert("/l", 9, 4, "at the end");
        editor.insert("/m", 0, 1, "a new one");
        let (value, edits, _) = editor.finish();
        assert_eq!(value, json!({ "l": [1, 2, 3, 4], "m": [1] }));
        assert_eq!(edits.iter().map(|e| e.path.as_str()).collect::<Vec<_>>(), ["/l/1", "/l/3", "/m/0"]);
    }

    #[test]
    fn a_value_in_the_way_is_replaced() {
        let mut editor = SpecEditor::new(json!({ "linux": null, "a": [{ "b": 1 }] }));
        editor.set("/linux/resources/memory/limit", 5, "limit");
        editor.set("/a/0/b", 2, "index");
        assert_eq!(
            editor.value(),
            &json!({ "linux": { "resources": { "memory": { "limit": 5 } } }, "a": [{ "b": 2 }] })
        );
    }
}
