//! How a container is asked whether it is well.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Refused, check_string};

/// Between two probes: docker's default.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
/// How long one may take: docker's default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// How many have to fail one after the other: docker's default.
const DEFAULT_RETRIES: u32 = 3;
/// The shortest interval and time: each probe costs a call of the runtime.
pub const SHORTEST_PROBE: Duration = Duration::from_millis(100);

/// How a caller wants a container to be probed. One of `command`, `http` and `tcp`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRequest {
    /// A command that is run in the container; exit code 0 is well.
    pub command: Vec<String>,
    /// A URL such as `http://localhost:8080/health`; a status from 200 to 399 is well.
    pub http: Option<String>,
    /// `HOST:PORT`; that it can be connected to is well.
    pub tcp: Option<String>,
    /// Time between two probes, in milliseconds.
    pub interval_ms: Option<u64>,
    /// How long a probe may take, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Time from the start in which a failure does not count, in milliseconds.
    pub start_period_ms: Option<u64>,
    /// How many failures one after the other make it unhealthy.
    pub retries: Option<u32>,
    /// `none`, `kill` or `stop`: what is done with an unhealthy container.
    pub on_failure: Option<String>,
}

impl HealthRequest {
    /// Whether it says how the container is asked.
    #[must_use]
    pub fn has_probe(&self) -> bool {
        !self.command.is_empty() || self.http.is_some() || self.tcp.is_some()
    }

    /// What this says, and what `other` says of the rest.
    pub(super) fn or(self, other: Self) -> Self {
        let probe = if self.has_probe() { self.clone() } else { other.clone() };
        Self {
            command: probe.command,
            http: probe.http,
            tcp: probe.tcp,
            interval_ms: self.interval_ms.or(other.interval_ms),
            timeout_ms: self.timeout_ms.or(other.timeout_ms),
            start_period_ms: self.start_period_ms.or(other.start_period_ms),
            retries: self.retries.or(other.retries),
            on_failure: self.on_failure.or(other.on_failure),
        }
    }
}

/// How a container is probed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is done.
    pub probe: Probe,
    /// Time between two probes.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub interval: Duration,
    /// How long one may take.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub timeout: Duration,
    /// Time from the start in which a failure does not count.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub start_period: Duration,
    /// How many failures one after the other make it unhealthy.
    pub retries: u32,
    /// What is done with an unhealthy container.
    pub on_failure: OnUnhealthy,
}

/// What tells whether a container is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Probe {
    /// A command in the container.
    Command {
        /// It and its arguments.
        args: Vec<String>,
    },
    /// A request for a page.
    Http {
        /// `HOST:PORT`.
        address: String,
        /// The path and the query.
        path: String,
    },
    /// A connection.
    Tcp {
        /// `HOST:PORT`.
        address: String,
    },
}

/// What is done with an unhealthy container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnhealthy {
    /// Nothing but saying so.
    #[default]
    None,
    /// It is killed; its restart policy then applies.
    Kill,
    /// It is stopped for good.
    Stop,
}

impl Probe {
    /// Where it connects to, if it does.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        match self {
            Self::Command { .. } => None,
            Self::Http { address, .. } | Self::Tcp { address } => Some(address),
        }
    }
}

impl HealthCheck {
    /// Checks what a caller wants.
    ///
    /// # Errors
    /// [`Refused`] names the first field that cannot be right.
    pub fn parse(request: &HealthRequest) -> Result<Self, Refused> {
        let long = |field: &str, ms: Option<u64>, default: Duration| {
            let time = ms.map_or(default, Duration::from_millis);
            if time < SHORTEST_PROBE {
                return Err(Refused::new(field, "it is too short: give at least 100ms"));
            }
            Ok(time)
        };
        let retries = request.retries.unwrap_or(DEFAULT_RETRIES);
        if retries == 0 {
            return Err(Refused::new("--health-retries", "give at least 1"));
        }
        Ok(Self {
            probe: probe(request)?,
            interval: long("--health-interval", request.interval_ms, DEFAULT_INTERVAL)?,
            timeout: long("--health-timeout", request.timeout_ms, DEFAULT_TIMEOUT)?,
            start_period: Duration::from_millis(request.start_period_ms.unwrap_or(0)),
            retries,
            on_failure: match request.on_failure.as_deref() {
                None | Some("none") => OnUnhealthy::None,
                Some("kill") => OnUnhealthy::Kill,
                Some("stop") => OnUnhealthy::Stop,
                Some(_) => return Err(Refused::new("--health-on-failure", "give none, kill or stop")),
            },
        })
    }
}

fn probe(request: &HealthRequest) -> Result<Probe, Refused> {
    match (request.command.as_slice(), &request.http, &request.tcp) {
        ([], None, Some(address)) => {
            check_address("--health-tcp", address)?;
            Ok(Probe::Tcp { address: address.clone() })
        }
        ([], Some(url), None) => http(url),
        ([first, ..], None, None) if !first.is_empty() => {
            request.command.iter().try_for_each(|argument| check_string("--health-cmd", argument))?;
            Ok(Probe::Command { args: request.command.clone() })
        }
        ([], None, None) => Err(Refused::new(
            "--health-*",
            "there is no probe: give --health-cmd, --health-http or --health-tcp",
        )),
        _ => Err(Refused::new(
            "--health-cmd, --health-http, --health-tcp",
            "give exactly one of them, and not an empty one",
        )),
    }
}

fn http(url: &str) -> Result<Probe, Refused> {
    let refused = |why: String| Refused::new("--health-http", why);
    let uri: hyper::Uri = url.parse().map_err(|error| refused(format!("{url:?}: {error}")))?;
    let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(refused(format!("{url:?} is not of the form http://HOST[:PORT]/PATH")));
    };
    let address = format!("{host}:{}", uri.port_u16().unwrap_or(80));
    let path = uri.path_and_query().map_or("/", hyper::http::uri::PathAndQuery::as_str).to_owned();
    Ok(Probe::Http { address, path })
}

fn check_address(field: &str, address: &str) -> Result<(), Refused> {
    let is_right =
        |(host, port): (&str, &str)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0);
    if address.rsplit_once(':').is_some_and(is_right) {
        return Ok(());
    }
    Err(Refused::new(field, format!("{address:?} is not of the form HOST:PORT")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(change: impl FnOnce(&mut HealthRequest)) -> Result<HealthCheck, Refused> {
        let mut request = HealthRequest::default();
        change(&mut request);
        HealthCheck::parse(&request)
    }

    #[test]
    fn defaults_are_docker_s() {
        let check = parse(|request| request.command = vec!["true".into()]).unwrap();
        let expected = HealthCheck {
            probe: Probe::Command { args: vec!["true".into()] },
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            start_period: Duration::ZERO,
            retries: 3,
            on_failure: OnUnhealthy::None,
        };
        assert_eq!(check, expected);
    }

    #[test]
    fn urls_and_addresses_are_taken_apart() {
        let probe = |url: &str| parse(|request| request.http = Some(url.into())).map(|check| check.probe);
        let http = |address: &str, path: &str| Probe::Http { address: address.into(), path: path.into() };
        assert_eq!(probe("http://localhost:8080/health?a=1").unwrap(), http("localhost:8080", "/health?a=1"));
        assert_eq!(probe("http://[::1]").unwrap(), http("[::1]:80", "/"));
        for url in ["", "localhost", "https://localhost/", "http://", "http://a b/"] {
            assert!(probe(url).is_err(), "{url}");
        }
        for (address, is_right) in
            [("localhost:80", true), ("[::1]:80", true), ("localhost", false), (":80", false), ("a:0", false)]
        {
            assert_eq!(parse(|request| request.tcp = Some(address.into())).is_ok(), is_right, "{address}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (change, field) in [
            ((|_| {}) as fn(&mut HealthRequest), "--health-*"),
            (|request| request.command = vec![String::new()], "--health-cmd, --health-http, --health-tcp"),
            (
                |request| request.tcp = Some("localhost:80".into()),
                "--health-cmd, --health-http, --health-tcp",
            ),
            (|request| request.retries = Some(0), "--health-retries"),
            (|request| request.interval_ms = Some(1), "--health-interval"),
            (|request| request.timeout_ms = Some(0), "--health-timeout"),
            (|request| request.on_failure = Some("restart".into()), "--health-on-failure"),
        ] {
            let refused = parse(|request| {
                if field != "--health-*" {
                    request.command = vec!["true".into()];
                }
                change(request);
            });
            assert_eq!(refused.unwrap_err().field, field);
        }
    }
}
