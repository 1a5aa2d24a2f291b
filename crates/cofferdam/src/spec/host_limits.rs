//! Values that this process may not give to a child: clamped, with a warning, instead of an error of the runtime.

use serde_json::{Value, json};

use super::SpecEditor;
use crate::host::HostFacts;

/// Clamps resource limits and the out-of-memory score to what this process may set.
pub(super) fn clamp(editor: &mut SpecEditor, host: &HostFacts) {
    let limits: Vec<Value> = editor.entries("/process/rlimits").cloned().collect();
    for (position, limit) in limits.iter().enumerate() {
        let Some(name) = limit["type"].as_str() else { continue };
        let Some((most, whose)) = most_allowed(name, host) else { continue };
        let (soft, hard) = (limit["soft"].as_u64().unwrap_or(0), limit["hard"].as_u64().unwrap_or(0));
        if hard <= most {
            continue;
        }
        let value = json!({ "type": name, "soft": soft.min(most), "hard": most });
        let reason = format!("{whose} {most}");
        editor.set(&format!("/process/rlimits/{position}"), value, &reason);
        editor.warn(format!("{name} was lowered from {hard} to {most}: {reason}"));
    }
    if !host.may_raise_limits {
        clamp_oom_score(editor, host.oom_score_adj);
    }
}

/// The most that a limit may be here, and why. `None` is no bound.
fn most_allowed(name: &str, host: &HostFacts) -> Option<(u64, &'static str)> {
    if !host.may_raise_limits {
        let own = host.hard_limits.get(name).copied().flatten()?;
        return Some((own, "this process may not go above its own hard limit of"));
    }
    (name == "RLIMIT_NOFILE").then_some((host.most_open_files, "the kernel's fs.nr_open is"))
}

fn clamp_oom_score(editor: &mut SpecEditor, own: i32) {
    let path = "/process/oomScoreAdj";
    let Some(wanted) = editor.get(path).and_then(Value::as_i64) else { return };
    if wanted < i64::from(own) {
        let reason = format!("this process may not go below its own oom_score_adj of {own}");
        editor.set(path, own, &reason);
        editor.warn(format!("oomScoreAdj was raised from {wanted} to {own}: {reason}"));
    }
}
