//! `stats`: what containers use, once or again and again.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use cofferdam::cgroup::stats::Stats;
use cofferdam::engine::View;
use cofferdam::exit::format_bytes;
use cofferdam::id::ContainerId;
use cofferdam::lifecycle::Status;
use cofferdam::nvidia::{DriverRoot, GpuReading, GpuUsage, read_gpus};
use serde_json::{Value, json};

use crate::cli::StatsArgs;
use crate::context::Context;
use crate::output::{CliError, print, warn};
use crate::table::render_rows;
use crate::template::Template;

/// The time between two readings: a rate is their difference.
const PERIOD: Duration = Duration::from_secs(1);
/// The same for who wants one answer.
const FIRST_PERIOD: Duration = Duration::from_millis(500);
/// Clears a terminal, and goes to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// One container, as it was read and as it was before that.
struct Row {
    id: ContainerId,
    name: String,
    before: Stats,
    now: Stats,
    gpus: Vec<GpuUsage>,
}

pub(super) async fn stats(context: &Context, args: StatsArgs) -> Result<u8, CliError> {
    let format = args.format.as_deref().filter(|format| *format != "table");
    let template = format.filter(|format| *format != "json").map(Template::parse).transpose()?;
    let mut before = read(context, &args.containers).await?;
    let mut gpus = GpuReader { root: args.driver.root()?, has_failed: false };
    let mut period = FIRST_PERIOD;
    loop {
        tokio::time::sleep(period).await;
        let now = read(context, &args.containers).await?;
        let readings = gpus.read(&now).await;
        let rows = pair(context, &before, &now, &readings);
        match (&template, format) {
            (Some(template), _) => {
                rows.iter().try_for_each(|row| print(template.render(&row.value()?)?))?;
            }
            // One object a line.
            (None, Some(_)) => rows.iter().try_for_each(|row| print(row.value()?))?,
            (None, None) => show(&rows, args.watch)?,
        }
        if !args.watch {
            return Ok(0);
        }
        (before, period) = (now, PERIOD);
    }
}

/// The containers that were named, or all that run.
async fn read(context: &Context, names: &[String]) -> Result<Vec<(View, Stats)>, CliError> {
    let engine = &context.engine;
    let views = if names.is_empty() {
        let (views, _) = engine.containers().await?;
        views.into_iter().filter(|view| matches!(view.status(), Status::Running | Status::Paused)).collect()
    } else {
        let mut views = Vec::new();
        for name in names {
            views.push(engine.find(name).await?);
        }
        views
    };
    Ok(views.into_iter().filter_map(|view| engine.stats(&view).map(|stats| (view, stats))).collect())
}

/// Reads GPUs as long as that works, where a container has some.
#[derive(Debug)]
struct GpuReader {
    root: DriverRoot,
    has_failed: bool,
}

impl GpuReader {
    async fn read(&mut self, containers: &[(View, Stats)]) -> Vec<GpuReading> {
        if self.has_failed || containers.iter().all(|(view, _)| view.record.gpus.is_empty()) {
            return vec![];
        }
        let root = self.root.clone();
        let read = tokio::task::spawn_blocking(move || read_gpus(&root)).await;
        match read.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(readings) => readings,
            Err(why) => {
                self.has_failed = true;
                warn(format_args!("what GPUs do cannot be read: {why}"));
                vec![]
            }
        }
    }
}

fn pair(
    context: &Context,
    before: &[(View, Stats)],
    now: &[(View, Stats)],
    readings: &[GpuReading],
) -> Vec<Row> {
    let rows = now.iter().filter_map(|(view, now)| {
        let id = &view.container.id;
        let (_, before) = before.iter().find(|(before, _)| before.container.id == *id)?;
        let name = view.record.name.as_ref().map_or_else(String::new, ToString::to_string);
        let gpus = context.engine.gpu_usage(view, readings);
        Some(Row { id: id.clone(), name, before: before.clone(), now: now.clone(), gpus })
    });
    rows.collect()
}

impl Row {
    /// CPU time used, in per cent of one CPU.
    fn cpu_percent(&self) -> Option<f64> {
        let used = self.now.cpu?.usage_us.saturating_sub(self.before.cpu?.usage_us);
        let passed = self.now.read.duration_since(self.before.read).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a percentage of a second")]
        let used = used as f64 / 1e6;
        (passed > 0.0).then(|| 100.0 * used / passed)
    }

    /// The working set, in per cent of the limit.
    fn memory_percent(&self) -> Option<f64> {
        let memory = self.now.memory?;
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        memory.limit_bytes.map(|limit| 100.0 * memory.working_set_bytes as f64 / limit.max(1) as f64)
    }

    fn value(&self) -> Result<Value, CliError> {
        let mut value =
            serde_json::to_value(&self.now).map_err(|error| CliError::internal("no JSON", &error))?;
        value["id"] = self.id.as_str().into();
        value["name"] = self.name.as_str().into();
        value["cpu_percent"] = json!(self.cpu_percent());
        value["memory_percent"] = json!(self.memory_percent());
        value["gpus"] = json!(self.gpus);
        Ok(value)
    }

    /// Those of its GPUs: how busy they are, and its memory on them.
    fn gpu_cells(&self) -> [String; 2] {
        let each = |text: fn(&GpuUsage) -> Option<String>| {
            let texts: Vec<String> = self.gpus.iter().map(|gpu| text(gpu).unwrap_or_else(none)).collect();
            if texts.is_empty() { none() } else { texts.join(", ") }
        };
        [
            each(|gpu| Some(format!("{}: {}%", gpu.index, gpu.utilization_percent?))),
            each(|gpu| {
                let total = gpu.memory_total_bytes.map_or_else(none, format_bytes);
                Some(format!("{} / {total}", format_bytes(gpu.memory_used_bytes?)))
            }),
        ]
    }

    fn cells(&self) -> [String; 8] {
        let percent = |value: Option<f64>| value.map_or_else(none, |value| format!("{value:.2}%"));
        let Stats { memory, pids, io, network, .. } = &self.now;
        let usage = memory.map_or_else(none, |memory| {
            let limit = memory.limit_bytes.map_or_else(|| "no limit".to_owned(), format_bytes);
            format!("{} / {limit}", format_bytes(memory.working_set_bytes))
        });
        let both = |sizes: Option<(u64, u64)>| {
            sizes.map_or_else(none, |(one, other)| format!("{} / {}", format_bytes(one), format_bytes(other)))
        };
        [
            self.id.short().to_owned(),
            self.name.clone(),
            percent(self.cpu_percent()),
            usage,
            percent(self.memory_percent()),
            both(network.map(|network| (network.received_bytes, network.sent_bytes))),
            both(io.map(|io| (io.read_bytes, io.write_bytes))),
            pids.map_or_else(none, |pids| pids.current.to_string()),
        ]
    }
}

fn show(rows: &[Row], again: bool) -> Result<(), CliError> {
    let titles =
        ["CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"];
    let has_gpus = rows.iter().any(|row| !row.gpus.is_empty());
    let more = ["GPU %", "GPU MEM"].into_iter().filter(|_| has_gpus);
    let titles: Vec<String> = titles.into_iter().chain(more).map(str::to_owned).collect();
    let cells = |row: &Row| row.cells().into_iter().chain(row.gpu_cells()).take(titles.len()).collect();
    let table = render_rows(&titles, rows.iter().map(cells));
    if again && io::stdout().is_terminal() {
        // What cannot be cleared is only longer.
        let _ = io::stdout().write_all(CLEAR.as_bytes());
    }
    print(table)
}

fn none() -> String {
    "--".to_owned()
}
