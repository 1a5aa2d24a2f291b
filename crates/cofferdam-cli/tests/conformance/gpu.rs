//! GPUs: who is given which, what is seen of them inside, and what is refused before anything starts.
//!
//! The host's GPUs are files of a test's own (`GpuHost`), whose device nodes are those of /dev/null. nvproxy, which would
//! ask the real driver for its version, is told one.

use cofferdam_testkit::gpu_host::{DRIVER, GpuHost};
use cofferdam_testkit::lab::{Lab, breathe, eventually, finish, new_command};
use cofferdam_testkit::needs::Need;
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN, RUNSC_OLDEST};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::keeper::kill_supervisor;
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("gpu::only_those_given_are_seen", only_those_given_are_seen).only(serves_gpus),
    case("gpu::they_come_back_after_every_end", they_come_back_after_every_end).only(is_one_of_each),
    case("gpu::nobody_gets_one_that_another_has", nobody_gets_one_that_another_has).only(is_runc),
    case("gpu::no_name_leads_around_a_lease", no_name_leads_around_a_lease).only(is_one_of_each),
    case("gpu::nobody_has_to_look_for_the_dead", nobody_has_to_look_for_the_dead).only(is_runc),
    case("gpu::what_it_uses_is_counted", what_it_uses_is_counted).only(is_runc).needs(&[Need::CCompiler]),
    case("gpu::what_cannot_be_is_refused", what_cannot_be_is_refused).only(is_one_of_each),
    case("gpu::drivers_that_nvproxy_does_not_know", drivers_that_nvproxy_does_not_know)
        .only(is_debians_runsc),
    case("gpu::a_runsc_without_nvproxy", a_runsc_without_nvproxy)
        .only(|choice| *choice == Choice::Runsc(RUNSC_OLDEST)),
];

pub(crate) fn is_runc(choice: &Choice) -> bool {
    *choice == Choice::Runc
}

fn is_debians_runsc(choice: &Choice) -> bool {
    *choice == Choice::Runsc(RUNSC_DEBIAN)
}

pub(crate) fn is_one_of_each(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Crun) || is_debians_runsc(choice)
}

fn serves_gpus(choice: &Choice) -> bool {
    choice.is_real() && *choice != Choice::Runsc(RUNSC_OLDEST)
}

/// The driver of a host that this lab's runtime serves.
fn driver(lab: &Lab) -> String {
    if !lab.choice.is_gvisor() {
        return DRIVER.to_owned();
    }
    let mut command = new_command(lab.runtime());
    command.args(["nvproxy", "list-supported-drivers"]);
    let text = finish(command).text();
    text.lines().last().unwrap().trim().to_owned()
}

/// The options for a host with GPUs.
pub(crate) struct Place {
    options: Vec<String>,
}

impl Place {
    pub(crate) fn new(lab: &Lab, gpus: u32) -> Self {
        let driver = driver(lab);
        let host = GpuHost::new(&lab.path().join("gpus"), gpus, &driver);
        let mut options = host.options().to_vec();
        if lab.choice.is_gvisor() {
            // It opens them by the paths that they have in the container.
            lab.see_devices(&host.devices());
            options.extend(["--gpu-driver-override".to_owned(), driver]);
        }
        Self { options }
    }

    pub(crate) fn with<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        self.options.iter().map(String::as_str).chain(more.iter().copied()).collect()
    }
}

/// What a container has of NVIDIA's nodes.
pub(crate) const NODES: &[&str] = &["sh", "-c", "cd /dev && ls -d nvidia*"];

fn only_those_given_are_seen(lab: &Lab) {
    let place = Place::new(lab, 4);
    let seen = |asked: &[&str]| {
        let text = lab.run(&place.with(&[asked, &["--rm"]].concat()), NODES).expect_code(0).text();
        text.lines().filter(|node| !node.ends_with("-tools")).map(str::to_owned).collect::<Vec<_>>()
    };
    let all = ["nvidia-uvm", "nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl"];
    assert_eq!(seen(&["--gpus", "all"]), all);
    assert_eq!(seen(&["--gpus", "device=2"]), ["nvidia-uvm", "nvidia2", "nvidiactl"]);
    assert_eq!(
        seen(&["--gpus", &format!("device={}", GpuHost::uuid(1))]),
        ["nvidia-uvm", "nvidia1", "nvidiactl"]
    );
    assert_eq!(seen(&["--gpus", "A100:2"]), ["nvidia-uvm", "nvidia1", "nvidia3", "nvidiactl"]);
    assert_eq!(seen(&["--device", "nvidia.com/gpu=3"]), ["nvidia-uvm", "nvidia3", "nvidiactl"]);
    let id = lab.run_detached(&place.with(&["--gpus", "2"]), &["sleep", "1000"]);
    let inspected = lab.inspect(&id);
    let uuids: Vec<&str> =
        inspected["gpus"].as_array().unwrap().iter().map(|gpu| gpu["uuid"].as_str().unwrap()).collect();
    assert_eq!(uuids, [GpuHost::uuid(0), GpuHost::uuid(1)]);
    let listed = lab.cofferdam(&["ps", "--own", "--format", "json"]).expect_code(0).json();
    assert_eq!(listed["gpus"], json!([0, 1]), "{listed:#}");
    assert_eq!(seen(&["--gpus", "1"]), ["nvidia-uvm", "nvidia2", "nvidiactl"], "the first two are taken");
    // Nothing of the driver is seen where nothing was asked for.
    drop(lab.run(&["--rm"], &["sh", "-c", "ls /dev | grep nvidia"]).expect_code(1));
    // The libraries are where the loader looks, by the name that programs load.
    let script =
        "tr : '\\n' </proc/self/environ >/dev/null; ls $LD_LIBRARY_PATH; echo $NVIDIA_VISIBLE_DEVICES";
    let text = lab.run(&place.with(&["--gpus", "1", "--rm"]), &["sh", "-c", script]).expect_code(0).text();
    for name in ["libcuda.so\n", "libnvidia-ml.so\n", "libc.so.6\n", "void"] {
        assert!(text.contains(name), "{name}: {text}");
    }
    assert!(!text.contains("535.54.03"), "of another driver: {text}");
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn they_come_back_after_every_end(lab: &Lab) {
    let place = Place::new(lab, 1);
    let asked = place.with(&["--gpus", "1"]);
    let start = || lab.run_detached(&asked, &["sleep", "1000"]);
    let is_taken = || {
        let done = lab.run(&place.with(&["--gpus", "1", "--rm"]), &["true"]).expect_error("E0305");
        assert!(done.stderr.contains("free: 0 of 1"), "{}", done.stderr);
    };
    // It ends by itself, and stays on the list.
    drop(lab.run(&asked, &["true"]).expect_code(0));
    let id = start();
    is_taken();
    assert!(lab.cofferdam(&["run", "--dry-run", "--gpus", "1"]).stderr.contains("error"), "nothing is given");
    drop(lab.cofferdam(&["stop", "-t", "0", &id]).expect_code(0));
    // Its supervisor is killed while it lives, and takes nothing back.
    let id = start();
    kill_supervisor(lab, &id);
    is_taken();
    // Nobody waits for the new supervisor to see the end.
    kill_process(lab, &id);
    drop(lab.run(&asked, &["true"]).expect_code(0));
    // The launch fails after the GPU was taken.
    drop(lab.run(&asked, &["nonexistent"]).expect_code(127));
    let id = start();
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    drop(lab.run(&asked, &["true"]).expect_code(0));
    drop(lab.cofferdam(&["prune", "-f"]).expect_code(0));
    let left = std::fs::read_dir(lab.state().join("gpus")).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).filter(|name| name != ".lock").collect();
    assert!(left.is_empty(), "{left:?}");
    lab.expect_clean();
}

/// Takes a lock of the kernel's for each GPU that it sees, which whoever has the same GPU cannot have.
const LOCKS_ITS_GPUS: &str = "fd=5; for gpu in /dev/nvidia[0-9]; do name=${gpu##*/}; \
     eval \"exec $fd>/locks/$name\"; flock -n $fd || echo $name >>/locks/twice; fd=$((fd+1)); done; \
     test $fd -gt 5 || echo none >>/locks/twice; sleep 0.2";

/// Launches, of which every third is killed: COFFERDAM_TEST_BULK, or a fifth of what was measured by hand.
fn launches() -> usize {
    std::env::var("COFFERDAM_TEST_BULK").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

fn nobody_gets_one_that_another_has(lab: &Lab) {
    let place = Place::new(lab, 8);
    let locks = lab.path().join("locks");
    std::fs::create_dir(&locks).unwrap();
    let volume = format!("{}:/locks", locks.display());
    let running: Vec<_> = (0..launches())
        .map(|number| {
            let count = if number.is_multiple_of(4) { "2" } else { "1" };
            let options = place.with(&["--gpus", count, "-v", &volume]);
            let flock = ["/usr/bin/flock:/bin/flock", "/lib:/lib", "/lib64:/lib64"];
            let options = [options, flock.iter().flat_map(|mount| ["-v", mount]).collect()].concat();
            (number, lab.start_run(&options, &["sh", "-c", LOCKS_ITS_GPUS]))
        })
        .collect();
    // Wherever each of them is by now.
    for (number, run) in running.iter().filter(|(number, _)| number.is_multiple_of(3)) {
        (0..number % 8).for_each(|_| breathe());
        run.signal(Signal::KILL);
    }
    let mut given = 0;
    for (number, run) in running {
        let done = run.finish();
        if number.is_multiple_of(3) {
            continue;
        }
        if done.code == Some(0) {
            given += 1;
        } else {
            drop(done.expect_error("E0305"));
        }
    }
    assert!(given > 0, "somebody got one");
    // Those whose process was killed end by themselves, and whoever wants their GPUs closes them.
    let all = place.with(&["--gpus", "8", "--rm"]);
    eventually("all are free again", || lab.run(&all, &["true"]).code == Some(0));
    assert!(!locks.join("twice").exists(), "{}", std::fs::read_to_string(locks.join("twice")).unwrap());
    let all = lab.run(&all, NODES).expect_code(0).text();
    assert_eq!(all.lines().filter(|node| node.ends_with(|c: char| c.is_ascii_digit())).count(), 8, "{all}");
    drop(lab.cofferdam(&["prune", "-f"]).expect_code(0));
    lab.expect_clean();
}

fn what_it_uses_is_counted(lab: &Lab) {
    let host = GpuHost::new(&lab.path().join("gpus"), 2, DRIVER);
    host.add_nvml(2);
    let options = host.options();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let asked = [&options[..], &["--gpus", "device=1"]].concat();
    let id = lab.run_detached(&asked, &["sh", "-c", "sleep 1000 & wait"]);
    let pid = i32::try_from(lab.inspect(&id)["process"]["pid"].as_i64().unwrap()).unwrap();
    let children = format!("/proc/{pid}/task/{pid}/children");
    let child = || std::fs::read_to_string(&children).unwrap().trim().parse::<i32>().ok();
    eventually("it has a child", || child().is_some());
    // Its own on its GPU, of which one is not its first process; a stranger's there, and its own elsewhere.
    for (gpu, pid, mib) in [(1, pid, 100), (1, child().unwrap(), 20), (1, 1, 7000), (0, pid, 3000)] {
        host.add_process(gpu, pid, mib << 20);
    }
    let args = [&["stats", "--format", "json"][..], &options[..2], &[&id]].concat();
    let done = lab.cofferdam(&args).expect_code(0);
    let told: Value = serde_json::from_str(&done.text()).unwrap();
    let expected = json!([{
        "index": 1, "uuid": GpuHost::uuid(1), "utilization_percent": 40, "memory_used_bytes": 120 << 20,
        "memory_total_bytes": 80_u64 << 30, "power_mw": 75_000,
    }]);
    assert_eq!(told["gpus"], expected);
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn what_cannot_be_is_refused(lab: &Lab) {
    let place = Place::new(lab, 2);
    let refused = |options: &[&str], code: &str, words: &[&str]| {
        let done = lab.run(options, &["true"]).expect_code(125).expect_error(code);
        for word in words {
            assert!(done.stderr.contains(word), "{word}: {}", done.stderr);
        }
    };
    let nowhere = lab.path().join("nowhere").display().to_string();
    let without = ["--nvidia-driver-root", &nowhere, "--cdi-spec-dir", &nowhere];
    refused(&[&without[..], &["--gpus", "1"]].concat(), "E0302", &["no NVIDIA driver", "nvidia-smi"]);
    refused(
        &[&without[..], &["--device", "nvidia.com/gpu=0"]].concat(),
        "E0311",
        &["nvidia.com/gpu=0", "cdi list"],
    );
    refused(&place.with(&["--gpus", "3"]), "E0304", &["asked for: 3, there: 2"]);
    refused(&place.with(&["--gpus", "device=7"]), "E0304", &["no GPU `7`", "0 (NVIDIA H100"]);
    refused(&place.with(&["--gpus", "L4"]), "E0304", &["`L4`"]);
    refused(&place.with(&["--gpus", "0"]), "E0101", &["--gpus"]);
    refused(&place.with(&["--gpus", "device=MIG-1"]), "E0101", &["--device nvidia.com/gpu=MIG-1"]);
    refused(&place.with(&["--gpus", "1", "--device", "nvidia.com/gpu=0"]), "E0101", &["shares one"]);
    refused(&place.with(&["--device", "/dev/fuse"]), "E0101", &["is a path"]);
    // Beyond what this process may see itself.
    let args = lab.launch_args("run", &place.with(&["--gpus", "2"]), &["true"]);
    let mut command = lab.command(&args);
    command.env("NVIDIA_VISIBLE_DEVICES", "1");
    let hidden = finish(command).expect_error("E0304");
    assert!(hidden.stderr.contains("there: 1"), "{}", hidden.stderr);
    lab.expect_clean();
}

fn drivers_that_nvproxy_does_not_know(lab: &Lab) {
    let tried = std::cell::Cell::new(0);
    let try_with = |driver: &str, more: &[&str]| {
        tried.set(tried.get() + 1);
        let folder = lab.path().join(format!("gpus-{}", tried.get()));
        let host = GpuHost::new(&folder, 1, driver);
        let options = host.options();
        let options: Vec<&str> = options.iter().map(String::as_str).chain(more.iter().copied()).collect();
        lab.run(&[&options[..], &["--gpus", "1"]].concat(), &["true"])
    };
    // Pairs of a driver and runsc 20240729: what a user sees of each.
    for (driver, words) in [
        ("550.54.16", "knows is 550.54.15, of the same branch"),
        ("550.163.01", "knows is 550.90.07, of the same branch"),
        ("535.183.06", "knows is 535.161.07, of the same branch"),
        ("535.54.03", "knows is 535.104.12, of the same branch"),
        ("570.211.01", "knows none of that branch, and the nearest is 550.90.07"),
        ("580.65.06", "knows none of that branch, and the nearest is 550.90.07"),
        ("470.256.02", "knows none of that branch, and the nearest is 535.104.12"),
        ("545.23.06", "knows none of that branch, and the nearest is 550.54.14"),
    ] {
        let done = try_with(driver, &[]).expect_code(125).expect_error("E0303");
        assert!(
            done.stderr.contains(words) && done.stderr.contains("--runtime runc"),
            "{driver}: {}",
            done.stderr
        );
        assert_eq!(
            done.stderr.contains("--gpu-driver-override"),
            words.ends_with("branch"),
            "{}",
            done.stderr
        );
        assert!(!done.stderr.contains("EOF"), "{}", done.stderr);
    }
    let done = try_with("garbage", &[]).expect_error("E0302");
    assert!(done.stderr.contains("version"), "{}", done.stderr);
    // Its nodes are not on this host, which makes a newer runsc say `EOF`.
    let shown = GpuHost::new(&lab.path().join("shown"), 1, DRIVER);
    lab.see_devices(&shown.devices());
    let (control, away) = (shown.devices().join("nvidiactl"), shown.devices().join("away"));
    std::fs::rename(&control, &away).unwrap();
    let done = try_with("550.90.07", &[]).expect_code(125).expect_error("E0302");
    assert!(
        done.stderr.contains("the device node /dev/nvidia") && done.stderr.contains("nvidia-modprobe"),
        "{}",
        done.stderr
    );
    // A listed one gets as far as runsc, which finds no real driver here, and says so.
    std::fs::rename(&away, &control).unwrap();
    let done = try_with("550.90.07", &[]).expect_code(125).expect_error("E0204");
    assert!(done.stderr.contains("Nvidia driver version") && !done.stderr.contains("EOF"), "{}", done.stderr);
    // Told a version, it starts.
    let done = try_with("550.54.16", &["--gpu-driver-override", "550.54.15"]).expect_code(0);
    assert!(done.stderr.contains("takes the NVIDIA driver 550.54.16 for 550.54.15"), "{}", done.stderr);
    drop(try_with("550.90.08", &["--gpu-driver-override", "570.1.1"]).expect_error("E0303"));
    drop(try_with("550.90.09", &["--gpu-driver-override", "new"]).expect_error("E0101"));
    let done = try_with("550.90.10", &["--gpu-allow-unsupported-driver"]).expect_error("E0306");
    assert!(done.stderr.contains("20260615"), "{}", done.stderr);
    drop(lab.cofferdam(&["prune", "-f"]).expect_code(0));
    lab.expect_clean();
}

fn a_runsc_without_nvproxy(lab: &Lab) {
    let host = GpuHost::new(&lab.path().join("gpus"), 1, DRIVER);
    let options = host.options();
    let options: Vec<&str> = options.iter().map(String::as_str).chain(["--gpus", "1"]).collect();
    let done = lab.run(&options, &["true"]).expect_code(125).expect_error("E0301");
    assert!(done.stderr.contains("20230529") || done.stderr.contains("newer runsc"), "{}", done.stderr);
    lab.expect_clean();
}

/// Whatever a device is called, and whoever brings it: which GPU it is, its node says.
fn no_name_leads_around_a_lease(lab: &Lab) {
    let place = Place::new(lab, 3);
    let folder = lab.path().join("cdi");
    std::fs::create_dir(&folder).unwrap();
    let node = |number: u32| {
        let host = lab.path().join(format!("gpus/dev/nvidia{number}"));
        let path = format!("/dev/nvidia{number}");
        // gVisor's tests have them in /dev.
        if lab.choice.is_gvisor() {
            json!({ "path": path })
        } else {
            json!({ "path": path, "hostPath": host })
        }
    };
    let capability = json!({ "path": "/dev/nvidia-caps/nvidia-cap1", "hostPath": "/dev/null" });
    let describe = |kind: &str, devices: Value| {
        let text = json!({ "cdiVersion": "0.6.0", "kind": kind, "devices": devices }).to_string();
        std::fs::write(folder.join(format!("{}.json", kind.replace('/', "-"))), text).unwrap();
    };
    let device =
        |name: &str, nodes: Vec<Value>| json!({ "name": name, "containerEdits": { "deviceNodes": nodes } });
    describe(
        "nvidia.com/gpu",
        json!([
            device("gpu1", vec![node(1)]),
            device("all", vec![node(0), node(1), node(2)]),
            device("1:0", vec![node(1), capability]),
            device("2", vec![node(1)]),
            device("0", vec![node(0)]),
        ]),
    );
    describe("k8s.device-plugin.nvidia.com/gpu", json!([device("x", vec![node(1)])]));
    let folder = folder.display().to_string();
    let with = |more: &[&str]| -> Vec<String> {
        let mut options = place.with(&["--rm"]);
        let at = options.iter().position(|option| *option == "--cdi-spec-dir").unwrap();
        options[at + 1] = &folder;
        options.iter().copied().chain(more.iter().copied()).map(str::to_owned).collect()
    };
    let run = |more: &[&str]| {
        let options = with(more);
        lab.run(&options.iter().map(String::as_str).collect::<Vec<_>>(), NODES)
    };
    let holder = lab.run_detached(&place.with(&["--gpus", "device=1"]), &["sleep", "1000"]);
    for name in ["gpu1", "all", "2"] {
        drop(run(&["--device", &format!("nvidia.com/gpu={name}")]).expect_error("E0305"));
    }
    let part = if lab.choice.is_gvisor() { "E0306" } else { "E0305" };
    drop(run(&["--device", "nvidia.com/gpu=1:0"]).expect_error(part));
    drop(run(&["--device", "k8s.device-plugin.nvidia.com/gpu=x"]).expect_error("E0305"));
    // A description that gives another GPU than the one that was chosen.
    drop(run(&["--gpus", "device=2"]).expect_error("E0314"));
    drop(run(&["--device", "nvidia.com/gpu=0", "--device", "nvidia.com/gpu=0"]).expect_code(0));
    // A bundle with nodes of its own.
    let bundle = lab.path().join("bundle");
    std::fs::create_dir(&bundle).unwrap();
    let bring = |device: Value| {
        let mut spec = cofferdam_testkit::fixture::spec(&["true"]);
        spec["root"]["path"] = json!(lab.rootfs);
        spec["linux"]["devices"] = json!([device]);
        std::fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
    };
    let of_bundle = |more: &[&str]| {
        let mut args = vec!["run".to_owned(), "--network".into(), "none".into()];
        args.extend(with(more));
        args.extend(["--bundle".to_owned(), bundle.display().to_string()]);
        lab.cofferdam(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    bring(json!({ "path": "/dev/other", "type": "c", "major": 195, "minor": 1 }));
    drop(of_bundle(&[]).expect_error("E0305"));
    bring(json!({ "path": "/dev/nvidia1", "type": "c", "major": 1, "minor": 3 }));
    drop(of_bundle(&[]).expect_error("E0305"));
    drop(of_bundle(&["--gpus", "device=0"]).expect_error("E0101"));
    drop(lab.cofferdam(&["rm", "-f", &holder]).expect_code(0));
    drop(of_bundle(&[]).expect_code(0));
    // More than this process may give itself.
    let options = with(&["--device", "nvidia.com/gpu=all"]);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut command = lab.command(lab.launch_args("run", &options, NODES));
    command.env("NVIDIA_VISIBLE_DEVICES", "0");
    drop(finish(command).expect_error("E0304"));
    drop(run(&["--device", "nvidia.com/gpu=all"]).expect_code(0));
    lab.expect_clean();
}

fn kill_process(lab: &Lab, name: &str) {
    let pid = lab.inspect(name)["process"]["pid"].as_i64().unwrap();
    cofferdam_testkit::process::signal_process(i32::try_from(pid).unwrap(), Signal::KILL);
}

fn nobody_has_to_look_for_the_dead(lab: &Lab) {
    let place = Place::new(lab, 1);
    let running = lab.start_run(&place.with(&["--gpus", "1", "--name", "held"]), &["sleep", "1000"]);
    eventually("it runs", || {
        lab.cofferdam(&["inspect", "held"]).code == Some(0) && lab.inspect("held")["process"]["pid"].is_i64()
    });
    running.signal(Signal::KILL);
    drop(running.finish());
    drop(lab.run(&place.with(&["--gpus", "1", "--rm"]), &["true"]).expect_error("E0305"));
    kill_process(lab, "held");
    drop(lab.run(&place.with(&["--gpus", "1", "--rm"]), &["true"]).expect_code(0));
    drop(lab.cofferdam(&["prune", "-f"]).expect_code(0));
    lab.expect_clean();
}
