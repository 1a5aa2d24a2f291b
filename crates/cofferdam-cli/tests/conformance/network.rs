//! How containers are connected: not at all, with the host, or through a prepared namespace.

use cofferdam_testkit::fixture::{bundle, spec};
use cofferdam_testkit::lab::{Lab, finish, new_command};
use cofferdam_testkit::needs::Need;
use cofferdam_testkit::runtimes::Choice;

use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("network::none_is_a_loopback_alone", none_is_a_loopback_alone).real(),
    case("network::host_is_the_hosts", host_is_the_hosts).real(),
    case("network::a_namespace_is_joined", a_namespace_is_joined)
        .only(Choice::joins_namespaces)
        .needs(&[Need::IpCommand]),
    case("network::a_runsc_that_misreads_namespaces_is_refused", a_misreading_runsc_is_refused)
        .only(|choice| choice.is_gvisor() && !choice.joins_namespaces())
        .needs(&[Need::IpCommand]),
    case("network::what_is_no_namespace_is_refused", what_is_no_namespace_is_refused),
    case("network::the_hosts_network_is_given_only_when_asked_for", the_hosts_network_must_be_asked_for)
        .only(Choice::is_gvisor),
];

/// A network namespace with an address, as long as it lives.
struct Namespace(String);

impl Namespace {
    fn new(lab: &Lab) -> Self {
        let name = format!("cfl-{}", lab.path().file_name().unwrap_or_default().to_string_lossy());
        let ip = |args: &[&str]| {
            let mut command = new_command("ip");
            command.args(args);
            drop(finish(command).expect_code(0));
        };
        ip(&["netns", "add", &name]);
        let namespace = Self(name.clone());
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        ip(&["-n", &name, "link", "add", "v0", "type", "veth", "peer", "name", "v1"]);
        ip(&["-n", &name, "addr", "add", "10.77.0.2/24", "dev", "v0"]);
        ip(&["-n", &name, "link", "set", "v0", "up"]);
        ip(&["-n", &name, "link", "set", "v1", "up"]);
        namespace
    }

    fn option(&self) -> String {
        format!("ns:/run/netns/{}", self.0)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let mut command = new_command("ip");
        command.args(["netns", "del", &self.0]);
        drop(finish(command));
    }
}

const SHOW: [&str; 3] = ["sh", "-c", "ip -o addr | sort; grep -c : /proc/net/dev"];

fn none_is_a_loopback_alone(lab: &Lab) {
    let text = lab.run(&["--rm", "--network", "none"], &SHOW).expect_code(0).text();
    assert!(text.contains("127.0.0.1"), "{text}");
    assert!(!text.contains("eth"), "{text}");
    assert_eq!(lab.run(&["--rm"], &SHOW).expect_code(0).text(), text, "none is the default");
}

fn host_is_the_hosts(lab: &Lab) {
    let done = lab.run(&["--name", "host", "--network", "host"], &["true"]).expect_code(0);
    assert_eq!(done.stderr, "");
    assert_eq!(lab.inspect("host")["network"]["kind"], "host");
}

fn a_namespace_is_joined(lab: &Lab) {
    let namespace = Namespace::new(lab);
    let text = lab.run(&["--rm", "--network", &namespace.option()], &SHOW).expect_code(0).text();
    assert!(text.contains("10.77.0.2"), "{text}");
    lab.expect_clean();
}

fn a_misreading_runsc_is_refused(lab: &Lab) {
    if !std::path::Path::new("/proc/sys/net/core/rmem_default").exists() {
        return;
    }
    let namespace = Namespace::new(lab);
    let done =
        lab.run(&["--rm", "--network", &namespace.option()], &SHOW).expect_code(125).expect_error("E0403");
    assert!(done.stderr.contains("20240807") && done.stderr.contains("gvisor.dev"), "{}", done.stderr);
    lab.expect_clean();
}

fn what_is_no_namespace_is_refused(lab: &Lab) {
    let code = if lab.choice.joins_namespaces() || !lab.choice.is_gvisor() { "E0401" } else { "E0403" };
    for path in ["ns:/nonexistent", "ns:/etc/passwd", "ns:/proc/self/ns/pid"] {
        drop(lab.run(&["--rm", "--network", path], &["true"]).expect_error(code));
    }
    for wrong in ["ns:relative", "", "ns:"] {
        drop(lab.run(&["--rm", "--network", wrong], &["true"]).expect_error("E0101"));
    }
    lab.expect_clean();
}

fn the_hosts_network_must_be_asked_for(lab: &Lab) {
    let mut config = spec(&["/bin/true"]);
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "network");
    let path = bundle(lab.path(), "b", &config);
    let path = path.to_string_lossy();
    let parent = lab.cgroup_parent();
    let run = |options: &[&str]| {
        let args = ["run", "--rm", "--cgroup-parent", &parent, "--bundle", &path];
        lab.cofferdam(&args.iter().chain(options).copied().collect::<Vec<_>>())
    };
    drop(run(&[]).expect_code(125).expect_error("E0402"));
    drop(run(&["--network", "none"]).expect_code(0));
    drop(run(&["--network", "host"]).expect_code(0));
    lab.expect_clean();
}
