//! The health check of an image. It is docker's own field of a configuration (`config.Healthcheck`), which the
//! specification of images does not have: `HealthConfig` of its API.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::error::ImageError;

/// How an image wants its containers to be asked whether they are well. `None` is left to who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// A command for the container; exit code 0 is well.
    pub command: Vec<String>,
    /// Time between two probes.
    pub interval: Option<Duration>,
    /// How long a probe may take.
    pub timeout: Option<Duration>,
    /// Time from the start in which a failure does not count.
    pub start_period: Option<Duration>,
    /// How many failures one after the other make it unhealthy.
    pub retries: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Written {
    #[serde(default)]
    test: Option<Vec<String>>,
    /// Nanoseconds, as all times here; 0 is the default's place.
    #[serde(default)]
    interval: i64,
    #[serde(default)]
    timeout: i64,
    #[serde(default)]
    start_period: i64,
    #[serde(default)]
    retries: i64,
}

impl Healthcheck {
    /// Reads it from the whole configuration of an image. `None` where there is none, or it is `NONE`.
    ///
    /// # Errors
    /// [`ImageError::Invalid`]: it is none that docker would write.
    pub fn read(configuration: &Value) -> Result<Option<Self>, ImageError> {
        let config = &configuration["config"];
        let invalid = |why: String| ImageError::invalid("the image's Healthcheck", why);
        let written: Option<Written> = Deserialize::deserialize(&config["Healthcheck"])
            .map_err(|error: serde_json::Error| invalid(error.to_string()))?;
        let Some(written) = written else { return Ok(None) };
        let test = written.test.unwrap_or_default();
        let command = match test.split_first() {
            None => return Ok(None),
            Some((word, [])) if word == "NONE" => return Ok(None),
            Some((word, command @ [_, ..])) if word == "CMD" => command.to_vec(),
            Some((word, [text])) if word == "CMD-SHELL" => {
                let shell: Option<Vec<String>> = Deserialize::deserialize(&config["Shell"])
                    .map_err(|error: serde_json::Error| invalid(format!("its Shell: {error}")))?;
                let shell = shell.filter(|shell| !shell.is_empty());
                let shell = shell.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
                shell.into_iter().chain([text.clone()]).collect()
            }
            Some((word, rest)) => {
                let count = rest.len();
                return Err(invalid(format!("its Test begins with {word:?} and has {count} more words")));
            }
        };
        let time = |nanoseconds: i64| match u64::try_from(nanoseconds) {
            Ok(0) => Ok(None),
            Ok(nanoseconds) => Ok(Some(Duration::from_nanos(nanoseconds))),
            Err(_) => Err(invalid(format!("it has the time {nanoseconds}"))),
        };
        let retries = u32::try_from(written.retries)
            .map_err(|_| invalid(format!("it has {} retries", written.retries)))?;
        Ok(Some(Self {
            command,
            interval: time(written.interval)?,
            timeout: time(written.timeout)?,
            start_period: time(written.start_period)?,
            retries: Some(retries).filter(|retries| *retries > 0),
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(healthcheck: Value) -> Result<Option<Healthcheck>, ImageError> {
        Healthcheck::read(&json!({"config": {"Healthcheck": healthcheck}}))
    }

    #[test]
    fn a_check_is_read_as_docker_writes_it() {
        let whole = json!({
            "Test": ["CMD", "curl", "-f", "http://localhost/"],
            "Interval": 5_000_000_000_i64, "Timeout": 3_000_000_000_i64, "StartPeriod": 1_000_000, "Retries": 7,
        });
        let check = read(whole).unwrap().unwrap();
        assert_eq!(check.command, ["curl", "-f", "http://localhost/"]);
        assert_eq!(check.interval, Some(Duration::from_secs(5)));
        assert_eq!((check.timeout, check.retries), (Some(Duration::from_secs(3)), Some(7)));
        assert_eq!(check.start_period, Some(Duration::from_millis(1)));
        let bare = read(json!({"Test": ["CMD-SHELL", "true || false"], "Interval": 0})).unwrap().unwrap();
        let command = ["/bin/sh", "-c", "true || false"].map(str::to_owned).to_vec();
        assert_eq!(bare, Healthcheck { command, ..Healthcheck::default() });
        let other =
            json!({"config": {"Healthcheck": {"Test": ["CMD-SHELL", "x"]}, "Shell": ["/bin/ash", "-ec"]}});
        assert_eq!(Healthcheck::read(&other).unwrap().unwrap().command, ["/bin/ash", "-ec", "x"]);
    }

    #[test]
    fn there_need_not_be_one() {
        for none in
            [json!(null), json!({}), json!({"Test": []}), json!({"Test": ["NONE"]}), json!({"Test": null})]
        {
            assert_eq!(read(none.clone()).unwrap(), None, "{none}");
        }
        for whole in [json!({}), json!({"config": null}), json!([])] {
            assert_eq!(Healthcheck::read(&whole).unwrap(), None, "{whole}");
        }
    }

    #[test]
    fn what_docker_would_not_write_is_refused() {
        for wrong in [
            json!("curl"),
            json!({"Test": "curl"}),
            json!({"Test": ["CMD"]}),
            json!({"Test": ["CMD-SHELL", "a", "b"]}),
            json!({"Test": ["NONE", "x"]}),
            json!({"Test": ["curl"]}),
            json!({"Test": ["CMD", "x"], "Interval": -1}),
            json!({"Test": ["CMD", "x"], "Interval": "5s"}),
            json!({"Test": ["CMD", "x"], "Retries": -1}),
            json!({"Test": ["CMD", "x"], "Retries": 1_i64 << 40}),
        ] {
            let error = read(wrong.clone()).unwrap_err().to_string();
            assert!(error.contains("Healthcheck"), "{wrong}: {error}");
        }
    }
}
