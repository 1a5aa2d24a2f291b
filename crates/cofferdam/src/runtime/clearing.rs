//! Who takes away what a runtime has made.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Runtime;

/// Who takes away what a runtime has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clearing {
    /// The runtime, by its command `delete`: always right.
    ByRuntime,
    /// We: the container has ended in an orderly way, and what is left of it are directories that carry its id. To
    /// start the runtime once more for that costs as much as a tenth of the whole run.
    ByUs,
}

impl Clearing {
    /// Who can take away a container that was made from this specification, once it has ended.
    pub(crate) fn after_the_end(spec: &Value, runtime: &dyn Runtime) -> Self {
        let has_hooks =
            spec.pointer("/hooks/poststop").and_then(Value::as_array).is_some_and(|hooks| !hooks.is_empty());
        // A group of the resctrl file system, which only the runtime knows by name.
        let has_cache_limits = spec.pointer("/linux/intelRdt").is_some_and(|rdt| !rdt.is_null());
        if has_hooks || has_cache_limits || !runtime.leaves_only_files() {
            Self::ByRuntime
        } else {
            Self::ByUs
        }
    }
}
