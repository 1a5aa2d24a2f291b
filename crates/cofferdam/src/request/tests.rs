//! What requests are taken and what is refused.

use proptest::prelude::*;

use super::*;

fn request() -> LaunchRequest {
    LaunchRequest { args: vec!["true".into()], ..LaunchRequest::new(Source::Rootfs { path: "/r".into() }) }
}

fn refusal(request: LaunchRequest) -> String {
    validate(request).unwrap_err().to_string()
}

#[test]
fn a_plain_request_is_taken() {
    let plan = validate(request()).unwrap();
    assert!(plan.limits.is_empty());
    assert_eq!(plan.stopping.signal, Signal::TERM);
    assert_eq!(plan.stopping.timeout, None);
}

#[test]
fn a_rootfs_needs_a_command_and_a_bundle_does_not() {
    assert!(refusal(LaunchRequest { args: vec![], ..request() }).starts_with("COMMAND: "));
    assert!(refusal(LaunchRequest { args: vec![String::new()], ..request() }).starts_with("COMMAND: "));
    validate(LaunchRequest::new(Source::Bundle { path: "/b".into() })).unwrap();
}

#[test]
fn environment_entries_are_checked() {
    for entry in ["", "=x", "A", "A\0=1"] {
        assert!(
            refusal(LaunchRequest { env: vec![entry.into()], ..request() }).starts_with("--env: "),
            "{entry:?}"
        );
    }
    let long = format!("A={}", "x".repeat(200 * 1024));
    assert!(refusal(LaunchRequest { env: vec![long], ..request() }).contains("bytes long"));
    let many = (0..10_000).map(|n| format!("K{n}=v")).collect();
    validate(LaunchRequest { env: many, ..request() }).unwrap();
}

#[test]
fn working_directories_are_checked() {
    for cwd in ["", "relative", "./x", "/proc/self/fd/7", "/a\0b"] {
        let text = refusal(LaunchRequest { cwd: Some(cwd.into()), ..request() });
        assert!(text.starts_with("--workdir: "), "{cwd:?}: {text}");
    }
}

fn limited(change: impl FnOnce(&mut LimitRequest)) -> Result<ContainerPlan, Refused> {
    let mut request = request();
    change(&mut request.limits);
    validate(request)
}

#[test]
fn limits_are_checked() {
    for memory in [
        "",
        "x",
        "0",
        "1m",
        "-1",
        "1.m",
        "99999999999t",
        "1152921504606846976",
        "18446744073709551615",
        "1q",
        "1 0m",
    ] {
        assert!(limited(|limits| limits.memory = Some(memory.into())).is_err(), "{memory:?}");
    }
    for cpus in [0.0, -1.0, f64::NAN, f64::INFINITY, 0.001] {
        assert!(limited(|limits| limits.cpus = Some(cpus)).is_err(), "{cpus}");
    }
    let plan = limited(|limits| {
        limits.memory = Some("1.5g".into());
        limits.cpus = Some(0.5);
        limits.pids_limit = Some(-1);
    });
    let limits = plan.unwrap().limits;
    assert_eq!((limits.memory_bytes, limits.cpu_quota_us), (Some(3 << 29), Some(50_000)));
    assert!(limited(|limits| limits.pids_limit = Some(0)).is_err());
    for shares in [0, 1, 262_145] {
        assert!(limited(|limits| limits.cpu_shares = Some(shares)).is_err(), "{shares}");
    }
    assert!(limited(|limits| limits.cpuset_cpus = Some("a".into())).is_err());
}

#[test]
fn sizes_are_dockers() {
    assert_eq!(parse_size("64m"), Ok(64 << 20));
    assert_eq!(parse_size("64MB"), Ok(64 << 20));
    assert_eq!(parse_size("1024"), Ok(1024));
    assert_eq!(parse_size("0.5k"), Ok(512));
}

#[test]
fn users_are_never_read_as_somebody_else() {
    for text in [
        "",
        ":",
        "a:",
        ":0",
        "-1",
        "4294967295",
        "4294967296",
        "2147483648:0",
        "0x0",
        "+0",
        "1:2:3",
        "a b",
        "a\n",
        "0:-1",
        "1000 ",
        "1.0",
    ] {
        assert!(UserSpec::parse(text).is_err(), "{text:?}");
    }
    assert_eq!(UserSpec::parse("0").unwrap().user, UserPart::Id(0));
    assert_eq!(UserSpec::parse("www-data:33").unwrap().group, Some(UserPart::Id(33)));
}

#[test]
fn networks_are_checked() {
    for text in ["", "-x", "a b", "ns:", "ns:x", "none:", "host:x", "container:"] {
        assert!(NetworkMode::parse(text).is_err(), "{text:?}");
    }
    assert_eq!(
        NetworkMode::parse("ns:/run/netns/x"),
        Ok(NetworkMode::Namespace { path: "/run/netns/x".into() })
    );
    assert_eq!(NetworkMode::parse("bridge"), Ok(NetworkMode::Cni { network: "bridge".into() }));
    assert_eq!(NetworkMode::parse("container:web"), Ok(NetworkMode::Container { container: "web".into() }));
}

#[test]
fn resource_limits_are_checked() {
    for text in ["", "nofile", "nofile=", "nofile=2:1", "nothing=1", "nofile=x", "nofile=-2"] {
        assert!(Ulimit::parse(text).is_err(), "{text:?}");
    }
    let limit = Ulimit::parse("nofile=1024:unlimited").unwrap();
    assert_eq!((limit.name.as_str(), limit.soft, limit.hard), ("RLIMIT_NOFILE", 1024, u64::MAX));
}

#[test]
fn unknown_capabilities_and_signals_are_refused() {
    assert!(refusal(LaunchRequest { cap_add: vec!["FLY".into()], ..request() }).starts_with("--cap-add: "));
    assert!(
        refusal(LaunchRequest { stop_signal: Some("NONE".into()), ..request() })
            .starts_with("--stop-signal: ")
    );
    let plan = validate(LaunchRequest { cap_add: vec!["net_raw".into()], ..request() }).unwrap();
    assert_eq!(plan.cap_add, ["CAP_NET_RAW"]);
}

#[test]
fn a_request_survives_its_wire_form() {
    let mut request = request();
    request.limits.memory = Some("64m".into());
    request.resources.cpu_boost_ms = Some(1500);
    let text = serde_json::to_string(&request).unwrap();
    assert_eq!(serde_json::from_str::<LaunchRequest>(&text).unwrap(), request);
}

proptest! {
    #[test]
    fn no_text_panics(text in ".*") {
        let _ = parse_size(&text);
        let _ = UserSpec::parse(&text);
        let _ = NetworkMode::parse(&text);
        let _ = Ulimit::parse(&text);
    }

    #[test]
    fn whole_sizes_are_exact(number in 0..1_000_000_u64, unit in 0..5_usize) {
        let text = format!("{number}{}", ["", "k", "m", "g", "t"][unit]);
        prop_assert_eq!(parse_size(&text), Ok(number << (10 * unit)));
    }
}
