//! Templates in the part of Go's language that people use with docker's `--format`: fields, and `json`.
//!
//! `{{.ID}}`, `{{.State.Pid}}`, `{{json .}}`, `{{json .Labels}}`, and the escapes `\t` and `\n`. A field is found
//! whatever its case and with or without underscores, so that `{{.ExitCode}}` finds `exit_code`.

use cofferdam::error::{Code, Failure};
use serde_json::Value;

use crate::output::{CliError, print, print_json};

/// The template of a `--format`; none for JSON, which is also what is printed without one.
pub(crate) fn of_format(format: Option<&str>) -> Result<Option<Template>, CliError> {
    format.filter(|format| *format != "json").map(Template::parse).transpose()
}

/// Prints each value by the template, or all of them as a list of JSON.
pub(crate) fn print_values(template: Option<&Template>, values: &[Value]) -> Result<(), CliError> {
    match template {
        Some(template) => values.iter().try_for_each(|value| print(template.render(value)?)),
        None => print_json(&values),
    }
}

/// One piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field { path: Vec<String>, json: bool },
}

/// A template, ready to be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

impl Template {
    /// Reads a template.
    pub(crate) fn parse(text: &str) -> Result<Self, CliError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            pieces.push(Piece::Text(unescape(before)));
            let Some((action, tail)) = after.split_once("}}") else {
                return Err(wrong(text, "a `{{` has no `}}`"));
            };
            pieces.push(parse_action(action).ok_or_else(|| {
                wrong(text, &format!("`{{{{{action}}}}}` is not `{{{{.Field}}}}` or `{{{{json .Field}}}}`"))
            })?);
            rest = tail;
        }
        pieces.push(Piece::Text(unescape(rest)));
        Ok(Self(pieces))
    }

    /// Fills a value's fields in, as the cells of a row: the template's tabulators are between columns.
    pub(crate) fn cells(&self, value: &Value) -> Result<Vec<String>, CliError> {
        Ok(self.render(value)?.split('\t').map(|cell| cell.trim().to_owned()).collect())
    }

    /// Titles for these columns: the names of the fields, in upper case, as docker has them.
    pub(crate) fn titles(&self) -> Vec<String> {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Field { path, .. } => path.join(" ").to_uppercase(),
        };
        let line: String = self.0.iter().map(piece).collect();
        line.split('\t').map(|cell| cell.trim().to_owned()).collect()
    }

    /// Fills a value's fields in.
    pub(crate) fn render(&self, value: &Value) -> Result<String, CliError> {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Field { path, json } => {
                    let found = find(value, path)?;
                    match found {
                        Value::String(text) if !json => out.push_str(text),
                        Value::Null if !json => {}
                        other => out.push_str(&other.to_string()),
                    }
                }
            }
        }
        Ok(out)
    }
}

fn parse_action(action: &str) -> Option<Piece> {
    let action = action.trim();
    let (json, field) = match action.strip_prefix("json ") {
        Some(field) => (true, field.trim()),
        None => (false, action),
    };
    let path = field.strip_prefix('.')?;
    let is_name =
        |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if path.is_empty() {
        return Some(Piece::Field { path: vec![], json });
    }
    let parts: Vec<&str> = path.split('.').collect();
    parts
        .iter()
        .all(is_name)
        .then(|| Piece::Field { path: parts.into_iter().map(str::to_owned).collect(), json })
}

fn find<'a>(value: &'a Value, path: &[String]) -> Result<&'a Value, CliError> {
    let mut place = value;
    for part in path {
        let plain = |name: &str| name.replace('_', "").to_ascii_lowercase();
        place = match place {
            Value::Object(map) => {
                map.iter().find(|(key, _)| plain(key) == plain(part)).map(|(_, value)| value)
            }
            // A field below something that is not there is not there either.
            Value::Null => Some(place),
            _ => None,
        }
        .ok_or_else(|| {
            let known = place.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>().join(", "));
            wrong(
                &format!(".{}", path.join(".")),
                &format!("there is no field `{part}`; there is {}", known.unwrap_or_default()),
            )
        })?;
    }
    Ok(place)
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

fn wrong(template: &str, why: &str) -> CliError {
    CliError(Failure {
        code: Code::InvalidValue,
        what: format!("--format: `{template}` cannot be used"),
        why: vec![why.to_owned()],
        next: Some("`--format json` shows all fields".into()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn fill(template: &str, value: &Value) -> Result<String, String> {
        let template = Template::parse(template).map_err(|error| error.0.to_string())?;
        template.render(value).map_err(|error| error.0.to_string())
    }

    #[test]
    fn fields_are_filled_in_as_docker_does() {
        let value = json!({ "id": "ab", "exit_code": 7, "state": { "pid": 12 }, "labels": { "a": "b" }, "name": null });
        assert_eq!(fill(r"{{.ID}}\t{{.ExitCode}}", &value).unwrap(), "ab\t7");
        assert_eq!(fill("{{.State.Pid}} {{ .Name }}!", &value).unwrap(), "12 !");
        assert_eq!(fill("{{json .Labels}}{{json .ID}}", &value).unwrap(), r#"{"a":"b"}"ab""#);
        assert_eq!(fill("plain", &value).unwrap(), "plain");
        assert!(fill("{{json .}}", &value).unwrap().starts_with('{'));
    }

    #[test]
    fn mistakes_are_named() {
        let value = json!({ "id": "ab" });
        assert!(fill("{{.Nope}}", &value).unwrap_err().contains("there is id"));
        assert!(fill("{{.ID", &value).unwrap_err().contains("no `}}`"));
        assert!(fill("{{range .}}", &value).unwrap_err().contains("json .Field"));
    }

    proptest! {
        #[test]
        fn no_template_panics(text in ".*") {
            let _ = fill(&text, &json!({ "a": [1] }));
        }
    }
}
