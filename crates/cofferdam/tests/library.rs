//! The library without the command line: a container from a request to its report, in this process.
//!
//! A process supervises one container at a time, so the trials run one after the other.
#![expect(clippy::unwrap_used, reason = "this is a test, though not one of the standard harness")]

use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use cofferdam::engine::{Engine, ExecRequest};
use cofferdam::error::{Code, Diagnose, Failure};
use cofferdam::exit::{AskedBy, Cause};
use cofferdam::launch::{LaunchError, Launcher, ask};
use cofferdam::request::{LaunchRequest, Source};
use cofferdam::runtime::{DEFAULT_START_LIMIT, RuntimeConfig};
use cofferdam::signal::Signal;
use cofferdam::supervise::control::{Request, Until};
use cofferdam::supervise::stdio::StdioPlan;
use cofferdam_testkit::fixture;
use cofferdam_testkit::needs::Need;
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};
use cofferdam_testkit::suite::{run, trial};

fn main() -> ExitCode {
    let mut trials = Vec::new();
    let needs = |choice: &Choice| [Need::Root, Need::Busybox, Need::Runtime(choice.clone())];
    for choice in [Choice::Runc, Choice::Runsc(RUNSC_DEBIAN)] {
        trials.push(trial(format!("{choice}::library"), &needs(&choice), move || with_engine(&choice)));
    }
    run(trials)
}

struct Place {
    _home: tempfile::TempDir,
    engine: Engine,
    launcher: Launcher,
    rootfs: std::path::PathBuf,
}

fn with_engine(choice: &Choice) {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    event_loop.block_on(async {
        let place = place(choice).await;
        Box::pin(a_report_comes_back(&place)).await;
        output_goes_where_it_is_wanted(&place).await;
        a_created_container_waits_and_is_ended(&place).await;
        another_process_runs_in_it(&place).await;
        a_refusal_changes_nothing(&place).await;
        a_cancelled_launch_leaves_nothing(&place).await;
        a_dropped_launch_leaves_nothing(&place).await;
    });
}

async fn place(choice: &Choice) -> Place {
    let home = tempfile::Builder::new().prefix("cfl").tempdir_in("/tmp").unwrap();
    let rootfs = fixture::rootfs(home.path());
    let engine = Engine::open(&home.path().join("s")).unwrap();
    let binary = choice.binary().unwrap();
    let name = binary.file_name().unwrap().to_string_lossy().into_owned();
    let root = engine.state().runtime_root(&name);
    let config = RuntimeConfig { name, binary, root, platform: None, start_limit: DEFAULT_START_LIMIT };
    let launcher = engine.launcher(config).await.unwrap();
    Place { _home: home, engine, launcher, rootfs }
}

impl Place {
    fn request(&self, args: &[&str]) -> LaunchRequest {
        let mut request = LaunchRequest::new(Source::Rootfs { path: self.rootfs.clone() });
        request.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        request.remove = true;
        request
    }

    async fn is_empty(&self) -> bool {
        self.engine.containers().await.unwrap().0.is_empty()
    }
}

async fn a_report_comes_back(place: &Place) {
    let mut request = place.request(&["sh", "-c", "exit 7"]);
    request.remove = false;
    request.name = Some("kept".into());
    let prepared = place.launcher.prepare(request).unwrap();
    let container = place.launcher.run(prepared, StdioPlan::discard(), std::future::pending()).await.unwrap();
    let report = container.wait().await.unwrap();
    assert_eq!(report.cause, Cause::Exited { code: 7 });
    assert_eq!((report.code(), report.cleanup.len()), (7, 0));
    // The record tells the same, to anybody.
    assert_eq!(place.engine.wait("kept", None).await.unwrap(), report);
    place.engine.remove("kept", false).await.unwrap();
    assert!(place.is_empty().await);
}

async fn output_goes_where_it_is_wanted(place: &Place) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let stdio = StdioPlan { stdout: Some(OwnedFd::from(writer)), ..StdioPlan::discard() };
    let prepared = place.launcher.prepare(place.request(&["echo", "hello"])).unwrap();
    let container = place.launcher.run(prepared, stdio, std::future::pending()).await.unwrap();
    assert_eq!(container.wait().await.unwrap().stdio.stdout_bytes, 6);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello\n");
}

async fn a_created_container_waits_and_is_ended(place: &Place) {
    let prepared = place.launcher.prepare(place.request(&["sleep", "1000"])).unwrap();
    let container =
        place.launcher.create(prepared, StdioPlan::discard(), std::future::pending()).await.unwrap();
    assert!(container.started.pid.is_some_and(|pid| pid > 0));
    container.ask(Request::Start).await.unwrap();
    assert_eq!(container.ask(Request::Start).await.unwrap_err().code, Code::WrongState);
    container.ask(Request::Pause).await.unwrap();
    container.ask(Request::Resume).await.unwrap();
    let commands = container.commands();
    let kill = Request::Kill { signal: Signal::KILL, all: false, by: AskedBy::Kill };
    ask(&commands, kill).await.unwrap();
    let report = container.wait().await.unwrap();
    assert_eq!(
        (report.cause, report.asked_by),
        (Cause::Signaled { signal: Signal::KILL }, Some(AskedBy::Kill))
    );
    assert_eq!(
        ask(&commands, Request::Wait { until: Until::Exit }).await.unwrap_err().code,
        Code::SupervisorUnreachable
    );
    assert!(place.is_empty().await);
}

async fn another_process_runs_in_it(place: &Place) {
    let prepared = place.launcher.prepare(place.request(&["sleep", "1000"])).unwrap();
    let container = place.launcher.run(prepared, StdioPlan::discard(), std::future::pending()).await.unwrap();
    let id = container.id.to_string();
    let request =
        ExecRequest { args: vec!["sh".into(), "-c".into(), "exit 5".into()], ..ExecRequest::default() };
    let mut process = place.engine.exec(&id, request, StdioPlan::discard()).await.unwrap();
    assert_eq!(process.wait().await.cause, Cause::Exited { code: 5 });
    assert!(!place.engine.processes(&id).await.unwrap().is_empty());
    assert!(place.engine.runtime_stats(&id).await.unwrap().is_object());
    container
        .ask(Request::Stop { signal: Some(Signal::KILL), grace_ms: None, by: AskedBy::Stop })
        .await
        .unwrap();
    assert!(place.is_empty().await);
}

async fn a_refusal_changes_nothing(place: &Place) {
    let error = place.launcher.prepare(place.request(&["nope"])).unwrap_err();
    assert_eq!(error.code(), Code::CommandNotFound);
    assert!(Failure::of(&error).next.is_some());
    assert!(place.is_empty().await);
}

async fn a_cancelled_launch_leaves_nothing(place: &Place) {
    let prepared = place.launcher.prepare(place.request(&["sleep", "1000"])).unwrap();
    let error = place.launcher.run(prepared, StdioPlan::discard(), std::future::ready(())).await.unwrap_err();
    assert!(matches!(error, LaunchError::Start(_)) && error.code() == Code::Cancelled, "{error:?}");
    assert!(place.is_empty().await, "it is unmade before the error comes back");
}

async fn a_dropped_launch_leaves_nothing(place: &Place) {
    let prepared = place.launcher.prepare(place.request(&["sleep", "1000"])).unwrap();
    let launch = place.launcher.run(prepared, StdioPlan::discard(), std::future::pending());
    let gave_up = tokio::time::timeout(std::time::Duration::from_millis(5), launch).await;
    assert!(gave_up.is_err(), "5 ms make no container");
    // The supervisor's task unmakes it, as long as the event loop lives.
    let limit = std::time::Duration::from_secs(30);
    let emptied = async {
        while !place.is_empty().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(limit, emptied).await.unwrap();
}
