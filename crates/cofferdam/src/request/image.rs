//! An image as the source of a container: what it says of the container, unless the caller says otherwise.
//!
//! Invariant: what an image says is never more than a default that the caller could have typed; its labels are text.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{HealthRequest, LaunchRequest, Refused, Source, UserSpec};
use super::{check_cwd, check_env_entry, check_string};
use crate::signal::Signal;

/// An image whose layers lie unpacked on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUse {
    /// Its name, as it was asked for.
    pub name: String,
    /// Its id: the digest of its configuration.
    pub id: String,
    /// The directories of its layers, lowest first; whiteouts in them are overlayfs's.
    pub layers: Vec<PathBuf>,
    /// The directory below which containers get a directory of their own to write to.
    pub rootfs_dir: PathBuf,
    /// A file whose lock (flock, shared) keeps the layers from being removed.
    pub hold: PathBuf,
    /// What it says of containers.
    pub defaults: ImageDefaults,
}

/// What an image says of its containers (`config` of the image specification).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDefaults {
    /// The beginning of the command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The rest of it, which the caller's words replace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Environment entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The signal that asks it to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Directories that are to outlive the container's root filesystem.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Ports that it listens on, such as `80/tcp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// How it is asked whether it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthRequest>,
}

/// Fills in what the caller leaves to the image.
///
/// # Errors
/// [`Refused`] where the image's own words cannot be right, or there is no command.
pub(super) fn fill_in(mut request: LaunchRequest) -> Result<LaunchRequest, Refused> {
    let Source::Image(image) = &request.source else {
        if request.entrypoint.is_some() {
            return Err(Refused::new("--entrypoint", "it is for images: give the whole command"));
        }
        return Ok(request);
    };
    if image.layers.is_empty() {
        return Err(Refused::new(
            "IMAGE",
            format!("{} has no layers, so there is nothing in it", image.name),
        ));
    }
    let defaults = image.defaults.clone();
    check(&defaults).map_err(|refused| Refused {
        field: format!("the configuration of {}", image.name),
        why: refused.why,
    })?;
    request.args = command(&defaults, request.entrypoint.take(), std::mem::take(&mut request.args));
    if request.args.is_empty() {
        return Err(Refused::new("COMMAND", format!("{} has no command of its own: name one", image.name)));
    }
    request.env = [defaults.env, request.env].concat();
    request.cwd = request.cwd.or(defaults.cwd);
    request.user = request.user.or(defaults.user);
    request.stop_signal = request.stop_signal.or(defaults.stop_signal);
    request.health = health(defaults.health.filter(|_| !request.no_healthcheck), request.health);
    request.labels = defaults.labels.into_iter().chain(request.labels).collect();
    Ok(request)
}

/// docker's rule: the caller's words replace `cmd`; an entrypoint of the caller's replaces both.
fn command(defaults: &ImageDefaults, entrypoint: Option<String>, args: Vec<String>) -> Vec<String> {
    match entrypoint {
        // An empty one takes the image's away.
        Some(own) => Some(own).into_iter().filter(|own| !own.is_empty()).chain(args).collect(),
        None if args.is_empty() => [&defaults.entrypoint[..], &defaults.cmd].concat(),
        None => defaults.entrypoint.iter().cloned().chain(args).collect(),
    }
}

/// docker's rule: a probe of the caller's replaces the image's, and what else the caller says holds for the image's, too.
fn health(image: Option<HealthRequest>, own: Option<HealthRequest>) -> Option<HealthRequest> {
    match (image, own) {
        (Some(image), Some(own)) => Some(own.or(image)),
        (image, own) => own.or(image),
    }
}

fn check(defaults: &ImageDefaults) -> Result<(), Refused> {
    defaults.env.iter().try_for_each(|entry| check_env_entry(entry))?;
    defaults.cwd.iter().try_for_each(|cwd| check_cwd(cwd))?;
    let wrong = |why: String| Refused::new("image", why);
    defaults
        .user
        .as_deref()
        .map(UserSpec::parse)
        .transpose()
        .map_err(|why| wrong(format!("its User: {why}")))?;
    let signal = defaults.stop_signal.as_deref().map(str::parse::<Signal>).transpose();
    signal.map_err(|error| wrong(format!("its StopSignal: {error}")))?;
    defaults.entrypoint.iter().chain(&defaults.cmd).try_for_each(|word| check_string("command", word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::validate;

    fn image(defaults: ImageDefaults) -> Source {
        Source::Image(Box::new(ImageUse {
            name: "app:1".into(),
            id: "sha256:0".into(),
            layers: vec!["/layers/a".into()],
            rootfs_dir: "/data/rootfs".into(),
            hold: "/data/images/lock".into(),
            defaults,
        }))
    }

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_command_is_put_together_as_docker_does() {
        let both = ImageDefaults {
            entrypoint: words(&["/init"]),
            cmd: words(&["serve"]),
            ..ImageDefaults::default()
        };
        let only_cmd = ImageDefaults { cmd: words(&["sh", "-c", "x"]), ..ImageDefaults::default() };
        for (defaults, entrypoint, args, expected) in [
            (&both, None, &[][..], &["/init", "serve"][..]),
            (&both, None, &["test"], &["/init", "test"]),
            (&both, Some("sh"), &[], &["sh"]),
            (&both, Some("sh"), &["-c", "y"], &["sh", "-c", "y"]),
            (&both, Some(""), &["env"], &["env"]),
            (&only_cmd, None, &[], &["sh", "-c", "x"]),
            (&only_cmd, None, &["env"], &["env"]),
        ] {
            let made = command(defaults, entrypoint.map(str::to_owned), words(args));
            assert_eq!(made, expected, "{entrypoint:?} {args:?}");
        }
    }

    #[test]
    fn the_callers_words_come_before_the_images() {
        let defaults = ImageDefaults {
            cmd: words(&["serve"]),
            env: words(&["PATH=/bin", "A=image"]),
            user: Some("app:staff".into()),
            cwd: Some("/srv".into()),
            stop_signal: Some("SIGQUIT".into()),
            labels: BTreeMap::from([("a".into(), "image".into()), ("b".into(), "image".into())]),
            ..ImageDefaults::default()
        };
        let mut request = LaunchRequest::new(image(defaults.clone()));
        let plan = validate(request.clone()).unwrap();
        assert_eq!(plan.cwd.as_deref(), Some("/srv"));
        assert_eq!(plan.stopping.signal.to_string(), "SIGQUIT");
        assert_eq!(plan.labels["a"], "image");
        request.env = words(&["A=mine"]);
        request.cwd = Some("/".into());
        request.user = Some("0".into());
        request.labels = BTreeMap::from([("a".into(), "mine".into())]);
        let plan = validate(request).unwrap();
        assert_eq!(plan.env, words(&["PATH=/bin", "A=image", "A=mine"]), "the last of a key holds");
        assert_eq!((plan.cwd.as_deref(), plan.labels["a"].as_str()), (Some("/"), "mine"));
        assert_eq!(plan.labels["b"], "image");
    }

    #[test]
    fn a_health_check_is_the_images_where_the_caller_says_nothing() {
        let probe = |word: &str| HealthRequest { command: words(&[word]), ..HealthRequest::default() };
        let image = HealthRequest { interval_ms: Some(500), retries: Some(5), ..probe("image") };
        let numbers = HealthRequest { retries: Some(1), ..HealthRequest::default() };
        for (own, expected) in [
            (None, image.clone()),
            (Some(numbers), HealthRequest { retries: Some(1), ..image.clone() }),
            (Some(probe("own")), HealthRequest { command: words(&["own"]), ..image.clone() }),
        ] {
            assert_eq!(health(Some(image.clone()), own), Some(expected));
        }
        assert_eq!(health(None, None), None);
        let tcp = HealthRequest { tcp: Some("localhost:1".into()), ..HealthRequest::default() };
        assert_eq!(
            health(Some(image), Some(tcp)).map(|request| request.command),
            Some(vec![]),
            "one probe alone"
        );
    }

    #[test]
    fn an_image_that_cannot_be_right_is_refused() {
        for (defaults, word) in [
            (ImageDefaults::default(), "no command"),
            (
                ImageDefaults { cmd: words(&["x"]), env: words(&["=x"]), ..ImageDefaults::default() },
                "no name",
            ),
            (
                ImageDefaults {
                    cmd: words(&["x"]),
                    cwd: Some("/proc/self/fd/7".into()),
                    ..ImageDefaults::default()
                },
                "lead out",
            ),
            (ImageDefaults { cmd: words(&["a\0b"]), ..ImageDefaults::default() }, "NUL"),
        ] {
            let refused = validate(LaunchRequest::new(image(defaults))).unwrap_err().to_string();
            assert!(refused.contains(word), "{refused}");
        }
        let mut request = LaunchRequest::new(Source::Rootfs { path: "/r".into() });
        (request.args, request.entrypoint) = (words(&["x"]), Some("y".into()));
        assert!(validate(request).unwrap_err().to_string().contains("for images"));
    }
}
