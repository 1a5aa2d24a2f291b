//! Logins that were stored before, by us, docker, podman or skopeo.
//!
//! Files are read and helpers are asked when a host wants a login, and not before.

use std::path::{Path, PathBuf};

use super::auth_file::{AuthFile, key_of};
use super::helper_program::{self, HelperError};
use super::secret::Secret;
use crate::error::ImageError;

/// Where logins are.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// The first that has a login for a host is used.
    files: Vec<PathBuf>,
}

/// A login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Login {
    Password {
        user: String,
        secret: Secret,
    },
    /// What the service for tokens takes in the place of a password.
    IdentityToken(Secret),
}

impl Credentials {
    /// None: every registry is anonymous, and no login can be stored.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Those in files. The first is also the one that logins are stored in.
    #[must_use]
    pub fn in_files(files: Vec<PathBuf>) -> Self {
        Self { files }
    }

    /// Those of the user, by the variables of docker and of podman: `$REGISTRY_AUTH_FILE` alone where it is set; else
    /// `config.json` in `$DOCKER_CONFIG` or `~/.docker`, then `containers/auth.json` in `$XDG_RUNTIME_DIR` and in `~/.config`.
    ///
    /// `variable` gives an environment variable; [`std::env::var_os`] for the one of this process.
    #[must_use]
    pub fn of_user(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Self {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(file) = path("REGISTRY_AUTH_FILE") {
            return Self::in_files(vec![file]);
        }
        let home = path("HOME");
        let below_home = |rest: &str| home.as_ref().map(|home| home.join(rest));
        let docker = path("DOCKER_CONFIG").or_else(|| below_home(".docker"));
        let podman = [path("XDG_RUNTIME_DIR"), below_home(".config")];
        let docker = docker.map(|directory| directory.join("config.json"));
        let podman = podman.into_iter().flatten().map(|directory| directory.join("containers/auth.json"));
        Self::in_files(docker.into_iter().chain(podman).collect())
    }

    /// The login for a repository of a host.
    ///
    /// Cancel safe: a helper that is being asked is ended.
    pub(super) async fn login(
        &self,
        host: &str,
        repository: Option<&str>,
    ) -> Result<Option<Login>, ImageError> {
        for path in &self.files {
            let file = AuthFile::read(path)?;
            if let Some(helper) = file.helper(host) {
                let found = helper_program::get(helper, key_of(host)).await;
                if let Some(login) = found.map_err(|source| helper_failed(host, "read", source))? {
                    tracing::debug!(host, helper, "has a login");
                    return Ok(Some(login));
                }
            }
            if let Some(login) = file.login(host, repository)? {
                tracing::debug!(host, file = %path.display(), "has a login");
                return Ok(Some(login));
            }
        }
        Ok(None)
    }

    /// Stores a login, with the helper that the file names for the host, else in the file.
    pub(super) async fn store(&self, host: &str, login: Login) -> Result<(), ImageError> {
        let mut file = AuthFile::read(self.first(host)?)?;
        let helper = file.helper(host).map(str::to_owned);
        if let Some(helper) = &helper {
            let stored = helper_program::store(helper, key_of(host), &login).await;
            stored.map_err(|source| helper_failed(host, "stored", source))?;
        }
        file.set(host, if helper.is_some() { None } else { Some(&login) });
        file.write()
    }

    /// Forgets the login of a host, wherever it is; whether there was one.
    pub(super) async fn forget(&self, host: &str) -> Result<bool, ImageError> {
        let mut had_one = false;
        for path in &self.files {
            let mut file = AuthFile::read(path)?;
            if let Some(helper) = file.helper(host) {
                let erased = helper_program::erase(helper, key_of(host)).await;
                had_one |= erased.map_err(|source| helper_failed(host, "erased", source))?;
            }
            if file.remove(host) {
                file.write()?;
                had_one = true;
            }
        }
        Ok(had_one)
    }

    fn first(&self, host: &str) -> Result<&Path, ImageError> {
        self.files.first().map(PathBuf::as_path).ok_or_else(|| ImageError::Registry {
            registry: host.to_owned(),
            what: "its login is not stored".to_owned(),
            source: "there is no file for logins; set HOME or DOCKER_CONFIG".into(),
        })
    }
}

fn helper_failed(host: &str, what: &str, source: HelperError) -> ImageError {
    ImageError::Registry {
        registry: host.to_owned(),
        what: format!("its login is not {what}"),
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_where_docker_and_podman_have_them() {
        let files = |variables: &[(&str, &str)]| {
            let variable = |wanted: &str| {
                variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).into())
            };
            let files = Credentials::of_user(variable).files;
            files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(files(&[]), [""; 0]);
        assert_eq!(
            files(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/u")]),
            ["/h/.docker/config.json", "/run/u/containers/auth.json", "/h/.config/containers/auth.json"]
        );
        assert_eq!(files(&[("DOCKER_CONFIG", "/d"), ("HOME", "")]), ["/d/config.json"]);
        assert_eq!(files(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/a.json")]), ["/a.json"]);
    }
}
