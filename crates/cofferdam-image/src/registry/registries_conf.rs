//! `registries.conf` of podman, skopeo and buildah, version 2 of its format.
//!
//! `unqualified-search-registries` and short names are left alone: a name without a host means Docker Hub, as for docker.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::config::{Mirror, RegistryConfig, Rule};
use crate::error::ImageError;
use crate::store::files::read_limited;

/// The largest file that is read, in bytes.
const FILE_LIMIT: u64 = 1 << 20;

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    registry: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    prefix: Option<String>,
    location: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror: Vec<MirrorEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorEntry {
    location: String,
    #[serde(default)]
    insecure: bool,
}

impl RegistryConfig {
    /// Adds what a file in the format of `registries.conf` settles: prefixes, locations, mirrors, and what is insecure or
    /// blocked. A file that is not there settles nothing; a rule for a prefix that is there already is put in its place.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub fn add_registries_conf(&mut self, path: &Path) -> Result<(), ImageError> {
        let failed = |source| ImageError::File { path: path.to_owned(), what: "read", source };
        let invalid = |why: String| failed(io::Error::new(io::ErrorKind::InvalidData, why));
        let text = match File::open(path) {
            Ok(file) => read_limited(file, FILE_LIMIT).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        let text = String::from_utf8(text).map_err(|error| invalid(error.to_string()))?;
        for rule in rules(&text).map_err(invalid)? {
            self.rules.retain(|other| other.prefix != rule.prefix);
            self.rules.push(rule);
        }
        Ok(())
    }

    /// Adds what this machine's files settle: `/etc/containers/registries.conf`, and those in the directory
    /// `registries.conf.d` beside it, in the order of their names.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub fn add_system_registries_conf(&mut self) -> Result<(), ImageError> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir("/etc/containers/registries.conf.d")
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
            .collect();
        paths.sort();
        paths.insert(0, "/etc/containers/registries.conf".into());
        paths.iter().try_for_each(|path| self.add_registries_conf(path))
    }
}

fn rules(text: &str) -> Result<Vec<Rule>, String> {
    let document: Document = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    document.registry.into_iter().map(rule).collect()
}

fn rule(entry: Entry) -> Result<Rule, String> {
    let Entry { prefix, location, insecure, blocked, mirror } = entry;
    let prefix =
        prefix.or_else(|| location.clone()).ok_or("a [[registry]] has neither prefix nor location")?;
    if prefix.starts_with("*.") {
        return Err(format!(
            "the prefix `{prefix}` is for several hosts, which is not read; write one for each"
        ));
    }
    let mirrors = mirror
        .into_iter()
        .map(|mirror| Mirror { location: mirror.location, insecure: mirror.insecure })
        .collect();
    Ok(Rule { prefix, location, insecure, blocked, mirrors })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manuals_example_is_read() {
        let text = r#"
            unqualified-search-registries = ["example.com"]
            short-name-mode = "enforcing"

            [[registry]]
            prefix = "example.com/foo"
            insecure = false
            blocked = false
            location = "internal-registry-for-example.com/bar"

            [[registry.mirror]]
            location = "example-mirror-0.local/mirror-for-foo"

            [[registry.mirror]]
            location = "example-mirror-1.local/mirrors/foo"
            insecure = true

            [[registry]]
            location = "registry.example"
            blocked = true

            [aliases]
            "x" = "example.com/x"
        "#;
        let rules = rules(text).unwrap();
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[0].prefix, "example.com/foo");
        assert_eq!(rules[0].location.as_deref(), Some("internal-registry-for-example.com/bar"));
        assert_eq!(rules[0].mirrors.len(), 2);
        assert!(rules[0].mirrors[1].insecure && !rules[0].mirrors[0].insecure);
        assert!(rules[1].blocked && rules[1].prefix == "registry.example");
    }

    #[test]
    fn mistakes_are_told_with_the_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("registries.conf");
        let mut config = RegistryConfig::default();
        config.add_registries_conf(&path).unwrap();
        for text in ["[[registry]]\ninsecure = true", "[[registry]", "[[registry]]\nprefix = \"*.example\""] {
            std::fs::write(&path, text).unwrap();
            let error = config.add_registries_conf(&path).unwrap_err();
            assert!(error.to_string().contains("registries.conf"), "{error}");
        }
        // What comes after the limit could be a mirror, or a block.
        let limit = usize::try_from(FILE_LIMIT).unwrap();
        std::fs::write(&path, format!("#{}\n", "x".repeat(limit))).unwrap();
        assert!(matches!(config.add_registries_conf(&path), Err(ImageError::File { source, .. })
            if source.kind() == io::ErrorKind::FileTooLarge));
        for location in ["a.example", "b.example"] {
            std::fs::write(&path, format!("[[registry]]\nprefix = \"x\"\nlocation = \"{location}\""))
                .unwrap();
            config.add_registries_conf(&path).unwrap();
        }
        assert_eq!(config.rules.len(), 1);
        assert_eq!(config.rules[0].location.as_deref(), Some("b.example"));
    }
}
