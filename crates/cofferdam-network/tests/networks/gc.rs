//! What is left by those who died is taken away.

use cofferdam_network::ports::PortRequest;
use cofferdam_network::{AttachRequest, NetworkError};

use crate::Trial;
use crate::host::{Left, networks, request, sh, start_attacher, try_sh, until, wait};

pub(crate) const TRIALS: &[Trial] = &[
    ("gc::nothing_is_left_by_a_killed_process", nothing_is_left_by_a_killed_process),
    ("gc::rules_go_though_gvisor_took_the_addresses", rules_go_though_gvisor_took_the_addresses),
    ("gc::what_has_no_record_is_found", what_has_no_record_is_found),
    ("gc::a_namespace_that_went_first_is_no_trouble", a_namespace_that_went_first_is_no_trouble),
    ("gc::what_others_have_is_left_alone", what_others_have_is_left_alone),
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
    wait(async {
        loop {
            networks.attach(&id, &with_ports()).await.unwrap();
            networks.detach(&id).await.unwrap();
        }
    })
}

fn nothing_is_left_by_a_killed_process() {
    wait(async {
        let before = used_once().await;
        for round in 0..ROUNDS {
            let mut attachers: Vec<_> =
                (0..ATTACHERS).map(|number| start_attacher(&format!("c{number}"))).collect();
            for (number, attacher) in attachers.iter_mut().enumerate() {
                // Moments that lie all over the half second that an attachment takes here.
                for _ in 0..(7 * round + 13 * number) % 29 {
                    cofferdam_testkit::lab::breathe();
                }
                attacher.kill().unwrap();
                attacher.wait().unwrap();
            }
            networks().gc(&|_| false).await.unwrap();
            Left::settle(&before);
        }
        assert!(networks().leftovers(&|_| false).await.unwrap().is_empty());
    });
}

fn rules_go_though_gvisor_took_the_addresses() {
    wait(async {
        let before = used_once().await;
        let made = networks().attach("one", &with_ports()).await.unwrap().attachment;
        sh(&format!("nsenter --net={} ip address flush dev eth0", made.namespace.display()));
        networks().detach("one").await.unwrap();
        Left::settle(&before);
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
        let places = cofferdam_network::Places { state: "/run/elsewhere".into(), ..crate::host::places() };
        let elsewhere = crate::host::networks_at(places);
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
