//! A pull in a process of its own, for settings that come from the environment.

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use cofferdam_image::registry::{Credentials, Registry, RegistryConfig};
use cofferdam_image::source::ImageSource;
use cofferdam_testkit::http_faults::FaultServer;

use crate::logins;
use crate::place::{chain, config, source};

/// The name of the image, for the child.
const NAME: &str = "COFFERDAM_TEST_PULL";
/// The directory of certificates, for the child.
const CERTIFICATES: &str = "COFFERDAM_TEST_CERTIFICATES";

/// The host and the directory of a trial with a helper, for the child.
const HELPER: [&str; 2] = ["COFFERDAM_TEST_HELPER_HOST", "COFFERDAM_TEST_HELPER_HOME"];

/// Pulls an image by way of a proxy: its digest, or what is told instead. `insecure.test` is an insecure registry.
pub(crate) fn pull(name: &str, proxy: &FaultServer, certificates: Option<&Path>) -> String {
    let url = format!("http://{}", proxy.host());
    let mut command = again();
    command.env(NAME, name).env("HTTP_PROXY", &url).env("HTTPS_PROXY", &url).env("NO_PROXY", "direct.test");
    command.envs(certificates.map(|directory| (CERTIFICATES, directory)));
    done(command)
}

/// Runs a trial where a helper in a directory is along PATH.
pub(crate) fn with_helper(host: &str, home: &Path) {
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", home.display());
    let mut command = again();
    command.env(HELPER[0], host).env(HELPER[1], home).env("PATH", path).env("HOME", "/nowhere");
    done(command);
}

#[expect(clippy::disallowed_methods, reason = "nothing of a test is supervised")]
fn again() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env_clear();
    command
}

fn done(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What the child does; `None` where this is not it.
pub(crate) fn main() -> Option<ExitCode> {
    let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if let [Ok(host), Ok(home)] = HELPER.map(std::env::var) {
        event_loop.block_on(logins::with_helper(&host, Path::new(&home)));
        return Some(ExitCode::SUCCESS);
    }
    let name = std::env::var(NAME).ok()?;
    let certificate_directories = std::env::var_os(CERTIFICATES).into_iter().map(Into::into).collect();
    let config =
        RegistryConfig { certificate_directories, insecure: vec!["insecure.test".into()], ..config() };
    let root = event_loop.block_on(source(&Registry::new(config, Credentials::none()), &name).root());
    let text = root.map_or_else(|error| chain(&error), |(descriptor, _)| descriptor.digest().to_string());
    std::io::stdout().write_all(text.as_bytes()).unwrap();
    Some(ExitCode::SUCCESS)
}
