//! `--mount type=TYPE,source=SOURCE,target=DESTINATION,...`: one record of a CSV file, as docker reads it.

use std::collections::BTreeMap;

use super::tmpfs_option::{mode, size};
use super::volume_option::IGNORED;
use super::{
    MountFlags, MountKind, MountOption, MountRequest, Propagation, TmpfsOptions, bind_source, destination,
};
use crate::id::{VolumeName, quote};

/// What docker has and this has not, with what to do.
const UNSUPPORTED: [(&str, &str); 5] = [
    ("volume-driver", "volumes are directories of this host"),
    ("volume-opt", "volumes are directories of this host"),
    ("volume-subpath", "mount the whole volume"),
    ("bind-create-src", "make the directory first"),
    ("image-subpath", "images are no mounts"),
];

/// The fields, read and not put together yet.
#[derive(Debug, Default)]
struct Fields {
    kind: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: bool,
    propagation: Option<Propagation>,
    recursive: Option<bool>,
    no_copy: bool,
    labels: BTreeMap<String, String>,
    tmpfs: TmpfsOptions,
    ignored: Vec<String>,
    /// The keys that belong to one type each.
    of_type: Vec<String>,
}

pub(super) fn parse(text: &str) -> Result<MountRequest, String> {
    let mut fields = Fields::default();
    for field in split(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field.as_str(), None),
        };
        // docker takes keys in any case.
        fields.take(&key.to_ascii_lowercase(), value)?;
    }
    fields.finish()
}

/// The same text, with the value of its source, if it begins with a dot, replaced. What is no such text stays as it is: it is
/// refused when it is parsed.
pub(super) fn with_source(text: &str, replace: impl Fn(&str) -> String) -> String {
    let Ok(fields) = split(text) else { return text.to_owned() };
    let fields = fields.into_iter().map(|field| {
        let field = match field.split_once('=') {
            Some((key, value)) if is_source(&key.to_ascii_lowercase()) && value.starts_with('.') => {
                format!("{key}={}", replace(value))
            }
            _ => field,
        };
        if field.contains([',', '"']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
    });
    fields.collect::<Vec<_>>().join(",")
}

fn is_source(key: &str) -> bool {
    matches!(key, "source" | "src")
}

impl Fields {
    fn take(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        if ["bind-", "volume-", "tmpfs-"].iter().any(|start| key.starts_with(start)) {
            self.of_type.push(key.to_owned());
        }
        if self.take_switch(key, value)? {
            return Ok(());
        }
        if let Some((_, why)) = UNSUPPORTED.iter().find(|(known, _)| *known == key)
            && !(key == "volume-driver" && value == Some("local"))
        {
            return Err(format!("{key} is docker's and not known here: {why}"));
        }
        let value = value.ok_or_else(|| format!("{} is not of the form KEY=VALUE", quote(key)))?;
        match key {
            "type" => self.kind = Some(value.to_ascii_lowercase()),
            key if is_source(key) => self.source = Some(value.to_owned()),
            "target" | "dst" | "destination" => self.target = Some(value.to_owned()),
            "bind-propagation" => {
                let propagation = Propagation::from_word(value);
                let why = || {
                    format!(
                        "{key}={}: give rprivate, private, rshared, shared, rslave or slave",
                        quote(value)
                    )
                };
                self.propagation = Some(propagation.ok_or_else(why)?);
            }
            "bind-recursive" => match value {
                "enabled" => self.recursive = Some(true),
                "disabled" => self.recursive = Some(false),
                _ => return Err(format!("{key}={}: give enabled or disabled", quote(value))),
            },
            "volume-label" => {
                let (label, text) = value.split_once('=').unwrap_or((value, ""));
                drop(self.labels.insert(label.to_owned(), text.to_owned()));
            }
            "volume-driver" => {}
            "tmpfs-size" => self.tmpfs.size_bytes = Some(size(value).map_err(|why| format!("{key}: {why}"))?),
            "tmpfs-mode" => self.tmpfs.mode = Some(mode(value).map_err(|why| format!("{key}: {why}"))?),
            "consistency" if IGNORED.contains(&value) || value == "default" => {
                self.ignored.push(format!("consistency={value}"));
            }
            _ => return Err(unknown(key)),
        }
        Ok(())
    }

    /// Takes what needs no value; says whether it was that.
    fn take_switch(&mut self, key: &str, value: Option<&str>) -> Result<bool, String> {
        let is_on = || value.map_or(Ok(true), |value| truth(key, value));
        match key {
            "readonly" | "ro" => self.read_only = is_on()?,
            "volume-nocopy" => self.no_copy = is_on()?,
            "bind-nonrecursive" => self.recursive = Some(!is_on()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn finish(self) -> Result<MountRequest, String> {
        let kind = self.kind.as_deref().unwrap_or("volume");
        if let Some(key) = self.of_type.iter().find(|key| !key.starts_with(&format!("{kind}-"))) {
            return Err(format!("{key} does not belong to type={kind}"));
        }
        let target = self.target.as_deref().ok_or("target is missing: where it appears in the container")?;
        let destination = destination(target)?;
        let source = self.source.as_deref().filter(|source| !source.is_empty());
        let mut flags = MountFlags::default();
        let kind = match kind {
            "bind" => MountKind::Bind {
                source: bind_source(source.ok_or("source is missing: type=bind needs a path of the host")?)?,
                propagation: self.propagation.unwrap_or_default(),
                recursive: self.recursive.unwrap_or(true),
            },
            "volume" => MountKind::Volume {
                name: match source {
                    Some(name) => name.parse().map_err(|error| no_volume(name, &error))?,
                    None => VolumeName::generate(),
                },
                anonymous: source.is_none(),
                copy: !self.no_copy,
                labels: self.labels,
            },
            "tmpfs" if source.is_some() => return Err("type=tmpfs has no source".into()),
            "tmpfs" => {
                flags = MountFlags::OF_TMPFS;
                MountKind::Tmpfs(self.tmpfs)
            }
            other => {
                return Err(format!("type={} is not known here: use bind, volume or tmpfs", quote(other)));
            }
        };
        let read_only = self.read_only;
        Ok(MountRequest {
            option: MountOption::Mount,
            destination,
            kind,
            read_only,
            flags,
            ignored: self.ignored,
        })
    }
}

fn no_volume(text: &str, error: &crate::id::InvalidId) -> String {
    if text.starts_with(['/', '.']) {
        format!("the source {} is a path, and volumes have names: use type=bind for a path", quote(text))
    } else {
        error.to_string()
    }
}

fn unknown(key: &str) -> String {
    format!(
        "the key {} is not known here: use type, source, target, readonly, bind-propagation, bind-recursive, \
         volume-nocopy, volume-label, tmpfs-size or tmpfs-mode",
        quote(key)
    )
}

/// A truth value as docker writes it.
fn truth(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{key}={}: give true or false", quote(value))),
    }
}

/// Splits a record of CSV into its fields. A field in double quotes may hold commas, and quotes twice.
fn split(text: &str) -> Result<Vec<String>, String> {
    let stray =
        || format!("{} has a double quote within a field: put the whole field into quotes", quote(text));
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted).ok_or_else(stray)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        if field.contains('"') && !rest.starts_with('"') {
            return Err(stray());
        }
        if field.is_empty() {
            return Err(format!("{} has an empty field", quote(text)));
        }
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err(stray()),
        }
    }
}

/// The content of a quoted field, and what follows the quote that ends it.
fn quoted_field(text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None => return Some((field, after)),
        }
    }
}
