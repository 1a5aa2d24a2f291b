//! One file a command, or a family of them.

mod attach;
mod cdi;
mod create;
mod doctor;
mod events;
mod exec;
mod explain;
mod files;
mod gc;
mod image;
mod info;
mod inspect;
mod limits;
mod logs;
mod network;
mod prune;
mod ps;
mod run;
mod session;
mod signals;
mod stats;
mod volume;
mod wait;

use clap::CommandFactory;
use cofferdam::error::{Code, Failure};
use serde_json::Value;

use crate::cli::{Cli, Command};
use crate::context::Context;
use crate::output::{CliError, OUR_FAILURE, print, print_failure};
use crate::template::{of_format, print_values};

/// Is a monitor, and gives the exit code of this process.
pub(crate) async fn monitor() -> Result<u8, CliError> {
    Ok(cofferdam::engine::serve_monitor().await.map(|()| 0)?)
}

/// Runs a command and gives the exit code of this process.
pub(crate) async fn dispatch(cli: Cli) -> Result<u8, CliError> {
    match cli.command {
        // These need no state directory.
        Command::Explain { code } => return explain::explain(code.as_deref()),
        Command::Cdi { command } => return cdi::run(&command).await,
        Command::Completion { shell } => {
            return completion(shell);
        }
        Command::Build { .. } => return Err(no_builder()),
        _ => {}
    }
    let context = Context::open(&cli.global)?;
    let engine = &context.engine;
    match cli.command {
        Command::Run(args) => Box::pin(run::run(&context, *args)).await,
        Command::Create(args) => create::create(&context, *args).await,
        Command::Start { attach, interactive, containers } if attach || interactive => {
            Box::pin(attach::start(&context, &containers.containers, interactive)).await
        }
        Command::Start { containers, .. } => {
            each(&containers.containers, async |name| Ok(engine.start(name).await?)).await
        }
        Command::Wait(args) => wait::wait(&context, args).await,
        Command::Exec(args) => exec::exec(&context, args).await,
        Command::Session { command } => session::session(&context, command).await,
        Command::Attach(args) => Box::pin(attach::attach(&context, args)).await,
        Command::Events(args) => events::events(&context, args).await,
        Command::Logs(args) => logs::logs(&context, args).await,
        Command::Kill(args) => signals::kill(&context, args).await,
        Command::Stop(args) => signals::stop(&context, args).await,
        Command::Rm(args) => signals::remove(&context, args).await,
        Command::Ps(args) => ps::ps(&context, args).await,
        Command::List(mut args) => {
            (args.all, args.wide) = (true, true);
            ps::ps(&context, args).await
        }
        Command::Inspect(args) => inspect::inspect(&context, args).await,
        Command::State { container } => inspect::state(&context, &container).await,
        Command::Pause { containers } => {
            each(&containers.containers, async |name| Ok(engine.pause(name).await?)).await
        }
        Command::Unpause { containers } => {
            each(&containers.containers, async |name| Ok(engine.resume(name).await?)).await
        }
        Command::Update { limits, egress, containers } => {
            limits::update(&context, &limits, egress.as_deref(), &containers).await
        }
        Command::Stats(args) => stats::stats(&context, args).await,
        Command::Top { container } => limits::top(&context, &container).await,
        Command::Pull(args) => image::pull(&context, args).await,
        Command::Images(args) => image::list(&context, &args),
        Command::Rmi(args) => image::remove(&context, &args).await,
        Command::Tag(args) => image::tag(&context, &args),
        Command::Save(args) => image::save(&context, args).await,
        Command::Cp(args) => files::copy(&context, &args).await,
        Command::Diff { container } => files::diff(&context, &container).await,
        Command::Export { output, container } => files::export(&context, &container, output.as_deref()).await,
        Command::Commit(args) => Box::pin(files::commit(&context, &args)).await,
        Command::Login(args) => image::login(args).await,
        Command::Logout { server } => image::logout(server.as_deref()).await,
        Command::Load(args) => image::load(&context, args).await,
        Command::Image { command } => image::run(&context, command).await,
        Command::Info { format, driver } => info::info(&context, format.as_deref(), &driver).await,
        Command::Capabilities { runtimes, format } => {
            info::capabilities(&context, &runtimes, format.as_deref()).await
        }
        Command::Prune { until, force } => prune::prune(&context, until, force).await,
        Command::Gc { dry_run, format } => gc::gc(&context, dry_run, format).await,
        Command::Network { command } => network::run(&context, command).await,
        Command::Volume { command } => volume::run(&context, command).await,
        Command::Doctor { format, search } => doctor::doctor(&context, format, &search).await,
        Command::Explain { .. }
        | Command::Build { .. }
        | Command::Cdi { .. }
        | Command::Completion { .. }
        | Command::Monitor => Ok(0),
    }
}

/// People try it, as docker has it.
fn no_builder() -> CliError {
    CliError(Failure {
        code: Code::InvalidValue,
        what: "cofferdam builds no images".into(),
        why: vec![],
        next: Some("`buildah build --tag NAME .` and `buildah push NAME oci-archive:app.tar`; then `cofferdam load --input app.tar`".into()),
    })
}

fn completion(shell: clap_complete::Shell) -> Result<u8, CliError> {
    // A reader that goes halfway is an error to be told of, where the generator would panic.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cofferdam", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(0)
}

/// Does something to each of several containers and prints the name of each that it was done to, as docker does. Goes
/// on after a failure.
async fn each(names: &[String], action: impl AsyncFn(&str) -> Result<(), CliError>) -> Result<u8, CliError> {
    let mut code = 0;
    for name in names {
        match action(name).await {
            Ok(()) => print(name)?,
            Err(error) => {
                print_failure(&error.0);
                code = OUR_FAILURE;
            }
        }
    }
    Ok(code)
}

/// Prints what is known of each thing, by `--format`; of those that are not found, why.
async fn inspect_each(
    format: Option<&str>,
    names: &[String],
    describe: impl AsyncFn(&str) -> Result<Value, CliError>,
) -> Result<u8, CliError> {
    let template = of_format(format)?;
    let (mut values, mut code) = (Vec::new(), 0);
    for name in names {
        match describe(name).await {
            Ok(value) => values.push(value),
            Err(error) => {
                print_failure(&error.0);
                code = OUR_FAILURE;
            }
        }
    }
    print_values(template.as_ref(), &values)?;
    Ok(code)
}
