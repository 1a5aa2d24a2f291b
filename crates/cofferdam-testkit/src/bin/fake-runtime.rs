//! A runtime with runc's command line that isolates nothing and fails on demand. For tests alone.
//!
//! ```text
//! create: ROOT/ID/{state.json, start}   start is a FIFO: the process waits for a byte from it
//! start:  writes the byte               delete: removes the directory
//! ```

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use cofferdam_testkit::fake::{CALLS_FILE, PLAN_FILE, Plan, Wrong};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const HELP: &str = "\
NAME:
   fake runc

COMMANDS:
   create   create
   delete   delete
   exec     exec
   kill     kill
   list     list
   pause    pause
   ps       ps
   resume   resume
   run      run
   start    start
   state    state
   update   update

GLOBAL OPTIONS:
   --log value         log
   --log-format value  log format
   --root value        root
   --version, -v       version
";

/// Why a verb could not be done.
type Failure = String;

/// A command line, taken apart.
#[derive(Debug, Default)]
struct Line {
    root: PathBuf,
    log: Option<PathBuf>,
    verb: String,
    flags: Vec<(String, String)>,
    words: Vec<String>,
}

impl Line {
    fn parse(args: impl Iterator<Item = String>) -> Self {
        // Flags that take no value.
        const SWITCHES: [&str; 3] = ["--detach", "--force", "--all"];
        let mut line = Self::default();
        let mut args = args.peekable();
        while let Some(arg) = args.next() {
            let is_flag = arg.starts_with("--");
            match (is_flag, line.verb.is_empty()) {
                (true, _) if SWITCHES.contains(&arg.as_str()) => line.flags.push((arg, String::new())),
                (true, true) if arg == "--version" || arg == "--help" => line.verb = arg,
                (true, _) => {
                    let value = args.next().unwrap_or_default();
                    match arg.as_str() {
                        "--root" => line.root = value.into(),
                        "--log" => line.log = Some(value.into()),
                        _ => line.flags.push((arg, value)),
                    }
                }
                (false, true) => line.verb = arg,
                (false, false) => line.words.push(arg),
            }
        }
        line
    }

    fn flag(&self, name: &str) -> Option<&str> {
        self.flags.iter().find(|(flag, _)| flag == name).map(|(_, value)| value.as_str())
    }

    fn id(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    fn home(&self) -> PathBuf {
        self.root.join(self.id())
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    match args.peek().map(String::as_str) {
        Some("init") => return wait_and_become(&args.skip(1).collect::<Vec<_>>()),
        Some("exec-init") => return become_process(&args.skip(1).collect::<Vec<_>>()),
        _ => {}
    }
    let line = Line::parse(args);
    let wrong = count_and_look_up(&line.verb);
    match perform(&line, wrong.as_ref()) {
        Ok(code) => code,
        Err(message) => fail(&line, &message, 1),
    }
}

fn fail(line: &Line, message: &str, code: u8) -> ExitCode {
    if let Some(log) = &line.log {
        let entry = json!({ "level": "error", "msg": message, "time": "2026-01-01T00:00:00Z" });
        if let Ok(mut file) = fs::OpenOptions::new().append(true).create(true).open(log) {
            // A log that cannot be written is one more way to go wrong.
            let _ = writeln!(file, "{entry}");
        }
    }
    let _ = writeln!(std::io::stderr(), "{message}");
    ExitCode::from(code)
}

/// Writes the call down and says what is to go wrong at it.
fn count_and_look_up(verb: &str) -> Option<Wrong> {
    let own = std::env::current_exe().ok()?;
    let calls = own.with_file_name(CALLS_FILE);
    let mut file = fs::OpenOptions::new().append(true).create(true).open(&calls).ok()?;
    file.write_all(format!("{verb}\n").as_bytes()).ok()?;
    let so_far = fs::read_to_string(&calls).ok()?.lines().filter(|line| *line == verb).count();
    let plan: Plan = serde_json::from_slice(&fs::read(own.with_file_name(PLAN_FILE)).ok()?).ok()?;
    let fits = |nth: usize| nth == 0 || nth == so_far;
    plan.faults.into_iter().find(|fault| fault.verb == verb && fits(fault.nth)).map(|fault| fault.what)
}

fn perform(line: &Line, wrong: Option<&Wrong>) -> Result<ExitCode, Failure> {
    match wrong {
        None | Some(Wrong::DieAfter(_) | Wrong::FailAfter(_) | Wrong::LieAboutPid(_)) => {}
        Some(Wrong::Hang) => loop {
            std::thread::park();
        },
        Some(Wrong::Slow(ms)) => std::thread::park_timeout(std::time::Duration::from_millis(*ms)),
        Some(Wrong::Garbage(text)) => {
            print(text);
            return Ok(ExitCode::SUCCESS);
        }
        Some(Wrong::Flood(bytes)) => {
            print(&"x".repeat(*bytes));
            return Ok(ExitCode::SUCCESS);
        }
        Some(Wrong::Die(signal)) => die(*signal),
        Some(Wrong::Fail(code, message)) => return Ok(fail(line, message, *code)),
        Some(Wrong::Nothing) => return Ok(ExitCode::SUCCESS),
    }
    let lie = match wrong {
        Some(Wrong::LieAboutPid(pid)) => Some(*pid),
        _ => None,
    };
    verb(line, lie)?;
    match wrong {
        Some(Wrong::DieAfter(signal)) => die(*signal),
        Some(Wrong::FailAfter(code)) => Ok(fail(line, "failed after all was done", *code)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn die(signal: i32) -> ! {
    if let Some(signal) = Signal::from_named_raw(signal) {
        // It ends this process.
        let _ = kill_process(rustix::process::getpid(), signal);
    }
    loop {
        std::thread::park();
    }
}

fn print(text: &str) {
    // The reader may have seen enough.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn verb(line: &Line, lie: Option<i64>) -> Result<(), Failure> {
    match line.verb.as_str() {
        "--version" => print("runc version 1.1.99+fake\nspec: 1.0.2-dev"),
        "--help" => print(HELP),
        "create" => create(line, lie)?,
        "run" => {
            create(line, lie)?;
            start(line)?;
        }
        "start" => start(line)?,
        "state" => print(&state(&line.home(), lie)?.to_string()),
        "list" => {
            let homes = fs::read_dir(&line.root).into_iter().flatten().flatten();
            let states: Vec<Value> = homes.filter_map(|entry| state(&entry.path(), lie).ok()).collect();
            print(&Value::from(states).to_string());
        }
        "ps" => print(&json!([pid_of(&line.home())?]).to_string()),
        "kill" => {
            let signal = line.words.get(1).and_then(|number| number.parse().ok());
            send(&line.home(), signal.and_then(Signal::from_named_raw).ok_or("unknown signal")?)?;
        }
        "pause" => {
            send(&line.home(), Signal::STOP)?;
            fs::write(line.home().join("paused"), "").map_err(|error| error.to_string())?;
        }
        "resume" => {
            send(&line.home(), Signal::CONT)?;
            fs::remove_file(line.home().join("paused")).map_err(|error| error.to_string())?;
        }
        "update" => {
            let file = line.flag("--resources").ok_or("no --resources")?;
            fs::copy(file, line.home().join("resources.json")).map_err(|error| error.to_string())?;
        }
        "exec" => exec(line, lie)?,
        "delete" => delete(line)?,
        other => return Err(format!("no such command: {other}")),
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "this is a runtime: to start processes is its work")]
fn create(line: &Line, lie: Option<i64>) -> Result<(), Failure> {
    let text = |error: std::io::Error| error.to_string();
    let home = line.home();
    fs::create_dir_all(&line.root).map_err(text)?;
    fs::create_dir(&home).map_err(|_| "container with given ID already exists".to_owned())?;
    mknodat(CWD, home.join("start"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .map_err(|e| text(e.into()))?;
    let bundle = line.flag("--bundle").ok_or("no --bundle")?;
    let own = std::env::current_exe().map_err(text)?;
    let child = Command::new(own).arg("init").arg(&home).arg(bundle).spawn().map_err(text)?;
    let state = json!({ "id": line.id(), "pid": child.id(), "bundle": bundle });
    fs::write(home.join("state.json"), state.to_string()).map_err(text)?;
    write_pid(line, lie.unwrap_or_else(|| child.id().into()))
}

fn write_pid(line: &Line, pid: i64) -> Result<(), Failure> {
    let file = line.flag("--pid-file").ok_or("no --pid-file")?;
    fs::write(file, pid.to_string()).map_err(|error| error.to_string())
}

fn start(line: &Line) -> Result<(), Failure> {
    let fifo = line.home().join("start");
    if !alive(pid_of(&line.home())?) {
        return Err("cannot start a container that has stopped".into());
    }
    let mut file =
        fs::OpenOptions::new().write(true).open(&fifo).map_err(|_| "cannot start it twice".to_owned())?;
    file.write_all(b"x").map_err(|error| error.to_string())?;
    fs::remove_file(fifo).map_err(|error| error.to_string())
}

fn state(home: &Path, lie: Option<i64>) -> Result<Value, Failure> {
    let mut state = read_state(home)?;
    let pid = pid_of(home)?;
    let status = if !alive(pid) {
        state["pid"] = 0.into();
        "stopped"
    } else if home.join("start").exists() {
        "created"
    } else if home.join("paused").exists() {
        "paused"
    } else {
        "running"
    };
    state["status"] = status.into();
    state["ociVersion"] = "1.0.2".into();
    if let Some(pid) = lie {
        state["pid"] = pid.into();
    }
    Ok(state)
}

fn read_state(home: &Path) -> Result<Value, Failure> {
    let text = fs::read(home.join("state.json")).map_err(|_| "container does not exist".to_owned())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

fn pid_of(home: &Path) -> Result<i32, Failure> {
    let pid = read_state(home)?["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    pid.ok_or_else(|| "no pid".into())
}

fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| state != "Z")
}

fn send(home: &Path, signal: Signal) -> Result<(), Failure> {
    let pid = pid_of(home)?;
    if !alive(pid) {
        return Err("container not running".into());
    }
    let pid = Pid::from_raw(pid).ok_or("no pid")?;
    kill_process(pid, signal).map_err(|error| error.to_string())
}

fn delete(line: &Line) -> Result<(), Failure> {
    let home = line.home();
    let pid = pid_of(&home)?;
    if alive(pid) {
        if line.flag("--force").is_none() {
            return Err("cannot delete a container that is not stopped".into());
        }
        send(&home, Signal::KILL)?;
    }
    fs::remove_dir_all(home).map_err(|error| error.to_string())
}

#[expect(clippy::disallowed_methods, reason = "this is a runtime: to start processes is its work")]
fn exec(line: &Line, lie: Option<i64>) -> Result<(), Failure> {
    let bundle = read_state(&line.home())?["bundle"].as_str().unwrap_or_default().to_owned();
    let process = line.flag("--process").ok_or("no --process")?;
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let child =
        Command::new(own).args(["exec-init", &bundle, process]).spawn().map_err(|error| error.to_string())?;
    write_pid(line, lie.unwrap_or_else(|| child.id().into()))
}

/// `init HOME BUNDLE`: waits for the byte, then becomes the container's process.
fn wait_and_become(args: &[String]) -> ExitCode {
    let [home, bundle] = args else { return ExitCode::FAILURE };
    // It fails only for a leader of a group, which has no terminal to lose.
    let _ = rustix::process::setsid();
    let opened = fs::OpenOptions::new().read(true).custom_flags(0).open(Path::new(home).join("start"));
    let mut byte = [0];
    match opened.and_then(|mut file| file.read_exact(&mut byte)) {
        Ok(()) => become_process(&[bundle.clone(), format!("{bundle}/config.json")]),
        // Deleted before it was started.
        Err(_) => ExitCode::FAILURE,
    }
}

/// `exec-init BUNDLE PROCESS`: becomes a process that a specification, or a process of one, describes.
#[expect(clippy::disallowed_methods, reason = "this is a runtime: to start processes is its work")]
fn become_process(args: &[String]) -> ExitCode {
    let read = |path: &str| -> Option<Value> { serde_json::from_slice(&fs::read(path).ok()?).ok() };
    let [bundle, process] = args else { return ExitCode::FAILURE };
    let (Some(config), Some(process)) = (read(&format!("{bundle}/config.json")), read(process)) else {
        return ExitCode::FAILURE;
    };
    let process = process.get("process").cloned().unwrap_or(process);
    let root = config["root"]["path"].as_str().unwrap_or_default();
    if std::os::unix::fs::chroot(root).and_then(|()| std::env::set_current_dir("/")).is_err() {
        return ExitCode::FAILURE;
    }
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let command = texts(&process["args"]);
    let env = texts(&process["env"]);
    let pairs = env.iter().filter_map(|entry| entry.split_once('='));
    // Returns only when it fails.
    let error = Command::new(&command[0])
        .args(&command[1..])
        .env_clear()
        .envs(pairs)
        .current_dir(process["cwd"].as_str().unwrap_or("/"))
        .exec();
    let _ = writeln!(std::io::stderr(), "{error}");
    ExitCode::from(127)
}
