//! One instruction after the other, carried out on a configuration.

use std::collections::BTreeSet;

use cofferdam::signal::Signal;
use oci_spec::image::Config;

use super::{CommitError, words};

/// More of a change is not printed.
const PRINTED: usize = 100;
/// The shell that commands are given to which are no list.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

pub(super) fn apply(config: &mut Config, changes: &[String]) -> Result<(), CommitError> {
    let mut has_command = false;
    for change in changes {
        one(config, change.trim(), &mut has_command).map_err(|why| CommitError {
            change: change.chars().take(PRINTED).collect::<String>().escape_debug().to_string(),
            why,
        })?;
    }
    Ok(())
}

/// The instructions that an image's configuration has a place for.
const KNOWN: [&str; 9] =
    ["CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"];

fn one(config: &mut Config, change: &str, has_command: &mut bool) -> Result<(), String> {
    let (instruction, text) = change.split_once(char::is_whitespace).unwrap_or((change, ""));
    let (instruction, text) = (instruction.to_ascii_uppercase(), text.trim());
    if !KNOWN.contains(&instruction.as_str()) {
        return Err(format!("it is none of {}", KNOWN.join(", ")));
    }
    if text.is_empty() {
        return Err(format!("{instruction} needs a value"));
    }
    match instruction.as_str() {
        "CMD" => {
            *has_command = true;
            config.set_cmd(Some(command(text)));
        }
        "ENTRYPOINT" => {
            config.set_entrypoint(Some(command(text)));
            if !*has_command {
                config.set_cmd(None);
            }
        }
        instruction => set(config, instruction, text)?,
    }
    Ok(())
}

/// Carries out what takes variables.
fn set(config: &mut Config, instruction: &str, text: &str) -> Result<(), String> {
    let env = config.env().clone().unwrap_or_default();
    match instruction {
        "ENV" => {
            let added = pairs(text, &env)?;
            config.set_env(Some(with(env, added)));
        }
        "LABEL" => {
            let mut labels = config.labels().clone().unwrap_or_default();
            labels.extend(pairs(text, &env)?);
            config.set_labels(Some(labels));
        }
        "EXPOSE" => {
            let words = words::split(text, &env)?;
            let added = words.iter().map(|word| ports(word)).collect::<Result<Vec<_>, _>>()?;
            config.set_exposed_ports(Some(joined(config.exposed_ports().as_deref(), added.concat())));
        }
        "VOLUME" => {
            let added = volumes(text, &env)?;
            config.set_volumes(Some(joined(config.volumes().as_deref(), added)));
        }
        "WORKDIR" => {
            let below = config.working_dir().clone().unwrap_or_default();
            let directory = directory(&below, &single(text, &env)?);
            config.set_working_dir(Some(directory));
        }
        "USER" => {
            config.set_user(Some(single(text, &env)?));
        }
        _ => {
            let signal = single(text, &env)?;
            signal.parse::<Signal>().map_err(|error| error.to_string())?;
            config.set_stop_signal(Some(signal));
        }
    }
    Ok(())
}

/// What there was and what comes to it, each once, sorted.
fn joined(old: Option<&[String]>, added: Vec<String>) -> Vec<String> {
    let all: BTreeSet<String> = old.unwrap_or_default().iter().cloned().chain(added).collect();
    all.into_iter().collect()
}

/// A list in JSON, or a line for the shell.
fn command(text: &str) -> Vec<String> {
    serde_json::from_str(text)
        .unwrap_or_else(|_| SHELL.iter().copied().chain([text]).map(ToOwned::to_owned).collect())
}

/// The one value of an instruction.
fn single(text: &str, env: &[String]) -> Result<String, String> {
    match &mut words::split(text, env)?[..] {
        [word] if !word.is_empty() => Ok(std::mem::take(word)),
        [_] => Err("its value is empty".into()),
        _ => Err("it has one value".into()),
    }
}

/// `KEY=VALUE` words, or, as in old Dockerfiles, a key and all that follows.
fn pairs(text: &str, env: &[String]) -> Result<Vec<(String, String)>, String> {
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    if !first.contains('=') && !first.starts_with(['"', '\'']) {
        if rest.is_empty() {
            return Err(format!("{first} has no value"));
        }
        return Ok(vec![(words::whole(first, env)?, words::whole(rest.trim(), env)?)]);
    }
    let pair = |word: String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{}` is not KEY=VALUE", word.escape_debug())),
    };
    words::split(text, env)?.into_iter().map(pair).collect()
}

/// Variables with others, which replace those of the same names.
fn with(mut env: Vec<String>, added: Vec<(String, String)>) -> Vec<String> {
    for (key, value) in added {
        let entry = format!("{key}={value}");
        match env.iter_mut().find(|old| old.split_once('=').is_some_and(|(name, _)| name == key)) {
            Some(old) => *old = entry,
            None => env.push(entry),
        }
    }
    env
}

/// `PORT`, `PORT-PORT`, each with a protocol or without.
fn ports(word: &str) -> Result<Vec<String>, String> {
    let (range, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last && ["tcp", "udp", "sctp"].contains(&protocol.as_str()) => {
            Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
        }
        _ => Err(format!("`{}` is no port, such as 80, 53/udp or 8000-8010", word.escape_debug())),
    }
}

/// A list in JSON, or words.
fn volumes(text: &str, env: &[String]) -> Result<Vec<String>, String> {
    let list = serde_json::from_str::<Vec<String>>(text);
    let paths = list.map_or_else(|_| words::split(text, env), Ok)?;
    if paths.is_empty() || paths.iter().any(String::is_empty) {
        return Err("it names no path".into());
    }
    Ok(paths)
}

/// A directory below another one, or by itself, without `.` and `..`.
fn directory(below: &str, path: &str) -> String {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("{below}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
