//! Specifications made for each runtime, as snapshots; and what must hold for any bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::cgroup::Cgroups;
use crate::request::{LaunchRequest, validate};
use crate::runtime::{KernelFacts, RuntimeConfig, RuntimeKind, RuntimeVersion, driver};

fn runtime_with(kind: RuntimeKind, flags: &[&str], kernel: KernelFacts) -> Arc<dyn Runtime> {
    let config = RuntimeConfig {
        name: kind.to_string(),
        binary: "/usr/bin/x".into(),
        root: "/run/x".into(),
        platform: None,
        start_limit: crate::runtime::DEFAULT_START_LIMIT,
    };
    let features = crate::runtime::Features {
        kind,
        version: RuntimeVersion::Unknown,
        version_line: String::new(),
        commands: BTreeSet::new(),
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        oci: None,
        nvidia_drivers: vec!["550.90.07".parse().unwrap()],
        kernel,
    };
    driver(config, features)
}

/// A runc whose `features` list these options of mounts.
fn runtime_that_knows(options: &[&str]) -> Arc<dyn Runtime> {
    let features = crate::runtime::Features {
        oci: Some(json!({ "mountOptions": options })),
        ..runc().features().clone()
    };
    driver(runc().config().clone(), features)
}

pub(super) fn runc() -> Arc<dyn Runtime> {
    runtime_with(RuntimeKind::Runc, &[], KernelFacts::default())
}

pub(super) fn runsc() -> Arc<dyn Runtime> {
    runtime_with(RuntimeKind::Runsc, &["nvproxy", "overlay2", "oci-seccomp"], KernelFacts::default())
}

pub(super) fn host() -> HostFacts {
    let mut cgroups: Cgroups = serde_json::from_value(json!({
        "layout": "v2", "writable": true, "controllers": ["cpu", "memory", "pids"],
        "v1": {}, "v2": ["/sys/fs/cgroup", ["cpu", "memory", "pids"]],
    }))
    .unwrap();
    cgroups.writable = true;
    HostFacts {
        kernel: "6.12".into(),
        machine: "x86_64".into(),
        boot_id: "b".into(),
        uid: 0,
        cgroups,
        hard_limits: BTreeMap::from([("RLIMIT_NOFILE".to_owned(), Some(20_000))]),
        most_open_files: 1 << 20,
        may_raise_limits: false,
        oom_score_adj: 0,
        foreign_binaries: false,
        systemd: false,
        overlay: true,
    }
}

fn bundle() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": true, "user": { "uid": 0, "gid": 0 }, "args": ["sh"], "cwd": "/",
            "env": ["PATH=/bin", "A=1"],
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1_000_000 }],
            "oomScoreAdj": -500, "selinuxLabel": "x",
        },
        "root": { "path": "rootfs" },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "hooks": { "createContainer": [{ "path": "/usr/bin/hook" }] },
        "linux": {
            "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "network" }],
            "seccomp": { "defaultAction": "SCMP_ACT_ALLOW" },
            "devices": [{ "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229 }],
        },
        "futureField": { "kept": true },
    })
}

pub(super) fn plan(change: impl FnOnce(&mut LaunchRequest)) -> ContainerPlan {
    let mut request = LaunchRequest::new(Source::Bundle { path: "/b".into() });
    change(&mut request);
    let mut plan = validate(request).unwrap();
    plan.id = "0123456789abcdef0123456789abcdef".parse().unwrap();
    plan
}

fn prepare_for(
    runtime: &Arc<dyn Runtime>,
    bundle: Option<&Value>,
    plan: &ContainerPlan,
) -> Result<PreparedSpec, PrepareError> {
    prepare_with(runtime.as_ref(), bundle, plan, &host())
}

/// A host whose driver the runtimes here know.
fn granted() -> Granted {
    Granted { driver: Some("550.90.07".parse().unwrap()), ..Granted::default() }
}

/// Prepares a bundle on a host.
pub(super) fn prepare_on(
    runtime: &dyn Runtime,
    host: &HostFacts,
    plan: &ContainerPlan,
) -> Result<PreparedSpec, PrepareError> {
    prepare_with(runtime, Some(&bundle()), plan, host)
}

fn prepare_with(
    runtime: &dyn Runtime,
    bundle: Option<&Value>,
    plan: &ContainerPlan,
    host: &HostFacts,
) -> Result<PreparedSpec, PrepareError> {
    prepare(Ingredients {
        own_tmp: None,
        plan,
        bundle: bundle.map(|config| (Path::new("/b"), config)),
        rootfs: Path::new("/b/rootfs"),
        volumes: Path::new("/v"),
        user: None,
        init: None,
        rates: &[],
        granted: &granted(),
        names: &[],
        host,
        runtime,
    })
}

/// The edits as lines, for reading.
fn edits(spec: &PreparedSpec) -> String {
    let line = |edit: &Edit| format!("{:?} {}: {}", edit.action, edit.path, edit.reason);
    let mut lines: Vec<String> = spec.edits.iter().map(line).collect();
    lines.extend(spec.warnings.iter().map(|warning| format!("WARNING {warning}")));
    lines.push(format!("FLAGS {:?}", spec.flags.0));
    lines.join("\n")
}

#[test]
fn open_files_stay_below_the_kernels_own_bound() {
    let host = HostFacts { may_raise_limits: true, ..host() };
    let mut editor = SpecEditor::new(json!({ "process": { "rlimits": [
        { "type": "RLIMIT_NOFILE", "soft": 1_000_000_000, "hard": 1_000_000_000 },
        { "type": "RLIMIT_CORE", "soft": 5, "hard": 1_000_000_000 },
    ] } }));
    host_limits::clamp(&mut editor, &host);
    let (value, _, warnings) = editor.finish();
    assert_eq!(value["process"]["rlimits"][0]["hard"], 1 << 20);
    assert_eq!(value["process"]["rlimits"][1]["hard"], 1_000_000_000);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn a_bundle_under_runc() {
    let spec = prepare_for(&runc(), Some(&bundle()), &plan(|_| {})).unwrap();
    insta::assert_snapshot!(edits(&spec));
    assert_eq!(spec.value["futureField"]["kept"], true, "a field that we do not know reaches the runtime");
}

#[test]
fn the_same_bundle_under_gvisor() {
    let spec = prepare_for(&runsc(), Some(&bundle()), &plan(|_| {})).unwrap();
    insta::assert_snapshot!(edits(&spec));
}

#[test]
fn everything_that_a_request_can_ask_for() {
    let plan = plan(|request| {
        request.args = vec!["echo".into(), "x".into()];
        request.env = vec!["A=2".into(), "B=3".into()];
        request.cwd = Some("/tmp".into());
        request.hostname = Some("h".into());
        request.mounts = vec!["/data:/data:ro".into()];
        request.limits.memory = Some("64m".into());
        request.limits.cpus = Some(0.5);
        request.limits.pids_limit = Some(10);
        request.network = Some("host".into());
        request.read_only = true;
        request.cap_add = vec!["CHOWN".into()];
        request.ulimits = vec!["nofile=100".into()];
        request.terminal = true;
        request.oci_seccomp = true;
    });
    let spec = prepare_for(&runsc(), Some(&bundle()), &plan).unwrap();
    insta::assert_snapshot!(edits(&spec));
    assert_eq!(spec.view().env(), ["PATH=/bin", "A=2", "B=3", "TERM=xterm"]);
}

#[test]
fn mounts_of_a_user_go_over_those_of_the_specification() {
    let mut plan = plan(|request| {
        request.args = vec!["true".into()];
        request.mounts =
            ["/host/a:/data/sub:rslave", "/host/b:/data:ro", "cache:/var/cache:z", "/host/sys:/sys:ro"]
                .map(str::to_owned)
                .to_vec();
        request.mount_options = vec!["type=bind,source=/host/c,target=/c,bind-propagation=rshared,ro".into()];
        request.tmpfs = vec!["/dev/shm:size=1g".into(), "/run:nr_inodes=5".into()];
    });
    plan.source = Source::Rootfs { path: "/b/rootfs".into() };
    let mut text = String::new();
    for runtime in [runc(), runsc()] {
        let spec = prepare_for(&runtime, None, &plan).unwrap();
        for mount in spec.value["mounts"].as_array().unwrap() {
            let options: Vec<_> =
                mount["options"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
            let [place, source] =
                [&mount["destination"], &mount["source"]].map(|part| part.as_str().unwrap());
            text.push_str(&format!("{place} <- {source} {}\n", options.join(",")));
        }
        text.push_str(&format!("rootfs {}\n{}\n\n", spec.value["linux"]["rootfsPropagation"], edits(&spec)));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn read_only_mounts_are_so_throughout_where_the_runtime_can() {
    let plan = plan(|request| request.mounts = vec!["/a:/a:ro".into(), "/b:/b".into(), "cc:/c:ro".into()]);
    let options = |runtime: &Arc<dyn Runtime>, kernel: &str| {
        let host = HostFacts { kernel: kernel.into(), ..host() };
        let spec = prepare_on(runtime.as_ref(), &host, &plan).unwrap();
        let mounts = spec.value["mounts"].as_array().unwrap()[1..].to_vec();
        mounts.iter().map(|mount| mount["options"][2].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let able = runtime_that_knows(&["rro"]);
    assert_eq!(options(&able, "6.12.1"), ["rro", "rw", "ro"]);
    assert_eq!(options(&able, "5.10.0-8"), ["ro", "rw", "ro"]);
    assert_eq!(options(&runc(), "6.12.1"), ["ro", "rw", "ro"]);
    let mut bundle = bundle();
    bundle["mounts"] =
        json!([{ "destination": "/x", "type": "bind", "source": "/y", "options": ["rbind", "rro"] }]);
    let spec = prepare_for(&runsc(), Some(&bundle), &plan).unwrap();
    assert_eq!(spec.value["mounts"][0]["options"], json!(["rbind", "ro"]), "gVisor would mount it writable");
}

#[test]
fn read_only_files_cannot_be_emptied_under_gvisor() {
    let flags = |version: RuntimeVersion, volume: &str| {
        let features = crate::runtime::Features {
            version,
            flags: ["directfs".to_owned()].into(),
            ..runsc().features().clone()
        };
        let runtime = driver(runsc().config().clone(), features);
        let plan = plan(|request| request.mounts = vec![volume.into()]);
        prepare_for(&runtime, Some(&bundle()), &plan).unwrap().flags.0
    };
    let without = "--directfs=false".to_owned();
    assert!(flags(RuntimeVersion::Dated(20_240_729), "/a:/b:ro").contains(&without));
    for (version, volume) in [
        (RuntimeVersion::Dated(20_240_729), "/a:/b"),
        (RuntimeVersion::Dated(20_250_707), "/a:/b:ro"),
        (RuntimeVersion::Unknown, "/a:/b:ro"),
    ] {
        assert!(!flags(version, volume).contains(&without), "{volume}");
    }
}

#[test]
fn a_root_filesystem_gets_the_strict_default() {
    let mut plan = plan(|request| request.args = vec!["true".into()]);
    plan.source = Source::Rootfs { path: "/b/rootfs".into() };
    let spec = prepare_for(&runc(), None, &plan).unwrap();
    let mut value = spec.value.clone();
    value["linux"]["seccomp"] = "(its own test)".into();
    insta::assert_json_snapshot!(value);
}

#[test]
fn the_default_closes_the_known_leaks() {
    let mut plan = plan(|request| request.args = vec!["true".into()]);
    plan.source = Source::Rootfs { path: "/b/rootfs".into() };
    let value = prepare_for(&runc(), None, &plan).unwrap().value;
    assert_eq!(value["process"]["noNewPrivileges"], true);
    let bounding = value["process"]["capabilities"]["bounding"].to_string();
    assert!(!bounding.contains("MKNOD") && !bounding.contains("NET_RAW") && !bounding.contains("SYS_ADMIN"));
    assert!(value["linux"]["readonlyPaths"].to_string().contains("/proc/sys\""), "drop_caches is below it");
    assert!(value["linux"]["seccomp"].is_object());
    for kind in ["pid", "ipc", "uts", "mount", "network", "cgroup"] {
        assert!(value["linux"]["namespaces"].to_string().contains(kind), "{kind}");
    }
}

#[test]
fn the_hosts_network_is_only_given_when_it_is_asked_for() {
    let mut bundle = bundle();
    bundle["linux"]["namespaces"] = json!([{ "type": "pid" }]);
    let error = prepare_for(&runsc(), Some(&bundle), &plan(|_| {})).unwrap_err();
    assert_eq!(error.code(), Code::HostNetwork);
    let host = plan(|request| request.network = Some("host".into()));
    assert!(prepare_for(&runsc(), Some(&bundle), &host).unwrap().flags.0.contains(&"--network=host".into()));
    let none = plan(|request| request.network = Some("none".into()));
    let spec = prepare_for(&runsc(), Some(&bundle), &none).unwrap();
    assert!(spec.flags.0.contains(&"--network=none".into()));
    assert!(spec.value["linux"]["namespaces"].to_string().contains("network"));
}

#[test]
fn a_namespace_is_joined_or_refused_with_the_reason() {
    let joined = plan(|request| request.network = Some("ns:/run/netns/x".into()));
    let spec = prepare_for(&runsc(), Some(&bundle()), &joined).unwrap();
    assert!(spec.flags.0.contains(&"--network=sandbox".into()));
    assert_eq!(spec.network, NetworkMode::Namespace { path: "/run/netns/x".into() });
    let blind = runtime_with(RuntimeKind::Runsc, &[], KernelFacts { mistakes_namespaces_for_root: true });
    assert_eq!(prepare_for(&blind, Some(&bundle()), &joined).unwrap_err().code(), Code::SandboxNetwork);
    prepare_for(&blind, Some(&bundle()), &plan(|_| {})).unwrap();
}

#[test]
fn nvidia_devices_bring_nvproxy_or_a_refusal() {
    let mut bundle = bundle();
    bundle["linux"]["devices"] =
        json!([{ "path": "/dev/nvidiactl", "type": "c", "major": 195, "minor": 255 }]);
    let spec = prepare_for(&runsc(), Some(&bundle), &plan(|_| {})).unwrap();
    assert!(spec.flags.0.contains(&"--nvproxy=true".into()));
    let old = runtime_with(RuntimeKind::Runsc, &[], KernelFacts::default());
    assert_eq!(prepare_for(&old, Some(&bundle), &plan(|_| {})).unwrap_err().code(), Code::NvproxyMissing);
}

#[test]
fn a_flag_that_the_binary_lacks_is_never_passed() {
    let old = runtime_with(RuntimeKind::Runsc, &[], KernelFacts::default());
    let spec = prepare_for(&old, Some(&bundle()), &plan(|_| {})).unwrap();
    assert_eq!(spec.flags.0, ["--network=none"]);
    let seccomp = plan(|request| request.oci_seccomp = true);
    assert_eq!(prepare_for(&old, Some(&bundle()), &seccomp).unwrap_err().code(), Code::RuntimeLacks);
}

#[test]
fn a_limit_that_cannot_be_enforced_is_refused() {
    let limited = plan(|request| request.limits.memory = Some("64m".into()));
    let mut host = host();
    host.cgroups.writable = false;
    let refused = prepare_on(runc().as_ref(), &host, &limited).unwrap_err();
    assert_eq!(refused.code(), Code::CgroupUnavailable);
    let spec = prepare_on(runc().as_ref(), &host, &plan(|_| {})).unwrap();
    assert_eq!((spec.cgroup, spec.flags.0), (None, vec!["--rootless".to_owned(), "true".to_owned()]));
}

#[test]
fn what_no_bundle_may_say_is_refused_alike_for_every_runtime() {
    let cases: &[(&str, Value)] = &[
        ("/ociVersion", json!("9.9.9")),
        ("/ociVersion", json!("one")),
        ("/process", json!(null)),
        ("/process/args", json!([])),
        ("/process/args", json!([""])),
        ("/process/args", json!(["a\u{0}b"])),
        ("/process/cwd", json!("relative")),
        ("/process/cwd", json!("/proc/self/fd/8")),
        ("/process/env", json!(["A"])),
        ("/process/env", json!(["=1"])),
        ("/process/user", json!({ "uid": 4_294_967_295_u32, "gid": 0 })),
        ("/process/user", json!({ "uid": "root", "gid": 0 })),
        ("/process/rlimits", json!([{ "type": "RLIMIT_NONE", "soft": 1, "hard": 1 }])),
        ("/process/capabilities", json!({ "bounding": ["CAP_FLY"] })),
        ("/mounts", json!([{ "destination": "relative" }])),
        ("/mounts", json!([{ "destination": "/a/../../b" }])),
        ("/hooks", json!({ "prestart": [{ "path": "relative" }] })),
    ];
    for (path, value) in cases {
        let mut editor = SpecEditor::new(bundle());
        editor.set(path, value.clone(), "a test");
        let bundle = editor.value().clone();
        for runtime in [runc(), runsc()] {
            let result = prepare_for(&runtime, Some(&bundle), &plan(|_| {}));
            let code = result.as_ref().err().map(Diagnose::code);
            assert_eq!(code, Some(Code::SpecRefused), "{path} {value}: {result:?}");
        }
    }
}

/// Any JSON, not too deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,10}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn no_bundle_panics(junk in any_json(), position in 0..14_usize) {
        let places = [
            "/process", "/process/args", "/process/env", "/process/rlimits", "/process/user", "/process/oomScoreAdj",
            "/root", "/mounts", "/hooks", "/linux", "/linux/namespaces", "/linux/devices", "/linux/seccomp", "/ociVersion",
        ];
        let mut bundle = bundle();
        *bundle.pointer_mut(places[position]).unwrap() = junk;
        for runtime in [runc(), runsc()] {
            let plan = plan(|request| {
                request.env = vec!["A=1".into()];
                request.network = Some("none".into());
                request.limits.memory = Some("64m".into());
            });
            let _ = prepare_for(&runtime, Some(&bundle), &plan);
        }
    }

    #[test]
    fn preparing_twice_gives_the_same(memory in 24..1000_u64, pids in 1..1000_i64) {
        let plan = plan(|request| {
            request.limits.memory = Some(format!("{memory}m"));
            request.limits.pids_limit = Some(pids);
        });
        let once = prepare_for(&runsc(), Some(&bundle()), &plan).unwrap();
        let again = prepare_for(&runsc(), Some(&once.value), &plan).unwrap();
        prop_assert_eq!(&once.value, &again.value);
        prop_assert!(again.edits.is_empty(), "{:?}", again.edits);
    }
}
