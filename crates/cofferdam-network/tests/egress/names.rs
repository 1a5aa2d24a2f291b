//! Names: what is told, and what is open afterwards.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::Trial;
use crate::container::{Container, RESOLVER};
use crate::dns::{World, addresses, ask_by_tcp, ask_for};
use crate::host::sh;
use crate::probe::{connect, is_alive, ping, tcp, udp};

pub(crate) const TRIALS: &[Trial] = &[
    ("names_open_what_they_stand_for", names),
    ("a_name_opens_nothing_that_is_guarded", rebinding),
    ("public_answers_for_all_names", public),
    ("what_a_name_opened_runs_out_without_a_resolver", expiry),
];

fn names() {
    let world = World::start();
    world.add(
        "api.example",
        &["api.example cdn.example", "cdn.example 93.184.216.34", "evil.example 8.8.8.8"],
        300,
    );
    world.add("a.b.wild.example", &["a.b.wild.example 93.184.216.35", "a.b.wild.example 2606:2800::2"], 300);
    world.add("wild.example", &["wild.example 8.8.8.8"], 300);
    let many: Vec<String> = (1..60).map(|index| format!("big.example 93.184.217.{index}")).collect();
    world.add("big.example", &many.iter().map(String::as_str).collect::<Vec<_>>(), 300);
    let container = Container::new("allow:api.example:80,*.wild.example,big.example");
    let _served = container.serve();
    let inner = &container.inner;

    assert!(!tcp(inner, "93.184.216.34:80"), "before it is asked for");
    let answer = container.ask("API.example");
    assert_eq!((addresses(&answer), answer.answers.len()), (vec!["93.184.216.34".to_owned()], 2));
    assert!(tcp(inner, "93.184.216.34:80"), "the name, by its alias");
    assert!(
        !tcp(inner, "93.184.216.34:443") && !udp(inner, "93.184.216.34:80") && !ping(inner, "93.184.216.34")
    );
    assert!(!tcp(inner, "8.8.8.8:80"), "what came beside the answer");

    assert_eq!(container.addresses("a.b.wild.example"), ["93.184.216.35"]);
    assert!(
        tcp(inner, "93.184.216.35:443") && udp(inner, "93.184.216.35:80") && ping(inner, "93.184.216.35")
    );
    assert!(!tcp(inner, "[2606:2800::2]:80"), "it was not asked for");
    assert_eq!(addresses(&container.ask_for("a.b.wild.example", RecordType::AAAA)), ["2606:2800::2"]);
    assert!(tcp(inner, "[2606:2800::2]:80"));
    let hints = container.ask_for("a.b.wild.example", RecordType::HTTPS);
    assert_eq!((hints.metadata.response_code, hints.answers.len()), (ResponseCode::NoError, 0));

    // What a datagram has no room for is asked for by TCP, on both sides.
    assert!(container.ask("big.example").metadata.truncation);
    assert_eq!(addresses(&ask_by_tcp(inner, RESOLVER, "big.example").unwrap()).len(), 59);

    for name in ["wild.example", "cdn.example", "evil.example", "xapi.example", "example"] {
        assert!(container.has_no(name), "{name}");
    }
    for resolver in ["8.8.8.8:53", "9.9.9.9:53", "10.88.0.1:53"] {
        assert!(ask_for(inner, resolver, "api.example", RecordType::A).is_none(), "{resolver}");
    }
    assert!(
        world
            .asked()
            .iter()
            .all(|name| ["api.example", "a.b.wild.example", "big.example"].contains(&&**name))
    );
    let asked = world.asked().len();
    assert_eq!(container.addresses("api.example"), ["93.184.216.34"]);
    assert_eq!(world.asked().len(), asked, "what is known is not asked for again");
}

fn rebinding() {
    let world = World::start();
    for guarded in ["169.254.169.254", "10.88.0.1", "45.0.0.1", "10.88.0.3", "127.0.0.1", "172.20.0.9"] {
        world.add("re.example", &["re.example 93.184.216.34"], 0);
        world.add("re.example", &[&format!("re.example {guarded}"), "re.example 93.184.216.35"], 0);
    }
    world.add(
        "re6.example",
        &["re6.example fd00:ec2::254", "re6.example ::ffff:10.88.0.1", "re6.example 2606:2800::1"],
        0,
    );
    world.add("corp.example", &["corp.example 172.20.0.9"], 0);
    let container = Container::new("allow:re.example,re6.example,corp.example,172.20.0.9:80");
    let _served = container.serve();
    for guarded in ["169.254.169.254", "10.88.0.1", "45.0.0.1", "10.88.0.3", "127.0.0.1"] {
        assert_eq!(container.addresses("re.example"), ["93.184.216.34"]);
        assert_eq!(container.addresses("re.example"), ["93.184.216.35"], "{guarded}");
        assert!(guarded == "127.0.0.1" || !tcp(&container.inner, &format!("{guarded}:80")), "{guarded}");
    }
    assert_eq!(addresses(&container.ask_for("re6.example", RecordType::AAAA)), ["2606:2800::1"]);
    assert!(tcp(&container.inner, "[2606:2800::1]:80") && !tcp(&container.inner, "[fd00:ec2::254]:80"));
    // A network that names it opens it, at its port, and the name may be told.
    assert_eq!(container.addresses("corp.example"), ["172.20.0.9"]);
    assert!(tcp(&container.inner, "172.20.0.9:80") && !tcp(&container.inner, "172.20.0.9:443"));

    // Were the resolver deceived, the filter would not be.
    let set = sh("ip netns exec gate nft list sets inet | grep -o 'name[0-9a-f]*v4' | head -n 3");
    for set in set.lines() {
        sh(&format!(
            "ip netns exec gate nft add element inet cofferdam {set} '{{ 169.254.169.254 timeout 60s }}'"
        ));
    }
    assert!(!tcp(&container.inner, "169.254.169.254:80"));
}

fn public() {
    let world = World::start();
    world.add("any.example", &["any.example 93.184.216.34", "any.example 169.254.169.254"], 300);
    let container = Container::new("public");
    let _served = container.serve();
    assert_eq!(container.addresses("any.example"), ["93.184.216.34"]);
    assert!(container.has_no("none.example"));
    container.change("none").unwrap();
    assert!(ask_for(&container.inner, RESOLVER, "any.example", RecordType::A).is_none());
}

fn expiry() {
    let world = World::start();
    world.add("api.example", &["api.example 93.184.216.34"], 5);
    let container = Container::new("allow:api.example:80");
    let served = container.serve();
    assert_eq!(container.addresses("api.example"), ["93.184.216.34"]);
    let mut flow = connect(&container.inner, "93.184.216.34:80").unwrap();
    assert!(is_alive(&mut flow));
    drop(served);
    assert!(ask_for(&container.inner, RESOLVER, "api.example", RecordType::A).is_none());
    assert!(tcp(&container.inner, "93.184.216.34:80"), "for a time");
    // Each entry has its end in the kernel: the answer held for 5 s, so it is a minute. It is not waited for.
    let entry = sh("ip netns exec gate nft list ruleset | grep 93.184.216.34");
    let words: Vec<&str> = entry.split_whitespace().collect();
    assert_eq!(words[3..5], ["93.184.216.34", "timeout"], "{entry}");
    assert_eq!((words[5], words[6]), ("1m", "expires"), "{entry}");
    let set = sh("ip netns exec gate nft list sets inet | grep -o 'name[0-9a-f]*v4'");
    sh(&format!("ip netns exec gate nft flush set inet cofferdam {set}"));
    assert!(!tcp(&container.inner, "93.184.216.34:80"), "afterwards");
    assert!(is_alive(&mut flow), "what is there goes on");
}
