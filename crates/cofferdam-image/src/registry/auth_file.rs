//! The file that logins are in: docker's `config.json` and containers' `auth.json`, which are alike.
//!
//! Invariant: what we do not know in it is kept as it is. What serde says of a mistake is not shown: it has pieces of the
//! file in it.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::credentials::Login;
use super::endpoint::host_in_names;
use super::secret::Secret;
use crate::error::ImageError;
use crate::reference::DOCKER_HUB;
use crate::store::files::{folder_of, read_limited};

/// The largest file of logins that is read, in bytes.
const FILE_LIMIT: u64 = 4 << 20;

/// The name that docker gives Docker Hub in its files, and tells helpers.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// A file of logins.
#[derive(Clone)]
pub(super) struct AuthFile {
    path: PathBuf,
    content: Map<String, Value>,
}

impl AuthFile {
    /// Reads a file; one that is not there has nothing.
    pub(super) fn read(path: &Path) -> Result<Self, ImageError> {
        let failed =
            |source| ImageError::File { path: path.to_owned(), what: "read as a file of logins", source };
        let invalid = |why: String| failed(io::Error::new(io::ErrorKind::InvalidData, why));
        let text = match File::open(path) {
            Ok(file) => read_limited(file, FILE_LIMIT).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let content = if text.trim_ascii().is_empty() {
            Map::new()
        } else {
            serde_json::from_slice(&text).map_err(|error| {
                invalid(format!("line {} column {} is no JSON of an object", error.line(), error.column()))
            })?
        };
        Ok(Self { path: path.to_owned(), content })
    }

    /// The helper that keeps the login of a host: one for the host, else the one for all.
    pub(super) fn helper(&self, host: &str) -> Option<&str> {
        let helpers = self.content.get("credHelpers").and_then(Value::as_object);
        let of_host = helpers.and_then(|helpers| keys_of(host).find_map(|key| helpers.get(key)));
        let helper = of_host.or_else(|| self.content.get("credsStore"));
        helper.and_then(Value::as_str).filter(|name| !name.is_empty())
    }

    /// The login that is in the file itself, for a repository of a host. A key may have the beginning of a repository's name
    /// in it, as podman has them; the longest holds.
    pub(super) fn login(&self, host: &str, repository: Option<&str>) -> Result<Option<Login>, ImageError> {
        let name = repository.map_or_else(|| host.to_owned(), |repository| format!("{host}/{repository}"));
        let auths = self.content.get("auths").and_then(Value::as_object);
        let fitting = auths.into_iter().flatten().filter_map(|(key, entry)| {
            let place = place_of(key);
            let rest = name.strip_prefix(place.as_str())?;
            let fits = rest.is_empty() || rest.starts_with('/');
            (fits && !is_empty(entry)).then_some((place.len(), key, entry))
        });
        let Some((_, key, entry)) = fitting.max_by_key(|(length, ..)| *length) else { return Ok(None) };
        login(entry).map(Some).ok_or_else(|| ImageError::File {
            path: self.path.clone(),
            what: "read as a file of logins",
            source: io::Error::new(
                io::ErrorKind::InvalidData,
                format!("what it has for {key} is no login; `cofferdam login {host}` writes it anew"),
            ),
        })
    }

    /// Puts a login in, in the place of others of that host. With nothing, an empty entry says that a helper has it.
    pub(super) fn set(&mut self, host: &str, login: Option<&Login>) {
        self.remove(host);
        let entry = match login {
            Some(Login::Password { user, secret }) => {
                json!({ "auth": data_encoding::BASE64.encode(format!("{user}:{}", secret.reveal()).as_bytes()) })
            }
            Some(Login::IdentityToken(token)) => json!({ "auth": "", "identitytoken": token.reveal() }),
            None => json!({}),
        };
        let auths = self.content.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        if let Some(auths) = auths.as_object_mut() {
            auths.insert(key_of(host).to_owned(), entry);
        }
    }

    /// Takes all logins of a host out; whether there were any.
    pub(super) fn remove(&mut self, host: &str) -> bool {
        let Some(auths) = self.content.get_mut("auths").and_then(Value::as_object_mut) else { return false };
        let before = auths.len();
        auths.retain(|key, _| place_of(key) != host);
        auths.len() < before
    }

    /// Writes the file: to a temporary name that its owner alone reads, synced and renamed.
    pub(super) fn write(&self) -> Result<(), ImageError> {
        let failed = |source| ImageError::File { path: self.path.clone(), what: "written", source };
        // A link is followed: the file may be one among a user's own, kept elsewhere.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let directory = folder_of(&path).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        make_private_directory(directory).map_err(failed)?;
        let mut text = serde_json::to_vec_pretty(&self.content).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        // It is made for its owner alone (0600), and goes away where it is not renamed.
        let mut temporary = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
        temporary.write_all(&text).and_then(|()| temporary.as_file().sync_all()).map_err(failed)?;
        temporary.persist(&path).map_err(|error| failed(error.error))?;
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

/// A login, from an entry of `auths`.
fn login(entry: &Value) -> Option<Login> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Some(Login::IdentityToken(Secret::from(token.to_owned())));
    }
    let Some(auth) = text("auth") else {
        let (user, secret) = (text("username")?.to_owned(), text("password")?.to_owned());
        return Some(Login::Password { user, secret: Secret::from(secret) });
    };
    // Some tools leave the padding away; docker ignores zeros at the end.
    let bytes = data_encoding::BASE64_NOPAD.decode(auth.trim_end_matches('=').as_bytes()).ok()?;
    let (user, secret) = std::str::from_utf8(&bytes).ok()?.trim_end_matches('\0').split_once(':')?;
    Some(Login::Password { user: user.to_owned(), secret: Secret::from(secret.to_owned()) })
}

/// Whether an entry says no more than that a helper has the login.
fn is_empty(entry: &Value) -> bool {
    ["auth", "identitytoken", "username"].iter().all(|key| entry.get(key).is_none_or(|value| value == ""))
}

/// The key that docker has for a host.
pub(super) fn key_of(host: &str) -> &str {
    if host == DOCKER_HUB { DOCKER_HUB_KEY } else { host }
}

/// The keys that others have for a host, docker's first.
fn keys_of(host: &str) -> impl Iterator<Item = &str> {
    [key_of(host)].into_iter().chain([host]).chain((host == DOCKER_HUB).then_some("index.docker.io"))
}

/// The host that a key is for, with the beginning of a repository's name if there is one.
fn place_of(key: &str) -> String {
    let without_scheme = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    // A URL's path is the version of a protocol, and no repository.
    let place = without_scheme.map_or(key, |url| url.split('/').next().unwrap_or(url));
    let (host, rest) = place.split_at(place.find('/').unwrap_or(place.len()));
    format!("{}{}", host_in_names(host), rest.trim_end_matches('/'))
}

/// Makes a directory for its owner alone, unless it is there.
fn make_private_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(text: &str) -> AuthFile {
        AuthFile { path: "/x".into(), content: serde_json::from_str(text).unwrap() }
    }

    fn password(user: &str, secret: &str) -> Login {
        Login::Password { user: user.into(), secret: Secret::from(secret.to_owned()) }
    }

    #[test]
    fn logins_are_found_by_host_and_by_the_longest_beginning_of_a_name() {
        // user:pass, deep:pass, a:b:c
        let file = file(
            r#"{"auths":{
                "https://index.docker.io/v1/": {"auth": "dXNlcjpwYXNz"},
                "quay.io": {"auth": "dXNlcjpwYXNz"},
                "quay.io/team": {"auth": "ZGVlcDpwYXNz"},
                "http://plain.example:5000/v2/": {"auth": "YTpiOmM"},
                "token.example": {"auth": "", "identitytoken": "T"},
                "words.example": {"username": "u", "password": "p"},
                "helped.example": {}
            }}"#,
        );
        let cases = [
            ("docker.io", None, Some(password("user", "pass"))),
            ("docker.io", Some("library/alpine"), Some(password("user", "pass"))),
            ("quay.io", Some("team/app"), Some(password("deep", "pass"))),
            ("quay.io", Some("teamwork/app"), Some(password("user", "pass"))),
            ("plain.example:5000", Some("x"), Some(password("a", "b:c"))),
            ("plain.example", Some("x"), None),
            ("token.example", None, Some(Login::IdentityToken(Secret::from("T".to_owned())))),
            ("words.example", None, Some(password("u", "p"))),
            ("helped.example", None, None),
            ("other.example", None, None),
        ];
        for (host, repository, expected) in cases {
            assert_eq!(file.login(host, repository).unwrap(), expected, "{host} {repository:?}");
        }
    }

    #[test]
    fn a_helper_of_the_host_comes_before_the_one_for_all() {
        let file = file(
            r#"{"credsStore":"all","credHelpers":{"a.example":"one","https://index.docker.io/v1/":"hub"}}"#,
        );
        let helpers = ["a.example", "docker.io", "b.example"].map(|host| file.helper(host));
        assert_eq!(helpers, [Some("one"), Some("hub"), Some("all")]);
    }

    #[test]
    fn a_mistake_does_not_show_what_is_in_the_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("config.json");
        for text in [r#"["dXNlcjpwYXNz"]"#, r#"{"auths": dXNlcjpwYXNz}"#] {
            std::fs::write(&path, text).unwrap();
            let Err(error) = AuthFile::read(&path) else { panic!("{text} is read") };
            assert!(!format!("{error:?}").contains("dXNlcjpwYXNz"), "{error:?}");
        }
        let file = file(r#"{"auths":{"a.example":{"auth":"dXNlcjpwYXNz!"}}}"#);
        let error = format!("{:?}", file.login("a.example", None).unwrap_err());
        assert!(error.contains("cofferdam login a.example") && !error.contains("dXNl"), "{error}");
    }

    #[test]
    fn writing_keeps_what_others_wrote() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("new/config.json");
        let mut file = AuthFile::read(&path).unwrap();
        file.set("docker.io", Some(&password("user", "pass")));
        file.write().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let before =
            r#"{"z":1.50,"auths":{"docker.io":{"auth":"x"},"b":{"auth":"Yjpi"}},"a":[true,null,1e400]}"#;
        // A number that no f64 has would not be read.
        let before = before.replace("1e400", "18446744073709551615");
        std::fs::write(&path, &before).unwrap();
        let mut file = AuthFile::read(&path).unwrap();
        file.set("docker.io", Some(&password("user", "pass")));
        file.write().unwrap();
        let after: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let expected = r#"{"z":1.50,"auths":{"b":{"auth":"Yjpi"},"https://index.docker.io/v1/":{"auth":"dXNlcjpwYXNz"}},
            "a":[true,null,18446744073709551615]}"#;
        assert_eq!(after, serde_json::from_str::<Value>(expected).unwrap());
        let mut file = AuthFile::read(&path).unwrap();
        assert!(file.remove("docker.io") && !file.remove("docker.io"));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
