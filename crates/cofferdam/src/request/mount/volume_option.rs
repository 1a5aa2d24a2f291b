//! `--volume [SOURCE:]DESTINATION[:OPTIONS]`.

use super::{MountFlags, MountKind, MountOption, MountRequest, Propagation, bind_source, destination};
use crate::id::{VolumeName, quote};

/// Words of docker's that have no meaning here: labels of SELinux, and caches of Docker Desktop.
pub(super) const IGNORED: [&str; 5] = ["z", "Z", "delegated", "cached", "consistent"];

/// What the words after the second colon say.
#[derive(Debug, Default)]
struct Words {
    read_only: Option<bool>,
    propagation: Option<Propagation>,
    recursive: Option<bool>,
    no_copy: bool,
    flags: MountFlags,
    ignored: Vec<String>,
}

pub(super) fn parse(text: &str) -> Result<MountRequest, String> {
    let form = || format!("{} is not of the form [SOURCE:]DESTINATION[:OPTIONS]", quote(text));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, words) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [target, options]
            if !options.is_empty() && target.starts_with('/') && Words::parse(options).is_ok() =>
        {
            return Err(format!(
                "{} has options and no source: give the volume a name, or use --mount type=volume",
                quote(text)
            ));
        }
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err(format!("{}; --mount takes paths with colons", form())),
    };
    if target.is_empty() || source.is_some_and(str::is_empty) {
        return Err(form());
    }
    let destination = destination(target)?;
    let words = Words::parse(words)?;
    let kind = match source {
        Some(source) if source.starts_with(['/', '.']) => words.bind(source)?,
        Some(name) => words.volume(name.parse().map_err(|error| no_source(name, &error))?, false)?,
        None => words.volume(VolumeName::generate(), true)?,
    };
    let Words { read_only, flags, ignored, .. } = words;
    let read_only = read_only.unwrap_or_default();
    Ok(MountRequest { option: MountOption::Volume, destination, kind, read_only, flags, ignored })
}

fn no_source(text: &str, error: &crate::id::InvalidId) -> String {
    if text.contains('/') || text.starts_with('~') {
        format!("the source {} is neither an absolute path, nor begins with ./, nor is a name", quote(text))
    } else {
        error.to_string()
    }
}

impl Words {
    fn parse(text: &str) -> Result<Self, String> {
        let mut words = Self::default();
        for word in text.split(',').filter(|_| !text.is_empty()) {
            words.take(word)?;
        }
        Ok(words)
    }

    /// Takes one word. docker takes one word of each kind, too.
    fn take(&mut self, word: &str) -> Result<(), String> {
        let before = self.flags;
        let repeated = if let Some(propagation) = Propagation::from_word(word) {
            self.propagation.replace(propagation).is_some()
        } else if IGNORED.contains(&word) {
            self.ignored.push(word.to_owned());
            false
        } else if self.flags.take(word) {
            // One that was open is taken now.
            before.words().count() == self.flags.words().count()
        } else {
            match word {
                "ro" | "rw" => self.read_only.replace(word == "ro").is_some(),
                "rbind" | "bind" => self.recursive.replace(word == "rbind").is_some(),
                "nocopy" => std::mem::replace(&mut self.no_copy, true),
                _ => return Err(unknown(word)),
            }
        };
        if repeated {
            return Err(format!("the option {} contradicts or repeats another one", quote(word)));
        }
        Ok(())
    }

    fn bind(&self, source: &str) -> Result<MountKind, String> {
        if self.no_copy {
            return Err("nocopy is for volumes: nothing is copied into a path of the host".into());
        }
        Ok(MountKind::Bind {
            source: bind_source(source)?,
            propagation: self.propagation.unwrap_or_default(),
            recursive: self.recursive.unwrap_or(true),
        })
    }

    fn volume(&self, name: VolumeName, anonymous: bool) -> Result<MountKind, String> {
        if let Some(propagation) = self.propagation {
            return Err(format!("{} is for a path of the host, and not for a volume", propagation.word()));
        }
        if let Some(recursive) = self.recursive {
            let word = if recursive { "rbind" } else { "bind" };
            return Err(format!("{word} is for a path of the host, and not for a volume"));
        }
        Ok(MountKind::Volume { name, anonymous, copy: !self.no_copy, labels: Default::default() })
    }
}

fn unknown(word: &str) -> String {
    format!(
        "the option {} is not known here: use ro, rw, nocopy, exec, noexec, suid, nosuid, dev, nodev, rbind, bind, \
         or a propagation such as rslave",
        quote(word)
    )
}
