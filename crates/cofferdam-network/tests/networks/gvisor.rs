//! A real container of gVisor, which takes its interface's addresses away, in prepared attachments.

use std::path::Path;

use cofferdam_network::PoolMarks;
use cofferdam_network::ports::PortRequest;
use cofferdam_testkit::fixture;
use cofferdam_testkit::needs::Need;
use cofferdam_testkit::runtimes::Choice;
use serde_json::json;

use crate::Trial;
use crate::host::{Left, command, get, networks, request, sh, until, wait};

pub(crate) const TRIALS: &[Trial] =
    &[("gvisor::a_published_port_leads_into_the_sandbox", a_port_leads_into_the_sandbox)];
/// What these need besides.
pub(crate) const NEED: Need = Need::Runtime(Choice::RunscHead);

fn a_port_leads_into_the_sandbox() {
    let runsc = Choice::RunscHead.binary().unwrap();
    let runsc = runsc.to_str().unwrap();
    let mut asked = request("bridge");
    asked.ports = PortRequest::parse("80").unwrap();
    wait(async {
        networks().attach("first", &asked).await.unwrap();
        networks().detach("first").await.unwrap();
        networks().refill("bridge", PoolMarks { low: 1, high: 1 }).await.unwrap();
        networks().attach("prepared", &request("bridge")).await.unwrap();
        networks().detach("prepared").await.unwrap();
        sh("mkdir /run/runsc");
        let before = Left::now();
        networks().refill("bridge", PoolMarks { low: 1, high: 1 }).await.unwrap();
        // The first has the prepared one, the second one of its own.
        for id in ["one", "two"] {
            let made = networks().attach(id, &asked).await.unwrap().attachment;
            let bundle = format!("/run/bundle-{id}");
            write_bundle(Path::new(&bundle), &made.namespace);
            let options = ["--root", "/run/runsc", "--network=sandbox", "--ignore-cgroups"];
            let run = [&options[..], &["run", "--bundle", &bundle, id]].concat();
            let mut container = command(runsc, &run).spawn().unwrap();
            let url = format!("127.0.0.1:{}", made.ports[0].host);
            until("the container answers", || get(&url).as_deref() == Some("from inside"));
            let addresses =
                sh(&format!("nsenter --net={} ip -o address show dev eth0", made.namespace.display()));
            assert_eq!(addresses, "", "gVisor has them");
            sh(&format!("{runsc} --root /run/runsc kill {id} KILL"));
            container.wait().unwrap();
            networks().detach(id).await.unwrap();
            sh(&format!("{runsc} --root /run/runsc delete --force {id}; rm -r {bundle}"));
        }
        // runsc's own, for sandboxes without a network.
        sh("umount /run/runsc/null-netns");
        Left::settle(&before);
    });
}

fn write_bundle(bundle: &Path, namespace: &Path) {
    std::fs::create_dir(bundle).unwrap();
    let root = fixture::rootfs(bundle);
    std::fs::write(root.join("data/index.html"), "from inside").unwrap();
    let args = ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/data"];
    let spec = json!({
        "ociVersion": "1.0.2",
        "process": {"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": root},
        "linux": {"namespaces": [
            {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "network", "path": namespace},
        ]},
    });
    std::fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
}
