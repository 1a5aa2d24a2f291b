//! Whether this host can do what cofferdam promises, and how to mend what is wrong.
//!
//! Invariant: facts are collected first and judged by pure functions; each check that is not good names a way out.

mod gpu;
mod host;
mod runtimes;

use serde::{Deserialize, Serialize};

use std::path::PathBuf;

use crate::engine::Engine;
use crate::nvidia::DriverRoot;
use crate::runtime::capabilities::Criu;

/// How a check turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Something that some uses need is not there.
    Limited,
    /// Containers cannot be run, or not as they should be.
    Bad,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub subject: String,
    /// How it turned out.
    pub verdict: Verdict,
    /// What was found.
    pub finding: String,
    /// The command, or the act, that mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Check {
    fn good(subject: &str, finding: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), verdict: Verdict::Good, finding: finding.into(), mend: None }
    }

    fn limited(subject: &str, finding: impl Into<String>, mend: &str) -> Self {
        Self { verdict: Verdict::Limited, mend: Some(mend.to_owned()), ..Self::good(subject, finding) }
    }

    fn bad(subject: &str, finding: impl Into<String>, mend: &str) -> Self {
        Self { verdict: Verdict::Bad, ..Self::limited(subject, finding, mend) }
    }
}

/// Checks this host. Runs a short container under each runtime that is installed.
pub async fn examine(engine: &Engine, driver: &DriverRoot, descriptions: &[PathBuf]) -> Vec<Check> {
    let facts = engine.host();
    let mut checks = vec![
        host::kernel(&facts.kernel),
        host::user(facts.uid),
        host::cgroups(&facts.cgroups),
        host::overlay(facts.overlay),
        host::state_directory(engine.state().path()),
    ];
    let probes = engine.runtimes().await;
    checks.extend(runtimes::installed(&probes));
    checks.extend(runtimes::try_all(engine, &probes).await);
    checks.push(host::criu(&Criu::probe().await));
    checks.extend(host::network());
    checks.extend(gpu::examine(driver, descriptions, &probes, facts));
    checks
}
