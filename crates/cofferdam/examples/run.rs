//! Runs a bundle under a runtime and says how it ended: `run BUNDLE [RUNTIME]`, as root.
#![expect(clippy::print_stdout, reason = "an example that tells its user what happened")]

use std::error::Error;
use std::path::Path;

use cofferdam::engine::Engine;
use cofferdam::exit::Cause;
use cofferdam::request::{LaunchRequest, Source};
use cofferdam::runtime::{DEFAULT_START_LIMIT, RuntimeConfig, locate};
use cofferdam::supervise::stdio::StdioPlan;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let bundle = args.next().ok_or("usage: run BUNDLE [RUNTIME]")?;
    let choice = args.next().unwrap_or_else(|| "runc".into());

    let engine = Engine::open(Path::new("/run/cofferdam"))?;
    let (name, binary) = locate(&choice, std::env::var_os("PATH").as_deref())?;
    let root = engine.state().runtime_root(&name);
    let launcher = engine
        .launcher(RuntimeConfig { name, binary, root, platform: None, start_limit: DEFAULT_START_LIMIT })
        .await?;

    let mut request = LaunchRequest::new(Source::Bundle { path: bundle.into() });
    request.network = Some("none".into());
    request.remove = true;
    // Until here nothing has been changed on the machine.
    let prepared = launcher.prepare(request)?;
    let container = launcher.run(prepared, StdioPlan::inherit(false)?, std::future::pending()).await?;
    let report = container.wait().await?;
    match &report.cause {
        Cause::Exited { code } => println!("it exited {code}"),
        other => println!("{other}; evidence: {:?}", report.evidence),
    }
    Ok(())
}
