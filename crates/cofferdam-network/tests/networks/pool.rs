//! Prepared attachments.

use std::collections::BTreeSet;
use std::time::Instant;

use cofferdam_network::ports::PortRequest;
use cofferdam_network::{Places, PoolMarks};
use serde_json::json;

use crate::Trial;
use crate::fake::Plugins;
use crate::host::{Left, get, networks, networks_at, places, request, serve, sh, until, wait};

pub(crate) const TRIALS: &[Trial] = &[
    ("pool::a_prepared_one_is_claimed_once", a_prepared_one_is_claimed_once),
    ("pool::what_is_of_no_use_is_taken_away", what_is_of_no_use_is_taken_away),
    ("pool::a_claimed_one_is_not_whole_until_its_ports_are", a_claimed_one_is_not_whole_until_its_ports_are),
];

fn a_prepared_one_is_claimed_once() {
    wait(async {
        let networks = networks();
        let mut published = request("bridge");
        published.ports = PortRequest::parse("80").unwrap();
        networks.attach("first", &published).await.unwrap();
        networks.detach("first").await.unwrap();
        let before = Left::now();

        let cold = Instant::now();
        networks.attach("cold", &request("bridge")).await.unwrap();
        let cold = cold.elapsed();
        let marks = PoolMarks { low: 1, high: 4 };
        assert_eq!(networks.refill("bridge", marks).await.unwrap().made, 4);
        assert_eq!(networks.refill("bridge", marks).await.unwrap().made, 0);
        assert!(networks.gc(&|_| true).await.unwrap().is_empty(), "what is ready is no leftover");

        let mut addresses = BTreeSet::new();
        let claims = (0..3).map(|number| {
            let networks = networks.clone();
            tokio::spawn(async move {
                let started = Instant::now();
                let made = networks.attach(&format!("c{number}"), &request("bridge")).await.unwrap();
                (made.attachment.addresses[0], started.elapsed())
            })
        });
        let mut slowest = std::time::Duration::ZERO;
        for claim in claims.collect::<Vec<_>>() {
            let (address, took) = claim.await.unwrap();
            addresses.insert(address);
            slowest = slowest.max(took);
        }
        assert_eq!(addresses.len(), 3);
        assert!(slowest * 2 < cold, "claims {slowest:?}, cold {cold:?}");

        let last = networks.attach("published", &published).await.unwrap().attachment;
        assert!(
            std::fs::read_dir("/run/state/pool/bridge").unwrap().next().is_none(),
            "it was the last prepared one"
        );
        serve(&last.namespace, "prepared");
        let url = format!("127.0.0.1:{}", last.ports[0].host);
        until("the published port answers", || get(&url).as_deref() == Some("prepared"));
        for id in ["cold", "c0", "c1", "c2", "published"] {
            networks.detach(id).await.unwrap();
        }
        Left::settle(&before);
    });
}

fn what_is_of_no_use_is_taken_away() {
    wait(async {
        let networks = networks();
        let marks = PoolMarks { low: 2, high: 2 };
        networks.refill("bridge", marks).await.unwrap();
        // As after a reboot, with a state directory on a disk.
        sh("umount /run/cofferdam/netns/*");
        assert_eq!(networks.leftovers(&|_| false).await.unwrap().prepared.len(), 2);
        let refilled = networks.refill("bridge", marks).await.unwrap();
        assert_eq!((refilled.removed, refilled.made, refilled.ready), (2, 2, 2));
        networks.drain("bridge").await.unwrap();
        assert!(networks.attachment("none").unwrap().is_none());
        assert_eq!(sh("ls /run/cofferdam/netns; ls /run/state/pool/bridge"), "");
    });
}

fn a_claimed_one_is_not_whole_until_its_ports_are() {
    let plugins = Plugins::new(&["first", "second"]);
    let config = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
        {"type": "first"}, {"type": "second", "capabilities": {"portMappings": true}},
    ]});
    std::fs::write(plugins.path().join("net.conflist"), config.to_string()).unwrap();
    let answer = r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.5/16"}]}'"#;
    for plugin in ["first", "second"] {
        plugins.answers(plugin, "ADD", answer);
    }
    let at = || vec![plugins.path().to_owned()];
    let networks = networks_at(Places { configurations: at(), plugins: at(), ..places() });
    wait(async {
        networks.refill("net", PoolMarks { low: 1, high: 1 }).await.unwrap();
        let look = r#"grep -o '"phase": "[a-z]*"' /run/state/attached/one/record.json"#;
        plugins.answers("second", "ADD", &format!("{look} > /run/meanwhile; {answer}"));
        let mut published = request("net");
        published.ports = PortRequest::parse("80").unwrap();
        networks.attach("one", &published).await.unwrap();
        assert_eq!(sh("cat /run/meanwhile").trim(), r#""phase": "adding""#);
        assert_eq!(sh(look).trim(), r#""phase": "added""#);
        assert!(networks.attachment("one").unwrap().is_some());
        networks.detach("one").await.unwrap();
    });
}
