//! Containers on a bridge, on a host of their own: reached, named, restarted, killed, and all that goes with them.

use std::collections::BTreeSet;
use std::time::Instant;

use cofferdam_testkit::image::{Layout, layers};
use cofferdam_testkit::lab::{Lab, PATIENCE, Running, breathe, eventually};
use cofferdam_testkit::needs::Need;
use cofferdam_testkit::private_host::PrivateHost;
use cofferdam_testkit::process::{has_ended, kill_process, signal_process};
use cofferdam_testkit::runtimes::Choice;
use rustix::process::Signal;
use serde_json::json;

use crate::exit::pid_of;
use crate::keeper::{kill_supervisor, kill_with_keeper};
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    on_bridge("bridge::ports_lead_to_containers", ports_lead_to_containers),
    on_bridge("bridge::a_prepared_attachment_is_claimed", a_prepared_attachment_is_claimed),
    on_bridge("bridge::a_port_is_given_once", a_port_is_given_once),
    on_bridge("bridge::ports_of_an_image_are_published", ports_of_an_image_are_published),
    on_bridge("bridge::what_is_no_network_is_refused", what_is_no_network_is_refused),
    on_bridge("bridge::a_network_is_shared", a_network_is_shared),
    on_bridge("bridge::names_are_known", names_are_known),
    on_bridge("bridge::a_restart_is_connected_again", a_restart_is_connected_again),
    on_bridge("bridge::nothing_stays_of_the_killed", nothing_stays_of_the_killed),
    on_bridge("bridge::a_run_killed_at_any_moment", a_run_killed_at_any_moment),
    on_bridge("bridge::many_have_addresses_of_their_own", many_have_addresses_of_their_own),
];

const fn on_bridge(name: &'static str, test: fn(&Lab)) -> Case {
    let needs = &[Need::CniPlugins, Need::IpCommand, Need::Unshare];
    case(name, test).only(is_one_of_each).needs(needs)
}

fn is_one_of_each(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::RunscHead) && choice.joins_namespaces()
}

/// All that a host has of networks, but for counters of packets, and whether a link has a carrier.
const LOOK: &str = "ip -o link | cut -d: -f2 | cut -d@ -f1
ip route | sed 's/ linkdown//'
for family in iptables ip6tables; do $family-save | grep -v '^#' | sed 's/\\[[0-9:]*\\]//'; done
ls /run/cofferdam/netns
find /run/cofferdam /var/lib/cni -type f | grep -v -e lock -e last_reserved";

/// A web server; it says who it is.
const SERVE: &str = "busybox mkdir /dev/shm/w; echo $NAME > /dev/shm/w/index.html; \
                     exec busybox httpd -f -p 80 -h /dev/shm/w";

/// A private host on which the bridge is made, and what it has then.
fn host(lab: &Lab) -> (&PrivateHost, BTreeSet<String>) {
    let host = lab.move_to_private_host();
    drop(lab.run(&["--rm", "-p", "80"], &["true"]).expect_code(0));
    (host, look(host))
}

fn look(host: &PrivateHost) -> BTreeSet<String> {
    host.shell(LOOK).expect_code(0).text().lines().map(|line| line.trim().to_owned()).collect()
}

/// The kernel takes links of a namespace away after it.
#[track_caller]
fn expect_the_same(host: &PrivateHost, before: &BTreeSet<String>) {
    let mut differing = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        differing = look(host).symmetric_difference(before).cloned().collect();
        if differing.is_empty() {
            return;
        }
        breathe();
    }
    panic!("these differ from before: {differing:#?}");
}

#[track_caller]
fn expect_as_before(lab: &Lab, host: &PrivateHost, before: &BTreeSet<String>) {
    lab.expect_clean();
    expect_the_same(host, before);
}

/// What is at an address; nothing if nobody answers.
fn fetch(host: &PrivateHost, address: &str) -> String {
    // busybox's own limit (`-T`) makes Debian's static build die by a SIGSEGV.
    host.shell(&format!("timeout 3 busybox wget -q -O - http://{address}/index.html || true")).text()
}

fn serve(lab: &Lab, name: &str, options: &[&str]) -> String {
    let environment = format!("NAME={name}");
    lab.run_detached(&[&["--name", name, "-e", &environment], options].concat(), &["sh", "-c", SERVE])
}

/// The first address of a container.
fn address(lab: &Lab, name: &str) -> String {
    let seen = lab.inspect(name);
    let address = seen["attachment"]["addresses"][0].as_str().unwrap_or_else(|| panic!("{seen:#}"));
    address.split('/').next().unwrap().to_owned()
}

fn ports_lead_to_containers(lab: &Lab) {
    let (host, before) = host(lab);
    drop(serve(lab, "web", &["-p", "8080:80", "-p", "0.0.0.0:8081:80", "-p", "80", "-p", "53/udp"]));
    let own = address(lab, "web");
    let ports = lab.inspect("web")["attachment"]["ports"].take();
    let free = ports.as_array().unwrap().iter().find(|port| {
        port["protocol"] == "tcp" && !["8080", "8081"].contains(&port["host"].to_string().as_str())
    });
    let free = free.unwrap_or_else(|| panic!("{ports:#}"))["host"].as_u64().unwrap();
    eventually("it answers", || fetch(host, "127.0.0.1:8080") == "web");
    for place in [format!("{own}:80"), format!("127.0.0.1:{free}"), "198.51.100.2:8081".into()] {
        assert_eq!(fetch(host, &place), "web", "{place}");
    }
    assert_eq!(fetch(host, "198.51.100.2:8080"), "", "nobody else was told to reach it");
    let url = format!("http://{own}/index.html");
    let done = lab.run(&["--rm", "--network", "bridge"], &["busybox", "wget", "-q", "-O", "-", &url]);
    assert_eq!(done.expect_code(0).text(), "web", "from another container");
    let listed = lab.cofferdam(&["ps"]).expect_code(0).text();
    for port in ["127.0.0.1:8080->80/tcp", "0.0.0.0:8081->80/tcp", "->53/udp"] {
        assert!(listed.contains(port), "{listed}");
    }
    drop(lab.cofferdam(&["rm", "--force", "web"]).expect_code(0));
    assert_eq!(fetch(host, "127.0.0.1:8080"), "");
    expect_as_before(lab, host, &before);
}

fn a_prepared_attachment_is_claimed(lab: &Lab) {
    let (host, before) = host(lab);
    let prepared = || {
        let listed = lab.cofferdam(&["network", "ls", "--format", "{{.name}} {{.prepared}}"]).expect_code(0);
        // The machine may have others.
        listed.text().lines().find(|line| line.starts_with("bridge ")).unwrap().to_owned()
    };
    assert_eq!(prepared(), "bridge 0");
    drop(lab.cofferdam(&["network", "pool", "bridge"]).expect_error("E0101"));
    for wrong in
        [["--low", "0", "--high", "1"], ["--low", "3", "--high", "2"], ["--low", "1", "--high", "1001"]]
    {
        drop(lab.cofferdam(&[&["network", "pool"], &wrong[..], &["bridge"]].concat()).expect_error("E0101"));
    }
    drop(lab.cofferdam(&["network", "pool", "--low", "1", "--high", "2", "none"]).expect_error("E0404"));
    let filled = lab.cofferdam(&["network", "pool", "--low", "1", "--high", "2", "bridge"]).expect_code(0);
    assert_eq!(filled.text(), "2 of 1 to 2");
    drop(serve(lab, "one", &["-p", "8080:80"]));
    assert_eq!(prepared(), "bridge 1", "it is not low yet");
    assert!(lab.cofferdam(&["gc", "--format", "json"]).expect_code(0).json().as_array().unwrap().is_empty());
    eventually("it answers", || fetch(host, "127.0.0.1:8080") == "one");
    drop(serve(lab, "two", &["--network", "bridge"]));
    eventually("the launch has it refilled", || prepared() == "bridge 2");
    assert_ne!(address(lab, "one"), address(lab, "two"));
    let done = lab.run(&["--rm", "--network", "bridge"], &["ip", "addr", "show", "eth0"]).expect_code(0);
    assert!(done.text().contains("inet "), "{done:?}");
    drop(lab.cofferdam(&["rm", "--force", "one", "two"]).expect_code(0));
    let off = || lab.cofferdam(&["network", "pool", "--off", "bridge"]).expect_code(0).text();
    assert_eq!((off(), off()), ("nothing is prepared".into(), "nothing is prepared".into()));
    expect_as_before(lab, host, &before);
}

fn a_port_is_given_once(lab: &Lab) {
    let (host, before) = host(lab);
    drop(serve(lab, "web", &["-p", "8080:80"]));
    let with_one = look(host);
    for options in [&["-p", "8080:80"][..], &["-p", "8082:80", "-p", "127.0.0.1:8080:81"]] {
        drop(lab.run(&[&["--rm"], options].concat(), &["true"]).expect_code(125).expect_error("E0407"));
        drop(lab.run(&[&["-d", "--rm"], options].concat(), &["true"]).expect_code(125).expect_error("E0407"));
        expect_the_same(host, &with_one);
    }
    let twice = lab.run(&["--rm", "-p", "8082:80", "-p", "127.0.0.1:8082:81"], &["true"]);
    drop(twice.expect_code(125).expect_error("E0101"));
    eventually("the first answers", || fetch(host, "127.0.0.1:8080") == "web");
    drop(lab.cofferdam(&["rm", "--force", "web"]).expect_code(0));
    let mut other = host.command("busybox");
    other.args(["httpd", "-f", "-p", "127.0.0.1:8080"]);
    let mut other = Running::start(other);
    eventually("another program listens", || host.shell("ss -ltn").text().contains(":8080"));
    drop(lab.run(&["--rm", "-p", "8080:80"], &["true"]).expect_code(125).expect_error("E0407"));
    other.child.kill().unwrap();
    drop(other.finish());
    drop(lab.run(&["--rm", "-p", "8080:80"], &["true"]).expect_code(0));
    expect_as_before(lab, host, &before);
}

fn ports_of_an_image_are_published(lab: &Lab) {
    let (host, before) = host(lab);
    let config = json!({
        "Env": ["PATH=/bin", "NAME=image"], "Cmd": ["sh", "-c", SERVE], "ExposedPorts": { "80/tcp": {} },
    });
    let image = format!("oci:{}", Layout::new(&lab.path().join("oci")).add("web", &layers(), &config));
    drop(lab.run_image(&["-d", "--name", "web", "-P"], &[&image]).expect_code(0));
    let port = lab.inspect("web")["attachment"]["ports"][0]["host"].as_u64().unwrap();
    eventually("it answers", || fetch(host, &format!("127.0.0.1:{port}")) == "image");
    drop(lab.cofferdam(&["rm", "--force", "web"]).expect_code(0));
    expect_as_before(lab, host, &before);
}

fn what_is_no_network_is_refused(lab: &Lab) {
    let (host, before) = host(lab);
    let refused = lab.run(&["--rm", "--network", "nosuch"], &["true"]).expect_code(125).expect_error("E0404");
    assert!(refused.stderr.contains("bridge"), "it says which there are: {}", refused.stderr);
    let code = if lab.choice.is_gvisor() { "E0101" } else { "E0103" };
    drop(lab.run(&["--rm", "--network", "container:nobody"], &["true"]).expect_error(code));
    for options in [
        &["--network", "none", "-p", "80"][..],
        &["--network", "host", "-p", "80"],
        &["-p", "0"],
        &["-p", "80:65536"],
        &["-p", "x"],
        &["-p", "80/icmp"],
        &["-p", "300.0.0.1:80:80"],
        &["--network", "bridge", "--add-host", "x"],
        &["--network", "bridge", "--dns", "resolver"],
    ] {
        drop(lab.run(&[&["--rm"], options].concat(), &["true"]).expect_code(125).expect_error("E0101"));
    }
    expect_as_before(lab, host, &before);
}

fn a_network_is_shared(lab: &Lab) {
    let (host, before) = host(lab);
    drop(serve(lab, "web", &["-p", "8080:80"]));
    eventually("it answers", || fetch(host, "127.0.0.1:8080") == "web");
    let options = ["--rm", "--network", "container:web"];
    let done = lab.run(&options, &["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1/index.html"]);
    if lab.choice.is_gvisor() {
        drop(done.expect_code(125).expect_error("E0101"));
    } else {
        assert_eq!(done.expect_code(0).text(), "web");
        let own = lab.run(&options, &["ip", "-o", "-4", "addr"]).expect_code(0).text();
        assert!(own.contains(&address(lab, "web")), "{own}");
    }
    assert_eq!(fetch(host, "127.0.0.1:8080"), "web", "it has its network still");
    drop(lab.cofferdam(&["rm", "--force", "web"]).expect_code(0));
    expect_as_before(lab, host, &before);
}

fn names_are_known(lab: &Lab) {
    let (host, before) = host(lab);
    let script =
        "cat /etc/hosts; echo --; cat /etc/resolv.conf; echo --; cat /etc/hostname; hostname; ip -o -4 addr";
    let options = [
        "--rm",
        "--network",
        "bridge",
        "--hostname",
        "one",
        "--add-host",
        "two:192.0.2.7",
        "--add-host",
        "up:host-gateway",
        "--dns",
        "192.0.2.53",
        "--dns-search",
        "example.org",
        "--dns-option",
        "ndots:2",
    ];
    let text = lab.run(&options, &["sh", "-c", script]).expect_code(0).text();
    let parts: Vec<&str> = text.split("--\n").collect();
    let [hosts, resolvers, own] = parts[..] else { panic!("{text}") };
    let has = |address: &str, name: &str| {
        hosts.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(address) && words.any(|word| word == name)
        })
    };
    assert!(has("127.0.0.1", "localhost") && has("::1", "localhost") && has("192.0.2.7", "two"), "{hosts}");
    let mut lines = own.lines();
    assert_eq!((lines.next(), lines.next()), (Some("one"), Some("one")));
    let line = own.lines().find(|line| line.contains("eth0")).unwrap_or_else(|| panic!("{own}"));
    let address = line.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
    assert!(has(address, "one"), "{address} is in {hosts}");
    let gateway = host.shell("ip -o -4 addr show cofferdam0").expect_code(0).text();
    let gateway = gateway.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
    assert!(has(gateway, "up"), "{gateway} is in {hosts}");
    for line in ["nameserver 192.0.2.53", "search example.org", "options ndots:2"] {
        assert!(resolvers.lines().any(|own| own == line), "{resolvers}");
    }
    expect_as_before(lab, host, &before);
}

fn a_restart_is_connected_again(lab: &Lab) {
    let (host, before) = host(lab);
    let id = serve(lab, "web", &["-p", "8080:80", "--restart", "always"]);
    eventually("it answers", || fetch(host, "127.0.0.1:8080") == "web");
    let namespace = |lab: &Lab| lab.inspect("web")["attachment"]["namespace"].take();
    let (first, pid) = (namespace(lab), pid_of(lab, &id));
    signal_process(pid, Signal::KILL);
    eventually("it runs again", || {
        let state = lab.inspect("web")["state"].take();
        state["status"] == "running" && state["pid"].as_i64() != Some(pid.into())
    });
    eventually("it answers again", || fetch(host, "127.0.0.1:8080") == "web");
    assert_eq!(fetch(host, &format!("{}:80", address(lab, "web"))), "web");
    assert_ne!(namespace(lab), first, "a namespace is used once");
    drop(lab.cofferdam(&["rm", "--force", "web"]).expect_code(0));
    expect_as_before(lab, host, &before);
}

fn nothing_stays_of_the_killed(lab: &Lab) {
    let (host, before) = host(lab);
    let id = serve(lab, "web", &["--rm", "-p", "8080:80"]);
    eventually("it answers", || fetch(host, "127.0.0.1:8080") == "web");
    // The monitor alone: the container is taken over.
    kill_supervisor(lab, &id);
    assert_eq!(fetch(host, "127.0.0.1:8080"), "web");
    eventually("it has another", || lab.inspect("web")["state"]["supervised"] == true);
    drop(lab.run(&["--rm", "-p", "8080:80"], &["true"]).expect_error("E0407"));
    // Everything at once.
    let pid = pid_of(lab, &id);
    kill_with_keeper(lab, &id);
    kill_process(pid);
    drop(lab.cofferdam(&["gc"]).expect_code(0));
    expect_as_before(lab, host, &before);
    // And what says so, too.
    let id = serve(lab, "web", &["-p", "8080:80"]);
    let pid = pid_of(lab, &id);
    kill_with_keeper(lab, &id);
    std::fs::remove_dir_all(lab.state().join("containers").join(&id)).unwrap();
    let shown = lab.cofferdam(&["gc", "--dry-run", "--format", "json"]).expect_code(0).text();
    assert!(shown.contains("\"network\""), "{shown}");
    drop(lab.cofferdam(&["gc"]).expect_code(0));
    eventually("it has ended", || has_ended(pid));
    expect_as_before(lab, host, &before);
    assert_eq!(lab.cofferdam(&["gc"]).expect_code(0).text(), "nothing is left behind");
    drop(lab.run(&["--rm", "-p", "8080:80"], &["true"]).expect_code(0));
    expect_as_before(lab, host, &before);
}

fn a_run_killed_at_any_moment(lab: &Lab) {
    let (host, before) = host(lab);
    let run = || lab.start_run(&["--rm", "-p", "8080:80"], &["true"]);
    let start = Instant::now();
    drop(run().finish().expect_code(0));
    let whole = start.elapsed();
    let moments = [7, 3, 9, 5, 6, 1, 2, 8, 4, 10];
    // gVisor takes its time to be cleared away.
    let count = if lab.choice.is_gvisor() { 5 } else { 10 };
    for moment in &moments[..count] {
        let running = run();
        std::thread::park_timeout(whole * *moment / 10);
        running.signal(Signal::KILL);
        drop(running.finish());
        for id in lab.cofferdam(&["ps", "-a", "-q", "--own"]).expect_code(0).text().lines() {
            drop(lab.cofferdam(&["rm", "--force", id]).expect_code(0));
        }
        drop(lab.cofferdam(&["gc"]).expect_code(0));
        expect_as_before(lab, host, &before);
    }
    drop(run().finish().expect_code(0));
    expect_as_before(lab, host, &before);
}

/// Containers at once: 20, or what COFFERDAM_TEST_BULK says, up to 100.
fn count() -> usize {
    let told = std::env::var("COFFERDAM_TEST_BULK").ok().and_then(|text| text.parse().ok());
    told.map_or(20, |told: usize| told.clamp(20, 100))
}

fn many_have_addresses_of_their_own(lab: &Lab) {
    let (host, before) = host(lab);
    let command = |_| {
        let words = lab.launch_args("run", &["--detach", "-p", "80"], &["sleep", "1000"]);
        Running::start(lab.command(words))
    };
    let started: Vec<_> = (0..count()).map(command).collect();
    let ids: Vec<String> =
        started.into_iter().map(|running| running.finish().expect_code(0).text()).collect();
    let mut addresses = BTreeSet::new();
    let mut ports = BTreeSet::new();
    for id in &ids {
        let attachment = lab.inspect(id)["attachment"].take();
        addresses.insert(attachment["addresses"].to_string());
        ports.insert(attachment["ports"][0]["host"].as_u64());
    }
    assert_eq!((addresses.len(), ports.len()), (ids.len(), ids.len()), "{addresses:?} {ports:?}");
    let removed: Vec<_> = ids.iter().map(|id| Running::start(lab.command(["rm", "--force", id]))).collect();
    for running in removed {
        drop(running.finish().expect_code(0));
    }
    expect_as_before(lab, host, &before);
}
