//! `cdi list|check|generate`: what is described of devices, and describing this host's GPUs.

use std::io::Write;
use std::path::Path;

use cofferdam::cdi::{CdiError, Listed, OWN, Registry};
use cofferdam::error::{Code, Failure};
use cofferdam::nvidia::{describe_by_toolkit, find_toolkit, generate};
use serde_json::Value;

use crate::args::{DeviceSearchArgs, refuse};
use crate::cli::{CdiCommand, CdiFormat};
use crate::output::{CliError, note, print, print_json, warn};
use crate::table;

pub(super) async fn run(command: &CdiCommand) -> Result<u8, CliError> {
    match command {
        CdiCommand::List { json, search } => list(*json, search),
        CdiCommand::Check { devices, search } => check(devices, search),
        CdiCommand::Generate { output, format, own, search } => {
            write(output.as_deref(), *format, *own, search).await
        }
    }
}

/// The files, and where none describes GPUs, what cofferdam makes of this host itself.
fn registry(search: &DeviceSearchArgs) -> Result<Registry, CliError> {
    let root = search.driver_root()?;
    let (registry, _) = Registry::of_host(&search.searched()?, &root, root.within_reach().ok().as_ref())?;
    Ok(registry)
}

fn list(json: bool, search: &DeviceSearchArgs) -> Result<u8, CliError> {
    let registry = registry(search)?;
    registry.problems.iter().map(CdiError::in_full).for_each(warn);
    let devices = registry.list();
    if json {
        print_json(&devices)?;
        return Ok(0);
    }
    let rows = devices.iter().map(|Listed { device, origin, conflict }| {
        let origin = match conflict {
            Some(other) => format!("{origin} and {other}: it cannot be used"),
            None => origin.clone(),
        };
        [device.clone(), origin]
    });
    print(table::render(["DEVICE", "DESCRIBED BY"], rows))?;
    if devices.is_empty() {
        note("no device is described; `cofferdam cdi generate` describes this host's NVIDIA GPUs");
    }
    Ok(0)
}

/// Resolves devices as a launch would. Every problem is printed; any is an error.
fn check(devices: &[String], search: &DeviceSearchArgs) -> Result<u8, CliError> {
    let registry = registry(search)?;
    let all = || registry.list().into_iter().map(|listed| listed.device).collect();
    let names: Vec<String> = if devices.is_empty() { all() } else { devices.to_vec() };
    let driver = search.driver_root()?.driver();
    let mut failures: Vec<Failure> = registry.problems.iter().map(Failure::of).collect();
    for name in &names {
        match registry.resolve_for(name, driver.as_ref()) {
            Ok(edits) => {
                for edit in edits {
                    print(format_args!("ok       {name}, by {}", edit.origin))?;
                }
            }
            Err(error) => {
                print(format_args!("unusable {name}"))?;
                failures.push(Failure::of(&error));
            }
        }
    }
    match failures.pop() {
        None => Ok(0),
        Some(last) => {
            failures.iter().for_each(warn);
            Err(CliError(last))
        }
    }
}

async fn write(
    output: Option<&Path>,
    format: Option<CdiFormat>,
    own: bool,
    search: &DeviceSearchArgs,
) -> Result<u8, CliError> {
    let root = search.driver_root()?;
    let by_name = output.and_then(|path| path.extension()).is_some_and(|extension| extension == "json");
    let format = format.unwrap_or(if by_name { CdiFormat::Json } else { CdiFormat::Yaml });
    let toolkit = find_toolkit().filter(|_| !own);
    let (text, by) = match toolkit {
        Some(program) => {
            let by = program.display().to_string();
            let is_json = matches!(format, CdiFormat::Json);
            let described = describe_by_toolkit(program, &root, is_json).await;
            (described.map_err(|why| unusable_toolkit(&by, why))?, by)
        }
        None => (render(&generate(&root, &root.within_reach()?), format)?, "cofferdam".to_owned()),
    };
    match output {
        None => print(text.trim_end())?,
        Some(path) => {
            put(path, &text).map_err(|error| refuse("--output", &format!("{}: {error}", path.display())))?;
            note(format_args!("{} describes this host's GPUs, by {by}", path.display()));
        }
    }
    Ok(0)
}

fn unusable_toolkit(program: &str, why: String) -> CliError {
    CliError(Failure {
        code: Code::CdiInvalid,
        what: format!("{program} does not describe the GPUs of this host"),
        why: vec![why],
        next: Some("see whether `nvidia-smi` works; --own has cofferdam describe them".into()),
    })
}

fn render(description: &Value, format: CdiFormat) -> Result<String, CliError> {
    let failed = |why: String| {
        CliError(Failure {
            code: Code::Internal,
            what: format!("{OWN} cannot be written"),
            why: vec![why],
            next: None,
        })
    };
    match format {
        CdiFormat::Json => {
            serde_json::to_string_pretty(description).map_err(|error| failed(error.to_string()))
        }
        CdiFormat::Yaml => serde_saphyr::to_string(description).map_err(|error| failed(error.to_string())),
    }
}

/// Whole or not at all, and for root alone to change: who reads it does as root what it says.
fn put(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let directory =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    // /etc/cdi is not there on a new host.
    // Whatever the umask is: what others can write is not read.
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}
