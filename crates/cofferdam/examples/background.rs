//! A container in the background, from a program of your own: a monitor, a health check, a session, its log, its end.
//!
//! ```sh
//! cargo run --example background -- /tmp/state runc /path/to/rootfs
//! ```
//!
//! The program is its own monitor: started with the argument `monitor`, it becomes one.
#![expect(clippy::print_stdout, reason = "an example that tells its user what happened")]

use std::path::PathBuf;

use cofferdam::engine::{DetachRequest, Engine, ExecRequest, MonitorProgram, MonitorReply, serve_monitor};
use cofferdam::exit::AskedBy;
use cofferdam::logs::ReadLimits;
use cofferdam::request::{HealthRequest, LaunchRequest, LogRequest, Source, StdioFiles};
use cofferdam::runtime::{DEFAULT_START_LIMIT, RuntimeConfig, locate};
use cofferdam::supervise::control::Until;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    match args.as_slice() {
        [_, monitor] if monitor == "monitor" => Ok(Box::pin(serve_monitor()).await?),
        [program, state, runtime, rootfs] => Box::pin(look_after_one(program, state, runtime, rootfs)).await,
        _ => Err("usage: background STATE RUNTIME ROOTFS".into()),
    }
}

async fn look_after_one(
    program: &str,
    state: &str,
    runtime: &str,
    rootfs: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let program = PathBuf::from(program).canonicalize()?;
    let engine = Engine::open(state.as_ref())?;
    let engine = engine.with_monitor(MonitorProgram { program, args: vec!["monitor".into()] });

    let (name, binary) = locate(runtime, std::env::var_os("PATH").as_deref())?;
    let root = engine.state().runtime_root(&name);
    let runtime = RuntimeConfig { name, binary, root, platform: None, start_limit: DEFAULT_START_LIMIT };
    let mut launch = LaunchRequest::new(Source::Rootfs { path: rootfs.into() });
    launch.args = ["sh", "-c", "echo up; while :; do sleep 1; done"].map(str::to_owned).to_vec();
    launch.restart = Some("on-failure:3".into());
    launch.health = Some(HealthRequest { command: vec!["true".into()], ..HealthRequest::default() });
    launch.log = Some(LogRequest { driver: "cri".into(), ..LogRequest::default() });
    let request = DetachRequest { runtime, launch, start: true, stdio: StdioFiles::default() };
    let MonitorReply::Made { id, .. } = engine.detach(request).await? else {
        return Err("a monitor's refusal is an error".into());
    };
    engine.wait_until(id.as_str(), Until::Healthy, None).await?;
    println!("{id} is well");

    let exec = ExecRequest { args: vec!["id".into()], ..ExecRequest::default() };
    let session = engine.exec_in_background(id.as_str(), exec, StdioFiles::default()).await?;
    let ended = engine.wait_for_session(session.as_str(), None).await?;
    let mut log = engine.session_logs(session.as_str(), ReadLimits::default()).await?;
    while let Some(entry) = log.next().await? {
        println!("{}: {}", entry.seq, String::from_utf8_lossy(&entry.bytes));
    }
    println!("the session {}", ended.cause);

    let report = engine.stop(id.as_str(), None, None, AskedBy::Stop).await?;
    println!("the container {}", report.cause);
    engine.remove(id.as_str(), false).await?;
    Ok(())
}
