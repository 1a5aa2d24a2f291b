//! `run`: a container in the foreground, supervised by this very process.

use std::time::{Duration, Instant};

use cofferdam::exit::{AskedBy, ExitReport, format_duration};
use cofferdam::launch::{Container, Launcher, Prepared, ask};
use cofferdam::signal::Signal;
use cofferdam::spec::{EditAction, PreparedSpec};
use cofferdam::supervise::control::{Command as SupervisorCommand, Request};
use cofferdam::supervise::stdio::StdioPlan;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::create::{Background, IdFile, detached};
use crate::args::refuse;
use crate::cli::{MakingArgs, RunArgs};
use crate::context::Context;
use crate::forward::{Incoming, Patience};
use crate::images::obtain_if_named;
use crate::output::{CliError, note, print_json, warn};
use crate::terminal::{RawMode, copy_size, stdin_is_terminal};

pub(super) async fn run(context: &Context, args: RunArgs) -> Result<u8, CliError> {
    let mut clock = Clock::start();
    let RunArgs { detach, dry_run, timings, making: args } = args;
    let image = obtain_if_named(context, &args.launch, &args.command).await?;
    if image.is_some() {
        clock.lap("image");
    }
    let mut request = args.request(image.as_ref())?;
    if detach {
        request.log = Some(args.log.request()?);
    }
    let config = args.launch.runtime.config(context)?;
    if !dry_run {
        context.engine.sweep_at_times().await;
    }
    if detach && !dry_run {
        if args.interactive && args.streams.stdin.is_some() {
            return Err(refuse("--interactive", "its input comes from --stdin already"));
        }
        let background = Background { start: true, streams: &args.streams, interactive: args.interactive };
        return detached(context, config, request, background, args.cidfile.as_deref()).await;
    }
    if !dry_run {
        check_streams(&args)?;
    }
    context.engine.settle_gpus(&request.devices).await?;
    let launcher = context.engine.launcher(config).await?;
    let prepared = launcher.prepare(request)?;
    clock.lap("prepare");
    if dry_run {
        return explain_spec(&prepared.spec);
    }
    prepared.spec.warnings.iter().for_each(warn);
    let cidfile = args.cidfile.as_deref().map(IdFile::reserve).transpose()?;
    let stdio =
        StdioPlan::inherit(args.interactive).map_err(|error| CliError::internal("own streams", &error))?;
    let mut incoming = Incoming::catch().map_err(|error| CliError::internal("signals", &error))?;
    let mut patience = Patience::default();
    let mut last_signal = None;
    let cancel = async { last_signal = Some(incoming.asked_to_end().await) };
    let (container, raw_mode) = launch(&launcher, prepared, stdio, &args, cancel).await?;
    clock.lap("create and start");
    context.engine.refill_soon();
    if let Some(file) = cidfile {
        file.fill(container.id.as_str());
    }
    if let Some(signal) = last_signal {
        // It came when the container had just been made.
        pass_on(&container.commands(), signal, &mut patience);
    }
    let report = attend(container, incoming, patience).await?;
    drop(raw_mode);
    clock.end(&report);
    if timings {
        note(clock);
    }
    Ok(conclude(&report))
}

/// Checks what is only right of a container in the background, or only with a terminal.
fn check_streams(args: &MakingArgs) -> Result<(), CliError> {
    if args.streams.is_given() {
        return Err(refuse(
            "--stdin, --stdout, --stderr",
            "they are for --detach; here the shell's < and > do it",
        ));
    }
    if args.log.is_given() {
        return Err(refuse(
            "--log-driver, --log-opt",
            "they are for --detach; in the foreground you have the output",
        ));
    }
    if args.tty && args.interactive && !stdin_is_terminal() {
        return Err(refuse("--tty", "standard input is not a terminal"));
    }
    Ok(())
}

/// Makes the container and starts its process. With a terminal, its size is set before the process runs.
async fn launch(
    launcher: &Launcher,
    prepared: Prepared,
    stdio: StdioPlan,
    args: &MakingArgs,
    cancel: impl Future<Output = ()>,
) -> Result<(Container, Option<RawMode>), CliError> {
    if !args.tty {
        return Ok((launcher.run(prepared, stdio, cancel).await?, None));
    }
    let container = launcher.create(prepared, stdio, cancel).await?;
    let raw_mode = if args.interactive { RawMode::enter_if_possible() } else { None };
    if let Some(terminal) = &container.started.terminal {
        copy_size(terminal);
    }
    match container.ask(Request::Start).await {
        Ok(_) => {}
        // It has ended, and its report says how.
        Err(failure) => tracing::debug!(%failure, "the start failed"),
    }
    Ok((container, raw_mode))
}

/// Waits for the end of the container and passes signals on meanwhile.
async fn attend(
    mut container: Container,
    mut incoming: Incoming,
    mut patience: Patience,
) -> Result<ExitReport, CliError> {
    let commands = container.commands();
    let terminal = container.started.terminal.take();
    let ended = container.wait();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            report = &mut ended => return Ok(report?),
            signal = incoming.next() => match (signal, &terminal) {
                (Signal::WINCH, Some(terminal)) => copy_size(terminal),
                (Signal::WINCH, None) => {}
                (signal, _) => pass_on(&commands, signal, &mut patience),
            },
        }
    }
}

fn pass_on(commands: &mpsc::Sender<SupervisorCommand>, signal: Signal, patience: &mut Patience) {
    let signal = match patience.left_after(signal) {
        Some(0) => Signal::KILL,
        Some(1) => {
            note("the container has not ended yet; once more kills it");
            signal
        }
        _ => signal,
    };
    let commands = commands.clone();
    tokio::spawn(async move {
        let request = Request::Kill { signal, all: false, by: AskedBy::Forwarded };
        if let Err(failure) = ask(&commands, request).await {
            tracing::debug!(%failure, "the signal was not passed on");
        }
    });
}

/// Says how the container ended, where that is not plain, and gives the exit code.
pub(super) fn conclude(report: &ExitReport) -> u8 {
    if let Some(line) = report.death_line() {
        note(line);
    }
    for left in &report.cleanup {
        warn(format_args!("clean-up: {left}"));
    }
    report.cause.shell_code()
}

/// Prints the specification on standard output, and the reasons on standard error.
fn explain_spec(spec: &PreparedSpec) -> Result<u8, CliError> {
    print_json(&spec.value)?;
    for edit in &spec.edits {
        let action = match edit.action {
            EditAction::Added => "added",
            EditAction::Changed => "changed",
            EditAction::Removed => "removed",
        };
        note(format_args!("{action} {}: {}", edit.path, edit.reason));
    }
    if !spec.flags.0.is_empty() {
        note(format_args!("flags of the runtime: {}", spec.flags.0.join(" ")));
    }
    spec.warnings.iter().for_each(warn);
    Ok(0)
}

/// How long the steps of a run took.
#[derive(Debug)]
struct Clock {
    last: Instant,
    laps: Vec<(&'static str, Duration)>,
}

impl Clock {
    fn start() -> Self {
        Self { last: Instant::now(), laps: vec![] }
    }

    fn lap(&mut self, step: &'static str) {
        self.laps.push((step, self.last.elapsed()));
        self.last = Instant::now();
    }

    /// Divides the last lap at the moment at which the end was seen.
    fn end(&mut self, report: &ExitReport) {
        let since_end = Timestamp::now().duration_since(report.ended).try_into().unwrap_or_default();
        self.laps.push(("run", self.last.elapsed().saturating_sub(since_end)));
        self.laps.push(("report and clean up", since_end.min(self.last.elapsed())));
    }
}

impl std::fmt::Display for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (position, (step, took)) in self.laps.iter().enumerate() {
            let rounded =
                Duration::from_micros(u64::try_from(took.as_micros()).unwrap_or(u64::MAX) / 100 * 100);
            let separator = if position == 0 { "" } else { " | " };
            write!(f, "{separator}{step} {}", format_duration(rounded))?;
        }
        Ok(())
    }
}
