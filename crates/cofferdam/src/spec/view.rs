//! Reading a specification that is finished.

use std::path::PathBuf;

use serde_json::Value;

/// A specification, to be read.
#[derive(Debug, Clone, Copy)]
pub struct SpecView<'a>(&'a Value);

impl<'a> SpecView<'a> {
    /// Looks at a specification. What is not there, or is of another type, reads as empty.
    #[must_use]
    pub fn of(spec: &'a Value) -> Self {
        Self(spec)
    }

    /// The container's command, its arguments included.
    #[must_use]
    pub fn args(self) -> Vec<&'a str> {
        self.texts("/process/args")
    }

    /// The container's command without an init before it.
    #[must_use]
    pub fn command(self) -> Vec<&'a str> {
        super::init::without(self.args())
    }

    /// The container's environment.
    #[must_use]
    pub fn env(self) -> Vec<&'a str> {
        self.texts("/process/env")
    }

    /// The container's working directory.
    #[must_use]
    pub fn cwd(self) -> &'a str {
        self.0.pointer("/process/cwd").and_then(Value::as_str).unwrap_or("/")
    }

    /// What the container calls itself.
    #[must_use]
    pub fn hostname(self) -> &'a str {
        self.0["hostname"].as_str().unwrap_or("localhost")
    }

    /// Where mounts will cover the root filesystem.
    pub fn mount_destinations(self) -> impl Iterator<Item = PathBuf> + 'a {
        self.entries("/mounts").filter_map(|mount| mount["destination"].as_str()).map(PathBuf::from)
    }

    /// What is bound into the container from the host.
    pub fn bind_sources(self) -> impl Iterator<Item = PathBuf> + 'a {
        self.entries("/mounts")
            .filter(|mount| is_bind(mount))
            .filter_map(|mount| mount["source"].as_str())
            .map(PathBuf::from)
    }

    /// The ids of the container's user and all its groups; `None` where a user namespace changes what they mean.
    #[must_use]
    pub fn ids(self) -> Option<(u32, Vec<u32>)> {
        if self.namespaces().any(|namespace| namespace["type"] == "user") {
            return None;
        }
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let user = self.0.pointer("/process/user")?;
        let mut groups: Vec<u32> = id(&user["gid"]).into_iter().collect();
        groups.extend(user["additionalGids"].as_array().into_iter().flatten().filter_map(id));
        Some((id(&user["uid"]).unwrap_or(0), groups))
    }

    /// Whether the container has a terminal.
    #[must_use]
    pub fn terminal(self) -> bool {
        self.0.pointer("/process/terminal").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Whether the container has a pid namespace of its own, so that all its processes end with the first.
    #[must_use]
    pub fn own_pid_namespace(self) -> bool {
        self.namespaces().any(|ns| ns["type"] == "pid" && ns.get("path").is_none_or(|path| path == ""))
    }

    fn namespaces(self) -> impl Iterator<Item = &'a Value> {
        self.entries("/linux/namespaces")
    }

    fn entries(self, path: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.0.pointer(path).and_then(Value::as_array).into_iter().flatten()
    }

    fn texts(self, path: &str) -> Vec<&'a str> {
        self.entries(path).filter_map(Value::as_str).collect()
    }
}

/// Whether an entry of `mounts` binds something of the host.
pub(super) fn is_bind(mount: &Value) -> bool {
    let mut options = mount["options"].as_array().into_iter().flatten();
    mount["type"] == "bind" || options.any(|option| option == "bind" || option == "rbind")
}
