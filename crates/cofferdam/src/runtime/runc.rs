//! The driver of runc, and of crun and youki, which take the same commands.
//!
//! The container's pid is that of its own first process, so the kernel's word about its end is exact.

use std::ffi::OsString;
use std::path::Path;

use async_trait::async_trait;
use serde_json::Value;

use super::binary::{Binary, Call};
use super::flavor::Flavor;
use super::version::RuntimeVersion;
use super::{
    CreateCall, ExecCall, Features, KillScope, ListedContainer, ProcessInfo, ResourceUpdate, Runtime,
    RuntimeConfig, RuntimeError, RuntimeFlags, RuntimeKind, RuntimeState, Surroundings, Target,
};
use crate::request::{MountKind, TmpfsOptions};
use crate::signal::Signal;
use crate::spec::{PrepareError, SpecEditor, hooks, mount_adapt};

/// The first Linux that makes a mount read-only with all that is mounted below it.
const RECURSIVE_KERNEL: (u32, u32) = (5, 12);
/// The first runc that gives a file system in memory the mode that was asked for where a directory lies below it.
const TMPFS_MODE_RUNC: RuntimeVersion = RuntimeVersion::Numbered(1, 1, 9);

/// runc, crun or youki.
#[derive(Debug)]
pub(super) struct Runc {
    binary: Binary,
    flavor: Flavor,
}

impl Runc {
    pub(super) fn new(config: RuntimeConfig, features: Features) -> Self {
        let flavor = Flavor::of(features.kind);
        Self { binary: Binary { config, features }, flavor }
    }

    async fn make(&self, verb: &'static str, call: CreateCall<'_>) -> Result<i32, RuntimeError> {
        let mut args: Vec<OsString> =
            vec!["--bundle".into(), call.bundle.into(), "--pid-file".into(), call.pid_file.into()];
        if let Some(socket) = call.console_socket {
            args.extend(["--console-socket".into(), socket.into()]);
        }
        if verb == "run" {
            args.push("--detach".into());
        }
        let invocation = Call { args, ..Call::new(verb, call.target, []) };
        self.binary.call(invocation.starting(&self.binary.config, call.stdio)).await?;
        self.binary.read_pid(verb, call.pid_file)
    }

    fn adapt_mounts(&self, editor: &mut SpecEditor, surroundings: &Surroundings<'_>) {
        let Features { kind, version, oci, .. } = &self.binary.features;
        let known = oci.as_ref().and_then(|oci| oci["mountOptions"].as_array());
        let knows_it = known.is_some_and(|words| words.iter().any(|word| word == "rro"));
        if knows_it && surroundings.host.kernel_is_at_least(RECURSIVE_KERNEL) {
            mount_adapt::read_only_throughout(editor, surroundings.plan);
        }
        let loses_mode = *kind == RuntimeKind::Runc && version.at_least(&TMPFS_MODE_RUNC) == Some(false);
        for mount in surroundings.plan.mounts.iter().filter(|_| loses_mode) {
            if matches!(mount.kind, MountKind::Tmpfs(TmpfsOptions { mode: Some(_), .. })) {
                editor.warn(format!(
                    "{} {}: before {TMPFS_MODE_RUNC}, runc gives it the mode of the directory that the root filesystem \
                     has there, if it has one",
                    mount.option, mount.destination
                ));
            }
        }
    }
}

#[async_trait]
impl Runtime for Runc {
    fn config(&self) -> &RuntimeConfig {
        &self.binary.config
    }

    fn features(&self) -> &Features {
        &self.binary.features
    }

    fn is_sandbox(&self) -> bool {
        false
    }

    fn leaves_only_files(&self) -> bool {
        self.flavor.leaves_only_files
    }

    fn prepare(
        &self,
        editor: &mut SpecEditor,
        surroundings: &Surroundings<'_>,
    ) -> Result<RuntimeFlags, PrepareError> {
        if !surroundings.granted.gpus.is_empty() {
            hooks::drop_old_kind(editor);
        }
        self.adapt_mounts(editor, surroundings);
        let cgroups = &surroundings.host.cgroups;
        if self.flavor.refuses_hybrid && cgroups.has_controllers_on_both() {
            let mut lacks =
                self.binary.lacks("support for controllers on cgroup v1 and v2 at once".into(), None);
            lacks.next =
                Some("use --runtime runc here, or boot with systemd.unified_cgroup_hierarchy=1".into());
            return Err(lacks.into());
        }
        let mut flags = RuntimeFlags::default();
        if !cgroups.writable {
            flags.0.extend(self.flavor.without_cgroups.iter().map(|flag| (*flag).to_owned()));
        }
        Ok(flags)
    }

    async fn create(&self, call: CreateCall<'_>) -> Result<i32, RuntimeError> {
        self.make("create", call).await
    }

    async fn run(&self, call: CreateCall<'_>) -> Result<i32, RuntimeError> {
        if self.flavor.hands_over_early_exits {
            return self.make("run", call).await;
        }
        // A created process waits, so it is ours before it can end.
        let target = call.target;
        let pid = self.make("create", call).await?;
        self.start(target).await?;
        Ok(pid)
    }

    async fn start(&self, target: Target<'_>) -> Result<(), RuntimeError> {
        let call = Call { limit: self.binary.config.start_limit, ..Call::new("start", target, []) };
        self.binary.call(call).await.map(drop)
    }

    async fn exec(&self, call: ExecCall<'_>) -> Result<i32, RuntimeError> {
        let mut args: Vec<OsString> = vec![
            "--detach".into(),
            "--process".into(),
            call.process.into(),
            "--pid-file".into(),
            call.pid_file.into(),
        ];
        if let Some(socket) = call.console_socket {
            args.extend(["--console-socket".into(), socket.into()]);
        }
        let invocation = Call { args, ..Call::new("exec", call.target, []) };
        self.binary.call(invocation.starting(&self.binary.config, call.stdio)).await?;
        self.binary.read_pid("exec", call.pid_file)
    }

    async fn kill(&self, target: Target<'_>, signal: Signal, scope: KillScope) -> Result<(), RuntimeError> {
        let flags: &[&str] = match scope {
            KillScope::All => &["--all"],
            // A process of the container has a pid on the host, which the caller signals itself.
            KillScope::Init | KillScope::Process(_) => &[],
        };
        self.binary.kill(target, signal, flags).await
    }

    async fn delete(&self, target: Target<'_>, force: bool) -> Result<(), RuntimeError> {
        self.binary.delete(target, force).await
    }

    async fn state(&self, target: Target<'_>) -> Result<RuntimeState, RuntimeError> {
        self.binary.state(target).await
    }

    async fn list(&self) -> Result<Vec<ListedContainer>, RuntimeError> {
        if !self.flavor.prints_json {
            return Err(self.binary.lacks("a list that programs can read".into(), None).into());
        }
        self.binary.list("--format").await
    }

    async fn ps(&self, target: Target<'_>) -> Result<Vec<ProcessInfo>, RuntimeError> {
        if !self.flavor.prints_json {
            return Err(self.binary.lacks("a process list that programs can read".into(), None).into());
        }
        let done = self.binary.call(Call::new("ps", target, ["--format", "json"])).await?;
        let pids: Vec<i32> = serde_json::from_slice(&done.stdout).map_err(|error| {
            RuntimeError::garbled(&self.binary.config.binary, "ps", error.to_string(), &done.stdout)
        })?;
        Ok(pids.into_iter().filter_map(crate::proc::describe).collect())
    }

    async fn stats(&self, target: Target<'_>) -> Result<Value, RuntimeError> {
        self.binary.stats(target).await
    }

    async fn update(
        &self,
        target: Target<'_>,
        limits: &ResourceUpdate,
        scratch: &Path,
    ) -> Result<(), RuntimeError> {
        self.binary.update(target, limits, scratch).await
    }

    async fn pause(&self, target: Target<'_>) -> Result<(), RuntimeError> {
        self.binary.call(Call::new("pause", target, [])).await.map(drop)
    }

    async fn resume(&self, target: Target<'_>) -> Result<(), RuntimeError> {
        self.binary.call(Call::new("resume", target, [])).await.map(drop)
    }
}
