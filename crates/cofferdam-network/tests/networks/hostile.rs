//! Configuration files that somebody else may have written, or that are none.

use std::path::Path;

use cofferdam_network::cni::Catalog;

use crate::Trial;
use crate::host::sh;

pub(crate) const TRIALS: &[Trial] = &[
    ("hostile::files_that_cannot_be_trusted_hide_no_other", files_that_cannot_be_trusted_hide_no_other),
    (
        "hostile::a_directory_that_all_may_write_has_no_networks",
        a_directory_that_all_may_write_has_no_networks,
    ),
    ("hostile::lists_single_plugins_and_siblings_are_read", lists_single_plugins_and_siblings_are_read),
];

const GOOD: &str = r#"{"cniVersion":"1.0.0","name":"good","plugins":[{"type":"bridge"}]}"#;
const NETWORKS: &str = "/run/net.d";

fn load() -> Catalog {
    Catalog::load(&["/run/nonexistent".into(), NETWORKS.into()])
}

fn write(name: &str, text: &str) {
    std::fs::write(Path::new(NETWORKS).join(name), text).unwrap();
}

fn files_that_cannot_be_trusted_hide_no_other() {
    sh(&format!("mkdir {NETWORKS}"));
    write("50-good.conflist", GOOD);
    write("60-same-name.conflist", r#"{"cniVersion":"1.0.0","name":"good","plugins":[{"type":"evil"}]}"#);
    let deep = "[".repeat(200_000);
    let large = format!(r#"{{"x":"{}"}}"#, "x".repeat(300_000));
    let many = format!(
        r#"{{"cniVersion":"1.0.0","name":"a","plugins":[{}]}}"#,
        vec![r#"{"type":"a"}"#; 33].join(",")
    );
    let texts = [
        ("empty", ""),
        ("no-json", "cniVersion: 1.0.0"),
        ("no-object", "[1]"),
        ("deep", &deep),
        ("large", &large),
        ("no-name", r#"{"cniVersion":"1.0.0","plugins":[{"type":"a"}]}"#),
        ("bad-name", r#"{"cniVersion":"1.0.0","name":"../../etc","plugins":[{"type":"a"}]}"#),
        ("quoted-name", r#"{"cniVersion":"1.0.0","name":"a\" -j X","plugins":[{"type":"a"}]}"#),
        ("no-version", r#"{"name":"a","plugins":[{"type":"a"}]}"#),
        ("old-version", r#"{"cniVersion":"0.2.0","name":"a","type":"a"}"#),
        ("new-version", r#"{"cniVersion":"2.0.0","name":"a","plugins":[{"type":"a"}]}"#),
        ("no-plugins", r#"{"cniVersion":"1.0.0","name":"a","plugins":[]}"#),
        ("nothing", r#"{"cniVersion":"1.0.0","name":"a"}"#),
        ("plugins-object", r#"{"cniVersion":"1.0.0","name":"a","plugins":{"type":"a"}}"#),
        ("plugin-text", r#"{"cniVersion":"1.0.0","name":"a","plugins":["a"]}"#),
        ("no-type", r#"{"cniVersion":"1.0.0","name":"a","plugins":[{}]}"#),
        ("bad-type", r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"../../../bin/sh"}]}"#),
        ("dot-type", r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":".."}]}"#),
        (
            "bad-ipam",
            r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"a","ipam":{"type":"/bin/sh"}}]}"#,
        ),
        ("bad-flag", r#"{"cniVersion":"1.0.0","name":"a","disableCheck":7,"plugins":[{"type":"a"}]}"#),
        ("many-plugins", &many),
    ];
    for (number, (name, text)) in texts.iter().enumerate() {
        write(&format!("{number:02}-{name}.conflist"), text);
    }
    let files = [
        "echo $G > d/70-writable.conflist; chmod 666 d/70-writable.conflist",
        "echo $G > d/71-owner.conflist; chown 65534 d/71-owner.conflist",
        "mkfifo d/72-fifo.conflist",
        "mkdir d/73-directory.conflist",
        "ln -s /dev/zero d/74-device.conflist",
        "ln -s /nonexistent d/75-dangling.conflist",
        "echo $G > /run/theirs; chown 65534 /run/theirs; ln -s /run/theirs d/76-link.conflist",
    ];
    for file in files {
        sh(&format!("G='{GOOD}'; ln -sfn {NETWORKS} /run/d; cd /run; {file}"));
    }
    write("80-ignored.txt", "not looked at");
    let catalog = load();
    let problems: Vec<String> = catalog.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), texts.len() + files.len(), "{problems:#?}");
    for (problem, name) in problems.iter().zip(texts.iter().map(|(name, _)| name)) {
        assert!(problem.contains(name), "{problem}");
        assert!(problem.len() < 500, "{problem}");
    }
    assert_eq!(catalog.networks.len(), 1);
    assert_eq!(catalog.networks["good"].plugins[0].kind(), "bridge", "the first file of a name counts");
}

fn a_directory_that_all_may_write_has_no_networks() {
    sh(&format!("mkdir {NETWORKS}"));
    write("50-good.conflist", GOOD);
    assert_eq!(load().networks.len(), 1);
    sh(&format!("chmod 1777 {NETWORKS}"));
    let catalog = load();
    assert!(catalog.networks.is_empty());
    assert_eq!(catalog.problems.len(), 1);
}

fn lists_single_plugins_and_siblings_are_read() {
    sh(&format!("mkdir -p {NETWORKS}/sib {NETWORKS}/alone"));
    write(
        "10-one.conf",
        r#"{"cniVersion":"0.4.0","name":"one","type":"macvlan","capabilities":{"mac":true}}"#,
    );
    write("20-two.json", r#"{"cniVersion":"1.0.0","name":"two","plugins":[{"type":"a"},{"type":"b"}]}"#);
    write("30-sib.conflist", r#"{"cniVersion":"1.1.0","name":"sib","plugins":[{"type":"a"}]}"#);
    write("sib/1.conf", r#"{"type":"extra"}"#);
    write(
        "40-alone.conflist",
        r#"{"cniVersion":"1.1.0","name":"alone","loadOnlyInlinedPlugins":true,"plugins":[{"type":"a"}]}"#,
    );
    write("alone/1.conf", r#"{"type":"extra"}"#);
    let catalog = load();
    assert!(catalog.problems.is_empty(), "{:?}", catalog.problems);
    let kinds = |name: &str| -> Vec<String> {
        catalog.networks[name].plugins.iter().map(|plugin| plugin.kind().to_owned()).collect()
    };
    assert_eq!(kinds("one"), ["macvlan"]);
    assert!(catalog.networks["one"].is_capable("mac"));
    assert_eq!(kinds("two"), ["a", "b"]);
    assert_eq!(kinds("sib"), ["a", "extra"]);
    assert_eq!(kinds("alone"), ["a"]);
}
