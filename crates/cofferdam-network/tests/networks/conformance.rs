//! What plugins get, compared with the text of the specification 1.1.0: environment, input, order, versions.

use std::path::PathBuf;

use cofferdam_network::cni::{CniVersion, Parameters, ValidAttachment};
use serde_json::{Value, json};

use crate::Trial;
use crate::fake::{Call, Plugins, network};
use crate::host::wait;

pub(crate) const TRIALS: &[Trial] = &[
    ("conformance::plugins_get_what_the_specification_says", plugins_get_what_the_specification_says),
    ("conformance::older_versions_get_less", older_versions_get_less),
    ("conformance::the_newest_common_version_is_chosen", the_newest_common_version_is_chosen),
    ("conformance::gc_is_for_those_who_know_it", gc_is_for_those_who_know_it),
];

/// The PATH by which plugins find iptables.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn parameters() -> Parameters {
    let capabilities = json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "mac": "02:11:22:33:44:55",
        "ips": ["10.1.0.7/16"],
    });
    let Value::Object(capabilities) = capabilities else { unreachable!() };
    Parameters {
        container_id: "c1".into(),
        namespace: PathBuf::from("/run/netns/blue"),
        interface: "eth0".into(),
        args: vec![("argA".into(), "foo".into()), ("argB".into(), "bar".into())],
        capabilities,
    }
}

/// As in the specification's appendix, with what must not be handed on.
fn dbnet(version: &str) -> Value {
    json!({
        "cniVersion": version,
        "name": "dbnet",
        "plugins": [
            {"type": "first", "keyA": ["some more", {"deep": null}], "args": {"own": 1}, "cni.dev/x": 1, "runtimeConfig": {"y": 1},
             "capabilities": {"ips": false}, "ipam": {"type": "host-local", "subnet": "10.1.0.0/16"}},
            {"type": "second", "capabilities": {"mac": true, "portMappings": true, "unknown": true}},
        ],
    })
}

fn result(version: &str, address: &str) -> Value {
    json!({"cniVersion": version, "ips": [{"address": address}], "own": "kept"})
}

fn plugins(version: &str) -> Plugins {
    let plugins = Plugins::new(&["first", "second"]);
    plugins.answers("first", "ADD", &format!("echo '{}'", result(version, "10.1.0.5/16")));
    plugins.answers("second", "ADD", &format!("echo '{}'", result(version, "10.1.0.6/16")));
    plugins
}

fn call(plugins: &Plugins, plugin: &str, command: &str, stdin: Value) -> Call {
    let path = plugins.path().display().to_string();
    let all = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/blue"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "argA=foo;argB=bar"),
        ("CNI_PATH", &path),
        ("PATH", PATH),
    ];
    let wanted: &[&str] = match command {
        "VERSION" => &["CNI_COMMAND", "PATH"],
        "GC" => &["CNI_COMMAND", "CNI_PATH", "PATH"],
        _ => &["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH", "PATH"],
    };
    let given = all.into_iter().filter(|(key, _)| wanted.contains(key));
    Call {
        plugin: plugin.into(),
        environment: given.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        stdin,
    }
}

fn first(extra: Value) -> Value {
    let plain = json!({"cniVersion": "1.1.0", "name": "dbnet", "type": "first", "keyA": ["some more", {"deep": null}],
        "args": {"own": 1}, "ipam": {"type": "host-local", "subnet": "10.1.0.0/16"}});
    merged(plain, extra)
}

fn second(extra: Value) -> Value {
    merged(json!({"cniVersion": "1.1.0", "name": "dbnet", "type": "second"}), extra)
}

fn merged(mut plain: Value, extra: Value) -> Value {
    let (Some(all), Value::Object(extra)) = (plain.as_object_mut(), extra) else { unreachable!() };
    all.extend(extra);
    plain
}

fn plugins_get_what_the_specification_says() {
    let plugins = plugins("1.1.0");
    let (client, config, parameters) = (plugins.client(), network(&dbnet("1.1.0")), parameters());
    let version = CniVersion::V1_1_0;
    let config_for_second = json!({"mac": "02:11:22:33:44:55", "portMappings":
        [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    wait(async {
        let (raw, parsed) = client.add(&config, version, &parameters).await.unwrap();
        assert_eq!(raw, result("1.1.0", "10.1.0.6/16"), "all that the plugin wrote is kept");
        assert_eq!(parsed.ips[0].address, "10.1.0.6/16".parse().unwrap());
        let previous =
            json!({"prevResult": result("1.1.0", "10.1.0.5/16"), "runtimeConfig": config_for_second});
        let expected = [
            call(&plugins, "first", "ADD", first(json!({}))),
            call(&plugins, "second", "ADD", second(previous)),
        ];
        assert_eq!(plugins.calls(), expected);

        assert!(client.check(&config, version, &parameters, &raw).await.unwrap());
        let last = json!({"prevResult": raw});
        let last_of_second = json!({"prevResult": raw, "runtimeConfig": config_for_second});
        let expected = [
            call(&plugins, "first", "CHECK", first(last.clone())),
            call(&plugins, "second", "CHECK", second(last_of_second.clone())),
        ];
        assert_eq!(plugins.calls(), expected);

        client.del(&config, version, &parameters, Some(&raw)).await.unwrap();
        let expected = [
            call(&plugins, "second", "DEL", second(last_of_second)),
            call(&plugins, "first", "DEL", first(last)),
        ];
        assert_eq!(plugins.calls(), expected);

        let valid = [ValidAttachment { container_id: "c2".into(), interface: "eth0".into() }];
        client.gc(&config, &valid).await.unwrap();
        let asked = json!({"cniVersion": "1.1.0"});
        let valid = json!({"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]});
        let expected = [
            call(&plugins, "first", "VERSION", asked.clone()),
            call(&plugins, "first", "GC", first(valid.clone())),
            call(&plugins, "second", "VERSION", asked),
            call(&plugins, "second", "GC", second(valid)),
        ];
        assert_eq!(plugins.calls(), expected);
    });
}

fn older_versions_get_less() {
    let plugins = plugins("0.3.1");
    let (client, parameters) = (plugins.client(), parameters());
    let version = CniVersion::V0_3_1;
    let config = network(&dbnet("0.3.1"));
    wait(async {
        let (raw, _) = client.add(&config, version, &parameters).await.unwrap();
        assert!(plugins.calls()[1].stdin.get("prevResult").is_some(), "chains are of 0.3.0");
        assert!(!client.check(&config, version, &parameters, &raw).await.unwrap());
        client.gc(&config, &[]).await.unwrap();
        assert_eq!(plugins.order(), Vec::<String>::new(), "CHECK is of 0.4.0, GC of 1.1.0");
        client.del(&config, version, &parameters, Some(&raw)).await.unwrap();
        let calls = plugins.calls();
        assert_eq!(calls.len(), 2);
        assert!(calls.iter().all(|call| call.stdin.get("prevResult").is_none()), "at DEL it is of 0.4.0");

        let mut text = dbnet("1.1.0");
        text["disableCheck"] = json!(true);
        text["disableGC"] = json!("true");
        let disabled = network(&text);
        assert!(!client.check(&disabled, CniVersion::V1_1_0, &parameters, &raw).await.unwrap());
        client.gc(&disabled, &[]).await.unwrap();
        assert_eq!(plugins.order(), Vec::<String>::new());
    });
}

fn the_newest_common_version_is_chosen() {
    let plugins = plugins("1.0.0");
    let table: [(Value, &str, Option<&str>); 5] = [
        (json!(["0.4.0", "1.0.0", "1.1.0", "2.0.0"]), r#"["0.4.0","1.0.0","1.1.0"]"#, Some("1.1.0")),
        (json!(["0.4.0", "1.0.0", "1.1.0"]), r#"["0.4.0","1.0.0"]"#, Some("1.0.0")),
        (json!(["0.4.0", "1.0.0"]), r#"["0.3.1"]"#, None),
        // Without a choice nobody is asked; the plugin refuses by itself.
        (json!(["0.4.0"]), r#"["0.3.1"]"#, Some("0.4.0")),
        (json!(["0.1.0", "0.4.0"]), r#"["0.1.0"]"#, Some("0.4.0")),
    ];
    wait(async {
        for (wanted, supported, chosen) in table {
            let mut config = dbnet("0.4.0");
            config["cniVersions"] = wanted.clone();
            let answer = format!(r#"echo '{{"cniVersion":"1.1.0","supportedVersions":{supported}}}'"#);
            plugins.answers("second", "VERSION", &answer);
            let version = plugins.client().choose_version(&network(&config)).await.ok();
            assert_eq!(version.map(CniVersion::as_str), chosen, "{wanted} {supported}");
        }
    });
}

fn gc_is_for_those_who_know_it() {
    let plugins = plugins("1.1.0");
    plugins.answers("first", "VERSION", r#"echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}'"#);
    plugins.answers("second", "GC", r#"echo '{"code":11,"msg":"later"}'; exit 1"#);
    wait(async {
        let errors = plugins.client().gc(&network(&dbnet("1.1.0")), &[]).await.unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(plugins.order(), ["first VERSION", "second VERSION", "second GC"]);
    });
}
