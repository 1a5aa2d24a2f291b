//! Limits as a specification has them, one test a rule.

use super::*;
use crate::cgroup::Cgroups;
use crate::request::LaunchRequest;
use crate::spec::PreparedSpec;
use crate::spec::tests::{host, plan, prepare_on, runc, runsc};

fn on(
    runtime: &dyn Runtime,
    host: &HostFacts,
    change: impl FnOnce(&mut LaunchRequest),
) -> Result<PreparedSpec, PrepareError> {
    prepare_on(runtime, host, &plan(change))
}

fn resources(spec: &PreparedSpec) -> Value {
    let mut resources = spec.value["linux"]["resources"].clone();
    resources.as_object_mut().unwrap().remove("devices");
    resources
}

fn v1() -> HostFacts {
    let mountinfo = "36 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    let mut cgroups = Cgroups::from_mountinfo(mountinfo, |_| unreachable!());
    cgroups.writable = true;
    HostFacts { cgroups, ..host() }
}

#[test]
fn limits_come_with_what_belongs_to_them() {
    let mut host = host();
    host.cgroups.counts_swap = true;
    let spec = on(runc().as_ref(), &host, |request| {
        request.limits.memory = Some("64m".into());
        request.limits.cpus = Some(0.5);
        request.limits.cpu_shares = Some(512);
    });
    let wanted = json!({
        "memory": { "limit": 64 << 20, "swap": 128 << 20 },
        "cpu": { "quota": 50_000, "period": 100_000, "shares": 512 },
        "unified": { "memory.oom.group": "1" },
    });
    assert_eq!(resources(&spec.unwrap()), wanted);
    let refused = on(runc().as_ref(), &host, |request| request.limits.memory_swap = Some("1g".into()));
    assert!(refused.unwrap_err().to_string().starts_with("--memory-swap: "));
    let refused = on(runc().as_ref(), &host, |request| request.resources.memory_warn = Some("90%".into()));
    assert!(refused.unwrap_err().to_string().starts_with("--memory-warn: "));
    host.cgroups.counts_swap = false;
    let refused = on(runc().as_ref(), &host, |request| {
        request.limits.memory = Some("64m".into());
        request.limits.memory_swap = Some("64m".into());
    });
    assert!(matches!(refused, Err(PrepareError::CgroupUnavailable { what: "swap", .. })));
}

#[test]
fn a_quota_can_come_later() {
    let spec = on(runc().as_ref(), &host(), |request| {
        request.limits.cpus = Some(0.5);
        request.resources.cpu_boost_ms = Some(1000);
    });
    assert_eq!(resources(&spec.unwrap()).get("cpu"), None);
}

#[test]
fn a_sandbox_gets_room_and_needs_some() {
    let limited =
        |memory: &str| on(runsc().as_ref(), &host(), |request| request.limits.memory = Some(memory.into()));
    let spec = limited("1g").unwrap();
    assert_eq!(spec.memory_headroom_bytes, (32 << 20) + (32 << 20));
    assert_eq!(resources(&spec), json!({ "memory": { "limit": 1_u64 << 30 } }), "the guest is shown that");
    let why = limited("23m").unwrap_err().to_string();
    assert_eq!(why, "--memory: 23.0 MiB is too little to start a sandbox in: give at least 24.0 MiB");
    let free = on(runsc().as_ref(), &host(), |_| {}).unwrap();
    assert_eq!(free.memory_headroom_bytes, 0);
}

#[test]
fn what_dies_together_is_as_the_host_can_do_it() {
    let asked = |runtime: &dyn Runtime, host: &HostFacts, kill: Option<&str>| {
        on(runtime, host, |request| request.resources.oom_kill = kill.map(str::to_owned))
    };
    let group = |spec: PreparedSpec| spec.value.pointer(OOM_GROUP).cloned();
    let (v1, v2) = (v1(), host());
    let cases = [(None, Some("1")), (Some("group"), Some("1")), (Some("single"), Some("0"))];
    for (kill, file) in cases {
        assert_eq!(group(asked(runc().as_ref(), &v2, kill).unwrap()), file.map(Value::from), "{kill:?}");
    }
    for kill in [None, Some("single")] {
        assert_eq!(group(asked(runc().as_ref(), &v1, kill).unwrap()), None, "{kill:?}");
    }
    assert!(asked(runc().as_ref(), &v1, Some("group")).is_err());
    assert_eq!(group(asked(runsc().as_ref(), &v2, Some("group")).unwrap()), None, "it is one in any case");
    assert!(asked(runsc().as_ref(), &v2, Some("single")).is_err());
}

#[test]
fn systemd_makes_a_scope() {
    let asked = |host: &HostFacts| {
        on(runsc().as_ref(), host, |request| {
            (request.cgroup_manager, request.cgroup_parent) =
                (Some("systemd".into()), Some("a.slice".into()));
        })
    };
    assert!(asked(&host()).unwrap_err().to_string().contains("does not run here"));
    let spec = asked(&HostFacts { systemd: true, ..host() }).unwrap();
    let id = "0123456789abcdef0123456789abcdef";
    assert_eq!(spec.value["linux"]["cgroupsPath"], format!("a.slice:cofferdam:{id}"));
    assert_eq!(spec.cgroup.unwrap().as_str(), format!("/a.slice/cofferdam-{id}.scope"));
    assert!(spec.flags.0.contains(&"--systemd-cgroup".to_owned()));
    assert!(asked(&HostFacts { systemd: true, ..v1() }).unwrap_err().to_string().contains("v2 only"));
}

#[test]
fn what_the_host_lacks_is_refused() {
    let refused = |change: fn(&mut LaunchRequest)| on(runc().as_ref(), &v1(), change).unwrap_err();
    let why = refused(|request| request.limits.cpuset_cpus = Some("0".into())).to_string();
    assert_eq!(why, "cannot limit CPUs: the controller `cpuset` is not there on this host");
    let why = refused(|request| request.resources.hugetlb = vec!["2MB=64m".into()]).to_string();
    assert!(why.contains("huge pages"), "{why}");
    let rate = |device: &str| DeviceRate { device: device.into(), kind: "throttleReadBpsDevice", rate: 1 };
    assert!(matches!(resolve_rates(&[rate("/dev/null")]), Err(RateError::NoBlockDevice(_))));
    assert!(matches!(resolve_rates(&[rate("/nonexistent")]), Err(RateError::Missing { .. })));
}

#[test]
fn a_changed_limit_is_there_in_the_next_run() {
    let bundle = tempfile::tempdir().unwrap();
    let file = bundle.path().join("config.json");
    std::fs::write(&file, r#"{"linux":{"resources":{"memory":{"limit":1},"pids":{"limit":9}}}}"#).unwrap();
    let limits = Limits { memory_bytes: Some(2), ..Limits::default() };
    write_limits(bundle.path(), &limits).unwrap();
    let value: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(value["linux"]["resources"], json!({ "memory": { "limit": 2 }, "pids": { "limit": 9 } }));
}
