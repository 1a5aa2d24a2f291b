//! Plugins that refuse, hang, or answer what is no answer.

use std::time::Duration;

use cofferdam_network::cni::{CniVersion, Command, Parameters, PluginError};
use cofferdam_network::{NetworkError, NetworkErrorKind, Places};
use serde_json::json;

use crate::Trial;
use crate::fake::{Plugins, network};
use crate::host::{Left, networks_at, places, request, wait};

pub(crate) const TRIALS: &[Trial] = &[
    ("faults::a_plugins_words_are_kept", a_plugins_words_are_kept),
    ("faults::what_is_no_answer_is_an_error", what_is_no_answer_is_an_error),
    ("faults::a_plugin_that_hangs_is_killed", a_plugin_that_hangs_is_killed),
    ("faults::a_failed_add_is_undone", a_failed_add_is_undone),
    ("faults::why_there_is_no_bridge_is_said", why_there_is_no_bridge_is_said),
    ("faults::what_cannot_be_undone_stays_written_down", what_cannot_be_undone_stays_written_down),
];

fn config() -> serde_json::Value {
    json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "first"}, {"type": "second"}]})
}

fn parameters() -> Parameters {
    Parameters {
        container_id: "c1".into(),
        namespace: "/run/netns/blue".into(),
        interface: "eth0".into(),
        args: Vec::new(),
        capabilities: serde_json::Map::default(),
    }
}

fn add(plugins: &Plugins, limit: Duration) -> Result<(), NetworkError> {
    let client = plugins.client().with_limit(limit);
    wait(async { client.add(&network(&config()), CniVersion::V1_0_0, &parameters()).await.map(|_| ()) })
}

fn a_plugins_words_are_kept() {
    let plugins = Plugins::new(&["first", "second"]);
    let words = r#"{"cniVersion":"1.0.0","code":7,"msg":"Invalid Configuration","details":"too small"}"#;
    for stream in ["", ">&2"] {
        plugins.answers("first", "ADD", &format!("echo '{words}' {stream}; exit 1"));
        let error = add(&plugins, Duration::from_secs(10)).unwrap_err();
        let expected =
            PluginError { code: 7, msg: "Invalid Configuration".into(), details: "too small".into() };
        assert!(
            matches!(error, NetworkError::Refused { command: Command::Add, error, .. } if error == expected)
        );
    }
    assert_eq!(
        plugins.order(),
        ["first ADD", "first ADD"],
        "the second is not called after the first refused"
    );
}

fn what_is_no_answer_is_an_error() {
    let plugins = Plugins::new(&["first", "second"]);
    let table = [
        ("exit 1", "it ended with 1 and no error"),
        ("echo oops >&2; exit 3", "it wrote: oops"),
        ("echo 'no error'; exit 1", "no error that can be read"),
        ("true", "its result is not JSON"),
        ("echo garbage", "its result is not JSON"),
        ("head -c 300 /dev/urandom", "its result is not JSON"),
        ("echo '[]'", "its result is not an object"),
        ("echo '{\"cniVersion\":\"0.2.0\",\"ip4\":{}}'", "its result is of the version"),
        ("echo '{\"ips\":[{\"address\":\"x\"}]}'", "its result cannot be read"),
        ("head -c 100000000 /dev/zero", "it wrote more than"),
        ("echo '{}'; head -c 100000000 /dev/zero >&2; exit 1", "no error that can be read"),
        ("kill -9 $$", "the signal 9 ended it"),
        ("printf '%0100000d' 0 | tr 0 '['", "its result is not JSON"),
    ];
    for (script, expected) in table {
        plugins.answers("first", "ADD", script);
        let error = add(&plugins, Duration::from_secs(20)).unwrap_err();
        assert!(matches!(error, NetworkError::Broken { .. }), "{script}: {error:?}");
        assert!(error.to_string().contains(expected), "{script}: {error}");
        assert!(!error.next_step().is_empty());
    }
}

fn a_plugin_that_hangs_is_killed() {
    let plugins = Plugins::new(&["first", "second"]);
    plugins.answers("first", "ADD", "sleep 1000 & sleep 1000");
    let error = add(&plugins, Duration::from_millis(200)).unwrap_err();
    assert!(matches!(error, NetworkError::TimedOut { command: Command::Add, .. }), "{error}");
}

/// A place whose networks are of fake plugins.
fn fake_places(plugins: &Plugins) -> Places {
    std::fs::write(plugins.path().join("net.conflist"), config().to_string()).unwrap();
    Places {
        configurations: vec![plugins.path().to_owned()],
        plugins: vec![plugins.path().to_owned()],
        ..places()
    }
}

fn a_failed_add_is_undone() {
    let plugins = Plugins::new(&["first", "second"]);
    let networks = networks_at(fake_places(&plugins));
    plugins.answers("first", "ADD", r#"echo '{"cniVersion":"1.0.0"}'"#);
    plugins.answers("second", "ADD", r#"echo '{"code":100,"msg":"no"}'; exit 1"#);
    wait(async {
        let error = networks.attach("one", &request("net")).await.unwrap_err();
        assert!(matches!(error, NetworkError::Refused { ref plugin, .. } if plugin == "second"), "{error}");
        assert_eq!(plugins.order(), ["first ADD", "second ADD", "second DEL", "first DEL"]);
        let before = Left::now();
        std::fs::remove_file(plugins.path().join("second")).unwrap();
        let error = networks.attach("one", &request("net")).await.unwrap_err();
        assert_eq!(error.kind(), NetworkErrorKind::ProgramMissing, "{error}");
        assert_eq!(plugins.order(), Vec::<String>::new(), "no plugin is called when one of them is missing");
        let error = networks.attach("one", &request("other")).await.unwrap_err();
        assert_eq!(error.kind(), NetworkErrorKind::NoSuchNetwork);
        assert!(error.to_string().contains("net, bridge"), "{error}");
        Left::settle(&before);
    });
}

fn why_there_is_no_bridge_is_said() {
    let networks = networks_at(places());
    assert_eq!(networks.find("bridge").unwrap().name, "bridge");
    let file = std::path::Path::new("/run/cofferdam/bridge.conflist");
    assert!(!file.exists(), "nothing is made");
    assert_eq!(networks.find("other").unwrap_err().kind(), NetworkErrorKind::NoSuchNetwork);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, "garbage").unwrap();
    let error = networks.find("bridge").unwrap_err();
    assert!(matches!(error, NetworkError::Configuration { ref path, .. } if path == file), "{error}");
}

fn what_cannot_be_undone_stays_written_down() {
    let plugins = Plugins::new(&["first", "second"]);
    let networks = networks_at(fake_places(&plugins));
    for plugin in ["first", "second"] {
        plugins.answers(plugin, "ADD", r#"echo '{"cniVersion":"1.0.0"}'"#);
    }
    plugins.answers("second", "DEL", r#"echo '{"code":11,"msg":"later"}'; exit 1"#);
    wait(async {
        let made = networks.attach("one", &request("net")).await.unwrap().attachment;
        plugins.calls();
        // The configuration goes before the container does.
        std::fs::remove_file(plugins.path().join("net.conflist")).unwrap();
        let error = networks.detach("one").await.unwrap_err();
        assert!(error.next_step().contains("try again"), "{error}");
        assert_eq!(plugins.order(), ["second DEL", "first DEL"], "the others are called nevertheless");
        assert!(!made.namespace.exists(), "the namespace went");
        assert_eq!(networks.leftovers(&|_| false).await.unwrap().containers, ["one"]);
        plugins.answers("second", "DEL", "true");
        assert_eq!(networks.gc(&|_| false).await.unwrap().containers, ["one"]);
        assert_eq!(plugins.order(), ["second DEL", "first DEL"]);
        // A container that a plugin does not know has nothing to be taken away.
        assert!(networks.leftovers(&|_| false).await.unwrap().is_empty());
        networks.detach("one").await.unwrap();
        assert_eq!(plugins.order(), Vec::<String>::new());
    });
}
