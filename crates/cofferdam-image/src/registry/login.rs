//! Logging in and out.
//!
//! A login is shown to the registry before it is stored.

use reqwest::StatusCode;

use super::Registry;
use super::credentials::Login;
use super::endpoint::{self, host_in_names};
use super::fault::Fault;
use super::host::{Host, Question};
use super::secret::Secret;
use super::tokens;
use crate::error::ImageError;

impl Registry {
    /// Stores a login for a host, once the host has taken it. `host` is a host with its port as in names of images, or
    /// what people take for it (`https://HOST/`, `index.docker.io`).
    ///
    /// A dropped call may have stored it.
    ///
    /// # Errors
    /// [`ImageError::Denied`] where the host does not take it; others where it is not reached, or the login cannot be stored.
    pub async fn login(&self, host: &str, user: &str, secret: Secret) -> Result<(), ImageError> {
        let host = host_name(host)?;
        if user.is_empty() || user.contains(':') || secret.is_empty() {
            return Err(ImageError::Denied {
                registry: host,
                what: "anything".to_owned(),
                source: Some("a user's name without a colon and a password are needed".into()),
            });
        }
        let login = Login::Password { user: user.to_owned(), secret };
        let connection = self.host(&endpoint::of_host(self.config(), &host))?;
        let checked = check(&connection, &login).await;
        checked.map_err(|fault| fault.into_error(&host, "anything", "the login is not tried"))?;
        self.credentials().store(&host, login).await
    }

    /// Forgets the login of a host; whether there was one. The host is not asked.
    ///
    /// # Errors
    /// [`ImageError`] of the file or helper that has it.
    pub async fn logout(&self, host: &str) -> Result<bool, ImageError> {
        self.credentials().forget(&host_name(host)?).await
    }
}

/// Shows a login to a host.
async fn check(host: &Host, login: &Login) -> Result<(), Fault> {
    let question = Question { path: String::new(), repository: None, accept: None, offset: 0 };
    let response = host.send(&question, None).await?;
    if response.status() != StatusCode::UNAUTHORIZED {
        // It takes everybody, as docker's login has it too.
        return host.accepted(response).await.map(drop);
    }
    let header = std::sync::Arc::new(tokens::verify(host, &response, login).await?);
    host.accepted(host.send(&question, Some(&header)).await?).await.map(drop)
}

/// A host as it stands in names of images.
fn host_name(text: &str) -> Result<String, ImageError> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let host = host.split('/').next().unwrap_or(host);
    let host = host_in_names(host);
    // A host is what may stand before a repository.
    match crate::reference::reference(&format!("{host}/x")) {
        Ok(reference) if reference.registry() == host => Ok(host.to_owned()),
        _ => Err(ImageError::BadReference {
            reference: text.to_owned(),
            why: "a host is wanted, such as registry.example:5000".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_people_write_them() {
        for (text, host) in [
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("http://127.0.0.1:5000/v2/", "127.0.0.1:5000"),
            ("quay.io", "quay.io"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(host_name(text).unwrap(), host);
        }
        for text in ["", "alpine", "user@host.example", "a b", "https://"] {
            assert!(host_name(text).is_err(), "{text}");
        }
    }
}
