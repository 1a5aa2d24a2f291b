//! The driver of gVisor's runsc.
//!
//! The container's pid is that of its sandbox. The sandbox ends with the code of the container's first process, and
//! with 128+n for a signal, so waiting for it as its subreaper loses nothing; `runsc wait`, which loses most codes of
//! short containers, is never used.
//! Facts and measurements behind the choices here are in docs/design/runsc.md.

use std::ffi::OsString;
use std::path::Path;

use async_trait::async_trait;
use serde_json::Value;

use super::binary::{Binary, Call};
use super::nvproxy::nvproxy_flags;
use super::version::RuntimeVersion;
use super::{
    CreateCall, ExecCall, Features, KillScope, Lacks, ListedContainer, ProcessInfo, ResourceUpdate, Runtime,
    RuntimeConfig, RuntimeError, RuntimeFlags, RuntimeState, Surroundings, Target, parse_process_table,
};
use crate::error::Code;
use crate::request::NetworkMode;
use crate::signal::Signal;
use crate::spec::{NetworkChoice, PrepareError, SpecEditor, devices, mount_adapt, nvproxy};

/// What a sandbox with little in it needs for itself (measured: 13 to 16 MiB), with as much again for one with many
/// processes and files.
const SANDBOX_BYTES: u64 = 32 << 20;
/// The part of the guest's memory that its sandbox needs to manage it (measured: a hundredth).
const SANDBOX_PARTS: u64 = 32;
/// The least limit under which `runsc create` lives, which is in the cgroup meanwhile (measured: 16.4 MB at its peak).
const SANDBOX_FLOOR_BYTES: u64 = 24 << 20;

/// The first release that looks whether a mount is read-only before it empties a file for `open` with O_TRUNC. Before, the
/// guest gets its EROFS, and the file of the host is empty; without directfs, the gofer refuses it.
const CHECKS_BEFORE_TRUNCATING: RuntimeVersion = RuntimeVersion::Dated(20_250_707);

/// gVisor.
#[derive(Debug)]
pub(super) struct Runsc {
    binary: Binary,
}

impl Runsc {
    pub(super) fn new(config: RuntimeConfig, features: Features) -> Self {
        Self { binary: Binary { config, features } }
    }

    fn has_flag(&self, flag: &str) -> bool {
        self.binary.features.has_flag(flag)
    }

    /// Whether a guest can empty files of the host that are mounted read-only. A build that tells no release is taken for a
    /// new one.
    fn truncates_read_only(&self) -> bool {
        let checks = self.binary.features.version.at_least(&CHECKS_BEFORE_TRUNCATING);
        self.has_flag("directfs") && checks == Some(false)
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

    fn network_flag(&self, network: &NetworkChoice) -> Result<&'static str, PrepareError> {
        match (&network.mode, network.explicit) {
            (NetworkMode::None, _) => Ok("--network=none"),
            (NetworkMode::Host, true) => Ok("--network=host"),
            (NetworkMode::Host, false) => Err(PrepareError::HostNetworkImplied),
            (NetworkMode::Namespace { .. } | NetworkMode::Cni { .. } | NetworkMode::Container { .. }, _) => {
                if self.binary.features.kernel.mistakes_namespaces_for_root {
                    return Err(Lacks {
                        runtime: self.binary.features.title(),
                        what: "a way to use network namespaces on this kernel: it takes each for the host's own".into(),
                        since: Some("20240807".into()),
                        code: Code::SandboxNetwork,
                        next: Some(
                            "install a newer runsc (https://gvisor.dev/docs/user_guide/install/), or use --network none"
                                .into(),
                        ),
                    }
                    .into());
                }
                Ok("--network=sandbox")
            }
        }
    }
}

#[async_trait]
impl Runtime for Runsc {
    fn config(&self) -> &RuntimeConfig {
        &self.binary.config
    }

    fn features(&self) -> &Features {
        &self.binary.features
    }

    fn is_sandbox(&self) -> bool {
        true
    }

    fn memory_floor(&self) -> u64 {
        SANDBOX_FLOOR_BYTES
    }

    fn memory_headroom(&self, limit: u64) -> u64 {
        SANDBOX_BYTES + limit / SANDBOX_PARTS
    }

    fn leaves_only_files(&self) -> bool {
        // State file, lock and control socket, from 20221219 to 20260905; with the default of
        // --gofer-network-namespace it would also leave a mount.
        true
    }

    fn prepare(
        &self,
        editor: &mut SpecEditor,
        surroundings: &Surroundings<'_>,
    ) -> Result<RuntimeFlags, PrepareError> {
        let Surroundings { network, plan, host, .. } = *surroundings;
        let mut flags = vec![self.network_flag(network)?.to_owned()];
        if let Some(platform) = &self.binary.config.platform {
            flags.push(format!("--platform={platform}"));
        }
        if self.has_flag("overlay2") {
            // Writes go to the root filesystem as they do under runc. The default keeps them in a file that it puts
            // into the root filesystem and that a crash leaves there.
            flags.push("--overlay2=none".into());
        }
        if self.has_flag("gofer-network-namespace") {
            // The default pins a namespace by a mount in the state root that nobody removes.
            flags.push("--gofer-network-namespace=new".into());
        }
        if !host.cgroups.writable {
            flags.push("--ignore-cgroups".into());
        }
        if plan.oci_seccomp {
            if !self.has_flag("oci-seccomp") {
                return Err(self.binary.lacks("the flag --oci-seccomp".into(), Some("20190529")).into());
            }
            flags.push("--oci-seccomp".into());
        } else {
            editor.remove("/linux/seccomp", "gVisor's kernel is not the host's; keep it with --oci-seccomp");
        }
        editor.remove("/process/selinuxLabel", "gVisor refuses to start with it");
        editor.remove("/process/apparmorProfile", "gVisor ignores it: its sandbox is confined by itself");
        mount_adapt::adapt_for_gvisor(editor);
        if self.truncates_read_only() && mount_adapt::has_read_only_bind(editor) {
            flags.push("--directfs=false".into());
        }
        let has_gpus = devices::keep_only_nvidia(editor);
        if has_gpus || nvproxy::has_hook(editor) {
            nvproxy::adapt(editor, surroundings.granted);
        }
        if has_gpus {
            flags.extend(nvproxy_flags(&self.binary, editor, surroundings)?);
        }
        warn_of_hooks(editor, &self.binary.features);
        Ok(RuntimeFlags(flags))
    }

    async fn create(&self, call: CreateCall<'_>) -> Result<i32, RuntimeError> {
        self.make("create", call).await
    }

    async fn run(&self, call: CreateCall<'_>) -> Result<i32, RuntimeError> {
        self.make("run", call).await
    }

    async fn start(&self, target: Target<'_>) -> Result<(), RuntimeError> {
        let call = Call { limit: self.binary.config.start_limit, ..Call::new("start", target, []) };
        self.binary.call(call).await.map(drop)
    }

    async fn exec(&self, call: ExecCall<'_>) -> Result<i32, RuntimeError> {
        let mut args: Vec<OsString> = vec![
            "--detach".into(),
            // In a file: up to today's head, `exec --detach` drops every argument that holds the word "detach".
            "--process".into(),
            call.process.into(),
            "--pid-file".into(),
            call.pid_file.into(),
            "--internal-pid-file".into(),
            call.internal_pid_file.into(),
        ];
        if let Some(socket) = call.console_socket {
            args.extend(["--console-socket".into(), socket.into()]);
        }
        let invocation = Call { args, ..Call::new("exec", call.target, []) };
        self.binary.call(invocation.starting(&self.binary.config, call.stdio)).await?;
        self.binary.read_pid("exec", call.pid_file)
    }

    async fn kill(&self, target: Target<'_>, signal: Signal, scope: KillScope) -> Result<(), RuntimeError> {
        match scope {
            KillScope::Init => self.binary.kill(target, signal, &[]).await,
            KillScope::All => self.binary.kill(target, signal, &["--all"]).await,
            KillScope::Process(pid) => self.binary.kill(target, signal, &["--pid", &pid.to_string()]).await,
        }
    }

    async fn delete(&self, target: Target<'_>, force: bool) -> Result<(), RuntimeError> {
        self.binary.delete(target, force).await
    }

    async fn state(&self, target: Target<'_>) -> Result<RuntimeState, RuntimeError> {
        self.binary.state(target).await
    }

    async fn list(&self) -> Result<Vec<ListedContainer>, RuntimeError> {
        self.binary.list("--format").await
    }

    async fn ps(&self, target: Target<'_>) -> Result<Vec<ProcessInfo>, RuntimeError> {
        let done = self.binary.call(Call::new("ps", target, [])).await?;
        parse_process_table(&done.stdout)
            .map_err(|why| RuntimeError::garbled(&self.binary.config.binary, "ps", why, &done.stdout))
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

/// Says which hooks of a bundle this runsc will not run.
fn warn_of_hooks(editor: &mut SpecEditor, features: &Features) {
    let ran: Vec<&str> = features
        .oci
        .as_ref()
        .and_then(|oci| oci.get("hooks"))
        .and_then(Value::as_array)
        .map(|hooks| hooks.iter().filter_map(Value::as_str).collect())
        // Without a features document: before 20260511, which skip these two.
        .unwrap_or_else(|| vec!["prestart", "createRuntime", "poststart", "poststop"]);
    for stage in ["createContainer", "startContainer"] {
        let wanted = editor.entries(&format!("/hooks/{stage}")).count();
        if wanted > 0 && !ran.contains(&stage) {
            editor.warn(format!(
                "{} does not run the {wanted} {stage} hook(s) of the bundle",
                features.title()
            ));
        }
    }
}
