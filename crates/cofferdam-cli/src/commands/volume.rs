//! `volume`: directories with names that outlive containers.

use std::collections::BTreeMap;

use cofferdam::error::Failure;
use cofferdam::id::VolumeName;
use cofferdam::volume::{Volume, VolumeError, VolumeStore};
use serde_json::{Value, json};

use super::inspect_each;
use super::prune::confirmed;
use crate::args::{labels, refuse};
use crate::cli::VolumeCommand;
use crate::context::Context;
use crate::output::{CliError, OUR_FAILURE, print, print_failure, print_json, warn};
use crate::table::render;
use crate::template::Template;

pub(super) async fn run(context: &Context, command: VolumeCommand) -> Result<u8, CliError> {
    let store = context.engine.volumes();
    match command {
        VolumeCommand::Create { label, name } => create(&store, &labels(&label), name.as_deref()),
        VolumeCommand::Ls { filter, quiet, format } => list(&store, &filter, quiet, format.as_deref()),
        VolumeCommand::Inspect { format, volumes } => {
            let describe = async |name: &str| describe(&store, &store.find(&parse(name)?)?);
            inspect_each(format.as_deref(), &volumes, describe).await
        }
        VolumeCommand::Rm { force, volumes } => each(&volumes, |name| match store.remove(name) {
            Err(VolumeError::NoSuchVolume(_)) if force => Ok(()),
            removed => removed,
        }),
        VolumeCommand::Prune { all, filter, force } => prune(&store, all, &filter, force),
    }
}

fn create(
    store: &VolumeStore,
    labels: &BTreeMap<String, String>,
    name: Option<&str>,
) -> Result<u8, CliError> {
    let volume = match name {
        Some(name) => store.create(&name.parse::<VolumeName>()?, labels)?,
        None => store.create_anonymous(labels)?,
    };
    print(volume.name())?;
    Ok(0)
}

fn list(store: &VolumeStore, filters: &[String], quiet: bool, format: Option<&str>) -> Result<u8, CliError> {
    let filters = filters.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let mut values = Vec::new();
    for volume in readable(store)? {
        let value = describe(store, &volume)?;
        if Filter::fit(&filters, &volume, &value) {
            values.push(value);
        }
    }
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    match format {
        _ if quiet => print_lines(values.iter().map(name))?,
        Some("json") => print_json(&values)?,
        None | Some("table") => {
            let rows = values.iter().map(|value| {
                let used = value["used_by"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let used: Vec<&str> = used.collect();
                [name(value), if used.is_empty() { "-".into() } else { used.join(",") }]
            });
            print(render(["VOLUME NAME", "USED BY"], rows))?;
        }
        Some(template) => {
            let template = Template::parse(template)?;
            print_lines(values.iter().map(|value| template.render(value)).collect::<Result<Vec<_>, _>>()?)?;
        }
    }
    Ok(0)
}

fn prune(store: &VolumeStore, all: bool, filters: &[String], force: bool) -> Result<u8, CliError> {
    let filters = filters.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
    if filters.iter().any(|filter| !matches!(filter.key, Key::Label | Key::NoLabel)) {
        return Err(refuse("--filter", "give label=KEY[=VALUE] or label!=KEY[=VALUE]"));
    }
    let which = if all { "All volumes" } else { "All volumes without a name" };
    if !force
        && !confirmed(&format!("{which} that no container uses are removed, with all that is in them."))?
    {
        return Ok(0);
    }
    let mut names = Vec::new();
    for volume in readable(store)? {
        let value = describe(store, &volume)?;
        let is_used = value["used_by"].as_array().is_some_and(|users| !users.is_empty());
        if !is_used && (all || volume.record.anonymous) && Filter::fit(&filters, &volume, &value) {
            names.push(volume.name().to_string());
        }
    }
    each(&names, |name| match store.remove(name) {
        // Somebody else was faster, or uses it by now.
        Err(VolumeError::NoSuchVolume(_) | VolumeError::InUse { .. }) => Ok(()),
        removed => removed,
    })
}

/// Does something to each of several volumes, and prints the name of each that it was done to.
fn each(names: &[String], action: impl Fn(&VolumeName) -> Result<(), VolumeError>) -> Result<u8, CliError> {
    let mut code = 0;
    for name in names {
        match parse(name).and_then(|name| Ok(action(&name)?)) {
            Ok(()) => print(name)?,
            Err(error) => {
                code = OUR_FAILURE;
                print_failure(&error.0);
            }
        }
    }
    Ok(code)
}

/// A name that can be no volume's belongs to none.
fn parse(name: &str) -> Result<VolumeName, CliError> {
    Ok(name.parse::<VolumeName>()?)
}

/// The volumes that can be read; the others are told of.
fn readable(store: &VolumeStore) -> Result<Vec<Volume>, CliError> {
    let (volumes, broken) = store.list()?;
    broken.iter().map(Failure::of).for_each(warn);
    Ok(volumes)
}

fn describe(store: &VolumeStore, volume: &Volume) -> Result<Value, CliError> {
    let users: Vec<String> = store.users(volume.name())?.into_iter().map(|user| user.title).collect();
    Ok(json!({
        "name": volume.name(),
        "mountpoint": volume.data(),
        "created": volume.record.created,
        "labels": volume.record.labels,
        "anonymous": volume.record.anonymous,
        "used_by": users,
    }))
}

fn print_lines(lines: impl IntoIterator<Item = String>) -> Result<(), CliError> {
    let text = lines.into_iter().collect::<Vec<_>>().join("\n");
    if text.is_empty() { Ok(()) } else { print(text) }
}

/// One `KEY=VALUE` of `--filter`, in docker's grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    key: Key,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Name,
    Label,
    NoLabel,
    Dangling,
}

impl Filter {
    fn parse(text: &str) -> Result<Self, CliError> {
        let wrong = || {
            refuse("--filter", &format!("`{text}` is none of name=, label=, label!=, dangling=true or false"))
        };
        let (key, value) = text.split_once('=').ok_or_else(wrong)?;
        let key = match key {
            "name" => Key::Name,
            "label" => Key::Label,
            "label!" => Key::NoLabel,
            "dangling" if matches!(value, "true" | "1" | "false" | "0") => Key::Dangling,
            _ => return Err(wrong()),
        };
        Ok(Self { key, value: value.to_owned() })
    }

    /// Whether a volume is wanted: one filter of each key must fit, and of labels all.
    fn fit(filters: &[Self], volume: &Volume, described: &Value) -> bool {
        filters.iter().all(|one| match one.key {
            Key::Label | Key::NoLabel => one.fits(volume, described),
            key => filters.iter().any(|other| other.key == key && other.fits(volume, described)),
        })
    }

    fn fits(&self, volume: &Volume, described: &Value) -> bool {
        let labels = &volume.record.labels;
        let has_label = || match self.value.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|label| label == value),
            None => labels.contains_key(&self.value),
        };
        match self.key {
            Key::Name => volume.name().as_str().contains(&self.value),
            Key::Label => has_label(),
            Key::NoLabel => !has_label(),
            Key::Dangling => {
                let is_used = described["used_by"].as_array().is_some_and(|users| !users.is_empty());
                is_used != matches!(self.value.as_str(), "true" | "1")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_dockers() {
        let keep = tempfile::tempdir().unwrap();
        let store = VolumeStore::of(keep.path());
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let volume = store.create(&"data".parse().unwrap(), &labels).unwrap();
        let described = describe(&store, &volume).unwrap();
        let fits = |texts: &[&str]| {
            let filters: Vec<_> = texts.iter().map(|text| Filter::parse(text).unwrap()).collect();
            Filter::fit(&filters, &volume, &described)
        };
        assert!(fits(&[]) && fits(&["name=at"]) && fits(&["name=x", "name=data"]) && !fits(&["name=x"]));
        assert!(fits(&["label=a", "label=a=1"]) && !fits(&["label=a", "label=b"]) && !fits(&["label!=a"]));
        assert!(fits(&["dangling=true"]) && !fits(&["dangling=false"]) && fits(&["label!=b"]));
        for wrong in ["", "x", "nope=1", "dangling=maybe"] {
            assert!(Filter::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
