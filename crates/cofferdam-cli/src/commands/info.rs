//! `info` and `capabilities`: what is here, and what it can do.

use std::path::PathBuf;

use cofferdam::engine::{Engine, Found, RuntimeProbe};
use cofferdam::nvidia::Inventory;
use cofferdam::runtime::Features;
use cofferdam::runtime::capabilities::{Answer, Capability, Criu};
use serde_json::{Value, json};

use crate::args::DriverArgs;
use crate::context::Context;
use crate::output::{CliError, OUR_FAILURE, print, print_json};
use crate::table;
use crate::template::Template;

pub(super) async fn info(
    context: &Context,
    format: Option<&str>,
    driver: &DriverArgs,
) -> Result<u8, CliError> {
    let engine = &context.engine;
    let (containers, broken) = engine.containers().await?;
    let running = containers.iter().filter(|view| view.report.is_none()).count();
    let runtimes = engine.runtimes().await;
    let host = serde_json::to_value(engine.host()).map_err(|error| CliError::internal("no JSON", &error))?;
    let inventory = driver.root()?.inventory().ok();
    let value = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state_dir": engine.state().path(),
        "containers": containers.len(),
        "containers_running": running,
        "records_damaged": broken.len(),
        "kernel": host["kernel"],
        "machine": host["machine"],
        "cgroup_layout": host["cgroups"]["layout"],
        "cgroups_writable": host["cgroups"]["writable"],
        "cgroup_controllers": host["cgroups"]["controllers"],
        "nvidia_driver": inventory.as_ref().map(|found| found.driver.to_string()),
        "gpus": gpus(inventory.as_ref()),
        "runtimes": runtimes.iter().map(runtime_summary).collect::<serde_json::Map<_, _>>(),
    });
    match format {
        None | Some("table") => print(key_values(&value))?,
        Some("json") => print_json(&value)?,
        Some(text) => print(Template::parse(text)?.render(&value)?)?,
    }
    Ok(0)
}

/// Each GPU by its index.
fn gpus(inventory: Option<&Inventory>) -> Value {
    let gpus = inventory.map(|found| found.gpus.as_slice()).unwrap_or_default();
    gpus.iter()
        .map(|gpu| (gpu.index.to_string(), Value::from(format!("{} {}", gpu.model, gpu.uuid))))
        .collect()
}

fn runtime_summary(probe: &RuntimeProbe) -> (String, Value) {
    let text = match &probe.found {
        Found::Here { config, features } => {
            format!("{} ({})", features.version_line, config.binary.display())
        }
        Found::Missing { .. } => "not installed".into(),
        Found::Unusable { binary, failure } => format!("{}: {failure}", binary.display()),
    };
    (probe.choice.clone(), text.into())
}

fn key_values(value: &Value) -> String {
    let mut lines = Vec::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        let title = key.replace('_', " ");
        match value {
            Value::Null => {}
            Value::Object(map) if map.is_empty() => {}
            Value::Object(map) => {
                lines.push(format!("{title}:"));
                lines.extend(map.iter().map(|(key, value)| format!("  {key}: {}", plain(value))));
            }
            other => lines.push(format!("{title}: {}", plain(other))),
        }
    }
    lines.join("\n")
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// One column of the matrix.
struct Column {
    title: String,
    binary: PathBuf,
    answers: Vec<(Capability, Answer)>,
}

pub(super) async fn capabilities(
    context: &Context,
    choices: &[String],
    format: Option<&str>,
) -> Result<u8, CliError> {
    let engine = &context.engine;
    let probes = if choices.is_empty() {
        engine.runtimes().await
    } else {
        let mut probes = Vec::new();
        for choice in choices {
            probes.push(engine.probe_runtime(choice).await);
        }
        probes
    };
    let criu = Criu::probe().await;
    let columns: Vec<Column> = probes.iter().filter_map(|probe| column(engine, &criu, probe)).collect();
    match format {
        None | Some("table") => print(matrix(&columns, &probes))?,
        Some("json") => print_json(&as_json(&columns)?)?,
        Some(other) => {
            return Err(crate::args::refuse("--format", &format!("`{other}` is not table or json")));
        }
    }
    // One that was asked for in so many words, and is not there, is a failure.
    Ok(if choices.is_empty() || columns.len() == probes.len() { 0 } else { OUR_FAILURE })
}

fn column(engine: &Engine, criu: &Criu, probe: &RuntimeProbe) -> Option<Column> {
    let Found::Here { config, features } = &probe.found else { return None };
    let features: &Features = features;
    let answer = |capability: Capability| (capability, capability.answer(features, engine.host(), criu));
    Some(Column {
        title: features.title(),
        binary: config.binary.clone(),
        answers: Capability::ALL.map(answer).to_vec(),
    })
}

fn matrix(columns: &[Column], probes: &[RuntimeProbe]) -> String {
    let mut titles = vec!["CAPABILITY".to_owned()];
    titles.extend(columns.iter().map(|column| column.title.to_uppercase()));
    let rows = Capability::ALL.iter().enumerate().map(|(index, capability)| {
        let word = |column: &Column| if column.answers[index].1.supported { "yes" } else { "no" }.to_owned();
        std::iter::once(capability.title().to_owned()).chain(columns.iter().map(word)).collect()
    });
    let mut text = table::render_rows(&titles, rows);
    for (heading, wanted) in [("Why not", false), ("How", true)] {
        let answers =
            columns.iter().flat_map(|column| column.answers.iter().map(move |answer| (column, answer)));
        let lines: Vec<String> = answers
            .filter(|(_, (_, answer))| answer.supported == wanted)
            .map(|(column, (capability, answer))| {
                format!("\n  {}, {}: {}", column.title, capability.title(), answer.reason)
            })
            .collect();
        if !lines.is_empty() {
            text.push_str(&format!("\n\n{heading}:{}", lines.concat()));
        }
    }
    for probe in probes {
        match &probe.found {
            Found::Here { .. } => {}
            Found::Missing { failure } | Found::Unusable { failure, .. } => {
                text.push_str(&format!("\n\n{}: {failure}", probe.choice));
                text.push_str(&failure.next.as_ref().map_or_else(String::new, |next| format!("; {next}")));
            }
        }
    }
    text
}

fn as_json(columns: &[Column]) -> Result<Value, CliError> {
    let no_json = |error: serde_json::Error| CliError::internal("no JSON", &error);
    let mut runtimes = Vec::new();
    for column in columns {
        let mut answers = serde_json::Map::new();
        for (capability, answer) in &column.answers {
            let key = serde_json::to_value(capability).map_err(no_json)?;
            answers.insert(
                key.as_str().unwrap_or_default().to_owned(),
                serde_json::to_value(answer).map_err(no_json)?,
            );
        }
        runtimes.push(json!({ "runtime": column.title, "binary": column.binary, "capabilities": answers }));
    }
    Ok(runtimes.into())
}
