//! `doctor`: the checks of the library, each red line with what mends it.

use anstyle::{AnsiColor, Style};
use cofferdam::doctor::{Check, Verdict, examine};

use crate::args::DeviceSearchArgs;
use crate::cli::DoctorFormat;
use crate::context::Context;
use crate::output::{CliError, print, print_json};

/// The exit code when a check is bad.
const SICK: u8 = 1;

pub(super) async fn doctor(
    context: &Context,
    format: DoctorFormat,
    search: &DeviceSearchArgs,
) -> Result<u8, CliError> {
    let checks = examine(&context.engine, &search.driver_root()?, &search.searched()?).await;
    match format {
        DoctorFormat::Json => print_json(&checks)?,
        DoctorFormat::Text => print(checks.iter().map(line).collect::<Vec<_>>().join("\n"))?,
    }
    Ok(if checks.iter().any(|check| check.verdict == Verdict::Bad) { SICK } else { 0 })
}

fn line(check: &Check) -> String {
    let (word, color) = match check.verdict {
        Verdict::Good => ("ok  ", AnsiColor::Green),
        Verdict::Limited => ("note", AnsiColor::Yellow),
        Verdict::Bad => ("bad ", AnsiColor::Red),
    };
    let style: Style = color.on_default().bold();
    let mend = check.mend.as_ref().map_or_else(String::new, |mend| format!("\n      mend: {mend}"));
    format!("{style}{word}{style:#}  {}: {}{mend}", check.subject, check.finding)
}
