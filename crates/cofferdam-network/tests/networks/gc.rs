//! What is left by those who died is taken away.

use std::path::Path;
use std::time::Duration;

use cofferdam_network::cni::ValidAttachment;
use cofferdam_network::ports::PortRequest;
use cofferdam_network::{AttachRequest, NetworkError, Places, PoolMarks};

use crate::Trial;
use crate::fake::Plugins;
use crate::host::{
    FAKES, Left, networks, networks_at, places, request, sh, start_attacher, try_sh, until, wait,
};

pub(crate) const TRIALS: &[Trial] = &[
    ("gc::nothing_is_left_by_a_killed_process", nothing_is_left_by_a_killed_process),
    ("gc::a_plugin_that_outlives_its_caller_is_waited_for", a_plugin_that_outlives_its_caller_is_waited_for),
    ("gc::rules_go_though_gvisor_took_the_addresses", rules_go_though_gvisor_took_the_addresses),
    ("gc::what_has_no_record_is_found", what_has_no_record_is_found),
    ("gc::a_missing_family_of_iptables_has_no_rules", a_missing_family_of_iptables_has_no_rules),
    ("gc::a_namespace_that_went_first_is_no_trouble", a_namespace_that_went_first_is_no_trouble),
    ("gc::what_others_have_is_left_alone", what_others_have_is_left_alone),
    ("gc::a_record_of_another_release_is_left_alone", a_record_of_another_release_is_left_alone),
    ("gc::an_attachment_that_nobody_waits_for_is_found", an_attachment_that_nobody_waits_for_is_found),
    ("gc::plugins_that_collect_are_told_what_is_in_use", plugins_that_collect_are_told_what_is_in_use),
];

/// The name of a trial that is none: a process that is to be killed.
pub(crate) const ATTACHER: &str = "attacher";
/// How many processes are killed at once, and how often.
const ATTACHERS: usize = 4;
const ROUNDS: usize = 6;

fn with_ports() -> AttachRequest {
    let ports = [PortRequest::parse("80").unwrap(), PortRequest::parse("53/udp").unwrap()].concat();
    AttachRequest { ports, ..request("bridge") }
}

/// The bridge, and the chains that all share, come with the first container and stay.
async fn used_once() -> Left {
    let networks = networks();
    networks.attach("first", &with_ports()).await.unwrap();
    networks.detach("first").await.unwrap();
    Left::now()
}

pub(crate) fn attach_again_and_again() -> ! {
    let id = std::env::var("ID").unwrap();
    let networks = networks();
    let asked = match std::env::var("NETWORK").unwrap() {
        name if name == "bridge" => with_ports(),
        name => request(&name),
    };
    wait(async {
        loop {
            networks.attach(&id, &asked).await.unwrap();
            networks.detach(&id).await.unwrap();
        }
    })
}

fn nothing_is_left_by_a_killed_process() {
    wait(async {
        let before = used_once().await;
        let mut found = 0;
        for round in 0..ROUNDS {
            let mut attachers: Vec<_> =
                (0..ATTACHERS).map(|number| start_attacher(&format!("c{number}"), "bridge")).collect();
            for (number, attacher) in attachers.iter_mut().enumerate() {
                // Moments that lie all over the half second that an attachment takes here.
                for _ in 0..(7 * round + 13 * number) % 29 {
                    cofferdam_testkit::lab::breathe();
                }
                attacher.kill().unwrap();
                attacher.wait().unwrap();
            }
            found += networks().gc(&|_| false).await.unwrap().containers.len();
            Left::settle(&before);
        }
        assert!(2 * found > ATTACHERS * ROUNDS, "most were killed at work: {found}");
        assert!(networks().leftovers(&|_| false).await.unwrap().is_empty());
    });
}

fn a_plugin_that_outlives_its_caller_is_waited_for() {
    let plugins = Plugins::new(&["slow"]);
    let config = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"slow"}]}"#;
    std::fs::write(plugins.path().join("net.conflist"), config).unwrap();
    sh(&format!("ln -s {} {FAKES}", plugins.path().display()));
    plugins.answers("slow", "ADD", "echo > /run/started; sleep 0.5; echo > /run/made; echo '{}'");
    plugins.answers("slow", "DEL", "rm -f /run/made");
    let mut attacher = start_attacher("one", "net");
    until("the plugin is at work", || Path::new("/run/started").exists());
    attacher.kill().unwrap();
    attacher.wait().unwrap();
    wait(async {
        assert_eq!(networks().gc(&|_| false).await.unwrap().containers, ["one"]);
    });
    assert_eq!(plugins.order(), ["slow ADD", "slow DEL"]);
    until("no plugin is at work", || !try_sh("grep -lsz CNI_COMMAND /proc/[0-9]*/environ").status.success());
    assert!(!Path::new("/run/made").exists(), "it was made after it had been taken away");
}

fn rules_go_though_gvisor_took_the_addresses() {
    // The plugins of these make a chain for each container, and look for it by the interface's addresses.
    let ipam = r#""ipMasq":true,"ipam":{"type":"host-local","subnet":"10.79.0.0/24"}"#;
    let bridge = format!(
        r#"{{"cniVersion":"1.0.0","name":"b","plugins":[{{"type":"bridge","isGateway":true,{ipam}}}]}}"#
    );
    let ptp = format!(r#"{{"cniVersion":"1.0.0","name":"p","plugins":[{{"type":"ptp",{ipam}}}]}}"#);
    sh("mkdir /run/net.d");
    std::fs::write("/run/net.d/bridge.conflist", bridge).unwrap();
    std::fs::write("/run/net.d/ptp.conflist", ptp).unwrap();
    let networks = networks_at(Places { configurations: vec!["/run/net.d".into()], ..places() });
    wait(async {
        for name in ["b", "p"] {
            networks.attach("first", &request(name)).await.unwrap();
            networks.detach("first").await.unwrap();
            let before = Left::now();
            let made = networks.attach("one", &request(name)).await.unwrap().attachment;
            let with_rules = Left::now().more_than(&before);
            assert!(with_rules.iter().any(|line| line.contains("MASQUERADE")), "{with_rules:?}");
            sh(&format!("nsenter --net={} ip address flush dev eth0", made.namespace.display()));
            networks.detach("one").await.unwrap();
            Left::settle(&before);
        }
    });
}

fn what_has_no_record_is_found() {
    wait(async {
        let before = used_once().await;
        networks().attach("one", &with_ports()).await.unwrap();
        sh("rm -r /run/state/attached/one; : > /run/cofferdam/leases/bridge/10.213.1.1");
        let left = networks().leftovers(&|_| true).await.unwrap();
        // The address of each family, and the one that host-local did not write to its end.
        assert_eq!((left.namespaces.len(), left.leases.len(), left.rules.len()), (1, 3, 1), "{left:?}");
        assert_eq!(networks().gc(&|_| true).await.unwrap(), left);
        Left::settle(&before);
    });
}

fn a_missing_family_of_iptables_has_no_rules() {
    wait(async {
        let before = used_once().await;
        networks().attach("one", &with_ports()).await.unwrap();
        sh("rm -r /run/state/attached/one");
        // This host alone is without it.
        sh("mkdir /run/without /run/work && mknod /run/without/ip6tables-save c 0 0
            mount -t overlay -o lowerdir=/usr/sbin,upperdir=/run/without,workdir=/run/work overlay /usr/sbin
            test ! -e /usr/sbin/ip6tables-save");
        assert_eq!(networks().gc(&|_| true).await.unwrap().rules.len(), 1);
        assert!(networks().leftovers(&|_| true).await.unwrap().is_empty());
        sh("umount /usr/sbin");
        // What could not be seen is found when it can.
        assert_eq!(networks().gc(&|_| true).await.unwrap().rules.len(), 1);
        Left::settle(&before);
    });
}

fn a_namespace_that_went_first_is_no_trouble() {
    wait(async {
        let before = used_once().await;
        for spoil in ["umount -l $N; rm $N", "umount -l $N"] {
            let made = networks().attach("one", &with_ports()).await.unwrap().attachment;
            sh(&format!("N={}; {spoil}", made.namespace.display()));
            networks().detach("one").await.unwrap();
            // Without the namespace the plugin bridge does not find its rules.
            networks().gc(&|_| false).await.unwrap();
            Left::settle(&before);
        }
    });
}

fn a_record_of_another_release_is_left_alone() {
    wait(async {
        let networks = networks();
        let made = networks.attach("one", &with_ports()).await.unwrap().attachment;
        for (text, is_of_other_version) in [("{\"version\":2,\"new\":[]}", true), ("garbage", false)] {
            std::fs::write("/run/state/attached/one/record.json", text).unwrap();
            for error in
                [networks.gc(&|_| false).await.unwrap_err(), networks.detach("one").await.unwrap_err()]
            {
                let tells = matches!(error, NetworkError::RecordVersion { version: 2, .. });
                assert_eq!(tells, is_of_other_version, "{error}");
            }
            assert!(made.namespace.exists());
            networks.attach("two", &with_ports()).await.unwrap();
            networks.detach("two").await.unwrap();
        }
    });
}

fn an_attachment_that_nobody_waits_for_is_found() {
    wait(async {
        let before = used_once().await;
        for milliseconds in [1, 10, 30, 60] {
            let attached = networks();
            let asked = with_ports();
            let given_up =
                tokio::time::timeout(Duration::from_millis(milliseconds), attached.attach("one", &asked));
            // A quick machine may be done.
            drop(given_up.await);
            networks().detach("one").await.unwrap();
            Left::settle(&before);
        }
    });
}

fn plugins_that_collect_are_told_what_is_in_use() {
    let plugins = Plugins::new(&["fake"]);
    let config = r#"{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"fake"}]}"#;
    std::fs::write(plugins.path().join("net.conflist"), config).unwrap();
    plugins.answers("fake", "ADD", r#"echo '{"cniVersion":"1.1.0"}'"#);
    let directories = vec![plugins.path().to_owned()];
    let places = Places { configurations: directories.clone(), plugins: directories, ..places() };
    let networks = networks_at(places);
    wait(async {
        networks.attach("one", &request("net")).await.unwrap();
        networks.refill("net", PoolMarks { low: 1, high: 1 }).await.unwrap();
        let added: Vec<_> =
            plugins.calls().iter().map(|call| call.environment["CNI_CONTAINERID"].clone()).collect();
        let other = ValidAttachment { container_id: "other".into(), interface: "net1".into() };
        networks.collect("net", &[other]).await.unwrap();
        let calls = plugins.calls();
        let valid = calls[1].stdin["cni.dev/valid-attachments"].as_array().unwrap();
        let valid =
            valid.iter().map(|one| (one["containerID"].as_str().unwrap(), one["ifname"].as_str().unwrap()));
        let expected = [(added[1].as_str(), "eth0"), (added[0].as_str(), "eth0"), ("other", "net1")];
        assert_eq!(valid.collect::<Vec<_>>(), expected);
        networks.detach("one").await.unwrap();
        networks.drain("net").await.unwrap();
    });
}

fn what_others_have_is_left_alone() {
    wait(async {
        let networks = networks();
        let made = networks.attach("living", &with_ports()).await.unwrap().attachment;
        // Another state directory on the same machine, and another runtime.
        sh("mkdir -p /var/lib/cni/networks/other; echo else > /var/lib/cni/networks/other/10.99.0.2");
        sh(
            "iptables -t nat -N CNI-else; iptables -t nat -A POSTROUTING -m comment --comment 'id: \"else\"' -j CNI-else",
        );
        let before = Left::now();
        let left = networks.gc(&|id| id == "living").await.unwrap();
        assert!(left.is_empty(), "{left:?}");
        sh("cp -r /run/state /run/elsewhere; rm -r /run/elsewhere/attached");
        let places = Places { state: "/run/elsewhere".into(), ..places() };
        let elsewhere = networks_at(places);
        assert!(elsewhere.gc(&|_| false).await.unwrap().is_empty());
        assert_eq!(Left::now(), before);
        assert!(networks.check("living").await.unwrap());
        assert!(try_sh(&format!("test -e {}", made.namespace.display())).status.success());
        let unknown = networks.check("unknown").await.unwrap_err();
        assert!(matches!(unknown, NetworkError::Invalid { .. }));
        networks.detach("living").await.unwrap();
        until("the namespace goes", || !made.namespace.exists());
    });
}
